// The map's rules, one by one.
#include "placement/slot_map.h"

#include <gtest/gtest.h>

#include <set>

#include "placement/evenness.h"

namespace shoal {
namespace {

using placement::primaries_moved;

Member member(uint64_t number, uint32_t weight = 1, std::string zone = "") {
  Member result;
  result.id = hash_string("member " + std::to_string(number));
  result.name = "node-" + std::to_string(number);
  result.address = "127.0.0.1:" + std::to_string(7070 + number);
  result.weight = weight;
  result.zone = std::move(zone);
  return result;
}

SlotMap first(Member of, uint32_t copies = 3) {
  return placement::first_map("reef", hash_string("reef"), "/data", copies, std::move(of));
}

SlotMap cluster(uint64_t members, uint32_t copies = 3) {
  SlotMap map = first(member(0), copies);
  for (uint64_t i = 1; i < members; i++) map = placement::join(map, member(i));
  return map;
}

uint32_t slots_of(const SlotMap& map, const NodeId& id, uint32_t place = 0) {
  uint32_t count = 0;
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    uint16_t owner = map.owners_of(slot)[place];
    if (owner != kNoMember && map.members[owner].id == id) count++;
  }
  return count;
}

// These must never change: data of other nodes would not be found.
TEST(SlotOf, IsFrozen) {
  EXPECT_EQ(slot_of_chunk("", 0), 2431u);
  EXPECT_EQ(slot_of_chunk("models/llama/model-00001-of-00191.safetensors", 0), 2234u);
  EXPECT_EQ(slot_of_chunk("models/llama/model-00001-of-00191.safetensors", 5000), 3138u);
  EXPECT_EQ(slot_of_block("kv/0123"), 3579u);
}

TEST(SlotOf, NeighbouringChunksFollowEachOther) {
  EXPECT_EQ(slot_of_object("a/b"), slot_of_chunk("a/b", 0));
  for (uint64_t chunk = 0; chunk < 10'000; chunk++) {
    EXPECT_EQ((slot_of_chunk("a/b", chunk) + 1) % kSlots, slot_of_chunk("a/b", chunk + 1));
  }
}

TEST(FirstMap, OneMemberOwnsAll) {
  SlotMap map = first(member(7));
  EXPECT_TRUE(validate(map));
  EXPECT_EQ(map.version, 1u);
  EXPECT_EQ(map.cluster, "reef");
  EXPECT_EQ(slots_of(map, member(7).id), kSlots);
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    EXPECT_EQ(map.owners_of(slot)[1], kNoMember);
    EXPECT_EQ(map.previous[slot], kNoMember);
  }
}

TEST(Join, TakesItsShareAndRemembersWhoHadIt) {
  SlotMap before = cluster(4);
  SlotMap after = placement::join(before, member(4));
  ASSERT_TRUE(validate(after)) << validate(after).error().to_string();
  EXPECT_EQ(after.version, before.version + 1);
  EXPECT_EQ(slots_of(after, member(4).id), kSlots / 5);
  EXPECT_EQ(primaries_moved(before, after), kSlots / 5);
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    const NodeId& old_owner = before.members[before.owners_of(slot)[0]].id;
    const NodeId& new_owner = after.members[after.owners_of(slot)[0]].id;
    if (old_owner == new_owner) continue;
    EXPECT_EQ(new_owner, member(4).id);
    ASSERT_NE(after.previous[slot], kNoMember);
    EXPECT_EQ(after.members[after.previous[slot]].id, old_owner);
    // Who has the data stays in the row.
    auto row = after.owners_of(slot);
    EXPECT_TRUE(row[1] == after.previous[slot] || row[2] == after.previous[slot]);
  }
}

TEST(Join, ManyAtOnceIsAsEvenAndMovesLess) {
  std::vector<Member> joining;
  for (uint64_t i = 4; i < 16; i++) joining.push_back(member(i));
  SlotMap before = cluster(4);
  SlotMap after = placement::join(before, joining);
  ASSERT_TRUE(validate(after));
  EXPECT_EQ(after.version, before.version + 1);
  for (uint64_t i = 0; i < 16; i++) EXPECT_EQ(slots_of(after, member(i).id), kSlots / 16);
  EXPECT_EQ(primaries_moved(before, after), kSlots / 16 * 12);
}

