// Look-ups of attributes at a peer through the project's own RPC, as a client that is no member.
#pragma once

#include <string>
#include <vector>

#include "cluster/lookups.h"
#include "one_node/child.h"

namespace shoal::bench {

struct PeerTarget {
  std::string address;  // HOST:PORT
  std::string cluster;  // its name
  std::string origin;   // identity of its origin
  std::string key;      // of the cluster; empty: none
};

// `objects`: looked up in turn. All are asked for once before the measure, so that the peer knows
// them. `server`: the peer's process.
Result<LookupOutcome> peer_lookups(const PeerTarget& target, const Child& server,
                                   const std::vector<std::string>& objects, const LookupLoad& load);

// The same at a server that does nothing but answer: what framing alone costs.
Result<LookupOutcome> framing_lookups(const WorkDirectory& work, const LookupLoad& load);

}  // namespace shoal::bench
