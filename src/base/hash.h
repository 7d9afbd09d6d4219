// 128-bit hashes (XXH3): names of cached versions, write ids, block ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace shoal {

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;

  auto operator<=>(const Hash128&) const = default;
  bool is_zero() const { return high == 0 && low == 0; }
  // 32 lower-case hexadecimal digits.
  std::string to_hex() const;
  static Result<Hash128> from_hex(std::string_view hex);
};

Hash128 hash_bytes(std::span<const std::byte> bytes, uint64_t seed = 0);
Hash128 hash_string(std::string_view text, uint64_t seed = 0);

}  // namespace shoal

template <>
struct std::hash<shoal::Hash128> {
  size_t operator()(const shoal::Hash128& hash) const noexcept { return hash.low; }
};
