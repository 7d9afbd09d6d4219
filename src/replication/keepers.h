// Keepers: which nodes have records of names in which directories, for listings. Who owns a
// directory's slot is told of them; it asks them, page by page, what they have there. So a
// directory costs the same memory whether one file in it waits for the origin or a million do.
//
// In memory only: who keeps records repeats it (Takeover), and what is not repeated is forgotten.
// Shard's thread.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "replication/ledger.h"

namespace shoal {

class Replication;

class Keepers {
 public:
  explicit Keepers(Replication& replication) : replication_(replication) {}

  // Tells the owners of these directories ("" is the root) that the nodes have records of names in
  // them, if they were not told so lately. Best effort: the next time makes up for it.
  Task<void> tell(std::vector<std::string> directories, std::vector<NodeId> nodes, Context context);
  // This node has a record of the object now. All such directories are told of again and again, as
  // long as there are records of names in them.
  void keep(const std::string& object);
  Task<void> tell_kept(Context context);
  // What another node, or this one, tells this node as the owner.
  Status take(const wire::LedgerKeepersRequest& request);

  // Un-uploaded versions of names with the prefix, which ends a directory's name: as much as is
  // known here and at who keeps records of that directory.
  Task<Result<LedgerPage>> list(LedgerRange range, Context context);
  // This node's part of it.
  Result<std::string> answer_below(const std::string& body) const;

  size_t size() const { return keepers_.size(); }

 private:
  struct Told {
    NodeId owner;
    SteadyTime when{};
  };
  using Key = std::pair<std::string, NodeId>;  // directory, keeper
  bool any_in(const std::string& directory) const;
  Task<Status> ask_below(NodeId node, std::string body, LedgerPage* into, Context context);

  Replication& replication_;
  std::map<Key, SteadyTime> keepers_;  // until when; as owner
  std::map<Key, Told> told_;
  std::set<std::string> kept_;  // directories
};

// Who answers for listings of the directory; nothing if no member can be reached.
std::optional<NodeId> owner_of_directory(const Replication& replication,
                                         const std::string& directory);

}  // namespace shoal
