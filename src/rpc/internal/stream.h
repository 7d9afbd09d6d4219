// One connected stream as its reader, its writer and its owner share it. Shard's thread.
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <string>

#include "base/error.h"
#include "world/world.h"

namespace shoal {

// A frame that has begun must go on within this time, per 256 KiB; else the peer is given up.
inline constexpr Duration kStallTime = std::chrono::seconds(30);

class Stream {
 public:
  Stream(World& world, SocketId socket, std::string peer)
      : world(world), socket(socket), peer(std::move(peer)) {}
  ~Stream() { SHOAL_ASSERT(!open_, "a stream was not closed"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  bool is_open() const { return open_; }
  // Operations under way end with -ECANCELED, soon. Idempotent.
  void close() {
    if (!open_) return;
    open_ = false;
    world.network.close(socket);
  }
  // `result`: of a NetOp, negative.
  Error error(int64_t result, const char* deed) const {
    const char* reason = result == -ETIMEDOUT    ? "no progress in time"
                         : result == -ECANCELED  ? "the connection was closed"
                         : result == -EPIPE      ? "closed by peer"
                         : result == -ECONNRESET ? "connection reset by peer"
                                                 : nullptr;
    std::string text = reason != nullptr ? reason : fmt::format("error {}", -result);
    return Error(Code::kUnavailable, fmt::format("{}: {}: {}", peer, deed, text));
  }

  World& world;
  const SocketId socket;
  const std::string peer;  // its address

 private:
  bool open_ = true;
};

}  // namespace shoal
