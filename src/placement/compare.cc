#include "placement/compare.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/assert.h"

namespace shoal::placement {
namespace {

// The finalizer of splitmix64: a bijection whose output bits all depend on all input bits.
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

uint64_t key_of(uint64_t object, uint64_t chunk) { return mix(object ^ mix(chunk)); }

class SlotMapPlacement : public Placement {
 public:
  explicit SlotMapPlacement(const SlotMap& map) : copies_(map.copies), owners_(map.owners) {
    for (const Member& member : map.members) members_.push_back(member.id);
    SHOAL_ASSERT(owners_[0] != kNoMember);
  }
  std::string_view name() const override { return "slot map"; }
  uint32_t owner(uint64_t object, uint64_t chunk) const override {
    return owners_[(object + chunk) % kSlots * copies_];
  }
  const std::vector<NodeId>& members() const override { return members_; }
  uint64_t bytes() const override {
    // The owners, and the previous ones.
    return (owners_.size() + kSlots) * sizeof(uint16_t) + members_.size() * sizeof(NodeId);
  }

 private:
  uint32_t copies_;
  std::vector<uint16_t> owners_;
  std::vector<NodeId> members_;
};

class Ring : public Placement {
 public:
  explicit Ring(std::span<const Member> members) {
    SHOAL_ASSERT(!members.empty() && members.size() <= kMembersMax);
    double total = 0;
    for (const Member& member : members) total += member.weight;
    std::vector<std::pair<uint64_t, uint16_t>> points;
    for (const Member& member : members) {
      double count = kVirtualNodes * member.weight * static_cast<double>(members.size()) / total;
      auto points_of_member = std::max<uint64_t>(1, static_cast<uint64_t>(std::llround(count)));
      for (uint64_t i = 0; i < points_of_member; i++) {
        points.emplace_back(mix(member.id.low ^ mix(i)), static_cast<uint16_t>(members_.size()));
      }
      members_.push_back(member.id);
    }
    std::ranges::sort(points);
    for (auto [point, member] : points) {
      points_.push_back(point);
      owners_.push_back(member);
    }
  }
  std::string_view name() const override { return "ring"; }
  uint32_t owner(uint64_t object, uint64_t chunk) const override {
    auto at = std::ranges::lower_bound(points_, key_of(object, chunk));
    return owners_[at == points_.end() ? 0 : static_cast<size_t>(at - points_.begin())];
  }
  const std::vector<NodeId>& members() const override { return members_; }
  uint64_t bytes() const override {
    return points_.size() * (sizeof(uint64_t) + sizeof(uint16_t)) +
           members_.size() * sizeof(NodeId);
  }

 private:
  std::vector<uint64_t> points_;
  std::vector<uint16_t> owners_;
  std::vector<NodeId> members_;
};

class Rendezvous : public Placement {
 public:
  explicit Rendezvous(std::span<const Member> members) {
    SHOAL_ASSERT(!members.empty());
    for (const Member& member : members) {
      members_.push_back(member.id);
      seeds_.push_back(mix(member.id.low));
      weights_.push_back(member.weight);
      equal_ &= member.weight == members[0].weight;
    }
  }
  std::string_view name() const override { return "rendezvous"; }
  uint32_t owner(uint64_t object, uint64_t chunk) const override {
    uint64_t key = key_of(object, chunk);
    return equal_ ? owner_of_equals(key) : owner_by_weight(key);
  }
  const std::vector<NodeId>& members() const override { return members_; }
  uint64_t bytes() const override {
    return members_.size() * (sizeof(NodeId) + sizeof(uint64_t)) +
           (equal_ ? 0 : members_.size() * sizeof(double));
  }

 private:
  uint32_t owner_of_equals(uint64_t key) const {
    uint32_t best = 0;
    uint64_t best_score = 0;
    for (uint32_t i = 0; i < seeds_.size(); i++) {
      uint64_t score = mix(key ^ seeds_[i]);
      if (score < best_score) continue;
      best = i;
      best_score = score;
    }
    return best;
  }
  // -weight / ln(uniform) makes each win in proportion to its weight.
  uint32_t owner_by_weight(uint64_t key) const {
    uint32_t best = 0;
    double best_score = -1;
    for (uint32_t i = 0; i < seeds_.size(); i++) {
      double uniform = (static_cast<double>(mix(key ^ seeds_[i]) >> 11) + 0.5) * 0x1p-53;
      double score = -weights_[i] / std::log(uniform);
      if (score <= best_score) continue;
      best = i;
      best_score = score;
    }
    return best;
  }

  std::vector<NodeId> members_;
  std::vector<uint64_t> seeds_;
  std::vector<double> weights_;
  bool equal_ = true;
};

}  // namespace

std::unique_ptr<Placement> make_slot_map_placement(const SlotMap& map) {
  return std::make_unique<SlotMapPlacement>(map);
}
std::unique_ptr<Placement> make_ring_placement(std::span<const Member> members) {
  return std::make_unique<Ring>(members);
}
std::unique_ptr<Placement> make_rendezvous_placement(std::span<const Member> members) {
  return std::make_unique<Rendezvous>(members);
}

double share_moved(const Placement& from, const Placement& to, uint64_t keys) {
  SHOAL_ASSERT(keys > 0);
  uint64_t moved = 0;
  for (uint64_t key = 0; key < keys; key++) {
    uint64_t object = mix(key / kSlots), chunk = key % kSlots;
    const NodeId& before = from.members()[from.owner(object, chunk)];
    if (before != to.members()[to.owner(object, chunk)]) moved++;
  }
  return static_cast<double>(moved) / static_cast<double>(keys);
}

}  // namespace shoal::placement
