// One connected stream as its reader, its writer and its owner share it; with TLS or without.
// Shard's thread.
#pragma once

#include <coroutine>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "async/context.h"
#include "async/net_io.h"
#include "async/task.h"
#include "rpc/internal/net_error.h"
#include "rpc/internal/tls_session.h"
#include "world/world.h"

namespace shoal {

// A frame that has begun must go on within this time, per 256 KiB; else the peer is given up.
inline constexpr Duration kStallTime = std::chrono::seconds(30);

// An operation of a stream, awaited where it is made. Without TLS it is the network's own, with no
// coroutine between.
class [[nodiscard]] StreamCall {
 public:
  template <typename Fill>
  StreamCall(World& world, NetOp::Kind kind, Context context, Fill fill)
      : plain_(world.network, world.executor, kind, context) {
    fill(plain_);
  }
  StreamCall(World& world, NetOp::Kind kind, Task<int64_t> encrypted)
      : plain_(world.network, world.executor, kind, {}), encrypted_(std::move(encrypted)) {}
  StreamCall(const StreamCall&) = delete;
  StreamCall& operator=(const StreamCall&) = delete;

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiter) {
    if (encrypted_) return encrypted_->await_suspend(awaiter);
    plain_.await_suspend(awaiter);
    return std::noop_coroutine();
  }
  int64_t await_resume() { return encrypted_ ? encrypted_->await_resume() : plain_.await_resume(); }

 private:
  NetCall plain_;
  std::optional<Task<int64_t>> encrypted_;
};

class Stream {
 public:
  // `tls`: null for none.
  Stream(World& world, SocketId socket, std::string peer, TlsContext* tls = nullptr,
         Handshake::Role role = Handshake::Role::kCaller);
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
  // `result`: of one of the operations, negative.
  Error error(int64_t result, const char* deed) const { return net_error(peer, result, deed); }

  // The first thing to be done with a stream; nothing without TLS.
  Task<Status> secure(Context context);
  // As the NetOps of these names.
  StreamCall receive(ByteSpan into, uint64_t minimum, Context context);
  StreamCall send(std::span<const ConstByteSpan> parts, bool more, Context context);
  StreamCall send_file(FileId file, uint64_t offset, uint64_t length, Context context);
  void release_idle_memory();

  World& world;
  const SocketId socket;
  const std::string peer;  // its address

 private:
  std::unique_ptr<TlsSession> tls_;
  bool open_ = true;
};

}  // namespace shoal
