// One direction of a simulated network card: bytes pass at a rate, and whoever has bytes to pass
// takes turns, so that all get equal shares.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

#include "world_sim/sim_executor.h"

namespace shoal {

// Simulation's thread. Outlives every event of the scheduler.
class SimNicPort {
 public:
  struct Turn {
    uint64_t left = 0;            // bytes that have yet to pass
    std::function<void()> begun;  // at the first byte; may be empty
    std::function<void()> passed;
  };

  // `quantum`: bytes of one turn.
  SimNicPort(SimScheduler& scheduler, uint64_t quantum)
      : scheduler_(&scheduler), quantum_(quantum) {}

  // Bytes per second, 0 is unlimited. What is passing goes on at the rate that it began with.
  void set_rate(uint64_t bytes_per_second) { rate_ = bytes_per_second; }
  uint64_t rate() const { return rate_; }
  bool limited() const { return rate_ != 0 || busy_; }
  void set_quantum(uint64_t bytes) { quantum_ = bytes; }
  Duration time_of(uint64_t bytes) const;

  void submit(Turn turn);
  // Bytes that have passed or are passing since the beginning.
  uint64_t bytes() const { return bytes_; }

 private:
  void serve();
  void served();

  SimScheduler* scheduler_;
  uint64_t quantum_;
  uint64_t rate_ = 0;
  uint64_t bytes_ = 0;
  bool busy_ = false;
  uint64_t serving_ = 0;  // bytes of the front's turn
  std::deque<Turn> turns_;
};

}  // namespace shoal
