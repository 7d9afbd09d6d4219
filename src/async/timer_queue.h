// Armed timers ordered by time, ties by order of arming. For the implementations of Executor.
#pragma once

#include <optional>
#include <set>

#include "base/assert.h"
#include "world/executor.h"

namespace shoal {

class TimerQueue {
 public:
  void add(Timer& timer, SteadyTime when) {
    SHOAL_ASSERT(!timer.armed_);
    timer.armed_ = true;
    timer.when_ = when;
    timer.sequence_ = ++sequence_;
    timers_.insert(&timer);
  }
  void remove(Timer& timer) {
    if (!timer.armed_) return;
    timers_.erase(&timer);
    timer.armed_ = false;
  }
  // The earliest time, or nothing.
  std::optional<SteadyTime> next() const {
    if (timers_.empty()) return std::nullopt;
    return (*timers_.begin())->when_;
  }
  // Takes one timer that is due, or null. Run it at once: it may arm itself again.
  Timer* take_due(SteadyTime now) {
    if (timers_.empty() || (*timers_.begin())->when_ > now) return nullptr;
    Timer* timer = *timers_.begin();
    remove(*timer);
    return timer;
  }
  size_t size() const { return timers_.size(); }

 private:
  struct Earlier {
    bool operator()(const Timer* a, const Timer* b) const {
      return a->when_ != b->when_ ? a->when_ < b->when_ : a->sequence_ < b->sequence_;
    }
  };
  std::set<Timer*, Earlier> timers_;
  uint64_t sequence_ = 0;
};

}  // namespace shoal
