// Between messages of `wire` and the node's own types. What comes from a peer is checked here.
#pragma once

#include "node/attribute_cache.h"
#include "origin/origin.h"
#include "wire/messages.pb.h"
#include "wire/parse_message.h"

namespace shoal {

void to_wire(const ObjectInfo& info, wire::ObjectBody& body);
// kCorrupt when the name or a size cannot be.
Result<ObjectInfo> from_wire(const wire::ObjectBody& body);

uint32_t to_milliseconds(Duration duration);  // rounded up, clipped

}  // namespace shoal
