#include "mount/dispatcher.h"

#include <cerrno>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "mount/errors.h"
#include "mount/interrupts.h"
#include "mount/reply.h"

namespace shoal::fuse {
namespace {

constexpr Duration kTrimAfter = std::chrono::seconds(10);
constexpr Duration kLogWindow = std::chrono::seconds(1);
constexpr uint64_t kLogLinesPerWindow = 10;
constexpr Duration kInterruptedInterval = std::chrono::milliseconds(250);

}  // namespace

Message::~Message() {
  if (budget != nullptr) budget->release(budget_bytes);
}

void Message::run() noexcept { dispatcher_.accept(std::unique_ptr<Message>(this)); }

Dispatcher::Dispatcher(Executor& executor, FileSystem& file_system, const Log& log,
                       Metrics& metrics, BufferPool& pool, HandleTable& handles,
                       DispatcherOptions options)
    : executor_(executor),
      file_system_(file_system),
      log_(log),
      metrics_(metrics),
      pool_(pool),
      handles_(handles),
      options_(options),
      can_passthrough_(options.can_passthrough),
      backings_(options.device),
      gate_(executor),
      watch_gate_(executor),
      read_budget_(executor, options.read_bytes_max) {
  SHOAL_ASSERT(options.device >= 0 && options.read_bytes_max > 0);
  SHOAL_ASSERT(options.request_timeout > Duration(0));
}

Dispatcher::~Dispatcher() {
  SHOAL_ASSERT(in_flight_.empty() && handles_.size() == 0, "finish() has not run");
  SHOAL_ASSERT(!armed());
}

void Dispatcher::accept(std::unique_ptr<Message> message) {
  SHOAL_ASSERT(executor_.on_thread());
  const Request& request = message->request;
  switch (request.opcode) {
    case Opcode::kForget:
      if (!gate_.closed()) file_system_.forget(InodeId{request.node}, request.lookups);
      return;
    case Opcode::kBatchForget:
      for (const ForgetOne& one : request.forgets) {
        if (!gate_.closed()) file_system_.forget(InodeId{one.node}, one.lookups);
      }
      return;
    case Opcode::kInterrupt:
      interrupt(request.target);
      return;
    default:
      break;
  }
  keep_trimming();
  // Refused only while stopping; the kernel then ends the request when the device is closed.
  gate_.spawn(handle(std::move(message)));
}

Task<void> Dispatcher::handle(std::unique_ptr<Message> message) {
  uint64_t unique = message->request.unique;
  bool added = in_flight_.emplace(unique, message.get()).second;
  SHOAL_ASSERT(added, "the kernel used a request id twice");
  if (take_early_interrupt(unique)) interrupted(*message);
  co_await serve(*message);
  in_flight_.erase(unique);
}

Task<void> Dispatcher::serve(Message& message) {
  switch (message.request.opcode) {
    case Opcode::kOpen:
    case Opcode::kCreate:
    case Opcode::kRead:
    case Opcode::kWrite:
    case Opcode::kFlush:
    case Opcode::kFsync:
    case Opcode::kRelease:
    case Opcode::kFallocate:
    case Opcode::kLseek:
      return serve_file(message);
    default:
      return serve_tree(message);
  }
}

Task<void> Dispatcher::serve_file(Message& message) {
  switch (message.request.opcode) {
    case Opcode::kOpen:
      return open(message);
    case Opcode::kCreate:
      return create(message);
    case Opcode::kRead:
      return read(message);
    case Opcode::kWrite:
      return write(message);
    case Opcode::kFlush:
      return flush(message);
    case Opcode::kFsync:
      return sync(message);
    case Opcode::kRelease:
      return release(message);
    case Opcode::kFallocate:
      return allocate(message);
    default:
      SHOAL_ASSERT(message.request.opcode == Opcode::kLseek);
      return seek(message);
  }
}

void Dispatcher::interrupt(uint64_t target) {
  auto at = in_flight_.find(target);
  if (at != in_flight_.end()) {
    interrupted(*at->second);
    return;
  }
  // Not here yet, or answered already.
  early_interrupts_[early_next_] = target;
  early_next_ = (early_next_ + 1) % early_interrupts_.size();
}

void Dispatcher::interrupted(Message& message) {
  if (is_asked_to_end(message.request.pid)) {
    message.cancel().request();
    return;
  }
  interrupted_.push_back(message.request.unique);
  if (!std::exchange(watching_interrupted_, true)) watch_gate_.spawn(watch_interrupted());
}

Task<void> Dispatcher::watch_interrupted() {
  while (!interrupted_.empty()) {
    Status slept = co_await sleep_for(executor_, kInterruptedInterval, {kNever, &stop_watching_});
    if (!slept) break;
    std::erase_if(interrupted_, [this](uint64_t unique) {
      auto at = in_flight_.find(unique);
      if (at == in_flight_.end()) return true;
      bool end = is_asked_to_end(at->second->request.pid);
      if (end) at->second->cancel().request();
      return end;
    });
  }
  watching_interrupted_ = false;
}

bool Dispatcher::take_early_interrupt(uint64_t unique) {
  for (uint64_t& early : early_interrupts_) {
    if (early == unique && unique != 0) {
      early = 0;
      return true;
    }
  }
  return false;
}

void Dispatcher::keep_trimming() {
  if (!armed() && !gate_.closed()) executor_.start_timer(*this, executor_.now() + kTrimAfter);
}

void Dispatcher::run() noexcept {
  if (pool_.trim()) keep_trimming();
}

namespace {

// Cancels what is under way if nobody stops this in time.
Task<void> cancel_after(Executor& executor, Duration grace, Cancel& stopped,
                        std::unordered_map<uint64_t, Message*>& in_flight) {
  Status status = co_await sleep_for(executor, grace, {kNever, &stopped});
  if (!status) co_return;
  for (auto& [unique, message] : in_flight) message->cancel().request();
}

}  // namespace

Task<void> Dispatcher::finish(Duration grace) {
  SHOAL_ASSERT(executor_.on_thread());
  executor_.stop_timer(*this);
  Cancel all_done;
  Gate impatience(executor_);
  impatience.spawn(cancel_after(executor_, grace, all_done, in_flight_));
  co_await gate_.close();
  all_done.request();
  co_await impatience.close();
  SHOAL_ASSERT(in_flight_.empty());
  stop_watching_.request();
  co_await watch_gate_.close();
  for (OpenFile& file : handles_.take_all()) {
    if (file.directory) {
      co_await file_system_.release_directory(file.handle);
    } else {
      co_await close_file(std::move(file));
    }
  }
  while (!mapped_.empty()) {
    HandleId handle = mapped_.back().file.handle;
    mapped_.pop_back();
    co_await file_system_.release(handle);
  }
  mapped_count_.store(0, std::memory_order_relaxed);
}

std::optional<OpenFile> Dispatcher::file_of(Message& message) {
  std::optional<OpenFile> file = handles_.find(message.request.handle);
  if (!file) reply_errno(message, EBADF);
  return file;
}

Context Dispatcher::context_of(Message& message) const {
  return {executor_.now() + options_.request_timeout, &message.cancel()};
}

Caller Dispatcher::caller_of(const Message& message) const {
  const Request& request = message.request;
  return {request.uid, request.gid, request.pid, request.umask};
}

bool Dispatcher::reply(Message& message, ConstByteSpan first, ConstByteSpan second) {
  return send_reply(message.descriptor(), message.request.unique, 0, first, second);
}

void Dispatcher::reply_errno(Message& message, int error) {
  SHOAL_ASSERT(error > 0);
  send_reply(message.descriptor(), message.request.unique, error);
}

void Dispatcher::reply_error(Message& message, const Error& error) {
  int number = errno_of(error.code());
  if (number == EIO) {
    metrics_.errors.add();
    SteadyTime now = executor_.now();
    if (now - log_window_ > kLogWindow) {
      log_window_ = now;
      logged_in_window_ = 0;
    }
    // The caller sees just EIO, so the reason is here; not a line for each of a storm.
    if (++logged_in_window_ <= kLogLinesPerWindow) {
      log_.warning("request {} of the kernel for inode {} failed: {}",
                   static_cast<uint32_t>(message.request.opcode), message.request.node,
                   error.to_string());
    }
  }
  reply_errno(message, number);
}

void Dispatcher::reply_status(Message& message, const Status& status) {
  if (status) {
    reply(message);
  } else {
    reply_error(message, status.error());
  }
}

void Dispatcher::reply_entry(Message& message, const Result<Entry>& entry) {
  if (!entry) {
    reply_error(message, entry.error());
    return;
  }
  SHOAL_ASSERT(entry->attributes.inode != InodeId::kNone);
  EntryOut out = encode_entry(*entry);
  if (!reply(message, std::as_bytes(std::span(&out, 1)))) {
    file_system_.forget(entry->attributes.inode, 1);
  }
}

void Dispatcher::reply_value(Message& message, std::string_view value) {
  constexpr size_t kValueMax = 65536;
  if (value.size() > kValueMax) return reply_errno(message, E2BIG);
  if (message.request.size == 0) {
    GetxattrOut out{static_cast<uint32_t>(value.size()), 0};
    reply(message, std::as_bytes(std::span(&out, 1)));
  } else if (message.request.size < value.size()) {
    reply_errno(message, ERANGE);
  } else {
    reply(message, as_bytes(value));
  }
}

}  // namespace shoal::fuse
