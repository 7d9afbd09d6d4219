#include "world_linux/ring.h"

#include <liburing.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/assert.h"
#include "base/bytes.h"

namespace shoal {

namespace {

// Reads of cached pages are copied while the kernel takes the entry; so much per turn, so that a
// hundred large reads do not hold up timers and wake-ups. About 3 ms of copying.
constexpr uint64_t kBytesPerTurn = 16 * kMiB;
constexpr unsigned kEntriesMin = 16;
constexpr unsigned kEntriesMax = 4096;
// Every idle stream's receive takes a place. A completion has 16 bytes, so all of them 128 KiB.
constexpr unsigned kInFlightMax = 8192;
// Threads that the kernel may use per ring for what blocks (writes, fsync, names).
constexpr unsigned kKernelWorkersMax = 16;

}  // namespace

Result<std::unique_ptr<Ring>> Ring::open(unsigned entries) {
  entries = std::clamp(entries, kEntriesMin, kEntriesMax);
  std::unique_ptr<Ring> self(new Ring());
  auto ring = std::make_unique<io_uring>();
  // One thread submits, and completions are worked off when that thread asks for them.
  io_uring_params params{};
  params.cq_entries = kInFlightMax;
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  int error = io_uring_queue_init_params(entries, ring.get(), &params);
  if (error == -EINVAL) {  // before Linux 6.1
    params = {};
    params.cq_entries = kInFlightMax;
    params.flags = IORING_SETUP_CQSIZE;
    error = io_uring_queue_init_params(entries, ring.get(), &params);
  }
  if (error < 0) {
    Error failure = error_from_errno(-error, "making an io_uring");
    if (error != -EPERM && error != -ENOSYS) return fail(std::move(failure));
    return fail(failure.code(), failure.message() +
                                    "; allow it: sysctl kernel.io_uring_disabled=0, and the "
                                    "container's seccomp profile must let io_uring_setup through");
  }
  self->ring_ = std::move(ring);
  if ((self->ring_->features & IORING_FEAT_EXT_ARG) == 0) {
    return fail(Code::kNotSupported,
                "this kernel's io_uring waits without a time limit; use Linux 5.15 or newer");
  }
  unsigned workers[2] = {kKernelWorkersMax, kKernelWorkersMax};
  // Absent before Linux 5.15; the default limit is then larger and does no harm.
  (void)io_uring_register_iowq_max_workers(self->ring_.get(), workers);
  // They would inherit the CPU of a pinned shard and fight with it.
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(getpid(), sizeof cpus, &cpus) == 0) {
    (void)io_uring_register_iowq_aff(self->ring_.get(), sizeof cpus, &cpus);
  }
  // Never more in flight than completions fit, so that the kernel never has to set one aside.
  self->in_flight_max_ = self->ring_->cq.ring_entries;
  SHOAL_ASSERT(self->in_flight_max_ >= entries);
  return self;
}

Ring::~Ring() {
  if (ring_ == nullptr) return;
  SHOAL_ASSERT(in_flight_ == 0 && first_ == nullptr, "the kernel still holds operations");
  io_uring_queue_exit(ring_.get());
}

void Ring::start(RingOp& op) {
  op.next = nullptr;
  (last_ != nullptr ? last_->next : first_) = &op;
  last_ = &op;
  ++under_way_;
}

void Ring::prepare_pending() {
  uint64_t bytes = 0;
  while (first_ != nullptr && in_flight_ < in_flight_max_ && bytes < kBytesPerTurn) {
    io_uring_sqe* entry = io_uring_get_sqe(ring_.get());
    if (entry == nullptr) return;  // the rest after this submission
    RingOp* op = first_;
    first_ = op->next;
    if (first_ == nullptr) last_ = nullptr;
    op->next = nullptr;
    bytes += op->bytes;
    op->prepare(*entry);
    io_uring_sqe_set_data(entry, op);
    ++in_flight_;
  }
}

void Ring::poll() {
  prepare_pending();
  if (in_flight_ == 0) return;
  int answer = io_uring_submit_and_get_events(ring_.get());
  // EAGAIN, EBUSY: the kernel is short of memory or of places; the entries stay for the next turn.
  SHOAL_ASSERT(answer >= 0 || answer == -EINTR || answer == -EAGAIN || answer == -EBUSY,
               "submitting to the io_uring failed");
  reap();
}

void Ring::wait(std::optional<Duration> limit) {
  prepare_pending();
  // With operations left over there is nothing to wait for: another turn submits them.
  if (first_ != nullptr && in_flight_ < in_flight_max_) limit = Duration(0);
  SHOAL_ASSERT(limit.has_value() || in_flight_ > 0, "would wait for ever");
  __kernel_timespec time{};
  if (limit) {
    int64_t nanoseconds = std::max<int64_t>(limit->count(), 0);
    time.tv_sec = nanoseconds / 1'000'000'000;
    time.tv_nsec = nanoseconds % 1'000'000'000;
  }
  io_uring_cqe* entry = nullptr;
  int answer =
      io_uring_submit_and_wait_timeout(ring_.get(), &entry, 1, limit ? &time : nullptr, nullptr);
  SHOAL_ASSERT(
      answer >= 0 || answer == -ETIME || answer == -EINTR || answer == -EAGAIN || answer == -EBUSY,
      "waiting on the io_uring failed");
  reap();
}

void Ring::reap() {
  std::array<io_uring_cqe*, 64> entries;
  struct Done {
    RingOp* op;
    int32_t result;
  };
  std::array<Done, entries.size()> done;
  while (true) {
    unsigned count = io_uring_peek_batch_cqe(ring_.get(), entries.data(), entries.size());
    if (count == 0) return;
    for (unsigned i = 0; i < count; ++i) {
      done[i] = {static_cast<RingOp*>(io_uring_cqe_get_data(entries[i])), entries[i]->res};
    }
    io_uring_cq_advance(ring_.get(), count);
    SHOAL_ASSERT(in_flight_ >= count && under_way_ >= in_flight_);
    in_flight_ -= count;
    under_way_ -= count;
    for (unsigned i = 0; i < count; ++i) done[i].op->complete(done[i].result);
  }
}

}  // namespace shoal
