// Random joins, leaves, drains and weights: what must hold after each of them.
#include <gtest/gtest.h>

#include <algorithm>

#include "placement/evenness.h"
#include "placement/slot_map.h"

namespace shoal {
namespace {

Member member(uint64_t number, uint32_t weight = 1, std::string zone = "") {
  Member result;
  result.id = hash_string("member " + std::to_string(number));
  result.weight = weight;
  result.zone = std::move(zone);
  return result;
}

SlotMap first(Member of, uint32_t copies = 3) {
  return placement::first_map("reef", hash_string("reef"), "/data", copies, std::move(of));
}

std::vector<uint32_t> count_slots(const SlotMap& map, uint32_t place = 0) {
  std::vector<uint32_t> count(map.members.size());
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    if (uint16_t owner = map.owners_of(slot)[place]; owner != kNoMember) count[owner]++;
  }
  return count;
}

TEST(Churn, HundredJoins) {
  SlotMap map = first(member(0));
  for (uint64_t i = 1; i < 100; i++) {
    SlotMap next = placement::join(map, member(i));
    ASSERT_TRUE(validate(next));
    double share = 1.0 * kSlots / static_cast<double>(i + 1);
    EXPECT_LE(placement::primaries_moved(map, next), 1.05 * share);
    auto count = count_slots(next);
    EXPECT_LE(std::ranges::max(count) - std::ranges::min(count), 1u);
    map = std::move(next);
  }
}

}  // namespace
}  // namespace shoal
