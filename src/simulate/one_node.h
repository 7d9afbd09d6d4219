// One node under swarm faults: a whole life of mounts, crashes and restarts, in virtual time, from
// one seed. The node, the store and the origin's client are the production code.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "observe/log.h"

namespace shoal::simulate {

struct Report {
  uint64_t seed = 0;
  std::vector<std::string> failures;  // empty: all promises were kept
  std::string plan;                   // what the seed chose
  uint64_t trace_hash = 0;            // equal for equal seeds
  uint64_t steps = 0;
  double virtual_seconds = 0;
  std::map<std::string, uint64_t> counters;
  std::vector<std::string> last_log_lines;

  bool ok() const { return failures.empty(); }
};

struct OneNodeOptions {
  LogLevel log_level = LogLevel::kInfo;
  Log::Sink log_sink;  // hears log lines with the virtual time; may be empty
};

// Runs in the calling thread. Objects of crashed incarnations stay in memory; see run_seeds.h for
// many seeds. A failed assertion of the node aborts the process.
Report run_one_node(uint64_t seed, const OneNodeOptions& options);

}  // namespace shoal::simulate
