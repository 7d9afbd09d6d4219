// The kernel's clocks in the units of world/time.h.
#pragma once

#include <ctime>

#include "world/time.h"

namespace shoal {

inline Duration to_duration(const timespec& time) {
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}
inline SteadyTime read_steady_clock() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return SteadyTime(to_duration(time));
}
inline WallTime read_wall_clock() {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  return WallTime(to_duration(time));
}

}  // namespace shoal
