// The data path's memory of who did not answer lately, so that a dead node costs one time-out now
// and then instead of one per request. Shard's thread.
#pragma once

#include <map>

#include "placement/slot_map.h"
#include "world/executor.h"

namespace shoal {

class PeerHealth {
 public:
  explicit PeerHealth(const Executor& executor) : executor_(executor) {}

  // False for a while after two failures within a second; 1 s first, doubling up to 10 s as long as
  // it fails when it is tried again. A success makes it good at once.
  bool usable(const NodeId& member) const;
  void report(const NodeId& member, bool reached);
  // Forgets who is not in the map any more.
  void keep_members_of(const SlotMap& map);

 private:
  struct Entry {
    SteadyTime failed_at{};
    SteadyTime unusable_until{};
    Duration pause{0};  // of the last time it was put aside; 0: not yet
  };
  const Executor& executor_;
  std::map<NodeId, Entry> entries_;  // only of members that failed since they last answered
};

}  // namespace shoal
