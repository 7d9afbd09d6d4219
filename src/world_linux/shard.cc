#include "world_linux/shard.h"

#include <fmt/format.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <future>

#include "world_linux/clock.h"
#include "world_linux/curl_http.h"
#include "world_linux/helper_pool.h"
#include "world_linux/kernel_random.h"
#include "world_linux/linux_disk.h"
#include "world_linux/linux_network.h"
#include "world_linux/ring.h"
#include "world_linux/thread.h"

namespace shoal {

namespace {

// Items of the run queue per turn, before timers and completions have their say again.
constexpr int kItemsPerTurn = 256;
// The clock is read again after so many items.
constexpr int kItemsPerClockRead = 16;

Status pin_this_thread(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= CPU_SETSIZE) return fail(Code::kInvalidArgument, fmt::format("no CPU {}", cpu));
  CPU_SET(cpu, &set);
  int error = pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  if (error != 0) {
    return fail(error_from_errno(error, fmt::format("pinning a shard to CPU {}", cpu)));
  }
  return {};
}

}  // namespace

// Always reading the eventfd, so that a signal ends the wait on the ring.
class Shard::WakeOp final : public RingOp {
 public:
  explicit WakeOp(Shard& shard) : shard_(shard) {}
  void prepare(io_uring_sqe& entry) noexcept override {
    io_uring_prep_read(&entry, shard_.wake_descriptor_, &count_, sizeof count_, 0);
  }
  void complete(int32_t result) noexcept override {
    SHOAL_ASSERT(result == sizeof count_ || result == -EINTR || result == -EAGAIN,
                 "reading the shard's eventfd failed");
    armed = false;
    if (!retired) arm();
  }
  void arm() {
    SHOAL_ASSERT(!armed);
    armed = true;
    shard_.ring_->start(*this);
  }
  bool armed = false;
  bool retired = false;

 private:
  Shard& shard_;
  uint64_t count_ = 0;
};

class Shard::StopItem final : public Runnable {
 public:
  explicit StopItem(Shard& shard) : shard_(shard) {}
  void run() noexcept override { shard_.begin_stop(); }

 private:
  Shard& shard_;
};

Shard::Shard(ShardOptions options) : options_(std::move(options)) {}

Shard::~Shard() {
  stop();
  if (wake_descriptor_ >= 0) close(wake_descriptor_);
}

Result<std::unique_ptr<Shard>> Shard::start(ShardOptions options) {
  std::unique_ptr<Shard> self(new Shard(std::move(options)));
  SHOAL_ASSIGN_OR_RETURN(self->wake_descriptor_, make_event_descriptor());
  if (self->options_.helpers == nullptr) {
    self->own_helpers_ = std::make_unique<HelperPool>();
    self->options_.helpers = self->own_helpers_.get();
  }
  if (self->options_.curl == nullptr) {
    SHOAL_ASSIGN_OR_RETURN(self->own_curl_, CurlClient::create({}));
    self->options_.curl = self->own_curl_.get();
  }
  std::promise<Status> ready;
  // The ring is made on the thread that will use it, as the kernel demands.
  Shard& shard = *self;
  auto thread = start_thread(shard.options_.name, [&shard, &ready] {
    shard.thread_id_ = std::this_thread::get_id();
    Status status = shard.set_up();
    bool usable = status.has_value();
    ready.set_value(std::move(status));  // `ready` is gone after this
    if (usable) shard.loop();
    shard.tear_down();
  });
  if (!thread) return fail(std::move(thread).error());
  shard.thread_ = std::move(*thread);
  Status status = ready.get_future().get();
  if (!status) {
    shard.thread_.join();
    return fail(std::move(status).error());
  }
  return self;
}

Status Shard::set_up() {
  SHOAL_RETURN_IF_ERROR(LinuxNetwork::check_congestion(options_.tcp_congestion));
  if (options_.cpu) SHOAL_RETURN_IF_ERROR(pin_this_thread(*options_.cpu));
  SHOAL_ASSIGN_OR_RETURN(ring_, Ring::open(options_.ring_entries));
  now_ = read_steady_clock();
  wake_ = std::make_unique<WakeOp>(*this);
  wake_->arm();
  disk_ = std::make_unique<LinuxDisk>(*this, *ring_, *options_.helpers);
  http_ = options_.curl->attach(*this);
  network_ =
      std::make_unique<LinuxNetwork>(*this, *ring_, *options_.helpers, options_.tcp_congestion);
  random_ = std::make_unique<KernelRandom>();
  world_.emplace(World{*this, *random_, *disk_, *http_, *network_});
  return {};
}

void Shard::stop() {
  if (!thread_.joinable()) return;
  SHOAL_ASSERT(!on_thread(), "a shard cannot wait for its own end");
  StopItem item(*this);
  post_remote(item);
  thread_.join();
  // The item that ended the last work may have run while its poster was still about to wake us.
  while (posting_.load(std::memory_order_acquire) != 0) std::this_thread::yield();
}

