// UploadRate: how fast this node's versions go to the origin, over the last minute, and how long
// what waits will take at that rate. One thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>

#include "world/time.h"

namespace shoal {

class UploadRate {
 public:
  static constexpr Duration kPeriod = std::chrono::seconds(5);  // between two samples
  static constexpr size_t kSamplesMax = 13;

  // The counters since the start.
  void sample(SteadyTime now, uint64_t objects, uint64_t bytes) {
    samples_.push_back({now, objects, bytes});
    if (samples_.size() > kSamplesMax) samples_.pop_front();
  }
  double objects_per_second() const { return rate(&Sample::objects); }
  double bytes_per_second() const { return rate(&Sample::bytes); }
  // Nothing while nothing moves. Small files are many, large ones are long: the later of the two.
  std::optional<double> seconds_for(uint64_t objects, uint64_t bytes) const {
    double by_objects = objects_per_second();
    double by_bytes = bytes_per_second();
    if (objects == 0) return 0.0;
    if (by_objects <= 0 && by_bytes <= 0) return std::nullopt;
    double seconds = by_bytes > 0 ? static_cast<double>(bytes) / by_bytes : 0;
    if (by_objects > 0) seconds = std::max(seconds, static_cast<double>(objects) / by_objects);
    return seconds;
  }

 private:
  struct Sample {
    SteadyTime when{};
    uint64_t objects = 0;
    uint64_t bytes = 0;
  };
  double rate(uint64_t Sample::* counter) const {
    if (samples_.size() < 2) return 0;
    double seconds = to_seconds(samples_.back().when - samples_.front().when);
    auto grown = samples_.back().*counter - samples_.front().*counter;
    return seconds > 0 ? static_cast<double>(grown) / seconds : 0;
  }
  std::deque<Sample> samples_;
};

}  // namespace shoal
