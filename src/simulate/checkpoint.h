// Checkpoints under faults: files written with replication on many nodes, whose nodes die, lose
// their disks, lose each other and the origin, in virtual time, from one seed. All but the world is
// the production code.
#pragma once

#include "simulate/report.h"

namespace shoal::simulate {

inline constexpr uint32_t kCheckpointNodes = 5;

// `nodes`: 3 to 32. Runs in the calling thread; see run_seeds.h for many seeds.
Report run_checkpoint(uint64_t seed, uint32_t nodes, const SeedOptions& options);

SeedScenario checkpoint_scenario(uint32_t nodes);

}  // namespace shoal::simulate
