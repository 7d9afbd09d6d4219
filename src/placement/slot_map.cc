#include "placement/slot_map.h"

#include <algorithm>
#include <map>

#include "base/assert.h"
#include "placement/internal/primaries.h"
#include "placement/internal/replicas.h"

namespace shoal {
namespace {

bool id_less(const Member& a, const Member& b) { return a.id < b.id; }

// The table, given new members (sorted) in place of the old ones.
SlotMap with_members(const SlotMap& map, std::vector<Member> members,
                     std::span<const NodeId> changed_ids) {
  SHOAL_ASSERT(members.size() <= kMembersMax);
  SlotMap next = map;
  next.version++;
  next.members = std::move(members);

  std::vector<uint16_t> index(map.members.size());  // old to new
  for (size_t i = 0; i < index.size(); i++) index[i] = next.index_of(map.members[i].id);
  auto renumber = [&index](uint16_t old) { return old == kNoMember ? kNoMember : index[old]; };
  for (uint16_t& entry : next.owners) entry = renumber(entry);
  for (uint16_t& entry : next.previous) entry = renumber(entry);

  std::vector<uint64_t> weight;
  std::vector<uint32_t> zone;
  std::map<std::string_view, uint32_t> zone_numbers;
  for (const Member& member : next.members) {
    weight.push_back(member.state == MemberState::kDraining ? 0 : member.weight);
    zone.push_back(zone_numbers.try_emplace(member.zone, static_cast<uint32_t>(zone_numbers.size()))
                       .first->second);
  }
  std::vector<uint16_t> changed;
  for (const NodeId& id : changed_ids) {
    if (uint16_t member = next.index_of(id); member != kNoMember) changed.push_back(member);
  }
  std::vector<uint16_t> before(kSlots);
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    before[slot] = next.owners[size_t{slot} * next.copies];
  }

  auto primary = placement::next_primaries({.owner = before,
                                            .rows = next.owners,
                                            .copies = next.copies,
                                            .weight = weight,
                                            .changed = changed});
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    if (primary[slot] != before[slot]) next.previous[slot] = before[slot];
  }
  next.owners = placement::next_rows({.copies = next.copies,
                                      .rows = next.owners,
                                      .primary = primary,
                                      .weight = weight,
                                      .zone = zone});
  SHOAL_ASSERT_SLOW(validate(next).has_value());
  return next;
}

std::vector<Member>::iterator find_in(std::vector<Member>& members, const NodeId& id) {
  auto at = std::ranges::lower_bound(members, id, {}, &Member::id);
  SHOAL_ASSERT(at != members.end() && at->id == id, "the map has no such member");
  return at;
}

}  // namespace

const Member* SlotMap::find(const NodeId& id) const {
  auto at = std::ranges::lower_bound(members, id, {}, &Member::id);
  return at != members.end() && at->id == id ? &*at : nullptr;
}

uint16_t SlotMap::index_of(const NodeId& id) const {
  const Member* member = find(id);
  return member ? static_cast<uint16_t>(member - members.data()) : kNoMember;
}

// XXH3-128 with seed 0, its low half. Frozen: every node and every version of Shoal must agree.
uint32_t slot_of_chunk(std::string_view object, uint64_t chunk) {
  return static_cast<uint32_t>((hash_string(object).low + chunk) % kSlots);
}

uint32_t slot_of_object(std::string_view object) { return slot_of_chunk(object, 0); }

uint32_t slot_of_block(std::string_view key) { return slot_of_chunk(key, 0); }

namespace placement {

SlotMap first_map(std::string cluster, Hash128 cluster_id, std::string origin, uint32_t copies,
                  Member member) {
  SHOAL_ASSERT(copies >= 1 && copies <= kCopiesMax);
  SlotMap empty;
  empty.cluster = std::move(cluster);
  empty.cluster_id = cluster_id;
  empty.origin = std::move(origin);
  empty.copies = copies;
  empty.owners.assign(size_t{kSlots} * copies, kNoMember);
  empty.previous.assign(kSlots, kNoMember);
  return join(empty, std::move(member));
}

SlotMap join(const SlotMap& map, Member member) {
  std::vector<Member> members;
  members.push_back(std::move(member));
  return join(map, std::move(members));
}

SlotMap join(const SlotMap& map, std::vector<Member> joining) {
  std::vector<Member> members = map.members;
  std::vector<NodeId> changed;
  std::ranges::sort(joining, id_less);
  for (Member& member : joining) {
    SHOAL_ASSERT(member.weight >= 1 && member.weight <= kWeightMax);
    changed.push_back(member.id);
    members.push_back(std::move(member));
  }
  std::ranges::sort(members, id_less);
  auto twice = std::ranges::adjacent_find(members, {}, &Member::id);
  SHOAL_ASSERT(twice == members.end(), "who joins must not be in the map");
  return with_members(map, std::move(members), changed);
}

SlotMap leave(const SlotMap& map, const NodeId& member) {
  std::vector<Member> members = map.members;
  members.erase(find_in(members, member));
  return with_members(map, std::move(members), {});
}

SlotMap drain(const SlotMap& map, const NodeId& member) {
  std::vector<Member> members = map.members;
  find_in(members, member)->state = MemberState::kDraining;
  return with_members(map, std::move(members), {});
}

SlotMap set_weight(const SlotMap& map, const NodeId& member, uint32_t weight) {
  SHOAL_ASSERT(weight >= 1 && weight <= kWeightMax);
  std::vector<Member> members = map.members;
  find_in(members, member)->weight = weight;
  return with_members(map, std::move(members), std::span(&member, 1));
}

SlotMap update_member(const SlotMap& map, const Member& member) {
  SlotMap next = map;
  next.version++;
  auto at = find_in(next.members, member.id);
  SHOAL_ASSERT(member.state != MemberState::kDraining || at->state == MemberState::kDraining,
               "drain() makes a member drain");
  at->name = member.name;
  at->address = member.address;
  at->http = member.http;
  at->state = member.state;
  at->incarnation = member.incarnation;
  return next;
}

SlotMap settle(const SlotMap& map) {
  SlotMap next = map;
  next.version++;
  next.previous.assign(kSlots, kNoMember);
  return next;
}

}  // namespace placement
}  // namespace shoal
