// Which of two un-uploaded versions of one object came later.
#pragma once

#include <string>

#include "replication/ledger_record.h"

namespace shoal {

// Whether `later` was made on top of `earlier`, as it says itself.
inline bool is_made_on(const LedgerRecord& later, const LedgerRecord& earlier) {
  if (later.ancestors.find(earlier.write.id.to_hex()) != std::string::npos) return true;
  auto base = WriteName::parse(later.base_etag);
  return base && base->id == earlier.write.id;
}

// Clocks decide only where neither knows of the other: those of two nodes may differ by hours.
inline bool comes_after(const LedgerRecord& one, const LedgerRecord& other) {
  if (one.write.id == other.write.id) return one.is_later_than(other);
  if (is_made_on(one, other)) return true;
  return !is_made_on(other, one) && one.changed > other.changed;
}

}  // namespace shoal