TEST(Leave, SpreadsItsSlotsEvenlyAndForgetsIt) {
  SlotMap before = cluster(5);
  SlotMap after = placement::leave(before, member(2).id);
  ASSERT_TRUE(validate(after));
  EXPECT_EQ(after.find(member(2).id), nullptr);
  EXPECT_EQ(primaries_moved(before, after), slots_of(before, member(2).id));
  for (uint64_t i : {0, 1, 3, 4}) EXPECT_EQ(slots_of(after, member(i).id), kSlots / 4);
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    const NodeId& owner = before.members[before.owners_of(slot)[0]].id;
    if (owner == member(2).id) EXPECT_EQ(after.previous[slot], kNoMember);
  }
}

TEST(Leave, NewOwnersAreMostlyOldSecondOnes) {
  SlotMap before = cluster(8);
  SlotMap after = placement::leave(before, member(2).id);
  uint32_t moved = 0, to_second = 0, to_others_of_row = 0;
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    auto row = before.owners_of(slot);
    if (before.members[row[0]].id != member(2).id) continue;
    moved++;
    const NodeId& now = after.members[after.owners_of(slot)[0]].id;
    if (now == before.members[row[1]].id) to_second++;
    if (now == before.members[row[2]].id) to_others_of_row++;
  }
  RecordProperty("moved", static_cast<int>(moved));
  RecordProperty("to_second", static_cast<int>(to_second));
  EXPECT_GE(to_second, moved / 2);
  EXPECT_GE(to_second + to_others_of_row, moved * 6 / 10);
}

TEST(Leave, TheLastOneLeavesNobodyAndAnotherMayJoin) {
  SlotMap empty = placement::leave(first(member(0)), member(0).id);
  ASSERT_TRUE(validate(empty));
  EXPECT_TRUE(empty.members.empty());
  EXPECT_EQ(empty.owners_of(17)[0], kNoMember);
  SlotMap again = placement::join(empty, member(1));
  ASSERT_TRUE(validate(again));
  EXPECT_EQ(slots_of(again, member(1).id), kSlots);
}

TEST(Drain, OwnsNothingButStays) {
  SlotMap before = placement::settle(cluster(5));
  SlotMap after = placement::drain(before, member(2).id);
  ASSERT_TRUE(validate(after));
  ASSERT_NE(after.find(member(2).id), nullptr);
  EXPECT_EQ(after.find(member(2).id)->state, MemberState::kDraining);
  for (uint32_t place = 0; place < 3; place++) {
    EXPECT_EQ(slots_of(after, member(2).id, place), 0u);
  }
  uint32_t was_there = 0;
  for (uint16_t previous : after.previous) {
    if (previous == after.index_of(member(2).id)) was_there++;
  }
  EXPECT_EQ(was_there, slots_of(before, member(2).id));
  // Then it goes, and nothing moves any more.
  SlotMap gone = placement::leave(after, member(2).id);
  ASSERT_TRUE(validate(gone));
  EXPECT_EQ(placement::copies_moved(after, gone), 0u);
}

TEST(Drain, ComesBackWithItsShare) {
  SlotMap map = placement::drain(cluster(5), member(2).id);
  Member back = *map.find(member(2).id);
  back.state = MemberState::kUp;
  map = placement::update_member(map, back);
  EXPECT_EQ(slots_of(map, back.id), 0u);
  map = placement::set_weight(map, back.id, back.weight);
  ASSERT_TRUE(validate(map));
  EXPECT_EQ(slots_of(map, back.id), kSlots / 5);
}

TEST(Drain, OfAllLeavesNoOwner) {
  SlotMap map = placement::drain(placement::drain(cluster(2), member(0).id), member(1).id);
  ASSERT_TRUE(validate(map));
  EXPECT_EQ(map.owners_of(0)[0], kNoMember);
  map = placement::join(map, member(2));
  ASSERT_TRUE(validate(map));
  EXPECT_EQ(slots_of(map, member(2).id), kSlots);
}

TEST(SetWeight, MovesTheDifferenceOnly) {
  SlotMap before = cluster(4);
  SlotMap after = placement::set_weight(before, member(1).id, 2);  // 1/4 to 2/5
  ASSERT_TRUE(validate(after));
  EXPECT_NEAR(slots_of(after, member(1).id), kSlots * 2 / 5, 1);
  EXPECT_NEAR(primaries_moved(before, after), kSlots * 3 / 20, 1);
  SlotMap back = placement::set_weight(after, member(1).id, 1);
  EXPECT_NEAR(slots_of(back, member(1).id), kSlots / 4, 1);
  EXPECT_NEAR(primaries_moved(after, back), kSlots * 3 / 20, 1);
}

