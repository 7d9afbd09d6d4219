// The bytes of a blob: pieces of shared immutable memory, or synthesised.
//
// Synthetic bytes are a pure function of (seed, offset) and always lie somewhere in one pattern of
// 16 MiB, so blobs of terabytes cost nothing and can be sent from memory without being generated.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace shoal {

inline constexpr uint64_t kSyntheticUnit = kMiB;

// Contiguous memory that holds the synthetic bytes at `offset`: at least one byte, up to the next
// multiple of kSyntheticUnit. Lives as long as the process. Any thread.
ConstByteSpan synthetic_span(uint64_t seed, uint64_t offset);
void synthetic_fill(uint64_t seed, uint64_t offset, ByteSpan into);
// Whether `bytes` are the synthetic bytes at `offset`.
bool synthetic_equal(uint64_t seed, uint64_t offset, ConstByteSpan bytes);

// A value; copies share the memory.
class BlobContent {
 public:
  BlobContent() = default;
  static BlobContent copy_of(std::string_view text);
  static BlobContent copy_of(ConstByteSpan bytes) { return copy_of(as_text(bytes)); }
  static BlobContent of(std::shared_ptr<const Buffer> buffer);
  // The part [offset, offset + length) of the endless stream of `seed`.
  static BlobContent synthetic(uint64_t seed, uint64_t length, uint64_t offset = 0);

  uint64_t size() const { return pieces_.empty() ? 0 : pieces_.back().end; }
  bool empty() const { return size() == 0; }
  size_t pieces() const { return pieces_.size(); }
  void append(const BlobContent& more);
  // [offset, offset + length) must lie inside.
  BlobContent slice(uint64_t offset, uint64_t length) const;
  // Contiguous memory beginning at `offset` < size(): at least one byte.
  ConstByteSpan span_at(uint64_t offset) const;
  void copy_to(uint64_t offset, ByteSpan into) const;
  // Whole, for small contents (at most 256 MiB).
  std::string to_string() const;
  // Bytes of memory that the content keeps alive, synthetic parts not counted.
  uint64_t memory_bytes() const;

 private:
  struct Piece {
    std::shared_ptr<const Buffer> buffer;  // null: synthetic; shared by every copy and slice
    uint64_t at = 0;                       // offset in the buffer or in the stream of `seed`
    uint64_t seed = 0;
    uint64_t length = 0;
    uint64_t end = 0;  // offset in the content just behind this piece
  };
  size_t find(uint64_t offset) const;
  void push(Piece piece);
  std::vector<Piece> pieces_;
};

}  // namespace shoal
