// Byte buffers and sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/assert.h"
#include "base/error.h"

namespace shoal {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;
inline constexpr uint64_t kTiB = 1024 * kGiB;

// The unit of checksums and of presence, in memory, on disk and on the wire.
inline constexpr uint64_t kPieceBytes = 64 * kKiB;

using ByteSpan = std::span<std::byte>;
using ConstByteSpan = std::span<const std::byte>;

inline ConstByteSpan as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string_view as_text(ConstByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// An owning, 4 KiB aligned, uninitialised buffer of fixed capacity. Move only.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size);
  static Buffer copy_of(ConstByteSpan bytes);

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  ByteSpan span() { return {data_.get(), size_}; }
  ConstByteSpan span() const { return {data_.get(), size_}; }
  // The piece [offset, offset + length); must lie inside.
  ByteSpan part(size_t offset, size_t length) {
    SHOAL_ASSERT(offset <= size_ && length <= size_ - offset);
    return {data_.get() + offset, length};
  }
  ConstByteSpan part(size_t offset, size_t length) const {
    SHOAL_ASSERT(offset <= size_ && length <= size_ - offset);
    return {data_.get() + offset, length};
  }
  // Forgets the end; the memory stays.
  void shrink(size_t size) {
    SHOAL_ASSERT(size <= size_);
    size_ = size;
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

// "64KiB", "500GiB", "8 MiB", "1.5TiB", "4096", also KB/MB/GB/TB (powers of 1000) and bare K, M, G,
// T (powers of 1024). Fails on anything else, on negatives and on overflow.
Result<uint64_t> parse_size(std::string_view text);
// "1.5 MiB": three significant digits for people.
std::string format_size(uint64_t bytes);

}  // namespace shoal
