#include <bit>

#include "store/store.h"

namespace shoal {

ReadView::ReadView(int descriptor, uint64_t size) : descriptor_(descriptor), size_(size) {}

namespace {
// Word w lies in segment s at index w + 64 - 64 * 2^s.
size_t segment_of(uint64_t index) {
  return static_cast<size_t>(std::bit_width((index + 64) / 64)) - 1;
}
uint64_t index_in(uint64_t index, size_t segment) { return index + 64 - (uint64_t{64} << segment); }
}  // namespace

std::atomic<uint64_t>* ReadView::word(uint64_t index, bool make) {
  size_t segment = segment_of(index);
  SHOAL_ASSERT(segment < kSegments);
  std::atomic<uint64_t>* words = segments_[segment].load(std::memory_order_relaxed);  // our thread
  if (words == nullptr) {
    if (!make) return nullptr;
    owned_.push_back(std::make_unique<std::atomic<uint64_t>[]>(size_t{64} << segment));
    words = owned_.back().get();
    segments_[segment].store(words, std::memory_order_release);
  }
  return words + index_in(index, segment);
}

const std::atomic<uint64_t>* ReadView::word(uint64_t index) const {
  size_t segment = segment_of(index);
  if (segment >= kSegments) return nullptr;
  const std::atomic<uint64_t>* words = segments_[segment].load(std::memory_order_acquire);
  return words == nullptr ? nullptr : words + index_in(index, segment);
}

bool ReadView::covers(uint64_t offset, uint64_t length) const {
  uint64_t limit = size();
  if (offset >= limit) return true;
  uint64_t end = length > limit - offset ? limit : offset + length;
  if (end == offset) return true;
  uint64_t last = (end - 1) / kPieceBytes;
  for (uint64_t piece = offset / kPieceBytes; piece <= last;) {
    const std::atomic<uint64_t>* bits = word(piece / 64);
    if (bits == nullptr) return false;
    uint64_t from = piece % 64;
    uint64_t count = std::min<uint64_t>(64 - from, last - piece + 1);
    uint64_t mask = (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << from;
    if ((bits->load(std::memory_order_acquire) & mask) != mask) return false;
    piece += count;
  }
  return true;
}

void ReadView::set_size(uint64_t size) { size_.store(size, std::memory_order_release); }

void ReadView::set_present(uint64_t piece, bool present) {
  uint64_t bit = uint64_t{1} << (piece % 64);
  std::atomic<uint64_t>* bits = word(piece / 64, present);
  if (bits == nullptr) return;
  if (present) {
    bits->fetch_or(bit, std::memory_order_release);
    return;
  }
  // The bit goes before the epoch: a reader that took its epoch after the bump does not find the
  // bit, one that took it before sees another epoch after its pread, which the hole comes after.
  bits->fetch_and(~bit, std::memory_order_acq_rel);
  bump_epoch();
}

}  // namespace shoal
