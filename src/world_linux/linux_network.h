// The real Network: TCP sockets through io_uring.
#pragma once

#include <string>

#include "world/network.h"

namespace shoal {

class HelperPool;
class Ring;

class LinuxNetwork final : public Network {
 public:
  LinuxNetwork(Executor& executor, Ring& ring, HelperPool& helpers, std::string congestion);
  void start(NetOp& op) override;
  void cancel(NetOp& op) override;
  void close(SocketId socket) override;
  Result<std::vector<NetworkInterface>> interfaces() override;
  bool is_idle() const { return true; }

 private:
  Executor& executor_;
};

}  // namespace shoal
