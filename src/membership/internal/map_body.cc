#include "membership/internal/map_body.h"

#include <fmt/format.h>

#include "base/assert.h"

namespace shoal {
namespace {

constexpr size_t kNameMax = 255;
constexpr size_t kAddressMax = 300;

void append_u16(std::string& out, uint16_t value) {
  out.push_back(static_cast<char>(value & 0xFF));
  out.push_back(static_cast<char>(value >> 8));
}
uint16_t u16_at(std::string_view bytes, size_t offset) {
  return static_cast<uint16_t>(static_cast<unsigned char>(bytes[offset]) |
                               static_cast<unsigned char>(bytes[offset + 1]) << 8);
}

}  // namespace

void put_member(const Member& member, wire::MemberBody& body) {
  body.set_id_high(member.id.high);
  body.set_id_low(member.id.low);
  body.set_name(member.name);
  body.set_address(member.address);
  body.set_http(member.http);
  body.set_weight(member.weight);
  body.set_zone(member.zone);
  body.set_state(static_cast<uint32_t>(member.state));
  body.set_incarnation(member.incarnation);
}

Result<Member> take_member(const wire::MemberBody& body) {
  Member member;
  member.id = {body.id_high(), body.id_low()};
  if (member.id.is_zero()) return fail(Code::kCorrupt, "a member has no id");
  if (body.name().size() > kNameMax || body.zone().size() > kNameMax ||
      body.address().size() > kAddressMax || body.http().size() > kAddressMax) {
    return fail(Code::kCorrupt, fmt::format("member {} has a name or an address that is too long",
                                            member.id.to_hex()));
  }
  if (body.address().empty()) {
    return fail(Code::kCorrupt, fmt::format("member {} has no address", member.id.to_hex()));
  }
  if (body.weight() == 0 || body.weight() > kWeightMax) {
    return fail(Code::kCorrupt,
                fmt::format("member {} has the weight {}", member.id.to_hex(), body.weight()));
  }
  if (body.state() < static_cast<uint32_t>(MemberState::kUp) ||
      body.state() > static_cast<uint32_t>(MemberState::kDraining)) {
    return fail(Code::kCorrupt, fmt::format("member {} is in state {}, which does not exist",
                                            member.id.to_hex(), body.state()));
  }
  member.name = body.name();
  member.address = body.address();
  member.http = body.http();
  member.weight = body.weight();
  member.zone = body.zone();
  member.state = static_cast<MemberState>(body.state());
  member.incarnation = body.incarnation();
  return member;
}

void put_map(const SlotMap& map, wire::MapBody& body) {
  SHOAL_ASSERT(map.owners.size() == size_t{kSlots} * map.copies);
  SHOAL_ASSERT(map.previous.size() == kSlots);
  body.set_version(map.version);
  body.set_cluster(map.cluster);
  body.set_cluster_high(map.cluster_id.high);
  body.set_cluster_low(map.cluster_id.low);
  body.set_origin(map.origin);
  body.set_copies(map.copies);
  for (const Member& member : map.members) put_member(member, *body.add_members());
  std::string slots;
  slots.reserve(size_t{kSlots} * (map.copies + 1) * 2);
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    for (uint16_t owner : map.owners_of(slot)) append_u16(slots, owner);
    append_u16(slots, map.previous[slot]);
  }
  body.set_slots(std::move(slots));
}

Result<SlotMap> take_map(const wire::MapBody& body) {
  SlotMap map;
  map.version = body.version();
  map.cluster = body.cluster();
  map.cluster_id = {body.cluster_high(), body.cluster_low()};
  map.origin = body.origin();
  map.copies = body.copies();
  if (map.copies == 0 || map.copies > kCopiesMax) {
    return fail(Code::kCorrupt, fmt::format("a slot with {} owners", map.copies));
  }
  if (static_cast<size_t>(body.members_size()) > kMembersMax) {
    return fail(Code::kCorrupt, fmt::format("{} members are above the limit of {}",
                                            body.members_size(), kMembersMax));
  }
  const std::string& slots = body.slots();
  size_t row = size_t{map.copies + 1} * 2;
  if (slots.size() != kSlots * row) {
    return fail(Code::kCorrupt,
                fmt::format("a table of {} bytes instead of {}", slots.size(), kSlots * row));
  }
  map.members.reserve(static_cast<size_t>(body.members_size()));
  for (const wire::MemberBody& each : body.members()) {
    SHOAL_ASSIGN_OR_RETURN(Member member, take_member(each));
    map.members.push_back(std::move(member));
  }
  map.owners.reserve(size_t{kSlots} * map.copies);
  map.previous.reserve(kSlots);
  for (size_t slot = 0; slot < kSlots; ++slot) {
    for (size_t rank = 0; rank < map.copies; ++rank) {
      map.owners.push_back(u16_at(slots, slot * row + rank * 2));
    }
    map.previous.push_back(u16_at(slots, slot * row + size_t{map.copies} * 2));
  }
  SHOAL_RETURN_IF_ERROR(validate(map));
  return map;
}

}  // namespace shoal
