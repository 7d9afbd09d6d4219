// Saves that go on while the origin is busy and away, and while nodes are killed: groups of
// `shoal bench fan-out-write`.
#pragma once

#include "cluster/cluster_bench.h"

namespace shoal::bench {

// 20% of requests are answered 503, then the origin is away for a minute. Rows outage.*
Status run_origin_faults(ClusterBench& bench);
// 20% of requests are answered 503; nodes that hold replicas and records are killed one after the
// other, at last a writer with its disk. Rows kills.*
Status run_node_faults(ClusterBench& bench);

}  // namespace shoal::bench
