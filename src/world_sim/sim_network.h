// A network that nobody is connected to: every operation fails.
#pragma once

#include <cerrno>

#include "world/network.h"

namespace shoal {

class SimNetwork final : public Network {
 public:
  explicit SimNetwork(Executor& executor) : executor_(executor) {}
  void start(NetOp& op) override {
    op.result = -ENETUNREACH;
    executor_.post(op);
  }
  void cancel(NetOp&) override {}
  void close(SocketId) override {}
  Result<std::vector<NetworkInterface>> interfaces() override {
    return std::vector<NetworkInterface>();
  }

 private:
  Executor& executor_;
};

}  // namespace shoal