TEST(UpdateMember, MovesNothing) {
  SlotMap before = cluster(5);
  Member changed = member(3);
  changed.state = MemberState::kDown;
  changed.incarnation = 9;
  changed.address = "127.0.0.9:1";
  SlotMap after = placement::update_member(before, changed);
  ASSERT_TRUE(validate(after));
  EXPECT_EQ(*after.find(changed.id), changed);
  EXPECT_EQ(after.owners, before.owners);
  EXPECT_EQ(after.version, before.version + 1);
  // A member that is down keeps its slots when others come and go.
  after = placement::leave(after, member(4).id);
  EXPECT_EQ(slots_of(after, changed.id), kSlots / 4);
}

TEST(Settle, ForgetsPreviousOwners) {
  SlotMap map = placement::settle(cluster(4));
  ASSERT_TRUE(validate(map));
  for (uint16_t previous : map.previous) EXPECT_EQ(previous, kNoMember);
}

TEST(Previous, IsKeptThroughOtherChanges) {
  SlotMap one = placement::settle(cluster(4));
  SlotMap two = placement::join(one, member(10));
  SlotMap three = placement::join(two, member(11));
  uint32_t kept = 0;
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    if (two.previous[slot] == kNoMember) continue;
    const NodeId& owner = two.members[two.owners_of(slot)[0]].id;
    if (three.members[three.owners_of(slot)[0]].id != owner) continue;
    ASSERT_NE(three.previous[slot], kNoMember);
    EXPECT_EQ(three.members[three.previous[slot]].id, two.members[two.previous[slot]].id);
    kept++;
  }
  EXPECT_GT(kept, 500u);
}

TEST(Zones, OwnersLieInDistinctOnes) {
  SlotMap map = first(member(0, 1, "a"));
  for (uint64_t i = 1; i < 9; i++) {
    map = placement::join(map, member(i, 1, std::string(1, static_cast<char>('a' + i % 3))));
  }
  ASSERT_TRUE(validate(map));
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    std::set<std::string> zones;
    for (uint16_t owner : map.owners_of(slot)) zones.insert(map.members[owner].zone);
    EXPECT_EQ(zones.size(), 3u) << slot;
  }
}

TEST(Zones, OneSmallZoneIsNotOverloaded) {
  SlotMap map = first(member(0, 1, "a"));
  for (uint64_t i = 1; i < 20; i++) map = placement::join(map, member(i, 1, i == 7 ? "b" : "a"));
  ASSERT_TRUE(validate(map));
  uint32_t held = 0;
  for (uint32_t place = 0; place < 3; place++) held += slots_of(map, member(7).id, place);
  EXPECT_LE(held, 2 * 3 * kSlots / 20);
}

TEST(Validate, RefusesWhatBreaksARule) {
  SlotMap good = cluster(5);
  ASSERT_TRUE(validate(good));
  auto refuses = [&good](auto change) {
    SlotMap map = good;
    change(map);
    auto status = validate(map);
    return !status && status.error().code() == Code::kCorrupt;
  };
  EXPECT_TRUE(refuses([](SlotMap& map) { map.version = 0; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.copies = 0; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.copies = 2; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.copies = 1'000'000'000; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.owners.pop_back(); }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.previous.clear(); }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.previous[4] = 5; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.owners[77] = 5; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.owners[1] = map.owners[0]; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.owners[0] = kNoMember; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.owners[1] = kNoMember; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.members[1].id = map.members[0].id; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { std::swap(map.members[1], map.members[0]); }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.members[1].weight = 0; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.members[1].weight = kWeightMax + 1; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.members[1].id = {}; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.members[1].state = MemberState{9}; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.members[1].state = MemberState::kDraining; }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.members[1].name.assign(100'000, 'x'); }));
  EXPECT_TRUE(refuses([](SlotMap& map) { map.members.resize(kMembersMax + 1); }));
}

TEST(SlotMap, EqualInputsGiveEqualMaps) { EXPECT_EQ(cluster(12), cluster(12)); }

}  // namespace
}  // namespace shoal
