#include "placement/internal/window_cost.h"

#include <algorithm>

#include "base/assert.h"

namespace shoal::placement {
namespace {

// Up to so many potentials are kept (4 MiB).
constexpr size_t kPotentialsMax = size_t{1} << 20;

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
  }
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
  int32_t sum = owner_[slot] == member ? kWindowKernel[0] : 0;
  for (uint32_t distance = 1; distance < kWindowReach; distance++) {
    if (owner_[(slot + distance) % kSlots] == member) sum += kWindowKernel[distance];
    if (owner_[(slot - distance) % kSlots] == member) sum += kWindowKernel[distance];
  }
  return sum;
}

void WindowCost::set_owner(uint32_t slot, uint16_t member) {
  add(owner_[slot], slot, -1);
  owner_[slot] = member;
  add(member, slot, 1);
}

}  // namespace shoal::placement
