// Awaitable forms of world/network.h. Operations live in the awaiting frame; the context's deadline
// and cancellation apply to each.
#pragma once

#include <coroutine>
#include <string>

#include "async/context.h"
#include "async/task.h"
#include "world/network.h"

namespace shoal {

// Awaiting it starts the operation; the answer is op.result. Use the functions below.
class [[nodiscard]] NetCall : public NetOp, private CancelHook {
 public:
  NetCall(Network& network, Executor& executor, Kind operation, Context context)
      : network_(network), executor_(executor), context_(context), timer_(*this) {
    kind = operation;
    deadline = context.deadline;
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle);
  // >= 0, or -errno; -ETIMEDOUT when the deadline passed first.
  int64_t await_resume();

 private:
  class DeadlineTimer final : public Timer {
   public:
    explicit DeadlineTimer(NetCall& call) : call_(call) {}
    void run() noexcept override;

   private:
    NetCall& call_;
  };
  void run() noexcept override;
  void on_cancel() noexcept override;

  Network& network_;
  Executor& executor_;
  Context context_;
  DeadlineTimer timer_;
  bool late_ = false;
  std::coroutine_handle<> handle_;
};

namespace net_io {

// Errors name the address and the reason; kUnavailable for what a later attempt may mend.
struct Listener {
  SocketId socket = SocketId::kNone;
  std::string address;  // with the port that was bound
};
// kBusy when the port is in use.
Task<Result<Listener>> listen(Network& network, Executor& executor, std::string address);
struct Accepted {
  SocketId socket = SocketId::kNone;
  std::string peer;
};
Task<Result<Accepted>> accept(Network& network, Executor& executor, SocketId listener,
                              Context context);
Task<Result<SocketId>> connect(Network& network, Executor& executor, std::string address,
                               Context context);
// At least `minimum` bytes. kUnavailable ("closed by peer") when the stream ended before.
Task<Result<size_t>> receive(Network& network, Executor& executor, SocketId socket, ByteSpan into,
                             size_t minimum, Context context);
Task<Status> send(Network& network, Executor& executor, SocketId socket,
                  std::span<const ConstByteSpan> parts, bool more, Context context);
Task<Status> send_file(Network& network, Executor& executor, SocketId socket, FileId file,
                       uint64_t offset, uint64_t length, Context context);

}  // namespace net_io
}  // namespace shoal
