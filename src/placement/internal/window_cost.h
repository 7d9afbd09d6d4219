// How unevenly the primary owners lie along the table: the measure that the choice of slots lowers.
//
// The cost of a table is the sum, over every window of 16, 32 ... 256 consecutive slots and over
// the members, of (count / window)^2 / share. Up to a constant that is the chi-square distance from
// "each window holds each member in proportion". It is a sum over pairs of slots of one owner,
// weighted by how many windows hold both, so moving a slot changes it by a difference of two
// potentials.
//
// Integers only: equal inputs give equal maps on every machine and compiler.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "placement/slot_map.h"

namespace shoal::placement {

// How much two slots of one owner cost at a distance: the number of windows of each size that hold
// both, over the square of the size. Windows of 256 count most: they must be even within 10%, those
// of 32 within 50%.
inline constexpr uint32_t kWindowReach = 256;  // slots further apart share no window
inline constexpr auto kWindowKernel = [] {
  struct Size {
    int64_t window, importance;
  };
  std::array<int32_t, kWindowReach> kernel{};
  for (auto [window, importance] : {Size{16, 1}, {32, 1}, {64, 1}, {128, 1}, {256, 12}}) {
    for (int64_t distance = 0; distance < window; distance++) {
      kernel[static_cast<size_t>(distance)] +=
          static_cast<int32_t>(importance * (window - distance) * 65'536 / (window * window));
    }
  }
  return kernel;
}();

class WindowCost {
 public:
  // `owner`: kSlots members or kNoMember. `weight` per member; 0: owns nothing.
  WindowCost(std::span<const uint16_t> owner, std::span<const uint64_t> weight);

  // Whether with() is a look-up; else it looks through 511 slots.
  bool is_quick() const { return !potentials_.empty(); }
  // What `member` would add to the cost with a slot here, not counting a slot that it has here.
  int64_t with(uint16_t member, uint32_t slot) const {
    int32_t all =
        potentials_.empty() ? potential(member, slot) : potentials_[size_t{member} * kSlots + slot];
    int64_t others = all - (owner_[slot] == member ? kWindowKernel[0] : 0);
    // Twice the potential (each pair counts in both directions) and once the slot itself.
    return inverse_share_[member] * (2 * others + kWindowKernel[0]);
  }
  // As with(), had the member also (not) a slot at `other`: how two moves that come together differ
  // from the sum of both.
  int64_t pair(uint16_t member, uint32_t slot, uint32_t other) const {
    uint32_t forward = (slot - other) % kSlots;
    uint32_t distance = forward < kSlots / 2 ? forward : kSlots - forward;
    return distance < kWindowReach ? inverse_share_[member] * 2 * kWindowKernel[distance] : 0;
  }
  uint16_t owner(uint32_t slot) const { return owner_[slot]; }
  void set_owner(uint32_t slot, uint16_t member);

 private:
  int32_t potential(uint16_t member, uint32_t slot) const;
  void place_around(uint32_t slot, uint16_t member);
  void add(uint16_t member, uint32_t slot, int32_t sign);

  std::vector<uint16_t> owner_;
  std::vector<int64_t> inverse_share_;  // per member
  // Per member and slot; empty for many members: then the neighbourhood is looked through.
  std::vector<int32_t> potentials_;
  std::vector<uint16_t> around_;  // then: owner_ with both ends repeated
};

}  // namespace shoal::placement
