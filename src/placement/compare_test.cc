// The three placements agree on what they are: shares by weight, little movement.
#include "placement/compare.h"

#include <gtest/gtest.h>

#include <map>

namespace shoal {
namespace {

using placement::Placement;

std::vector<Member> make_members(uint64_t count, bool weighted) {
  std::vector<Member> members(count);
  for (uint64_t i = 0; i < count; i++) {
    members[i].id = hash_string("member " + std::to_string(i));
    members[i].weight = weighted ? 1 + static_cast<uint32_t>(i % 3) : 1;
  }
  return members;
}

std::unique_ptr<Placement> make(int which, std::vector<Member> members) {
  if (which == 1) return placement::make_ring_placement(members);
  if (which == 2) return placement::make_rendezvous_placement(members);
  SlotMap map = placement::first_map("reef", hash_string("reef"), "/", 3, members[0]);
  members.erase(members.begin());
  return placement::make_slot_map_placement(placement::join(map, members));
}

class Compare : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, Compare, testing::Values(0, 1, 2));

TEST_P(Compare, SharesFollowWeights) {
  for (bool weighted : {false, true}) {
    auto members = make_members(10, weighted);
    auto placement = make(GetParam(), members);
    std::map<NodeId, double> share;
    constexpr uint64_t kObjects = 40, kChunks = 4096;
    for (uint64_t object = 0; object < kObjects; object++) {
      for (uint64_t chunk = 0; chunk < kChunks; chunk++) {
        uint64_t hash = hash_string("object " + std::to_string(object)).low;
        share[placement->members()[placement->owner(hash, chunk)]] += 1.0 / kObjects / kChunks;
      }
    }
    double total = 0;
    for (const Member& member : members) total += member.weight;
    for (const Member& member : members) {
      EXPECT_NEAR(share[member.id] * total / member.weight, 1, 0.15) << placement->name();
    }
  }
}

TEST_P(Compare, OnlyTheJoinersShareMoves) {
  auto members = make_members(21, false);
  auto with = make(GetParam(), members);
  auto left = members;
  left.pop_back();
  std::unique_ptr<Placement> without;
  if (GetParam() == 0) {
    SlotMap map = placement::first_map("reef", hash_string("reef"), "/", 3, left[0]);
    map = placement::join(map, std::vector<Member>(left.begin() + 1, left.end()));
    without = placement::make_slot_map_placement(map);
    with = placement::make_slot_map_placement(placement::join(map, members.back()));
  } else {
    without = make(GetParam(), left);
  }
  double moved = placement::share_moved(*without, *with, 200'000);
  EXPECT_NEAR(moved * 21, 1, 0.15) << with->name();
  for (uint64_t chunk = 0; chunk < 10'000; chunk++) {
    const NodeId& before = without->members()[without->owner(7, chunk)];
    const NodeId& after = with->members()[with->owner(7, chunk)];
    EXPECT_TRUE(before == after || after == members.back().id);
  }
}

TEST(ComparePlacements, SlotMapPlacementIsTheSlotMap) {
  auto members = make_members(7, false);
  SlotMap map = placement::first_map("reef", hash_string("reef"), "/", 3, members[0]);
  map = placement::join(map, std::vector<Member>(members.begin() + 1, members.end()));
  auto placement = placement::make_slot_map_placement(map);
  for (uint64_t chunk = 0; chunk < 10'000; chunk += 7) {
    EXPECT_EQ(placement->owner(hash_string("a/b").low, chunk),
              map.owners_of(slot_of_chunk("a/b", chunk))[0]);
  }
}

TEST(ComparePlacements, SizesOfTables) {
  auto members = make_members(100, false);
  EXPECT_EQ(make(0, members)->bytes(), 4096u * 4 * 2 + 100 * 16);
  EXPECT_EQ(make(1, members)->bytes(), 100u * 750 * 10 + 100 * 16);
  EXPECT_EQ(make(2, members)->bytes(), 100u * 24);
}

}  // namespace
}  // namespace shoal
