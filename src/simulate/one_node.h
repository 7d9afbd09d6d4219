// One node under swarm faults: a whole life of mounts, crashes and restarts, in virtual time, from
// one seed. The node, the store and the origin's client are the production code.
#pragma once

#include "simulate/report.h"

namespace shoal::simulate {

// Runs in the calling thread. Objects of crashed incarnations stay in memory; see run_seeds.h for
// many seeds. A failed assertion of the node aborts the process.
Report run_one_node(uint64_t seed, const SeedOptions& options);

SeedScenario one_node_scenario();

}  // namespace shoal::simulate
