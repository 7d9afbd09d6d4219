// Points in time. Steady time measures durations and deadlines and never jumps; wall time is what
// people and origins write down, and may jump.
#pragma once

#include <chrono>

namespace shoal {

using Duration = std::chrono::nanoseconds;

// A clock tag only: it has no now(). Ask the Executor.
struct SteadyTag {
  using rep = int64_t;
  using period = std::nano;
  using duration = Duration;
  using time_point = std::chrono::time_point<SteadyTag, Duration>;
  static constexpr bool is_steady = true;
};
using SteadyTime = SteadyTag::time_point;
using WallTime = std::chrono::sys_time<Duration>;

inline constexpr SteadyTime kNever = SteadyTime::max();

inline double to_seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace shoal
