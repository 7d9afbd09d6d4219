#include "replication/packed_record.h"

#include <utility>

#include "base/assert.h"

namespace shoal {

namespace {
constexpr const char* kWriteIdName = "shoalwriteid";
}  // namespace

PackedRecord::PackedRecord(LedgerRecord record)
    : write_(record.write),
      writer_(record.writer),
      map_version_(record.map_version),
      sealed_(record.sealed),
      has_content_(record.has_content) {
  record.content.reset();
  auto id = record.metadata.find(kWriteIdName);
  names_write_ = id != record.metadata.end() && id->second == write_.text();
  if (names_write_) record.metadata.erase(id);
  wire::LedgerBody body;
  to_wire(record, body);
  body.clear_write();
  body.clear_writer();
  bytes_ = body.SerializeAsString();
}

LedgerRecord PackedRecord::unpack() const {
  wire::LedgerBody body;
  bool parsed = body.ParseFromString(bytes_);
  SHOAL_ASSERT(parsed, "it was encoded here");
  LedgerRecord record = decode(body);
  record.write = write_;
  record.writer = writer_;
  record.content.reset();
  if (names_write_) record.metadata[kWriteIdName] = write_.text();
  record.map_version = map_version_;
  return record;
}

}  // namespace shoal
