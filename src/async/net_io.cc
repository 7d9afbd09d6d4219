#include "async/net_io.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace shoal {

void NetCall::await_suspend(std::coroutine_handle<> handle) {
  handle_ = handle;
  bool cancelled = context_.cancel != nullptr && context_.cancel->requested();
  late_ = !cancelled && executor_.now() >= context_.deadline;
  if (cancelled || late_) {
    result = -ECANCELED;
    executor_.post(*this);
    return;
  }
  CancelHook::attach(context_.cancel);
  if (context_.deadline != kNever) executor_.start_timer(timer_, context_.deadline);
  network_.start(*this);
}

int64_t NetCall::await_resume() {
  // What has ended in spite of the deadline counts: a stream may hang on it.
  return late_ && result == -ECANCELED ? -ETIMEDOUT : result;
}

void NetCall::run() noexcept {
  CancelHook::detach();
  executor_.stop_timer(timer_);
  handle_.resume();
}

void NetCall::on_cancel() noexcept { network_.cancel(*this); }

void NetCall::DeadlineTimer::run() noexcept {
  call_.late_ = true;
  call_.network_.cancel(call_);
}

namespace net_io {

namespace {

using Kind = NetOp::Kind;

Code code_of(int error) {
  switch (error) {
    case ECANCELED:
      return Code::kCancelled;
    case EADDRINUSE:
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      return Code::kBusy;
    case EINVAL:
    case EAFNOSUPPORT:
    case EPROTONOSUPPORT:
      return Code::kInvalidArgument;
    case EACCES:
    case EPERM:
      return Code::kPermissionDenied;
    case ENODATA:
      return Code::kCorrupt;
    case EIO:
      return Code::kDiskError;
    default:
      return Code::kUnavailable;
  }
}

// Where the reason alone does not say what to do.
std::string reason_of(int error, Kind kind) {
  bool opens = kind == Kind::kListen || kind == Kind::kConnect;
  switch (error) {
    case EINVAL:
      if (opens) return "not an address; write host:port, 10.0.0.5:7070 or [fd00::5]:7070";
      break;
    case ENOENT:
      if (opens) return "no such host; check the name and the name server";
      break;
    case EAGAIN:
      if (opens) return "the name server does not answer";
      break;
    case EADDRINUSE:
      return "the port is in use; stop the other process or choose another port";
    case EADDRNOTAVAIL:
      if (kind == Kind::kListen) return "this machine has no such address";
      break;
    case EMFILE:
    case ENFILE:
      return "too many open streams; raise the limit of files (ulimit -n)";
    case EBADF:
      return "the stream is closed";
    case ENODATA:
      return "the file ends before";
    default:
      break;
  }
  return std::strerror(error);
}

// `result` < 0 of an operation that had this context.
Error error_of(int64_t result, Kind kind, std::string_view what, const Executor& executor,
               const Context& context) {
  int error = static_cast<int>(-result);
  // Without a passed deadline it is the kernel that gave the peer up.
  if (error == ETIMEDOUT && executor.now() >= context.deadline) {
    return Error(Code::kDeadlineExceeded, fmt::format("{}: deadline exceeded", what));
  }
  return Error(code_of(error), fmt::format("{}: {}", what, reason_of(error, kind)));
}

}  // namespace

Task<Result<Listener>> listen(Network& network, Executor& executor, std::string address) {
  NetCall call(network, executor, Kind::kListen, {});
  call.address = address;
  int64_t result = co_await call;
  if (result < 0) {
    co_return fail(error_of(result, call.kind, "listening on " + address, executor, {}));
  }
  co_return Listener{static_cast<SocketId>(result), std::move(call.address)};
}

Task<Result<Accepted>> accept(Network& network, Executor& executor, SocketId listener,
                              Context context) {
  NetCall call(network, executor, Kind::kAccept, context);
  call.socket = listener;
  int64_t result = co_await call;
  if (result < 0) co_return fail(error_of(result, call.kind, "accepting", executor, context));
  co_return Accepted{static_cast<SocketId>(result), std::move(call.address)};
}

Task<Result<SocketId>> connect(Network& network, Executor& executor, std::string address,
                               Context context) {
  NetCall call(network, executor, Kind::kConnect, context);
  call.address = address;
  int64_t result = co_await call;
  if (result < 0) {
    co_return fail(error_of(result, call.kind, "connecting to " + address, executor, context));
  }
  co_return static_cast<SocketId>(result);
}

Task<Result<size_t>> receive(Network& network, Executor& executor, SocketId socket, ByteSpan into,
                             size_t minimum, Context context) {
  SHOAL_ASSERT(minimum >= 1 && minimum <= into.size());
  NetCall call(network, executor, Kind::kReceive, context);
  call.socket = socket;
  call.data = into.data();
  call.length = into.size();
  call.minimum = minimum;
  int64_t result = co_await call;
  if (result < 0) co_return fail(error_of(result, call.kind, "receiving", executor, context));
  SHOAL_ASSERT(static_cast<uint64_t>(result) <= into.size());
  if (static_cast<uint64_t>(result) < minimum) {
    co_return fail(Code::kUnavailable,
                   fmt::format("closed by peer after {} of {} bytes", result, minimum));
  }
  co_return static_cast<size_t>(result);
}

Task<Status> send(Network& network, Executor& executor, SocketId socket,
                  std::span<const ConstByteSpan> parts, bool more, Context context) {
  SHOAL_ASSERT(parts.size() <= NetOp::kPartsMax);
  NetCall call(network, executor, Kind::kSend, context);
  call.socket = socket;
  call.parts = parts;
  call.more = more;
  int64_t result = co_await call;
  if (result < 0) co_return fail(error_of(result, call.kind, "sending", executor, context));
  co_return Status();
}

Task<Status> send_file(Network& network, Executor& executor, SocketId socket, FileId file,
                       uint64_t offset, uint64_t length, Context context) {
  NetCall call(network, executor, Kind::kSendFile, context);
  call.socket = socket;
  call.file = file;
  call.offset = offset;
  call.length = length;
  int64_t result = co_await call;
  if (result < 0) {
    std::string what = fmt::format("sending {} bytes of a file from offset {}", length, offset);
    co_return fail(error_of(result, call.kind, what, executor, context));
  }
  SHOAL_ASSERT(static_cast<uint64_t>(result) == length);
  co_return Status();
}

}  // namespace net_io
}  // namespace shoal
