// A cluster under swarm faults: nodes that start, read, write, die, come back and leave, in virtual
// time, from one seed. Nodes, membership, rpc, store and the origin's client are the production
// code.
#pragma once

#include "simulate/report.h"

namespace shoal::simulate {

// `nodes`: 0 lets the seed choose. Runs in the calling thread; see run_seeds.h for many seeds.
Report run_cluster(uint64_t seed, uint32_t nodes, const SeedOptions& options);

SeedScenario cluster_scenario(uint32_t nodes);

}  // namespace shoal::simulate
