#include "apps/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "base/bytes.h"

namespace shoal {
namespace {

struct Unit {
  std::string_view name;
  double seconds;
};
constexpr Unit kUnits[] = {{"", 1},   {"ms", 1e-3}, {"us", 1e-6}, {"s", 1},    {"sec", 1},
                           {"m", 60}, {"min", 60},  {"h", 3600},  {"d", 86400}};
constexpr double kDurationSecondsMax = 100.0 * 365 * 86400;

}  // namespace

Result<Duration> parse_duration(std::string_view text) {
  double number = 0;
  auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  if (error == std::errc() && number >= 0) {
    for (const Unit& known : kUnits) {
      if (known.name != unit) continue;
      double seconds = number * known.seconds;
      if (seconds > kDurationSecondsMax) break;
      return Duration(static_cast<int64_t>(std::llround(seconds * 1e9)));
    }
  }
  return fail(Code::kInvalidArgument,
              fmt::format("\"{}\" is not a duration; write it like 250ms, 5s, 10m or 2h", text));
}

std::string format_duration(Duration duration) {
  int64_t ms = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  if (ms < 0) return "0s";
  if (ms < 1000 && ms != 0) return fmt::format("{}ms", ms);
  if (ms < 10000 && ms % 1000 != 0) return fmt::format("{:.1f}s", static_cast<double>(ms) / 1000);
  int64_t s = ms / 1000;
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600)
    return s % 60 == 0 ? fmt::format("{}m", s / 60) : fmt::format("{}m{}s", s / 60, s % 60);
  int64_t m = s / 60;
  if (s < 2 * 86400) {
    return m % 60 == 0 ? fmt::format("{}h", m / 60) : fmt::format("{}h{}m", m / 60, m % 60);
  }
  int64_t h = s / 3600;
  return h % 24 == 0 ? fmt::format("{}d", h / 24) : fmt::format("{}d{}h", h / 24, h % 24);
}

std::string format_rate(double bytes_per_second) {
  if (!(bytes_per_second >= 0)) bytes_per_second = 0;
  return format_size(static_cast<uint64_t>(bytes_per_second)) + "/s";
}

std::string format_share(uint64_t done, uint64_t total) {
  if (total == 0 || done >= total) return "100%";
  auto share = static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total));
  return fmt::format("{}%", std::min(share, 99));
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

}  // namespace shoal
