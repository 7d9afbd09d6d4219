#include "origin/internal/crc64.h"

#include <array>

namespace shoal {

namespace {

using Tables = std::array<std::array<uint64_t, 256>, 8>;

// Eight bytes a step: table k advances a byte by k more bytes of zeros.
constexpr Tables make_tables() {
  Tables tables{};
  for (uint64_t byte = 0; byte < 256; ++byte) {
    uint64_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x9A6C9329AC4BC9B5ull : 0);
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      uint64_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 255];
    }
  }
  return tables;
}
constexpr Tables kTables = make_tables();

}  // namespace

uint64_t crc64_nvme(ConstByteSpan bytes) {
  uint64_t crc = ~uint64_t{0};
  size_t at = 0;
  for (; bytes.size() - at >= 8; at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, 8);  // little-endian machines only, as elsewhere
    crc ^= word;
    uint64_t next = 0;
    for (size_t k = 0; k < 8; ++k) next ^= kTables[7 - k][(crc >> (8 * k)) & 255];
    crc = next;
  }
  for (; at < bytes.size(); ++at) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<uint64_t>(bytes[at])) & 255];
  }
  return ~crc;
}

}  // namespace shoal
