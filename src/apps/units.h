// Durations as people write them, and numbers as people read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "world/time.h"

namespace shoal {

// "5s", "250ms", "10m", "2h", "1d", "1.5h", "0"; a bare number is seconds. Fails on anything else,
// on negatives and on overflow.
Result<Duration> parse_duration(std::string_view text);
// "250ms", "5s", "10m", "2h5m": exact to the largest two units.
std::string format_duration(Duration duration);
// "1.25 GiB/s".
std::string format_rate(double bytes_per_second);
// Percentage for people: "0%", "37%", "100%" (100 only when done == total).
std::string format_share(uint64_t done, uint64_t total);

// The member of `names` closest to `word` if it is close enough to be a slip of the finger, else
// empty.
template <typename Range>
std::string nearest_name(std::string_view word, const Range& names);

size_t edit_distance(std::string_view a, std::string_view b);

template <typename Range>
std::string nearest_name(std::string_view word, const Range& names) {
  std::string best;
  size_t best_distance = word.size() / 4 + 2;  // further away is not a slip but another word
  for (const auto& name : names) {
    size_t distance = edit_distance(word, name);
    if (distance < best_distance) {
      best_distance = distance;
      best = std::string(name);
    }
  }
  return best;
}

}  // namespace shoal
