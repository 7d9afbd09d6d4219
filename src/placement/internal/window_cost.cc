#include "placement/internal/window_cost.h"

#include <algorithm>

#include "base/assert.h"

namespace shoal::placement {
namespace {

// Up to so many potentials are kept (4 MiB).
constexpr size_t kPotentialsMax = size_t{1} << 20;

// The kernel from distance -255 to 255.
constexpr auto kMirrored = [] {
  std::array<int32_t, 2 * kWindowReach - 1> mirrored{};
  for (uint32_t i = 0; i < kWindowReach; i++) {
    mirrored[kWindowReach - 1 + i] = mirrored[kWindowReach - 1 - i] = kWindowKernel[i];
  }
  return mirrored;
}();

}  // namespace

WindowCost::WindowCost(std::span<const uint16_t> owner, std::span<const uint64_t> weight)
    : owner_(owner.begin(), owner.end()), inverse_share_(weight.size()) {
  SHOAL_ASSERT(owner.size() == kSlots);
  uint64_t total = 0;
  for (uint64_t each : weight) total += each;
  for (size_t member = 0; member < weight.size(); member++) {
    // 16 times one over the share; a member whose share is below one slot counts as if it had one.
    uint64_t inverse = weight[member] == 0 ? kSlots : total / weight[member];
    uint64_t fine = weight[member] == 0 ? 0 : total % weight[member] * 16 / weight[member];
    inverse_share_[member] = static_cast<int64_t>(
        inverse >= kSlots ? uint64_t{kSlots} * 16 : std::max<uint64_t>(inverse * 16 + fine, 16));
  }
  if (weight.size() * kSlots <= kPotentialsMax) {
    potentials_.resize(weight.size() * kSlots);
    for (uint32_t slot = 0; slot < kSlots; slot++) add(owner_[slot], slot, 1);
  } else {
    around_.resize(kSlots + 2 * (kWindowReach - 1));
    for (uint32_t slot = 0; slot < kSlots; slot++) place_around(slot, owner_[slot]);
  }
}

// around_[i] is the owner of slot i - (kWindowReach - 1), round the end of the table.
void WindowCost::place_around(uint32_t slot, uint16_t member) {
  if (around_.empty()) return;
  constexpr uint32_t kSide = kWindowReach - 1;
  around_[slot + kSide] = member;
  if (slot < kSide) around_[slot + kSide + kSlots] = member;
  if (slot >= kSlots - kSide) around_[slot + kSide - kSlots] = member;
}

void WindowCost::add(uint16_t member, uint32_t slot, int32_t sign) {
  if (member == kNoMember || potentials_.empty()) return;
  int32_t* row = potentials_.data() + size_t{member} * kSlots;
  row[slot] += sign * kWindowKernel[0];
  for (uint32_t distance = 1; distance < kWindowReach; distance++) {
    row[(slot + distance) % kSlots] += sign * kWindowKernel[distance];
    row[(slot - distance) % kSlots] += sign * kWindowKernel[distance];
  }
}

int32_t WindowCost::potential(uint16_t member, uint32_t slot) const {
  // One pass without wrapping round: the compiler makes vector instructions of it.
  const uint16_t* around = around_.data() + slot;
  int32_t sum = 0;
  for (size_t i = 0; i < kMirrored.size(); i++) sum += around[i] == member ? kMirrored[i] : 0;
  return sum;
}

void WindowCost::set_owner(uint32_t slot, uint16_t member) {
  add(owner_[slot], slot, -1);
  owner_[slot] = member;
  add(member, slot, 1);
  place_around(slot, member);
}

}  // namespace shoal::placement
