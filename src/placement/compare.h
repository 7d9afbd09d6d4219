// One look-up interface over three ways to place chunks, for comparison only (docs/decisions/0009,
// `shoal simulate placement`): the slot map that Shoal uses, a plain hash ring, and rendezvous
// hashing. Shoal's own paths ask the SlotMap.
//
// Any thread; immutable once made.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "placement/slot_map.h"

namespace shoal::placement {

class Placement {
 public:
  virtual ~Placement() = default;
  virtual std::string_view name() const = 0;
  // Index into members() of the first owner. `object`: hash of the object's name, taken once for
  // all its chunks. There must be members.
  virtual uint32_t owner(uint64_t object, uint64_t chunk) const = 0;
  virtual const std::vector<NodeId>& members() const = 0;
  // What a node keeps in memory for look-ups, the members' ids counted, their addresses not.
  virtual uint64_t bytes() const = 0;
};

inline constexpr uint32_t kVirtualNodes = 750;  // per member of the mean weight

std::unique_ptr<Placement> make_slot_map_placement(const SlotMap& map);
// Members' virtual nodes lie at hashes of their ids; a chunk belongs to the next one on the ring.
std::unique_ptr<Placement> make_ring_placement(std::span<const Member> members);
// A chunk belongs to the member with the highest hash of (chunk, member), scaled by weights.
std::unique_ptr<Placement> make_rendezvous_placement(std::span<const Member> members);

// Share of `keys` chunks, of many objects of 4096 chunks each, whose owner differs.
double share_moved(const Placement& from, const Placement& to, uint64_t keys);

}  // namespace shoal::placement
