#include "placement/internal/window_cost.h"

#include <algorithm>

#include "base/assert.h"

namespace shoal::placement {
namespace {

// Up to so many potentials are kept (4 MiB).
constexpr size_t kPotentialsMax = size_t{1} << 20;

// How much two slots of one owner cost at a distance: the number of windows of each size that hold
// both, over the square of the size, so that each size counts for its relative unevenness.
constexpr std::array<int32_t, WindowCost::kReach> make_kernel() {
  std::array<int32_t, WindowCost::kReach> kernel{};
  for (int64_t window : {16, 32, 64, 128, 256}) {
    for (int64_t distance = 0; distance < window; distance++) {
      kernel[static_cast<size_t>(distance)] +=
          static_cast<int32_t>((window - distance) * 65'536 / (window * window));
    }
  }
  return kernel;
}
constexpr auto kKernel = make_kernel();

uint32_t distance_of(uint32_t a, uint32_t b) {
  uint32_t forward = (a - b) % kSlots;
  return std::min(forward, kSlots - forward);
}

int64_t kernel_at(uint32_t a, uint32_t b) {
  uint32_t distance = distance_of(a, b);
  return distance < WindowCost::kReach ? kKernel[distance] : 0;
}

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
  row[slot] += sign * kKernel[0];
  for (uint32_t distance = 1; distance < kReach; distance++) {
    row[(slot + distance) % kSlots] += sign * kKernel[distance];
    row[(slot - distance) % kSlots] += sign * kKernel[distance];
  }
}

int64_t WindowCost::potential(uint16_t member, uint32_t slot) const {
  if (!potentials_.empty()) return potentials_[size_t{member} * kSlots + slot];
  int64_t sum = owner_[slot] == member ? kKernel[0] : 0;
  for (uint32_t distance = 1; distance < kReach; distance++) {
    if (owner_[(slot + distance) % kSlots] == member) sum += kKernel[distance];
    if (owner_[(slot - distance) % kSlots] == member) sum += kKernel[distance];
  }
  return sum;
}

int64_t WindowCost::with(uint16_t member, uint32_t slot) const {
  // Twice the potential (each pair counts in both directions) and once the slot itself.
  int64_t others = potential(member, slot) - (owner_[slot] == member ? kKernel[0] : 0);
  return inverse_share_[member] * (2 * others + kKernel[0]);
}

int64_t WindowCost::pair(uint16_t member, uint32_t slot, uint32_t other) const {
  return inverse_share_[member] * 2 * kernel_at(slot, other);
}

void WindowCost::set_owner(uint32_t slot, uint16_t member) {
  add(owner_[slot], slot, -1);
  owner_[slot] = member;
  add(member, slot, 1);
}

}  // namespace shoal::placement
