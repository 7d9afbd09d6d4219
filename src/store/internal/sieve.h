// SIEVE: a queue in order of insertion, one visited bit per item, and a hand that walks from the
// oldest to the newest. A visited item loses its bit and stays where it is; the first unvisited one
// is the victim. One scan of new items cannot push out what is used again (docs/decisions/0004).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/assert.h"

namespace shoal::store_internal {

template <typename Item>
class Sieve {
 public:
  using Id = uint32_t;
  static constexpr Id kNone = UINT32_MAX;

  Id insert(Item item) {
    Id id = free_;
    if (id != kNone) {
      free_ = nodes_[id].newer;
    } else {
      SHOAL_ASSERT(nodes_.size() < kNone);
      id = static_cast<Id>(nodes_.size());
      nodes_.emplace_back();
    }
    nodes_[id] = {std::move(item), newest_, kNone, false, true};
    (newest_ != kNone ? nodes_[newest_].newer : oldest_) = id;
    newest_ = id;
    ++count_;
    return id;
  }

  void touch(Id id) {
    SHOAL_ASSERT(id < nodes_.size() && nodes_[id].used);
    nodes_[id].visited = true;
  }

  void remove(Id id) {
    SHOAL_ASSERT(id < nodes_.size() && nodes_[id].used);
    Node& node = nodes_[id];
    if (hand_ == id) hand_ = node.newer;
    (node.older != kNone ? nodes_[node.older].newer : oldest_) = node.newer;
    (node.newer != kNone ? nodes_[node.newer].older : newest_) = node.older;
    node = {Item{}, kNone, free_, false, false};
    free_ = id;
    --count_;
  }

  // The next victim among the items that `evictable` admits, or kNone. It is not removed; the hand
  // stays on it, so that a caller that could not evict it calls skip().
  template <typename Predicate>
  Id victim(Predicate evictable) {
    for (uint64_t step = 0; step < 2 * count_ + 1; ++step) {
      if (hand_ == kNone) hand_ = oldest_;
      if (hand_ == kNone) return kNone;
      Node& node = nodes_[hand_];
      if (evictable(std::as_const(node.item))) {
        if (!node.visited) return hand_;
        node.visited = false;
      }
      hand_ = node.newer;
    }
    return kNone;
  }
  void skip(Id id) {
    if (hand_ == id) hand_ = nodes_[id].newer;
  }

  const Item& item(Id id) const {
    SHOAL_ASSERT(id < nodes_.size() && nodes_[id].used);
    return nodes_[id].item;
  }
  uint64_t size() const { return count_; }

 private:
  struct Node {
    Item item{};
    Id older = kNone;
    Id newer = kNone;  // of a free node: the next free one
    bool visited = false;
    bool used = false;
  };
  std::vector<Node> nodes_;
  Id oldest_ = kNone;
  Id newest_ = kNone;
  Id hand_ = kNone;
  Id free_ = kNone;
  uint64_t count_ = 0;
};

}  // namespace shoal::store_internal
