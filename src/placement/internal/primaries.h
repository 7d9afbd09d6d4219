// Which member is the first owner of each slot, from one map to the next.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "placement/slot_map.h"

namespace shoal::placement {

struct PrimariesInput {
  // Before the change, kSlots entries in the new members' indices. kNoMember: its owner left.
  std::span<const uint16_t> owner;
  // Rows of `copies` owners before the change, in the new indices: who takes over if he can.
  std::span<const uint16_t> rows;
  uint32_t copies = 1;
  std::span<const uint64_t> weight;  // per member; 0: must own nothing
  // Members whose share is set anew; the others only give to them and take from them.
  std::span<const uint16_t> changed;
};

// The owners after the change. Numbers of slots follow the method of Webster (Sainte-Laguë): no
// slot could move to make slots per weight more even. That method is consistent: a change moves
// just the slots of the members that changed, and the numbers do not depend on history.
std::vector<uint16_t> next_primaries(const PrimariesInput& input);

// Whether a member of (count, weight) should give one slot to another: it then still has more per
// weight than the other one. Weight 0: has no claim to any.
bool should_give(uint64_t giver_count, uint64_t giver_weight, uint64_t taker_count,
                 uint64_t taker_weight);

}  // namespace shoal::placement
