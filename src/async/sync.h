// Waiting, on one shard: Signal (condition variable), Semaphore (permits), sleep. Every wait has
// the Context's deadline and cancellation. Waiters resume through the run queue.
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstdint>
#include <optional>

#include "async/context.h"
#include "async/task.h"
#include "world/executor.h"

namespace shoal {

class WaitQueue;

// One suspended waiter: an awaitable that ends by wake-up, deadline or cancellation.
class [[nodiscard]] Waiter : private Timer, private CancelHook {
 public:
  Waiter(Executor& executor, WaitQueue* queue, Context context, uint64_t amount = 0)
      : executor_(executor), queue_(queue), context_(context), amount_(amount) {}
  ~Waiter() { SHOAL_ASSERT(!suspended_); }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle);
  Status await_resume();

 private:
  friend class WaitQueue;
  void run() noexcept override;
  void on_cancel() noexcept override;
  void finish(bool woken);

  class Resume final : public Runnable {
   public:
    void run() noexcept override { handle.resume(); }
    std::coroutine_handle<> handle;
  };

  Executor& executor_;
  WaitQueue* queue_;
  Context context_;
  uint64_t amount_;
  Resume resume_;
  bool suspended_ = false;
  bool woken_ = false;
  Waiter* previous_ = nullptr;
  Waiter* following_ = nullptr;
};

// First in, first out.
class WaitQueue {
 public:
  ~WaitQueue() { SHOAL_ASSERT(first_ == nullptr, "destroyed while somebody waits"); }
  bool empty() const { return first_ == nullptr; }
  uint64_t front_amount() const { return first_->amount_; }
  void wake_front();
  void wake_all();

 private:
  friend class Waiter;
  void push(Waiter& waiter);
  void remove(Waiter& waiter);
  Waiter* first_ = nullptr;
  Waiter* last_ = nullptr;
};

// Like a condition variable: re-check your condition after each wait.
class Signal {
 public:
  explicit Signal(Executor& executor) : executor_(executor) {}
  // Ok when notified, else kDeadlineExceeded or kCancelled.
  Waiter wait(Context context) { return Waiter(executor_, &queue_, context); }
  void notify_all() { queue_.wake_all(); }
  void notify_one() {
    if (!queue_.empty()) queue_.wake_front();
  }
  bool has_waiters() const { return !queue_.empty(); }

 private:
  Executor& executor_;
  WaitQueue queue_;
};

class Semaphore;

// Given back when destroyed.
class [[nodiscard]] Permit {
 public:
  Permit() = default;
  Permit(Permit&& other) noexcept
      : semaphore_(std::exchange(other.semaphore_, nullptr)),
        amount_(std::exchange(other.amount_, 0)) {}
  Permit& operator=(Permit&& other) noexcept {
    if (this != &other) {
      release();
      semaphore_ = std::exchange(other.semaphore_, nullptr);
      amount_ = std::exchange(other.amount_, 0);
    }
    return *this;
  }
  ~Permit() { release(); }
  void release();
  uint64_t amount() const { return amount_; }

 private:
  friend class Semaphore;
  Permit(Semaphore* semaphore, uint64_t amount) : semaphore_(semaphore), amount_(amount) {}
  Semaphore* semaphore_ = nullptr;
  uint64_t amount_ = 0;
};

// Counted permits, first come first served. The limit may change while it is in use (adaptive
// concurrency): lowering it waits for permits to come back.
class Semaphore {
 public:
  Semaphore(Executor& executor, uint64_t limit) : executor_(executor), limit_(limit) {}
  ~Semaphore() { SHOAL_ASSERT(used_ == 0, "permits are still out"); }

  // `amount` is capped at the limit, so that one large request can always run alone.
  Task<Result<Permit>> acquire(uint64_t amount, Context context);
  // Nothing if it would have to wait.
  std::optional<Permit> try_acquire(uint64_t amount);
  void set_limit(uint64_t limit);
  uint64_t limit() const { return limit_; }
  uint64_t used() const { return used_; }
  bool has_waiters() const { return !queue_.empty(); }
  // acquire() would not wait.
  bool has_room(uint64_t amount) const { return queue_.empty() && fits(std::min(amount, limit_)); }

 private:
  friend class Permit;
  bool fits(uint64_t amount) const { return used_ == 0 || used_ + amount <= limit_; }
  void give_back(uint64_t amount);
  void wake();

  Executor& executor_;
  uint64_t limit_;
  uint64_t used_ = 0;
  WaitQueue queue_;
};

// Ok after `duration`; kCancelled or kDeadlineExceeded if the context ends first.
Task<Status> sleep_for(Executor& executor, Duration duration, Context context);
// Lets other work run: continues through the run queue.
struct Yield : private Runnable {
  explicit Yield(Executor& on) : executor(on) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> awaiter) {
    handle = awaiter;
    executor.post(*this);
  }
  void await_resume() const noexcept {}

 private:
  void run() noexcept override { handle.resume(); }
  Executor& executor;
  std::coroutine_handle<> handle;
};

}  // namespace shoal
