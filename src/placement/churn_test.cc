// Random joins, leaves, drains and weights: what must hold after each of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "placement/evenness.h"
#include "placement/slot_map.h"

namespace shoal {
namespace {

using placement::window_evenness;

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

// The measure of windows is the mean over all windows of (busiest over mean); the worst of
// all windows is bounded too.
void expect_even_windows(const SlotMap& map) {
  if (map.members.size() > 16) return;
  auto of_32 = window_evenness(map, 32), of_256 = window_evenness(map, 256);
  EXPECT_LE(of_32.mean, 1.5) << map.members.size() << " members";
  EXPECT_LE(of_256.mean, 1.1) << map.members.size() << " members";
  EXPECT_LE(of_32.worst, 2.75) << map.members.size() << " members";
  EXPECT_LE(of_256.worst, 1.3) << map.members.size() << " members";
}

void expect_level(const SlotMap& map) {
  for (uint32_t place = 0; place < map.copies; place++) {
    auto count = count_slots(map, place);
    // Followers are level together, not place by place.
    EXPECT_LE(std::ranges::max(count) - std::ranges::min(count), place == 0 ? 1u : 4u);
  }
}

TEST(Churn, HundredJoins) {
  double copies_moved = 0, copies_least = 0;
  SlotMap map = first(member(0));
  for (uint64_t i = 1; i < 100; i++) {
    SlotMap next = placement::join(map, member(i));
    ASSERT_TRUE(validate(next));
    double share = 1.0 * kSlots / static_cast<double>(i + 1);
    EXPECT_LE(placement::primaries_moved(map, next), 1.05 * share);
    copies_moved += i < 3 ? 0 : placement::copies_moved(map, next);
    copies_least += i < 3 ? 0 : 3 * share;
    if (i >= 3) expect_level(next);
    expect_even_windows(next);
    map = std::move(next);
  }
  EXPECT_LE(copies_moved, 1.05 * copies_least);
}

// Random joins and leaves of equal members, between `least` and `most` of them.
void churn(uint64_t seed, size_t least, size_t most, int changes) {
  std::mt19937_64 random(seed);
  SlotMap map = first(member(0));
  for (uint64_t i = 1; i < most; i++) map = placement::join(map, member(i));
  uint64_t copies_moved = 0, copies_least = 0, to_follower = 0, left = 0;
  for (int i = 0; i < changes; i++) {
    SlotMap next;
    double must_move = 0;
    bool join = map.members.size() == least || (map.members.size() < most && random() % 2 == 0);
    if (join) {
      next = placement::join(map, member(1'000 + static_cast<uint64_t>(i)));
      must_move = 1.0 * kSlots / static_cast<double>(next.members.size());
      copies_least += static_cast<uint64_t>(3 * must_move);
    } else {
      size_t leaver = random() % map.members.size();
      next = placement::leave(map, map.members[leaver].id);
      must_move = count_slots(map)[leaver];
      for (uint32_t slot = 0; slot < kSlots; slot++) {
        auto row = map.owners_of(slot);
        if (std::ranges::count(row, leaver) > 0) copies_least++;
        if (row[0] != leaver) continue;
        left++;
        const NodeId& now = next.members[next.owners_of(slot)[0]].id;
        if (now == map.members[row[1]].id || now == map.members[row[2]].id) to_follower++;
      }
    }
    ASSERT_TRUE(validate(next));
    EXPECT_LE(placement::primaries_moved(map, next), 1.05 * must_move);
    copies_moved += placement::copies_moved(map, next);
    expect_level(next);
    expect_even_windows(next);
    map = std::move(next);
  }
  EXPECT_LE(static_cast<double>(copies_moved), 1.05 * static_cast<double>(copies_least));
  EXPECT_GE(to_follower * 100, left * (most <= 16 ? 60 : 40)) << to_follower << " of " << left;
}

TEST(Churn, OfAboutSixteen) { churn(1, 12, 16, 200); }
TEST(Churn, OfFewToSixteen) { churn(2, 4, 16, 100); }
TEST(Churn, OfAboutHundred) { churn(3, 60, 100, 200); }

// Anything at all may happen: what must hold anyway.
void anything(uint64_t seed, uint32_t weight_max, uint32_t zones) {
  std::mt19937_64 random(seed);
  auto make = [&](uint64_t number) {
    auto weight = static_cast<uint32_t>(1 + random() % weight_max);
    return member(number, weight, zones == 0 ? "" : "zone " + std::to_string(random() % zones));
  };
  SlotMap map = first(make(0));
  for (uint64_t i = 1; i < 120; i++) {
    const Member& chosen = map.members[random() % map.members.size()];
    uint64_t what = random() % 8;
    SlotMap next;
    std::vector<NodeId> changed;
    if (what <= 3 || map.members.size() < 3) {
      Member joiner = make(i);
      changed.push_back(joiner.id);
      next = placement::join(map, std::move(joiner));
    } else if (what == 4) {
      std::vector<Member> joiners = {make(i), make(i + 1'000), make(i + 2'000)};
      for (const Member& each : joiners) changed.push_back(each.id);
      next = placement::join(map, std::move(joiners));
    } else if (what == 5) {
      changed.push_back(chosen.id);
      next = placement::leave(map, chosen.id);
    } else if (what == 6) {
      changed.push_back(chosen.id);
      next = placement::drain(map, chosen.id);
    } else {
      if (chosen.state == MemberState::kDraining) continue;
      changed.push_back(chosen.id);
      next =
          placement::set_weight(map, chosen.id, static_cast<uint32_t>(1 + random() % weight_max));
    }
    auto status = validate(next);
    ASSERT_TRUE(status) << status.error().to_string();
    auto is_changed = [&](const SlotMap& of, uint16_t index) {
      return index == kNoMember || std::ranges::count(changed, of.members[index].id) > 0;
    };
    for (uint32_t slot = 0; slot < kSlots; slot++) {
      uint16_t before = map.owners_of(slot)[0], after = next.owners_of(slot)[0];
      if (before == kNoMember || after == kNoMember) continue;
      uint16_t previous = next.previous[slot];
      if (map.members[before].id == next.members[after].id) continue;
      // Whatever moves, moves from or to a member that changed.
      EXPECT_TRUE(is_changed(map, before) || is_changed(next, after)) << "slot " << slot;
      const Member* still = next.find(map.members[before].id);
      EXPECT_EQ(previous, still ? next.index_of(still->id) : kNoMember) << "slot " << slot;
    }
    // Webster: nobody has so much more per weight that moving a slot would make it evener.
    auto count = count_slots(next);
    for (size_t a = 0; a < count.size(); a++) {
      if (next.members[a].state == MemberState::kDraining) {
        EXPECT_EQ(count[a], 0u);
        continue;
      }
      for (size_t b = 0; b < count.size() && count[a] > 0; b++) {
        if (next.members[b].state == MemberState::kDraining) continue;
        EXPECT_LE((2.0 * count[a] - 1) / next.members[a].weight,
                  (2.0 * count[b] + 1) / next.members[b].weight);
      }
    }
    map = std::move(next);
  }
}

TEST(Churn, AnythingWithEqualWeights) { anything(1, 1, 0); }
TEST(Churn, AnythingWithSomeWeights) { anything(2, 4, 3); }
TEST(Churn, AnythingWithWildWeights) { anything(3, kWeightMax, 5); }
TEST(Churn, AnythingInTwoZones) { anything(4, 2, 2); }

// The share that a joiner with a weight takes is the least possible, but for rounding to a slot.
TEST(Churn, WeightedJoinsMoveTheLeast) {
  std::mt19937_64 random(9);
  SlotMap map = first(member(0, 500));
  double total = 500;
  for (uint64_t i = 1; i < 60; i++) {
    auto weight = static_cast<uint32_t>(100 + random() % 900);
    total += weight;
    SlotMap next = placement::join(map, member(i, weight));
    EXPECT_LE(placement::primaries_moved(map, next), 1.05 * kSlots * weight / total);
    map = std::move(next);
  }
}

// Zones of a quarter of the weight at least can all be kept apart.
TEST(Churn, ZonesStayApart) {
  std::mt19937_64 random(4);
  SlotMap map = first(member(0, 1, "zone 0"));
  for (uint64_t i = 1; i < 12; i++) {
    map = placement::join(map, member(i, 1, "zone " + std::to_string(i % 3)));
  }
  for (uint64_t i = 12; i < 72; i++) {
    // One of a zone joins, then the first that is left of the same zone leaves.
    std::string zone = "zone " + std::to_string(random() % 3);
    map = placement::join(map, member(i, 1, zone));
    ASSERT_TRUE(validate(map));
    if (random() % 4 != 0 || map.members.size() > 14) {
      auto leaver = std::ranges::find(map.members, zone, &Member::zone);
      map = placement::leave(map, NodeId(leaver->id));
    }
    for (uint32_t slot = 0; slot < kSlots; slot++) {
      auto row = map.owners_of(slot);
      EXPECT_NE(map.members[row[0]].zone, map.members[row[1]].zone) << slot;
      EXPECT_NE(map.members[row[0]].zone, map.members[row[2]].zone) << slot;
      EXPECT_NE(map.members[row[1]].zone, map.members[row[2]].zone) << slot;
    }
  }
}

// Two zones and three owners: the first two are apart.
TEST(Churn, TwoZonesHoldTheFirstTwoOwners) {
  SlotMap map = first(member(0, 1, "zone 0"));
  for (uint64_t i = 1; i < 20; i++) {
    map = placement::join(map, member(i, 1, "zone " + std::to_string(i % 2)));
    for (uint32_t slot = 0; slot < kSlots && i > 1; slot++) {
      auto row = map.owners_of(slot);
      EXPECT_NE(map.members[row[0]].zone, map.members[row[1]].zone) << i << " " << slot;
    }
  }
}

TEST(Churn, MoreMembersThanSlots) {
  std::vector<Member> joining;
  for (uint64_t i = 1; i < 10'000; i++) joining.push_back(member(i));
  SlotMap map = placement::join(first(member(0)), joining);
  ASSERT_TRUE(validate(map));
  EXPECT_LE(std::ranges::max(count_slots(map)), 1u);
  SlotMap one_more = placement::join(map, member(20'000));
  ASSERT_TRUE(validate(one_more));
  EXPECT_EQ(placement::primaries_moved(map, one_more), 0u);
  // The slot of a leaver goes to one member.
  SlotMap one_less = placement::leave(map, NodeId(map.members[map.owners_of(0)[0]].id));
  ASSERT_TRUE(validate(one_less));
  EXPECT_EQ(placement::primaries_moved(map, one_less), 1u);
}

}  // namespace
}  // namespace shoal
