// The rules that a map from outside must keep.
#include <fmt/format.h>

#include "placement/slot_map.h"

namespace shoal {
namespace {

constexpr size_t kTextMax = 4096;

Status broken(std::string reason) {
  return fail(Code::kCorrupt, "slot map: " + std::move(reason) + "; ask another node for the map");
}

Status validate_members(const SlotMap& map) {
  if (map.members.size() > kMembersMax) {
    return broken(fmt::format("{} members, {} at most", map.members.size(), kMembersMax));
  }
  for (size_t i = 0; i < map.members.size(); i++) {
    const Member& member = map.members[i];
    if (member.id.is_zero()) return broken(fmt::format("member {} has no id", i));
    if (i > 0 && member.id == map.members[i - 1].id) {
      return broken(fmt::format("two members have the id {}", member.id.to_hex()));
    }
    if (i > 0 && member.id < map.members[i - 1].id) return broken("members are not in order of id");
    if (member.weight < 1 || member.weight > kWeightMax) {
      return broken(fmt::format("member {} has weight {}", member.id.to_hex(), member.weight));
    }
    if (member.state != MemberState::kUp && member.state != MemberState::kDown &&
        member.state != MemberState::kDraining) {
      return broken(fmt::format("member {} has state {}", member.id.to_hex(),
                                static_cast<unsigned>(member.state)));
    }
    for (const std::string* text : {&member.name, &member.address, &member.http, &member.zone}) {
      if (text->size() > kTextMax) {
        return broken(fmt::format("member {} has a text of {} bytes, {} at most",
                                  member.id.to_hex(), text->size(), kTextMax));
      }
    }
  }
  return {};
}

Status validate_row(const SlotMap& map, uint32_t slot, bool owned) {
  auto row = map.owners_of(slot);
  if (owned && row[0] == kNoMember) return broken(fmt::format("slot {} has no owner", slot));
  for (size_t place = 0; place < row.size(); place++) {
    if (row[place] == kNoMember) continue;
    if (row[place] >= map.members.size()) {
      return broken(
          fmt::format("slot {} names member {} of {}", slot, row[place], map.members.size()));
    }
    if (map.members[row[place]].state == MemberState::kDraining) {
      return broken(fmt::format("slot {} belongs to a draining member", slot));
    }
    for (size_t before = 0; before < place; before++) {
      if (row[before] == row[place]) {
        return broken(fmt::format("slot {} names one owner twice", slot));
      }
      if (row[before] == kNoMember) return broken(fmt::format("slot {} has a gap", slot));
    }
  }
  uint16_t previous = map.previous[slot];
  if (previous != kNoMember && previous >= map.members.size()) {
    return broken(fmt::format("slot {} had member {} of {}", slot, previous, map.members.size()));
  }
  return {};
}

}  // namespace

Status validate(const SlotMap& map) {
  if (map.version == 0) return broken("version 0");
  if (map.copies < 1 || map.copies > kCopiesMax) {
    return broken(fmt::format("{} owners per slot, {} at most", map.copies, kCopiesMax));
  }
  if (map.cluster.size() > kTextMax || map.origin.size() > kTextMax) {
    return broken(fmt::format("a name of more than {} bytes", kTextMax));
  }
  if (map.owners.size() != size_t{kSlots} * map.copies || map.previous.size() != kSlots) {
    return broken(fmt::format("{} owners and {} previous ones for {} slots of {}",
                              map.owners.size(), map.previous.size(), kSlots, map.copies));
  }
  SHOAL_RETURN_IF_ERROR(validate_members(map));
  bool owned = false;
  for (const Member& member : map.members) owned |= member.state != MemberState::kDraining;
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    SHOAL_RETURN_IF_ERROR(validate_row(map, slot, owned));
  }
  return {};
}

}  // namespace shoal
