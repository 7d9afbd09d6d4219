// How unevenly the primary owners lie along the table: the measure that the choice of slots lowers.
//
// The cost of a table is the sum, over every window of 16 to 256 consecutive slots and over the
// members, of count^2 / share. Up to a constant that is the chi-square distance from "each window
// holds each member in proportion". It is a sum over pairs of slots of one owner, weighted by how
// many windows hold both, so moving a slot changes it by a difference of two potentials.
//
// Integers only: equal inputs give equal maps on every machine and compiler.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "placement/slot_map.h"

namespace shoal::placement {

class WindowCost {
 public:
  static constexpr uint32_t kReach = 256;  // slots further apart share no window

  // `owner`: kSlots members or kNoMember. `weight` per member; 0: owns nothing.
  WindowCost(std::span<const uint16_t> owner, std::span<const uint64_t> weight);

  // What `member` would add to the cost with a slot here, not counting a slot that it has here.
  int64_t with(uint16_t member, uint32_t slot) const;
  // As with(), had the member also (not) a slot at `other`: how two moves that come together differ
  // from the sum of both.
  int64_t pair(uint16_t member, uint32_t slot, uint32_t other) const;
  uint16_t owner(uint32_t slot) const { return owner_[slot]; }
  void set_owner(uint32_t slot, uint16_t member);

 private:
  int64_t potential(uint16_t member, uint32_t slot) const;
  void add(uint16_t member, uint32_t slot, int32_t sign);

  std::vector<uint16_t> owner_;
  std::vector<int64_t> inverse_share_;  // per member
  // Per member and slot; empty for many members: then the neighbourhood is looked through.
  std::vector<int32_t> potentials_;
};

}  // namespace shoal::placement
