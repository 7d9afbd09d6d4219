// Between slot maps and their protobuf form. Pure functions; any thread.
#pragma once

#include "base/error.h"
#include "placement/slot_map.h"
#include "wire/messages.pb.h"

namespace shoal {

void put_member(const Member& member, wire::MemberBody& body);
// kCorrupt with a reason: a state that is none, no id, a weight of 0, names that are too long.
Result<Member> take_member(const wire::MemberBody& body);

void put_map(const SlotMap& map, wire::MapBody& body);
// Checked by validate().
Result<SlotMap> take_map(const wire::MapBody& body);

}  // namespace shoal
