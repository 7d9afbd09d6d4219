#include "mount/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>

#include "base/assert.h"
#include "mount/reply.h"

namespace shoal {

using fuse::Descriptor;
using fuse::Message;
using fuse::Opcode;
using fuse::Request;

namespace {

// Requests are read so that a WRITE's bytes begin on a page boundary, and the bytes of a READ's
// answer have that place too.
constexpr size_t kPayloadAt = 4096;
constexpr size_t kMessageAt = kPayloadAt - sizeof(fuse::InHeader) - sizeof(fuse::WriteIn);
constexpr size_t kBufferBytes = kPayloadAt + fuse::kWriteBytesMax;
static_assert(kMessageAt % 8 == 0);
// Larger writes keep the buffer that they came in, smaller ones are copied out of it.
constexpr size_t kCopyMax = 64 * kKiB;
constexpr unsigned kThreadsMax = 8;
// Gets a thread out of read(2). Ignored by default, so a stray one does no harm.
constexpr int kWakeSignal = SIGURG;

void do_nothing(int) {}

// Without SA_RESTART, so that read(2) returns.
void install_wake_signal() {
  struct sigaction action{};
  action.sa_handler = do_nothing;
  int failed = ::sigaction(kWakeSignal, &action, nullptr);
  SHOAL_ASSERT(failed == 0);
}

// Only the wake signal may interrupt a thread of ours; the others are main's.
class QuietSignals {
 public:
  QuietSignals() {
    sigset_t quiet;
    ::sigfillset(&quiet);
    ::sigdelset(&quiet, kWakeSignal);
    ::pthread_sigmask(SIG_SETMASK, &quiet, &before_);
  }
  ~QuietSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

class FinishStart final : public Runnable {
 public:
  FinishStart(Executor& executor, fuse::Dispatcher& dispatcher, Duration grace)
      : executor_(executor), dispatcher_(dispatcher), grace_(grace), gate_(executor), end_(*this) {}
  void run() noexcept override { gate_.spawn(finish(*this)); }
  void wait() { done_->get_future().wait(); }

 private:
  // Runs when the coroutine is really over, frame and all.
  class End final : public Runnable {
   public:
    explicit End(FinishStart& start) : start_(start) {}
    void run() noexcept override {
      // A copy: the waiter may destroy everything else as soon as the value is set.
      auto done = start_.done_;
      done->set_value();
    }

   private:
    FinishStart& start_;
  };
  static Task<void> finish(FinishStart& self) {
    co_await self.dispatcher_.finish(self.grace_);
    self.executor_.post(self.end_);
  }

