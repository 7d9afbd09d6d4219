// Many seeds, each in a child process of its own: an assertion of the node becomes a failure of
// that seed, memory of crashed incarnations goes with the child, and a seed that hangs is ended.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "simulate/report.h"

namespace shoal::simulate {

struct SeedsOptions {
  uint64_t first = 1;
  uint64_t count = 1;
  uint64_t twice_every = 8;    // every so manyth seed runs twice: equal traces? 0: none
  uint32_t jobs = 1;           // children at the same time
  uint32_t seconds_max = 120;  // of real time for one seed
  bool stop_at_failure = false;
  bool log = false;  // log lines go to stderr
};

struct SeedsResult {
  uint64_t run = 0;
  std::vector<Report> failed;
  std::map<std::string, uint64_t> counters;  // summed
  double virtual_seconds = 0;
  uint64_t steps = 0;
};

SeedsResult run_seeds(const SeedScenario& scenario, const SeedsOptions& options);

// `shoal simulate one-node` and the like: prints what happened; answers the exit status.
struct SeedsCommand {
  SeedScenario scenario;
  SeedsOptions seeds;
  bool json = false;
  bool expect_failure = false;  // the canary: answers 0 only if some seed fails
};
int run_seeds_command(const SeedsCommand& command);

// The same from arguments: [--seed N] [--seeds COUNT] [--jobs N] [--json] [--log]
// [--expect-failure].
int simulate_main(SeedScenario scenario, int argc, char** argv);

}  // namespace shoal::simulate
