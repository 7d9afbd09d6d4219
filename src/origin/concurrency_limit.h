// How many requests may be in flight to one origin: additive increase, multiplicative decrease, as
// the origin throttles. Shard's thread.
#pragma once

#include "async/sync.h"

namespace shoal {

class ConcurrencyLimit {
 public:
  ConcurrencyLimit(Executor& executor, uint64_t limit_max)
      : executor_(executor), limit_max_(limit_max), permits_(executor, limit_max) {
    SHOAL_ASSERT(limit_max >= 1);
  }

  Task<Result<Permit>> acquire(Context context) { return permits_.acquire(1, context); }

  // One more after each round of as many successes as the limit.
  void on_success() {
    if (permits_.limit() >= limit_max_) return;
    if (++successes_ < permits_.limit()) return;
    successes_ = 0;
    permits_.set_limit(permits_.limit() + 1);
  }

  // A third less, at most once a second: one burst of refusals is one signal.
  void on_throttled() {
    successes_ = 0;
    if (cut_once_ && executor_.now() - last_cut_ < std::chrono::seconds(1)) return;
    cut_once_ = true;
    last_cut_ = executor_.now();
    permits_.set_limit(std::max<uint64_t>(1, permits_.limit() * 7 / 10));
    SHOAL_ASSERT(permits_.limit() >= 1 && permits_.limit() <= limit_max_);
  }

  uint64_t limit() const { return permits_.limit(); }
  uint64_t used() const { return permits_.used(); }

 private:
  Executor& executor_;
  uint64_t limit_max_;
  Semaphore permits_;
  uint64_t successes_ = 0;
  bool cut_once_ = false;
  SteadyTime last_cut_{};
};

}  // namespace shoal
