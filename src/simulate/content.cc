#include "simulate/content.h"

#include <cstring>

namespace shoal::simulate {

namespace {

uint64_t word_of(WriteId id, uint64_t index) {
  if (id == kZeros) return 0;
  uint64_t x = id * 0x9E3779B97F4A7C15ull + index * 0xD1B54A32D192ED03ull;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9ull;
  x ^= x >> 32;
  return x | 0x0101010101010101ull;  // never a zero byte: holes are told from data
}

}  // namespace

std::byte byte_of(WriteId id, uint64_t offset) {
  return static_cast<std::byte>(word_of(id, offset / 8) >> (offset % 8 * 8));
}

void fill_content(WriteId id, uint64_t offset, ByteSpan into) {
  size_t at = 0;
  while (at < into.size() && (offset + at) % 8 != 0) {
    into[at] = byte_of(id, offset + at);
    ++at;
  }
  for (; at + 8 <= into.size(); at += 8) {
    uint64_t word = word_of(id, (offset + at) / 8);
    std::memcpy(into.data() + at, &word, 8);
  }
  for (; at < into.size(); ++at) into[at] = byte_of(id, offset + at);
}

std::string make_content(WriteId id, uint64_t size) {
  std::string bytes(size, '\0');
  fill_content(id, 0, std::as_writable_bytes(std::span(bytes.data(), bytes.size())));
  return bytes;
}

}  // namespace shoal::simulate
