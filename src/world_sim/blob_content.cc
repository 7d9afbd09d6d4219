#include "world_sim/blob_content.h"

#include <algorithm>
#include <cstring>

namespace shoal {

namespace {

constexpr uint64_t kPatternBytes = 16 * kMiB;
constexpr uint64_t kPatternStep = 8;
constexpr uint64_t kPatternStarts = (kPatternBytes - kSyntheticUnit) / kPatternStep;

uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

Buffer make_pattern() {
  Buffer pattern(kPatternBytes);
  for (uint64_t i = 0; i < kPatternBytes; i += 8) {
    uint64_t value = mix(i);
    std::memcpy(pattern.data() + i, &value, 8);
  }
  return pattern;
}

}  // namespace

ConstByteSpan synthetic_span(uint64_t seed, uint64_t offset) {
  static const Buffer pattern = make_pattern();  // constant; made once, by whoever comes first
  uint64_t unit = offset / kSyntheticUnit;
  uint64_t inside = offset % kSyntheticUnit;
  uint64_t start = mix(seed * 0x9E3779B97F4A7C15ull + unit) % kPatternStarts * kPatternStep;
  return pattern.part(start + inside, kSyntheticUnit - inside);
}

void synthetic_fill(uint64_t seed, uint64_t offset, ByteSpan into) {
  while (!into.empty()) {
    ConstByteSpan source = synthetic_span(seed, offset);
    size_t count = std::min(source.size(), into.size());
    std::memcpy(into.data(), source.data(), count);
    into = into.subspan(count);
    offset += count;
  }
}

bool synthetic_equal(uint64_t seed, uint64_t offset, ConstByteSpan bytes) {
  while (!bytes.empty()) {
    ConstByteSpan source = synthetic_span(seed, offset);
    size_t count = std::min(source.size(), bytes.size());
    if (std::memcmp(bytes.data(), source.data(), count) != 0) return false;
    bytes = bytes.subspan(count);
    offset += count;
  }
  return true;
}

BlobContent BlobContent::copy_of(std::string_view text) {
  if (text.empty()) return {};
  return of(std::make_shared<const Buffer>(Buffer::copy_of(as_bytes(text))));
}

BlobContent BlobContent::of(std::shared_ptr<const Buffer> buffer) {
  BlobContent content;
  uint64_t length = buffer->size();
  content.push({std::move(buffer), 0, 0, length, 0});
  return content;
}

BlobContent BlobContent::synthetic(uint64_t seed, uint64_t length, uint64_t offset) {
  BlobContent content;
  content.push({nullptr, offset, seed, length, 0});
  return content;
}

void BlobContent::push(Piece piece) {
  if (piece.length == 0) return;
  uint64_t before = size();
  SHOAL_ASSERT(piece.length <= UINT64_MAX - before);
  if (!pieces_.empty()) {
    Piece& last = pieces_.back();
    if (last.buffer == piece.buffer && last.seed == piece.seed &&
        last.at + last.length == piece.at) {
      last.length += piece.length;
      last.end += piece.length;
      return;
    }
  }
  piece.end = before + piece.length;
  pieces_.push_back(std::move(piece));
}

void BlobContent::append(const BlobContent& more) {
  SHOAL_ASSERT(&more != this);
  for (const Piece& piece : more.pieces_) push(piece);
}

size_t BlobContent::find(uint64_t offset) const {
  SHOAL_ASSERT(offset < size(), "an offset behind the end of the content");
  auto above = [](uint64_t at, const Piece& piece) { return at < piece.end; };
  auto found = std::upper_bound(pieces_.begin(), pieces_.end(), offset, above);
  return static_cast<size_t>(found - pieces_.begin());
}

BlobContent BlobContent::slice(uint64_t offset, uint64_t length) const {
  SHOAL_ASSERT(offset <= size() && length <= size() - offset);
  BlobContent part;
  if (length == 0) return part;
  for (size_t i = find(offset); length > 0; ++i) {
    const Piece& piece = pieces_[i];
    uint64_t skip = offset - (piece.end - piece.length);
    uint64_t count = std::min(length, piece.length - skip);
    part.push({piece.buffer, piece.at + skip, piece.seed, count, 0});
    offset += count;
    length -= count;
  }
  return part;
}

ConstByteSpan BlobContent::span_at(uint64_t offset) const {
  const Piece& piece = pieces_[find(offset)];
  uint64_t skip = offset - (piece.end - piece.length);
  uint64_t left = piece.length - skip;
  if (piece.buffer) return piece.buffer->part(piece.at + skip, left);
  ConstByteSpan span = synthetic_span(piece.seed, piece.at + skip);
  return span.first(std::min<uint64_t>(span.size(), left));
}

void BlobContent::copy_to(uint64_t offset, ByteSpan into) const {
  while (!into.empty()) {
    ConstByteSpan source = span_at(offset);
    size_t count = std::min(source.size(), into.size());
    std::memcpy(into.data(), source.data(), count);
    into = into.subspan(count);
    offset += count;
  }
}

std::string BlobContent::to_string() const {
  SHOAL_ASSERT(size() <= 256 * kMiB, "only for small contents");
  std::string text(size(), '\0');
  copy_to(0, std::as_writable_bytes(std::span(text)));
  return text;
}

uint64_t BlobContent::memory_bytes() const {
  uint64_t sum = 0;
  for (const Piece& piece : pieces_) sum += piece.buffer ? piece.length : 0;
  return sum;
}

}  // namespace shoal
