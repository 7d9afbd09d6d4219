#include "world_linux/linux_network.h"

#include <cerrno>

namespace shoal {

LinuxNetwork::LinuxNetwork(Executor& executor, Ring&, HelperPool&, std::string)
    : executor_(executor) {}
void LinuxNetwork::start(NetOp& op) {
  op.result = -ENETUNREACH;
  executor_.post(op);
}
void LinuxNetwork::cancel(NetOp&) {}
void LinuxNetwork::close(SocketId) {}
Result<std::vector<NetworkInterface>> LinuxNetwork::interfaces() {
  return std::vector<NetworkInterface>();
}

}  // namespace shoal
