// SmallIndex: where each clean small value lies; 40 bytes an entry and no strings. Open addressing
// with linear probing; removal shifts the run back, so there are no tombstones.
#pragma once

#include <cstdint>
#include <vector>

#include "base/assert.h"
#include "base/hash.h"

namespace shoal::store_internal {

struct SmallPlace {
  uint64_t version = 0;  // hash of the ETag
  uint32_t segment = 0;  // low bits of the segment's number
  uint32_t offset = 0;   // in units of 64 bytes
  uint32_t value_length = 0;
  uint32_t info_length : 31 = 0;
  uint32_t visited : 1 = 0;

  uint64_t total() const { return (64 + uint64_t{info_length} + value_length + 63) / 64 * 64; }
};

class SmallIndex {
 public:
  SmallPlace* find(Hash128 key) {
    if (slots_.empty()) return nullptr;
    for (size_t i = home(key);; i = next(i)) {
      if (!slots_[i].used()) return nullptr;
      if (slots_[i].key == key) return &slots_[i].place;
    }
  }
  // The entry, made if absent. Pointers are valid until the next insert or erase.
  SmallPlace& insert(Hash128 key) {
    SHOAL_ASSERT(!key.is_zero());
    if (SmallPlace* found = find(key)) return *found;
    if ((count_ + 1) * 4 > slots_.size() * 3) grow();
    size_t i = home(key);
    while (slots_[i].used()) i = next(i);
    slots_[i] = {key, {}};
    ++count_;
    return slots_[i].place;
  }
  bool erase(Hash128 key) {
    if (slots_.empty()) return false;
    size_t i = home(key);
    while (slots_[i].used() && slots_[i].key != key) i = next(i);
    if (!slots_[i].used()) return false;
    // Move later entries of the run into the gap where their home allows it.
    for (size_t j = next(i); slots_[j].used(); j = next(j)) {
      size_t wanted = home(slots_[j].key);
      bool between = i <= j ? wanted > i && wanted <= j : wanted > i || wanted <= j;
      if (between) continue;
      slots_[i] = slots_[j];
      i = j;
    }
    slots_[i] = {};
    --count_;
    return true;
  }
  size_t size() const { return count_; }
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const Slot& slot : slots_) {
      if (slot.used()) visit(slot.key, slot.place);
    }
  }

 private:
  struct Slot {
    Hash128 key;  // zero: free
    SmallPlace place;
    bool used() const { return !key.is_zero(); }
  };
  static_assert(sizeof(Slot) == 40);

  size_t home(Hash128 key) const { return key.low & (slots_.size() - 1); }
  size_t next(size_t i) const { return (i + 1) & (slots_.size() - 1); }
  void grow() {
    std::vector<Slot> before = std::move(slots_);
    slots_.assign(before.empty() ? 16 : before.size() * 2, Slot{});
    for (const Slot& slot : before) {
      if (!slot.used()) continue;
      size_t i = home(slot.key);
      while (slots_[i].used()) i = next(i);
      slots_[i] = slot;
    }
  }
  std::vector<Slot> slots_;
  size_t count_ = 0;
};

}  // namespace shoal::store_internal
