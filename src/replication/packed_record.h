// PackedRecord: a ledger record at rest in memory, encoded: a million of them may wait, and each
// takes a fourth of the memory that way. Without its content. Any thread.
#pragma once

#include <cstdint>
#include <string>

#include "replication/ledger_record.h"

namespace shoal {

class PackedRecord {
 public:
  explicit PackedRecord(LedgerRecord record);
  LedgerRecord unpack() const;

  const WriteName& write() const { return write_; }
  const NodeId& writer() const { return writer_; }
  bool sealed() const { return sealed_; }
  bool has_content() const { return has_content_; }

 private:
  WriteName write_;
  NodeId writer_;
  uint64_t map_version_ = 0;
  bool sealed_ = false;
  bool has_content_ = false;
  bool names_write_ = false;  // the write's own name in the metadata, which is not kept there
  std::string bytes_;         // a wire::LedgerBody
};

}  // namespace shoal
