#include "placement/evenness.h"

#include <algorithm>

#include "base/assert.h"

namespace shoal::placement {

Evenness window_evenness(const SlotMap& map, uint32_t window) {
  SHOAL_ASSERT(window >= 1 && window <= kSlots);
  double total = 0;
  for (const Member& member : map.members) {
    if (member.state != MemberState::kDraining) total += member.weight;
  }
  std::vector<double> even(map.members.size());  // slots of a window
  for (size_t i = 0; i < even.size(); i++) even[i] = window * map.members[i].weight / total;
  std::vector<uint32_t> count(map.members.size());
  auto owner = [&map](uint32_t slot) { return map.owners_of(slot % kSlots)[0]; };
  for (uint32_t slot = 0; slot < window; slot++) count[owner(slot)]++;

  Evenness result;
  for (uint32_t first = 0; first < kSlots; first++) {
    double busiest = 0;
    if (window < 256) {
      for (uint32_t slot = first; slot < first + window; slot++) {
        busiest = std::max(busiest, count[owner(slot)] / even[owner(slot)]);
      }
    } else {
      for (size_t i = 0; i < even.size(); i++) busiest = std::max(busiest, count[i] / even[i]);
    }
    result.mean += busiest / kSlots;
    result.worst = std::max(result.worst, busiest);
    count[owner(first)]--;
    count[owner(first + window)]++;
  }
  return result;
}

uint32_t primaries_moved(const SlotMap& from, const SlotMap& to) {
  uint32_t moved = 0;
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    uint16_t before = from.owners_of(slot)[0], after = to.owners_of(slot)[0];
    if (after == kNoMember) continue;
    if (before == kNoMember || from.members[before].id != to.members[after].id) moved++;
  }
  return moved;
}

uint32_t copies_moved(const SlotMap& from, const SlotMap& to) {
  uint32_t moved = 0;
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    for (uint16_t after : to.owners_of(slot)) {
      if (after == kNoMember) continue;
      bool was_there = std::ranges::any_of(from.owners_of(slot), [&](uint16_t before) {
        return before != kNoMember && from.members[before].id == to.members[after].id;
      });
      if (!was_there) moved++;
    }
  }
  return moved;
}

}  // namespace shoal::placement
