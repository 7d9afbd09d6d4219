// Small look-ups by key, many in flight on one connection: what attribute look-ups at a peer are
// compared with. Real Redis and real etcd, each driven by a plain client of the kind that loads it
// best: GETs of RESP pipelined; etcd's own gRPC (HTTP/2, one stream per look-up), not its JSON
// gateway. Both hold the same keys with values as large as an object's attributes.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "one_node/stage.h"

namespace shoal::bench {

struct LookupLoad {
  double seconds = 2;
  unsigned in_flight = 64;
  unsigned keys = 10'000;
};

struct LookupOutcome {
  double lookups = 0;
  double seconds = 0;
  double server_cpu = 0;  // seconds
  double client_cpu = 0;
  double rate() const { return lookups / seconds; }
  // Per second of one core, both ends counted.
  double per_core() const { return lookups / (server_cpu + client_cpu); }
};

// Each starts its server in the caller's network namespace, fills it, measures, stops it.
// kNotFound: the server is not installed.
Result<LookupOutcome> redis_lookups(const WorkDirectory& work, const LookupLoad& load);
// `linearizable`: etcd asks its quorum before it answers, its default; else any member's state will
// do.
Result<LookupOutcome> etcd_lookups(const WorkDirectory& work, const LookupLoad& load,
                                   bool linearizable);

}  // namespace shoal::bench
