// How evenly a placement spreads: what the tests check and `shoal simulate placement` prints.
//
// Any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "placement/slot_map.h"

namespace shoal::placement {

// Busiest member over the mean, in all windows of one size.
struct Evenness {
  double mean = 0;
  double worst = 0;
};

// Over each window of `window` consecutive slots, around the end of the table: the most slots, per
// weight, that one member has of it, over what each would have of an even spread. `window`: 1 to
// kSlots. 1 is perfect.
Evenness window_evenness(const SlotMap& map, uint32_t window);

// Slots whose first owner differs (members by id).
uint32_t primaries_moved(const SlotMap& from, const SlotMap& to);
// Places (slot, owner) of `to` that were not in the same slot of `from`: what would be copied, if
// all copies were full.
uint32_t copies_moved(const SlotMap& from, const SlotMap& to);

}  // namespace shoal::placement
