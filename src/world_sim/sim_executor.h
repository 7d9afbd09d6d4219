// Virtual time. One SimScheduler runs everything of a simulation in one thread; each incarnation of
// a simulated process (and the test's own driver) has its SimExecutor on it.
//
// Nothing here waits: when no work is ready, the clock jumps to the next event. Equal seeds give
// equal runs; trace_hash() proves it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "world/executor.h"
#include "world_sim/sim_random.h"

namespace shoal {

class SimExecutor;

class SimScheduler {
 public:
  // `shuffle`: ready work runs in random order instead of first in, first out.
  SimScheduler(uint64_t seed, bool shuffle);
  ~SimScheduler();
  SimScheduler(const SimScheduler&) = delete;
  SimScheduler& operator=(const SimScheduler&) = delete;

  SteadyTime now() const { return now_; }
  // True wall time; machines may have clocks that differ from it.
  WallTime wall_now() const { return kWallStart + now_.time_since_epoch(); }
  SeededRandom& random() { return random_; }

  using EventId = std::pair<SteadyTime, uint64_t>;
  // Runs `action` at `when` (now at the earliest). `owner` may be null: then it survives crashes.
  EventId at(SteadyTime when, SimExecutor* owner, std::function<void()> action);
  // No-op if it ran or was dropped already.
  void cancel(EventId event) { events_.erase(event); }

  // Runs one item or event. False: nothing is left at all.
  bool step();
  bool idle() const { return ready_.empty() && events_.empty(); }
  // The time of what would run next; kNever when idle.
  SteadyTime next_time() const;
  // The simulation is over: nothing runs any more. Answers all that was to run, so that the caller
  // keeps it reachable (see kill()).
  std::vector<Runnable*> end();
  // Moves the clock when nothing happens until then. Only forward.
  void advance_to(SteadyTime when);

  // Mixes something into the trace: what happened, beside when.
  void note(uint64_t value);
  uint64_t trace_hash() const { return trace_; }
  uint64_t steps() const { return steps_; }

 private:
  friend class SimExecutor;
  static constexpr WallTime kWallStart{std::chrono::seconds(1'800'000'000)};  // January 2027
  struct Item {
    SimExecutor* owner;
    Runnable* runnable;
  };
  struct Event {
    SimExecutor* owner = nullptr;
    Timer* timer = nullptr;        // either this
    std::function<void()> action;  // or that
  };
  void drop(SimExecutor& owner, std::vector<Runnable*>& dropped);

  SteadyTime now_{};
  uint64_t sequence_ = 0;
  uint64_t steps_ = 0;
  uint64_t steps_at_this_time_ = 0;
  uint64_t trace_ = 0;
  bool shuffle_;
  SeededRandom random_;
  SeededRandom shuffler_;
  SimExecutor* current_ = nullptr;
  bool ended_ = false;
  uint32_t executors_ = 0;
  std::vector<Item> ready_;  // from first_ready_ on
  size_t first_ready_ = 0;
  std::map<EventId, Event> events_;
};

// One thread of a simulated process. After kill() nothing of it runs any more.
class SimExecutor final : public Executor {
 public:
  explicit SimExecutor(SimScheduler& scheduler);
  ~SimExecutor() override;

  SteadyTime now() const override { return scheduler_.now(); }
  WallTime wall_now() const override { return scheduler_.wall_now() + wall_offset_; }
  void post(Runnable& item) override;
  void post_remote(Runnable& item) override { post(item); }
  // True for its own work, and for the test's code between steps.
  bool on_thread() const override {
    return scheduler_.current_ == nullptr || scheduler_.current_ == this;
  }
  void start_timer(Timer& timer, SteadyTime when) override;
  void stop_timer(Timer& timer) override;

  // The machine's clock is off by so much from now on.
  void set_wall_offset(Duration offset) { wall_offset_ = offset; }
  Duration wall_offset() const { return wall_offset_; }

  bool alive() const { return alive_; }
  // Drops queued work, timers and owned events. The items are returned so that the caller keeps
  // them reachable: coroutine frames hang on them and must not be destroyed.
  std::vector<Runnable*> kill();
  SimScheduler& scheduler() { return scheduler_; }

 private:
  friend class SimScheduler;
  SimScheduler& scheduler_;
  Duration wall_offset_{0};
  uint32_t number_;
  bool alive_ = true;
};

}  // namespace shoal
