#include "base/bytes.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>

namespace shoal {

Buffer::Buffer(size_t size) : size_(size) {
  if (size == 0) return;
  size_t rounded = (size + 4095) / 4096 * 4096;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(4096, rounded));
  SHOAL_ASSERT(memory != nullptr, "out of memory");
  data_.reset(memory);
}

Buffer Buffer::copy_of(ConstByteSpan bytes) {
  Buffer buffer(bytes.size());
  if (!bytes.empty()) std::memcpy(buffer.data(), bytes.data(), bytes.size());
  return buffer;
}

void Buffer::Free::operator()(std::byte* memory) const { std::free(memory); }

Result<uint64_t> parse_size(std::string_view text) {
  auto bad = [&](std::string_view why) {
    return fail(Code::kInvalidArgument,
                fmt::format("'{}' is not a size: {}; write for example 64MiB", text, why));
  };
  double number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data()) return bad("no number");
  if (!(number >= 0)) return bad("negative");
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  double factor = 0;
  struct Unit {
    std::string_view name;
    double factor;
  };
  static constexpr Unit kUnits[] = {
      {"", 1},     {"B", 1},      {"K", kKiB},   {"KiB", kKiB}, {"KB", 1e3},
      {"M", kMiB}, {"MiB", kMiB}, {"MB", 1e6},   {"G", kGiB},   {"GiB", kGiB},
      {"GB", 1e9}, {"T", kTiB},   {"TiB", kTiB}, {"TB", 1e12},
  };
  for (const Unit& known : kUnits) {
    if (unit == known.name) factor = known.factor;
  }
  if (factor == 0) return bad("unknown unit");
  double bytes = number * factor;
  if (bytes >= 9.2e18) return bad("too large");
  return static_cast<uint64_t>(std::llround(bytes));
}

std::string format_size(uint64_t bytes) {
  static constexpr std::string_view kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kNames)) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, kNames[unit]);
}

}  // namespace shoal
