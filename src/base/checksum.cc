#include "base/checksum.h"

#include <isa-l/crc.h>

#include "base/bytes.h"

namespace shoal {

namespace {

// Products in GF(2)[x] modulo the CRC's polynomial, operands in reflected bit order.
uint32_t multiply_modulo(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ ((b & 1) ? 0x82F63B78u : 0);
  }
  return product;
}

// x^(8 * length) modulo the polynomial.
uint32_t power_of_bytes(uint64_t length) {
  uint32_t result = 0x80000000u;  // x^0
  uint32_t square = 0x00800000u;  // x^8
  for (; length != 0; length >>= 1) {
    if (length & 1) result = multiply_modulo(result, square);
    square = multiply_modulo(square, square);
  }
  return result;
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
  uint32_t crc = ~before;
  const auto* at = reinterpret_cast<const unsigned char*>(bytes.data());
  size_t left = bytes.size();
  while (left > 0) {  // ISA-L takes an int
    size_t step = left < (1u << 30) ? left : (1u << 30);
    crc = crc32_iscsi(const_cast<unsigned char*>(at), static_cast<int>(step), crc);
    at += step;
    left -= step;
  }
  return ~crc;
}

uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b) {
  static const uint32_t power_of_piece = power_of_bytes(kPieceBytes);  // nearly all are of one
  uint32_t power = length_b == kPieceBytes ? power_of_piece : power_of_bytes(length_b);
  return multiply_modulo(power, crc_a) ^ crc_b;
}

}  // namespace shoal
