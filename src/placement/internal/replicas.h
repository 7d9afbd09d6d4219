// Who follows the first owner of each slot.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "placement/slot_map.h"

namespace shoal::placement {

struct ReplicasInput {
  uint32_t copies = 1;
  std::span<const uint16_t> rows;     // before the change, in the new members' indices
  std::span<const uint16_t> primary;  // after the change
  std::span<const uint64_t> weight;   // per member; 0: must own nothing
  std::span<const uint32_t> zone;     // per member: number of its zone
};

// No member holds more than so many times its share of all rows just to keep zones apart.
inline constexpr uint64_t kZoneOverload = 2;

// The rows after the change: `primary` first, then who stays of the row before, then others.
// Members of a row differ; their zones differ as far as the zones' capacity allows it (the first
// two owners before the others); numbers of rows are in proportion to weights as far as that lets
// them. Little changes that need not.
std::vector<uint16_t> next_rows(const ReplicasInput& input);

}  // namespace shoal::placement