  Executor& executor_;
  fuse::Dispatcher& dispatcher_;
  const Duration grace_;
  Gate gate_;
  End end_;
  std::shared_ptr<std::promise<void>> done_ = std::make_shared<std::promise<void>>();
};

}  // namespace

FuseSession::FuseSession(Executor& executor, const Log& log, Registry& registry,
                         MountOptions options)
    : executor_(executor),
      log_(log),
      options_(std::move(options)),
      metrics_(registry),
      pool_(kBufferBytes),
      write_budget_(options_.write_bytes_max) {}

FuseSession::~FuseSession() { stop(); }

Result<std::unique_ptr<FuseSession>> FuseSession::start(Executor& executor, FileSystem& file_system,
                                                        const Log& log, Registry& registry,
                                                        MountOptions options) {
  SHOAL_ASSERT(!executor.on_thread(), "start() blocks");
  if (options.write_bytes_max == 0 || options.read_bytes_max == 0 ||
      options.request_timeout <= Duration(0)) {
    return fail(Code::kInvalidArgument, "mount: limits and timeouts must be above zero");
  }
  std::unique_ptr<FuseSession> session(
      new FuseSession(executor, log, registry, std::move(options)));
  const MountOptions& wanted = session->options_;
  fuse::AttachOptions attach;
  attach.mountpoint = wanted.mountpoint;
  attach.source = wanted.source;
  attach.read_only = wanted.read_only;
  attach.allow_other = wanted.allow_other;
  attach.nonempty = wanted.nonempty;
  SHOAL_ASSIGN_OR_RETURN(session->attached_, fuse::attach(attach, log));
  if (Status status = session->introduce(); !status) {
    session->detach_quietly();
    return fail(std::move(status).error().with_context("mounting " + session->mountpoint()));
  }
  fuse::DispatcherOptions dispatch;
  dispatch.device = session->attached_.device.get();
  dispatch.request_timeout = wanted.request_timeout;
  dispatch.read_bytes_max = wanted.read_bytes_max;
  dispatch.can_passthrough = session->negotiated_.passthrough();
  session->dispatcher_ = std::make_unique<fuse::Dispatcher>(
      executor, file_system, log, session->metrics_, session->pool_, session->handles_, dispatch);
  if (Status status = session->start_workers(); !status) {
    session->stop();
    return fail(std::move(status).error().with_context("mounting " + session->mountpoint()));
  }
  session->set_read_ahead();
  log.info("mounted {}: {}", session->mountpoint(), session->describe());
  return session;
}

// INIT waits in the device since the mount. The kernel sends nothing else before its answer.
Status FuseSession::introduce() {
  auto buffer = pool_.get();
  int device = attached_.device.get();
  ssize_t got;
  do {
    got = ::read(device, buffer.span().data(), buffer.span().size());
  } while (got < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN));
  if (got < 0) return fail(error_from_errno(errno, "reading the kernel's first request"));
  ConstByteSpan message = buffer.span().first(static_cast<size_t>(got));
  fuse::InitIn in;
  if (!fuse::parse_init(message, in)) {
    return fail(Code::kNotSupported, "the kernel's first request is not INIT");
  }
  fuse::InHeader header;
  bool valid = fuse::parse_header(message, header);
  SHOAL_ASSERT(valid);
  // Registering backing files needs CAP_SYS_ADMIN; if we lack it the first try turns it off.
  bool want_passthrough = options_.passthrough && ::geteuid() == 0;
  auto negotiated = fuse::negotiate(in, want_passthrough);
  if (!negotiated) {
    fuse::send_reply(device, header.unique, EPROTO);
    return fail(std::move(negotiated).error());
  }
  negotiated_ = *negotiated;
  if (!fuse::send_reply(device, header.unique, 0,
                        std::as_bytes(std::span(&negotiated_.answer, 1)))) {
    return fail(error_from_errno(errno, "answering the kernel's first request"));
  }
  if (auto entry = fuse::find_mount(attached_.mountpoint)) {
    device_major_ = entry->major;
    device_minor_ = entry->minor;
  }
  return {};
}

// A descriptor with a queue of its own, so that threads do not share a lock; else the same one.
Descriptor FuseSession::clone_device() {
  Descriptor clone(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  auto source = static_cast<uint32_t>(attached_.device.get());
  if (clone.valid() && ::ioctl(clone.get(), fuse::kIoctlClone, &source) == 0) return clone;
  return Descriptor(::fcntl(attached_.device.get(), F_DUPFD_CLOEXEC, 3));
}

Status FuseSession::start_workers() {
  install_wake_signal();
  unsigned threads = options_.threads;
  if (threads == 0) threads = std::clamp(std::thread::hardware_concurrency(), 1u, kThreadsMax);
  QuietSignals quiet;
  for (unsigned i = 0; i < threads; ++i) {
    auto worker = std::make_unique<Worker>();
    worker->device = clone_device();
    if (!worker->device.valid()) {
      return fail(error_from_errno(errno, "opening /dev/fuse for a thread"));
    }
    worker->buffer = pool_.get();
    workers_.push_back(std::move(worker));
  }
  for (unsigned i = 0; i < threads; ++i) {
    Worker& worker = *workers_[i];
    try {
      worker.thread = std::thread([this, &worker] { work(worker); });
    } catch (const std::system_error& error) {
      return fail(Code::kBusy, fmt::format("starting a thread: {}", error.what()));
    }
    ::pthread_setname_np(worker.thread.native_handle(), fmt::format("shoal-fuse-{}", i).c_str());
  }
  return {};
}

// The kernel reads ahead 128 KiB unless told. Needs root; without it reads are only slower.
void FuseSession::set_read_ahead() {
  std::string path =
      fmt::format("/sys/class/bdi/{}:{}/read_ahead_kb", device_major_, device_minor_);
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  std::string value = std::to_string(fuse::kReadAheadBytes / kKiB);
  if (!file.valid() || ::write(file.get(), value.data(), value.size()) < 0) {
    log_.debug("cannot set {}: read-ahead stays small", path);
  }
}

std::string FuseSession::mode() const {
  return dispatcher_ && dispatcher_->can_passthrough() ? "passthrough" : "direct";
}

std::string FuseSession::describe() const {
  return fmt::format("FUSE {}.{}, {}, {}shared mappings, {} thread{}{}", fuse::kMajor,
                     negotiated_.minor, mode(), negotiated_.direct_mmap() ? "" : "no ",
                     workers_.size(), workers_.size() == 1 ? "" : "s",
                     attached_.by_helper ? ", by fusermount3" : "");
}

void FuseSession::work(Worker& worker) {
  while (!stopping_.load(std::memory_order_acquire) && take(worker)) {
  }
  std::lock_guard lock(exit_mutex_);
  worker.exited.store(true, std::memory_order_release);
  exit_changed_.notify_all();
}

bool FuseSession::take(Worker& worker) {
  ByteSpan room = worker.buffer.span().subspan(kMessageAt);
  ssize_t got = ::read(worker.device.get(), room.data(), room.size());
  if (got >= 0) {
    handle(worker, room.first(static_cast<size_t>(got)));
    return true;
  }
  switch (errno) {
    case EINTR:  // told to look at stopping_
    case EAGAIN:
    case ENOENT:  // the request was withdrawn while we took it
      return true;
    case ENODEV:  // unmounted, or aborted
    case ECONNABORTED:
      note_end();
      return false;
    default:
      log_.error("reading /dev/fuse: {}; the mount ends", ::strerrordesc_np(errno));
      note_end();
      return false;
  }
}

void FuseSession::note_end() {
  if (stopping_.load(std::memory_order_acquire)) return;
  if (ended_.exchange(true)) return;
  log_.info("{} was unmounted", mountpoint());
  if (options_.on_end) options_.on_end();
}

void FuseSession::handle(Worker& worker, ConstByteSpan message) {
  metrics_.requests.add();
  auto request = fuse::parse_request(message);
  int device = worker.device.get();
  if (!request) {
    fuse::InHeader header;
    bool valid = fuse::parse_header(message, header);
    log_.error("a request of the kernel makes no sense ({} bytes, operation {})", message.size(),
               valid ? header.opcode : 0);
    if (valid) fuse::send_reply(device, header.unique, request.error());
    return;
  }
  if (int error = fuse::refused(*request)) {
    fuse::send_reply(device, request->unique, error);
    return;
  }
  switch (request->opcode) {
    case Opcode::kNotifyReply:
      return;                // never asked for, takes no answer
    case Opcode::kFsyncdir:  // names are safe when their call returns
    case Opcode::kDestroy:
      fuse::send_reply(device, request->unique, 0);
      return;
    case Opcode::kInit:
      fuse::send_reply(device, request->unique, EPROTO);
      return;
    case Opcode::kRead:
      if (read_fast(worker, *request)) return;
      break;
    default:
      break;
  }
  hand_over(worker, message, *request);
}

// Reads by itself what the view covers and the page cache has; everything else is the shard's,
// whose ring can wait for many disk reads at once. True: answered.
bool FuseSession::read_fast(Worker& worker, const Request& request) {
  // Shared with the store: the file may be closed there while we read.
  std::shared_ptr<ReadView> view = handles_.view(request.handle);
  if (view == nullptr || view->descriptor() < 0) return false;
  uint64_t epoch = view->epoch();
  uint64_t size = view->size();
  if (!view->covers(request.offset, request.size)) return false;
  ByteSpan into = worker.buffer.span().subspan(kPayloadAt);
  uint64_t wanted =
      request.offset >= size ? 0 : std::min<uint64_t>(request.size, size - request.offset);
  if (wanted > into.size()) return false;
  into = into.first(wanted);
  if (!into.empty()) {
    iovec part{into.data(), into.size()};
    auto offset = static_cast<off_t>(request.offset);
    ssize_t got = ::preadv2(view->descriptor(), &part, 1, offset, RWF_NOWAIT);
    if (got < 0 && errno == EOPNOTSUPP) got = ::preadv(view->descriptor(), &part, 1, offset);
    if (got != static_cast<ssize_t>(into.size())) return false;
  }
  if (view->epoch() != epoch) return false;
  metrics_.fast_reads.add();
  metrics_.read_bytes.add(into.size());
  fuse::send_reply(worker.device.get(), request.unique, 0, into);
  return true;
}

void FuseSession::hand_over(Worker& worker, ConstByteSpan message, const Request& request) {
  auto handed = std::make_unique<Message>(*dispatcher_, worker.device.get());
  bool keeps_buffer = request.payload.size() > kCopyMax;
  if (request.opcode == Opcode::kWrite) {
    // Waits while too many writes are under way: then the kernel keeps the rest.
    uint64_t bytes = keeps_buffer ? pool_.bytes_each() : message.size();
    if (!write_budget_.acquire(bytes)) return;
    handed->budget = &write_budget_;
    handed->budget_bytes = bytes;
  }
  if (keeps_buffer) {
    handed->request = request;
    handed->lease = std::move(worker.buffer);
    worker.buffer = pool_.get();
  } else {
    handed->bytes = Buffer::copy_of(message);
    auto copied = fuse::parse_request(handed->bytes.span());
    SHOAL_ASSERT(copied.has_value(), "the same bytes were fine a moment ago");
    handed->request = std::move(*copied);
  }
  executor_.post_remote(*handed.release());
}

void FuseSession::join_workers() {
  write_budget_.close();
  for (auto& worker : workers_) {
    if (!worker->thread.joinable()) continue;
    std::unique_lock lock(exit_mutex_);
    // A signal can come just before read(2) begins and be lost, so it is repeated.
    while (!worker->exited.load(std::memory_order_acquire)) {
      ::pthread_kill(worker->thread.native_handle(), kWakeSignal);
      exit_changed_.wait_for(lock, std::chrono::milliseconds(2));
    }
    lock.unlock();
    worker->thread.join();
  }
}

// Only if the mount there is still this one.
void FuseSession::detach_quietly() {
  if (!attached_.device.valid()) return;
  auto there = fuse::find_mount(mountpoint());
  if (!there) return;
  bool known = device_major_ != 0 || device_minor_ != 0;
  if (known && (there->major != device_major_ || there->minor != device_minor_)) return;
  Status status = fuse::detach(mountpoint(), false);
  if (!status && status.error().code() == Code::kBusy) {
    log_.info("{}; detaching it", status.error().to_string());
    status = fuse::detach(mountpoint(), true);
  }
  if (!status && status.error().code() != Code::kNotFound) {
    log_.warning("{}", status.error().to_string());
  }
}

void FuseSession::stop() {
  if (std::exchange(stopped_, true)) return;
  if (dispatcher_ == nullptr) return;  // never got that far
  SHOAL_ASSERT(!executor_.on_thread(), "stop() blocks");
  // Marked as ended first: what the threads see from here on is our own doing.
  bool was_ended = ended_.exchange(true);
  if (!was_ended) detach_quietly();
  stopping_.store(true, std::memory_order_release);
  join_workers();
  FinishStart finish(executor_, *dispatcher_, options_.stop_grace);
  executor_.post_remote(finish);
  finish.wait();
  dispatcher_.reset();
  // The kernel ends whatever is left when the last descriptor closes.
  workers_.clear();
  attached_.device.reset();
}

}  // namespace shoal
