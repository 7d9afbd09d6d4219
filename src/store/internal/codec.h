// Little-endian fields for the store's disk formats. Reading never trusts a length.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "base/bytes.h"
#include "base/hash.h"

namespace shoal::store_internal {

class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}
  template <typename T>
  void number(T value) {
    static_assert(std::is_integral_v<T>);
    for (size_t i = 0; i < sizeof(T); ++i) {
      out_.push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * i)));
    }
  }
  void hash(Hash128 value) {
    number(value.high);
    number(value.low);
  }
  // At most 65,535 bytes.
  void text(std::string_view value) {
    SHOAL_ASSERT(value.size() <= UINT16_MAX);
    number(static_cast<uint16_t>(value.size()));
    out_.append(value);
  }

 private:
  std::string& out_;
};

// After the first failure every further read answers zero or empty, and ok() is false.
class Reader {
 public:
  explicit Reader(ConstByteSpan bytes) : bytes_(bytes) {}
  template <typename T>
  T number() {
    static_assert(std::is_integral_v<T>);
    if (!take(sizeof(T))) return 0;
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      value |= static_cast<uint64_t>(bytes_[at_ - sizeof(T) + i]) << (8 * i);
    }
    return static_cast<T>(value);
  }
  Hash128 hash() {
    uint64_t high = number<uint64_t>();
    return {high, number<uint64_t>()};
  }
  std::string text() {
    size_t length = number<uint16_t>();
    if (!take(length)) return {};
    return std::string(as_text(bytes_.subspan(at_ - length, length)));
  }
  bool ok() const { return ok_; }
  size_t left() const { return bytes_.size() - at_; }
  size_t position() const { return at_; }

 private:
  bool take(size_t count) {
    if (!ok_ || count > left()) {
      ok_ = false;
      return false;
    }
    at_ += count;
    return true;
  }
  ConstByteSpan bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

// Writes `value` over four bytes at `at`: for checksums that come before what they cover.
inline void put_u32(std::string& out, size_t at, uint32_t value) {
  SHOAL_ASSERT(at + 4 <= out.size());
  for (size_t i = 0; i < 4; ++i) out[at + i] = static_cast<char>(value >> (8 * i));
}

}  // namespace shoal::store_internal
