// RateLimit: so many bytes a second, for flows that share it. Whoever comes pays first and waits
// for its own part, so that one large taker does not overtake many small ones.
//
// Shard's thread.
#pragma once

#include <algorithm>

#include "async/sync.h"

namespace shoal {

class RateLimit {
 public:
  // `bytes_per_second`: 0 is no limit. At rest so many bytes pass at once as in kBurst.
  RateLimit(Executor& executor, uint64_t bytes_per_second)
      : executor_(executor), rate_(bytes_per_second) {}

  Task<Status> take(uint64_t bytes, Context context) {
    if (rate_ == 0) return ready(context);
    SteadyTime begin = std::max(free_at_, executor_.now() - kBurst);
    double seconds = static_cast<double>(bytes) / static_cast<double>(rate_);
    free_at_ = begin + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
    return wait_until(begin, context);
  }

 private:
  static constexpr Duration kBurst = std::chrono::milliseconds(100);

  Task<Status> ready(Context context) { co_return context.check(executor_); }
  Task<Status> wait_until(SteadyTime when, Context context) {
    if (when <= executor_.now()) co_return context.check(executor_);
    co_return co_await sleep_for(executor_, when - executor_.now(), context);
  }

  Executor& executor_;
  const uint64_t rate_;
  SteadyTime free_at_{};
};

}  // namespace shoal
