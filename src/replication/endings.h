// Endings: how a version ends on all nodes that may have a record of it. Who can be reached is told
// at once. For others the end is noted durably on as many nodes as a record is, and these tell them
// as soon as they can be reached; until then whoever would act on such a record asks first. So what
// was removed, renamed or replaced does not come back with a node that was away.
//
// Shard's thread; runs in the replication's gate. Bounded by the store's budget.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "async/context.h"
#include "async/sync.h"
#include "async/task.h"
#include "replication/ledger_record.h"
#include "store/store.h"

namespace shoal {

class Replication;

// The write has ended under this name: its generations before, and of this one the records up to
// `sequence`.
struct Ending {
  std::string object;
  WriteName write;
  uint64_t sequence = kAllSequences;
  EndReason reason = EndReason::kReplaced;
  std::vector<NodeId> untold;  // may have a record of it
  WallTime since{};
  Commits commits;
};

class Endings {
 public:
  explicit Endings(Replication& replication);

  // Of what the store recovered: notes which are its own. load() then reads them.
  void note_recovered(const Store::Staged& staged);
  Task<Status> load();
  // Durable on return: no node has the record, or enough nodes have a note of its end. `record`
  // says where it may be (placed). What is gone is gone from the origin too, should somebody have
  // uploaded it in its writer's place; so is what somebody put there after the writer had, and what
  // was replaced, unless what replaced it is still to come and then replaces it there.
  // kUnavailable: too few nodes could take a note.
  Task<Status> end(LedgerRecord record, EndReason reason, Commits commits, Context context);
  // The method kLedgerRemove.
  Task<Result<std::string>> handle(wire::LedgerRemoveRequest request);
  // Tells those that can be reached by now.
  Task<void> tell_untold();

  // How the version is known here to have ended, up to this record of it.
  struct Known {
    EndReason reason;
    Commits commits;
  };
  std::optional<Known> find(const std::string& object, const WriteName& write,
                            uint64_t sequence) const;
  size_t size() const { return endings_.size(); }

 private:
  struct Told {
    std::vector<NodeId> placed;
    bool committed = false;  // one of them knows that the origin had it
    Commits commits;
  };
  Task<Status> tell(NodeId node, const Ending& ending, Told* told, Context context);
  Task<Status> keep(Ending ending);
  Task<Status> store(const Ending& ending, Hash128 key);
  Task<Status> note(const Ending& ending, uint32_t replicas, Context context);
  Task<Status> take_back(const Ending& ending, const Told& told, Context context);
  Task<Status> take_back_replaced(const Ending& ending, std::string etag, Context context);
  Task<void> tell_again(Hash128 key);

  Replication& replication_;
  std::vector<StagedRecord> recovered_;  // until load()
  std::unordered_map<Hash128, Ending> endings_;
  Semaphore writing_;  // one change of what is kept at a time
};

}  // namespace shoal
