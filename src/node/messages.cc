#include "node/messages.h"

#include <algorithm>

#include "base/object_name.h"

namespace shoal {

void to_wire(const ObjectInfo& info, wire::ObjectBody& body) {
  body.set_name(info.name);
  body.set_size(info.size);
  body.set_etag(info.etag);
  body.set_modified_ns(info.modified.time_since_epoch().count());
  for (const auto& [name, value] : info.metadata) {
    wire::MetadataEntry* entry = body.add_metadata();
    entry->set_name(name);
    entry->set_value(value);
  }
}

Result<ObjectInfo> from_wire(const wire::ObjectBody& body) {
  if (body.name().empty() || body.name().size() > kObjectNameBytesMax ||
      body.size() > uint64_t{1} << 56) {
    return fail(Code::kCorrupt, "a peer described an object that cannot be");
  }
  ObjectInfo info;
  info.name = body.name();
  info.size = body.size();
  info.etag = body.etag();
  info.modified = WallTime(Duration(body.modified_ns()));
  for (const wire::MetadataEntry& entry : body.metadata()) {
    info.metadata.emplace(entry.name(), entry.value());
  }
  return info;
}

uint32_t to_milliseconds(Duration duration) {
  auto whole = std::chrono::ceil<std::chrono::milliseconds>(duration).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(whole, 0, UINT32_MAX));
}

}  // namespace shoal