SteadyTime Shard::now() const { return on_thread() ? now_ : read_steady_clock(); }
WallTime Shard::wall_now() const { return read_wall_clock(); }

Shard::Stats Shard::stats() const {
  return {turns_.load(std::memory_order_relaxed), items_.load(std::memory_order_relaxed),
          wake_ups_.load(std::memory_order_relaxed),
          Duration(longest_turn_ns_.load(std::memory_order_relaxed))};
}

void Shard::post(Runnable& item) {
  SHOAL_ASSERT(on_thread());
  item.next = nullptr;
  (last_ != nullptr ? last_->next : first_) = &item;
  last_ = &item;
}

void Shard::post_remote(Runnable& item) {
  SHOAL_ASSERT(!ended_.load(std::memory_order_relaxed), "posted to a shard that has ended");
  posting_.fetch_add(1, std::memory_order_relaxed);
  Runnable* top = remote_.load(std::memory_order_relaxed);
  do {
    item.next = top;
  } while (!remote_.compare_exchange_weak(top, &item, std::memory_order_seq_cst,
                                          std::memory_order_relaxed));
  // Sequentially consistent on both sides: either the shard sees the item before it sleeps, or we
  // see that it is about to sleep. Only one of many posters pays for the wake-up.
  if (sleeping_.load(std::memory_order_seq_cst) && sleeping_.exchange(false)) {
    wake_ups_.fetch_add(1, std::memory_order_relaxed);
    signal_event(wake_descriptor_);
  }
  posting_.fetch_sub(1, std::memory_order_release);  // the last touch
}

void Shard::start_timer(Timer& timer, SteadyTime when) {
  SHOAL_ASSERT(on_thread());
  timers_.add(timer, when);
}

void Shard::stop_timer(Timer& timer) {
  SHOAL_ASSERT(on_thread());
  timers_.remove(timer);
}

void Shard::loop() {
  while (true) {
    now_ = read_steady_clock();
    SteadyTime began = now_;
    take_remote();
    run_timers();
    run_items();
    now_ = read_steady_clock();
    int64_t took = (now_ - began).count();
    if (took > longest_turn_ns_.load(std::memory_order_relaxed)) {
      longest_turn_ns_.store(took, std::memory_order_relaxed);
    }
    turns_.fetch_add(1, std::memory_order_relaxed);
    if (stopping_) {
      if (is_quiet()) return;
      http_->cancel_all();  // what was started since
      network_->cancel_all();
    }
    if (first_ != nullptr) {
      ring_->poll();
    } else {
      sleep();
    }
  }
}

void Shard::take_remote() {
  Runnable* newest = remote_.exchange(nullptr, std::memory_order_seq_cst);
  // Turned around: oldest first.
  Runnable* oldest = nullptr;
  while (newest != nullptr) {
    Runnable* following = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = following;
  }
  while (oldest != nullptr) {
    Runnable* item = oldest;
    oldest = item->next;
    post(*item);
  }
}

void Shard::run_timers() {
  uint64_t count = 0;
  // Only those due when the turn began: one that arms itself again for now waits a turn.
  SteadyTime due = now_;
  for (int i = 0; i < kItemsPerTurn; ++i) {
    Timer* timer = timers_.take_due(due);
    if (timer == nullptr) break;
    timer->run();
    ++count;
  }
  items_.fetch_add(count, std::memory_order_relaxed);
}

void Shard::run_items() {
  int count = 0;
  while (first_ != nullptr && count < kItemsPerTurn) {
    Runnable* item = first_;
    first_ = item->next;
    if (first_ == nullptr) last_ = nullptr;
    item->next = nullptr;
    item->run();
    if (++count % kItemsPerClockRead == 0) now_ = read_steady_clock();
  }
  items_.fetch_add(static_cast<uint64_t>(count), std::memory_order_relaxed);
}

void Shard::sleep() {
  std::optional<Duration> limit;
  if (auto next = timers_.next(); next && *next != kNever) {
    limit = *next <= now_ ? Duration(0) : *next - now_;
  }
  sleeping_.store(true, std::memory_order_seq_cst);
  if (remote_.load(std::memory_order_seq_cst) == nullptr) {
    ring_->wait(limit);
  } else {
    ring_->poll();
  }
  sleeping_.store(false, std::memory_order_seq_cst);
}

void Shard::begin_stop() { stopping_ = true; }

bool Shard::is_quiet() const {
  uint64_t own = wake_->armed ? 1 : 0;
  return first_ == nullptr && remote_.load(std::memory_order_seq_cst) == nullptr &&
         ring_->under_way() == own && disk_->is_idle() && network_->is_idle() &&
         http_->in_flight() == 0;
}

void Shard::tear_down() {
  ended_.store(true, std::memory_order_relaxed);
  if (wake_ != nullptr) {
    wake_->retired = true;
    signal_event(wake_descriptor_);
    while (wake_->armed) ring_->wait(std::nullopt);
  }
  http_.reset();
  network_.reset();
  disk_.reset();
  ring_.reset();
}

}  // namespace shoal
