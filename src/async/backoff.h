// Exponential back-off with jitter: delay n is base * 2^n, at most cap, times a random factor in
// [0.8, 1.3) (what Azure's SDKs do); a server's Retry-After is a lower bound.
#pragma once

#include <algorithm>

#include "async/sync.h"
#include "world/random.h"

namespace shoal {

class Backoff {
 public:
  Backoff(Random& random, Duration base, Duration cap) : random_(random), base_(base), cap_(cap) {}

  Duration next(Duration retry_after = Duration(0)) {
    Duration delay = std::min(cap_, base_ * (int64_t{1} << std::min(attempts_, 30u)));
    if (delay <= Duration(0)) delay = cap_;
    ++attempts_;
    auto jittered = Duration(
        static_cast<int64_t>(static_cast<double>(delay.count()) * (0.8 + 0.5 * random_.unit())));
    return std::max(jittered, retry_after);
  }
  unsigned attempts() const { return attempts_; }
  void reset() { attempts_ = 0; }

 private:
  Random& random_;
  Duration base_;
  Duration cap_;
  unsigned attempts_ = 0;
};

}  // namespace shoal
