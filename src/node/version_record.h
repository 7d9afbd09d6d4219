// VersionRecord: what the store's record of a staged version says, as it is kept in memory while
// the version waits: its metadata packed into one string, since a million may wait. No I/O; any
// thread.
#pragma once

#include <string>

#include "origin/origin.h"
#include "store/store.h"

namespace shoal {

class PackedMetadata {
 public:
  PackedMetadata() = default;
  explicit PackedMetadata(const Metadata& metadata);
  Metadata unpack() const;

 private:
  std::string bytes_;  // a wire::ObjectBody with nothing else
};

struct VersionRecord {
  VersionRecord() = default;
  explicit VersionRecord(StagedRecord record);
  StagedRecord unpack() const;

  std::string object;
  Hash128 write_id;
  uint64_t size = 0;
  std::string base_etag;
  bool must_be_absent = false;
  bool sealed = false;
  bool partial = false;
  WallTime changed{};
  PackedMetadata metadata;
};

}  // namespace shoal
