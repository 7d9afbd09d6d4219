// Takeover: looks after what this node keeps for others. Records whose writer is gone are uploaded
// in its place by the first owner that can be reached, chunks that lost a copy get another one,
// records and replicas that nobody will end any more are dropped, and records follow their slots.
//
// Shard's thread; runs in the replication's gate.
#pragma once

#include <map>
#include <set>
#include <string>
#include <unordered_map>

#include "async/task.h"
#include "origin/origin.h"
#include "replication/ledger_record.h"
#include "replication/replication.h"

namespace shoal {

class Takeover {
 public:
  explicit Takeover(Replication& replication);
  void start();

 private:
  struct Seen {
    SteadyTime checked{};  // last time that somebody was asked
    SteadyTime offered{};  // last time that the first owners were given the record
    uint64_t map_version = 0;
    SteadyTime since{};
    SteadyTime not_before{};  // looking at what it waits for costs something
    uint64_t round = 0;       // when it was looked at last
  };
  using Holders = std::vector<std::vector<NodeId>>;

  Task<void> run();
  // Some records at each look, in turns; all of them at once after the map has changed.
  Task<void> look_at_records();
  Task<void> look_at_record(LedgerRecord record);
  Task<void> look_at_replica(std::string object, WriteName write);
  // Whether this node is the one to act for the record.
  bool is_mine(const LedgerRecord& record) const;
  Task<void> follow_slot(LedgerRecord& record, Seen& seen);
  Task<void> check_writer(const LedgerRecord& record, Seen& seen);

  static Task<void> adopt(Takeover* self, LedgerRecord record);
  Task<bool> still_wanted(LedgerRecord& record);
  Task<Status> end_as_told(LedgerRecord record, Replication::Standing standing, std::string mine);
  Task<void> end_uploaded(LedgerRecord record, EndReason reason, std::string etag, bool mine);
  Task<Status> upload(LedgerRecord& record);
  Task<Result<Holders>> find_holders(LedgerRecord& record);
  // Whether the node can be counted as a holder: it has no earlier state of any chunk.
  Task<bool> may_hold(const LedgerRecord& record, NodeId node);
  Task<Status> repair(LedgerRecord& record, Holders& holders);
  Task<Result<ObjectInfo>> commit(const LedgerRecord& record, const Holders& holders,
                                  const std::string& as_object);
  // What stands in the way of a commit, and what to do about it.
  enum class Outcome { kRetry, kDone, kAside };
  Task<Result<Outcome>> settle_conflict(LedgerRecord& record, std::string* etag);

  static Task<void> run_records(Takeover* self);

  Replication& replication_;
  std::unordered_map<Hash128, Seen> seen_;  // records, by object and write
  uint64_t round_ = 1;                      // over all records
  std::string next_;                        // objects after this one are looked at next
  uint64_t looked_version_ = 0;             // of the map under which all were looked at
  std::map<std::string, Seen> seen_replicas_;
  std::set<Hash128> adopting_;
  Signal adopted_;        // one of them has ended
  bool crowded_ = false;  // others could not begin
  SteadyTime looked_{};
};

}  // namespace shoal
