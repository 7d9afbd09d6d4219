// ValueCache: small values in DRAM, bounded in bytes, evicted by SIEVE. Memory is taken as values
// come.
#pragma once

#include <string>
#include <unordered_map>

#include "store/internal/sieve.h"

namespace shoal::store_internal {

class ValueCache {
 public:
  explicit ValueCache(uint64_t bytes_max) : bytes_max_(bytes_max) {}

  // The value of exactly this version, or null. Valid until the next put or erase.
  const std::string* find(Hash128 key, uint64_t version) {
    auto found = values_.find(key);
    if (found == values_.end() || found->second.version != version) return nullptr;
    sieve_.touch(found->second.id);
    return &found->second.bytes;
  }
  void put(Hash128 key, uint64_t version, std::string bytes) {
    erase(key);
    uint64_t cost = bytes.size() + kOverhead;
    if (cost > bytes_max_) return;
    while (bytes_ + cost > bytes_max_) {
      auto victim = sieve_.victim([](Hash128) { return true; });
      SHOAL_ASSERT(victim != Sieve<Hash128>::kNone);
      erase(Hash128(sieve_.item(victim)));
    }
    values_[key] = {version, sieve_.insert(key), std::move(bytes)};
    bytes_ += cost;
  }
  void erase(Hash128 key) {
    auto found = values_.find(key);
    if (found == values_.end()) return;
    bytes_ -= found->second.bytes.size() + kOverhead;
    sieve_.remove(found->second.id);
    values_.erase(found);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  static constexpr uint64_t kOverhead = 160;  // of the map, the queue and the allocator
  struct Value {
    uint64_t version = 0;
    Sieve<Hash128>::Id id = 0;
    std::string bytes;
  };
  const uint64_t bytes_max_;
  uint64_t bytes_ = 0;
  std::unordered_map<Hash128, Value> values_;
  Sieve<Hash128> sieve_;
};

}  // namespace shoal::store_internal
