// UploadWidth: how many blocks a node sends to the origin at a time. One connection seldom fills a
// link, but too many of them only share it: all their blocks end late together, and none is left
// that another holder could take over. So the width follows what the blocks show, as the congestion
// window of TCP Vegas does (Brakmo and Peterson, 1995): it grows while blocks go as fast as the
// fastest lately, and shrinks when by their pace more than kMost of them only wait for others.
//
// Shard's thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "world/time.h"

namespace shoal {

class UploadWidth {
 public:
  static constexpr uint32_t kFirst = 2;
  static constexpr double kLeast = 1;  // blocks that wait
  static constexpr double kMost = 2;
  // Blocks after which what was fastest before is forgotten: the origin may have become slower.
  static constexpr uint32_t kMemory = 64;
  // After a pause the origin may be shared with others than before.
  static constexpr Duration kPause = std::chrono::seconds(2);

  explicit UploadWidth(uint32_t most) : most_(std::max(most, 1u)) { restart(); }

  uint32_t limit() const { return limit_; }

  // A block begins while `width` are on their way, itself included.
  void begin(uint32_t width, SteadyTime now) {
    if (width <= 1 && now - last_ > kPause) restart();
    last_ = now;
  }
  // It has arrived after `took`, at most `width` having been on their way.
  void sent(uint64_t bytes, Duration took, uint32_t width, SteadyTime now) {
    last_ = now;
    if (bytes == 0 || took <= Duration(0)) return;
    double pace = static_cast<double>(took.count()) / static_cast<double>(bytes);
    if (++seen_ > kMemory) {
      fastest_ = std::exchange(fastest_lately_, kNone);
      seen_ = 0;
    }
    fastest_lately_ = std::min(fastest_lately_, pace);
    fastest_ = std::min(fastest_, pace);
    double waiting = static_cast<double>(width) * (1 - fastest_ / pace);
    if (waiting < kLeast && width >= limit_) {
      limit_ = std::min(limit_ + 1, most_);
    } else if (waiting > kMost) {
      limit_ = std::max(limit_ - 1, std::min(kFirst, most_));
    }
  }

 private:
  static constexpr double kNone = 1e300;
  void restart() {
    limit_ = std::min(kFirst, most_);
    fastest_ = fastest_lately_ = kNone;
    seen_ = 0;
  }

  const uint32_t most_;
  uint32_t limit_ = 0;
  double fastest_ = kNone;  // nanoseconds per byte
  double fastest_lately_ = kNone;
  uint32_t seen_ = 0;
  SteadyTime last_{};
};

}  // namespace shoal
