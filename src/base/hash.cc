#include "base/hash.h"

#include <fmt/format.h>

#include <charconv>

#include "base/internal/xxh3.h"

namespace shoal {

std::string Hash128::to_hex() const { return fmt::format("{:016x}{:016x}", high, low); }

Result<Hash128> Hash128::from_hex(std::string_view hex) {
  Hash128 hash;
  auto bad = [&] {
    return fail(Code::kInvalidArgument, fmt::format("'{}' is not 32 hexadecimal digits", hex));
  };
  if (hex.size() != 32) return bad();
  for (char digit : hex) {
    if (!((digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f'))) return bad();
  }
  std::from_chars(hex.data(), hex.data() + 16, hash.high, 16);
  std::from_chars(hex.data() + 16, hex.data() + 32, hash.low, 16);
  return hash;
}

Hash128 hash_bytes(std::span<const std::byte> bytes, uint64_t seed) {
  XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed);
  return {hash.high64, hash.low64};
}

Hash128 hash_string(std::string_view text, uint64_t seed) {
  return hash_bytes(std::as_bytes(std::span(text.data(), text.size())), seed);
}

}  // namespace shoal
