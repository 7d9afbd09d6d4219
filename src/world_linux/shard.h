// Shard: the real Executor. One thread with one io_uring, one run queue and its timers; and the
// Disk, Http, Network and Random that belong to it. Idle, it sleeps in the kernel and uses no CPU.
//
// One turn of its loop: take what other threads posted, run due timers, run items of the queue (up
// to a budget), submit operations, complete finished ones. The clock is read several times a turn.
//
// Nobody may begin to post from another thread once the shard is stopped.
#pragma once

#include <atomic>
#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "async/task.h"
#include "async/timer_queue.h"
#include "base/error.h"
#include "world/world.h"

namespace shoal {

class CurlClient;
class CurlHttp;
class HelperPool;
class LinuxDisk;
class LinuxNetwork;
class Ring;

struct ShardOptions {
  std::string name = "shoal-shard";  // the thread's name, at most 15 characters of it
  std::optional<unsigned> cpu = {};  // pin the thread to it
  unsigned ring_entries = 256;       // of the submission queue; 8192 in flight
  HelperPool* helpers = nullptr;     // shared and outliving the shard; null: one of its own
  CurlClient* curl = nullptr;        // shared and outliving the shard; null: one of its own
  // Congestion control of this shard's TCP sockets ("reno", "bbr"); empty: the system's.
  std::string tcp_congestion = {};
};

class Shard final : public Executor {
 public:
  // What the shard did so far; for metrics, from any thread.
  struct Stats {
    uint64_t turns = 0;
    uint64_t items = 0;        // run queue items and timers
    uint64_t wake_ups = 0;     // by other threads while it slept
    Duration longest_turn{0};  // running items; without submission and sleep
  };

  // Fails if there is no io_uring or no thread to be had, or the CPU does not exist.
  static Result<std::unique_ptr<Shard>> start(ShardOptions options);
  ~Shard() override;

  // Runs until the queue is empty and the kernel, the helpers and HTTP gave everything back (HTTP
  // calls are cancelled), then joins. Timers still armed never run. Not from the shard's thread.
  // Idempotent. Close your gates first: this is no substitute for it.
  void stop();

  // For use on the shard's thread, by whoever runs there.
  World& world() { return *world_; }
  // For ops of other rooms' own kinds (the mount's device). Shard's thread.
  Ring& ring() { return *ring_; }
  Stats stats() const;

  SteadyTime now() const override;
  WallTime wall_now() const override;
  void post(Runnable& item) override;
  void post_remote(Runnable& item) override;
  bool on_thread() const override { return std::this_thread::get_id() == thread_id_; }
  void start_timer(Timer& timer, SteadyTime when) override;
  void stop_timer(Timer& timer) override;

 private:
  class WakeOp;
  class StopItem;

  explicit Shard(ShardOptions options);
  Status set_up();
  void loop();
  void take_remote();
  void run_timers();
  void run_items();
  void sleep();
  void begin_stop();
  bool is_quiet() const;
  void tear_down();

  ShardOptions options_;
  std::thread thread_;
  std::thread::id thread_id_;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<WakeOp> wake_;
  std::unique_ptr<HelperPool> own_helpers_;
  std::unique_ptr<CurlClient> own_curl_;
  std::unique_ptr<LinuxDisk> disk_;
  std::unique_ptr<CurlHttp> http_;
  std::unique_ptr<LinuxNetwork> network_;
  std::unique_ptr<Random> random_;
  std::optional<World> world_;

  // The shard's thread only.
  Runnable* first_ = nullptr;
  Runnable* last_ = nullptr;
  TimerQueue timers_;
  SteadyTime now_{};
  bool stopping_ = false;

  // Any thread. A stack, newest first: pushed by one compare and swap, taken as a whole.
  std::atomic<Runnable*> remote_{nullptr};
  // Set before the shard sleeps; who clears it must wake it. So a busy shard is never signalled.
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> ended_{false};
  std::atomic<uint32_t> posting_{0};  // threads inside post_remote; the end waits for them
  int wake_descriptor_ = -1;

  // Relaxed: they order nothing and are only read for display.
  std::atomic<uint64_t> turns_{0};
  std::atomic<uint64_t> items_{0};
  std::atomic<uint64_t> wake_ups_{0};
  std::atomic<int64_t> longest_turn_ns_{0};
};

namespace internal {

// Shared by the waiting thread and the shard, because either may leave first.
template <typename T>
struct BlockingState {
  std::mutex mutex;
  std::condition_variable changed;
  std::conditional_t<std::is_void_v<T>, std::optional<bool>, std::optional<T>> value;

  template <typename U>
  void set(U&& result) {
    std::lock_guard lock(mutex);
    value.emplace(std::forward<U>(result));
    changed.notify_all();
  }
};

struct Unowned {
  struct promise_type {
    Unowned get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

// The task ends and is destroyed on the shard before the other thread hears of it.
template <typename T>
Unowned drive(Task<T> task, std::shared_ptr<BlockingState<T>> state) {
  if constexpr (std::is_void_v<T>) {
    {
      Task<T> owned = std::move(task);
      co_await owned;
    }
    state->set(true);
  } else {
    std::optional<T> value;
    {
      Task<T> owned = std::move(task);
      value.emplace(co_await owned);
    }
    state->set(std::move(*value));
  }
}

template <typename T>
class BlockingStart final : public Runnable {
 public:
  BlockingStart(Task<T> task, std::shared_ptr<BlockingState<T>> state)
      : task_(std::move(task)), state_(std::move(state)) {}
  void run() noexcept override {
    Task<T> task = std::move(task_);
    auto state = std::move(state_);
    delete this;
    drive(std::move(task), std::move(state));
  }

 private:
  Task<T> task_;
  std::shared_ptr<BlockingState<T>> state_;
};

}  // namespace internal

// Runs the task on the shard and waits for it: for main functions and tests, never on a shard.
template <typename T>
T run_blocking(Shard& shard, Task<T> task) {
  SHOAL_ASSERT(!shard.on_thread(), "would wait for itself");
  auto state = std::make_shared<internal::BlockingState<T>>();
  shard.post_remote(*new internal::BlockingStart<T>(std::move(task), state));
  std::unique_lock lock(state->mutex);
  state->changed.wait(lock, [&state] { return state->value.has_value(); });
  if constexpr (!std::is_void_v<T>) return std::move(*state->value);
}

}  // namespace shoal
