#include "node/version_record.h"

#include <utility>

#include "base/assert.h"
#include "wire/messages.pb.h"

namespace shoal {

PackedMetadata::PackedMetadata(const Metadata& metadata) {
  wire::ObjectBody body;
  for (const auto& [name, value] : metadata) {
    wire::MetadataEntry* entry = body.add_metadata();
    entry->set_name(name);
    entry->set_value(value);
  }
  bytes_ = body.SerializeAsString();
}

Metadata PackedMetadata::unpack() const {
  wire::ObjectBody body;
  bool parsed = body.ParseFromString(bytes_);
  SHOAL_ASSERT(parsed, "it was encoded here");
  Metadata metadata;
  for (const wire::MetadataEntry& entry : body.metadata()) {
    metadata.emplace_hint(metadata.end(), entry.name(), entry.value());
  }
  return metadata;
}

VersionRecord::VersionRecord(StagedRecord record)
    : object(std::move(record.object)),
      write_id(record.write_id),
      size(record.size),
      base_etag(std::move(record.base_etag)),
      must_be_absent(record.must_be_absent),
      sealed(record.sealed),
      partial(record.partial),
      changed(record.changed),
      metadata(record.metadata) {}

StagedRecord VersionRecord::unpack() const {
  StagedRecord record;
  record.object = object;
  record.write_id = write_id;
  record.size = size;
  record.base_etag = base_etag;
  record.must_be_absent = must_be_absent;
  record.sealed = sealed;
  record.partial = partial;
  record.changed = changed;
  record.metadata = metadata.unpack();
  return record;
}

}  // namespace shoal
