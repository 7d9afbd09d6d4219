// One checkpoint file: written on a node, acknowledged, durable; by Shoal, or by a local disk and
// an upload beside it. What the rows of fan_out_write.cc are made of.
#pragma once

#include <string>
#include <vector>

#include "cluster/async_copy.h"
#include "cluster/cluster_bench.h"

namespace shoal::bench {

NodeChoice replicated();  // --ack replicated --replicas 2

struct Saved {
  double stall = 0;    // seconds from open to the return of the last close
  double durable = 0;  // seconds from open until the origin has committed it
};

// Writes file `name` of `size` bytes on node `place` and waits until it is durable, while the
// origin is as `origin` says. Its bytes are then compared, by a client without a limit. The name in
// the origin is NAME.0.
Result<Saved> save_and_wait(ClusterBench& bench, ClusterNodes& nodes, unsigned place,
                            const std::string& name, uint64_t size, uint64_t seed,
                            OriginShape origin = {});
// `shoal sync --level durable` there, for a file that is closed.
Status wait_durable(ClusterNodes& nodes, unsigned place, const std::string& name);
// Until nothing waits for the origin on any node. kDeadlineExceeded says what still does.
Status wait_drained(ClusterNodes& nodes, double seconds);
// One writer on each node in `places`, all at the same moment. Seconds until the last close.
Result<double> save_together(ClusterNodes& nodes, const std::vector<unsigned>& places,
                             const std::string& name, uint64_t size, uint64_t seed);

// The same by the baseline: a directory on the same disk, fsync, then AsyncCopier in the node's
// network.
struct BaselineSaved {
  Saved saved;
  double upload_cpu = 0;  // seconds
};
Result<BaselineSaved> baseline_save(ClusterBench& bench, const Lab& lab, unsigned place,
                                    const std::string& name, uint64_t size, uint64_t seed,
                                    OriginShape origin = {});

// Every byte of the object in the origin.
Status verify_in_origin(ClusterBench& bench, const std::string& object, uint64_t size,
                        uint64_t seed);
// Removes the object from the origin, so that its memory is free again.
Status forget_in_origin(ClusterBench& bench, const std::string& object);

}  // namespace shoal::bench
