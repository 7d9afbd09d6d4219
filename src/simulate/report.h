// What one seed of a scenario came to, and how a scenario is asked for it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "observe/log.h"
#include "world_sim/sim_world.h"

namespace shoal::simulate {

// Counters of a run, by name, and what went wrong.
struct Findings {
  std::vector<std::string> failures;
  std::map<std::string, uint64_t> counters;
  void failed(std::string what) {
    if (failures.size() < 20) failures.push_back(std::move(what));
  }
  void count(const std::string& name, uint64_t amount = 1) { counters[name] += amount; }
};

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

// What a simulated world and its findings say at the end.
Report make_report(uint64_t seed, const Findings& findings, std::string plan, Simulation& sim,
                   const std::deque<std::string>& log_lines);

struct SeedOptions {
  LogLevel log_level = LogLevel::kInfo;
  Log::Sink log_sink;  // hears log lines with the virtual time; may be empty
};

// Runs one seed in the calling thread.
struct SeedScenario {
  std::string name;     // "one-node"
  std::string command;  // that runs it, without the seed: "shoal simulate one-node"
  std::function<Report(uint64_t seed, const SeedOptions& options)> run;
};

}  // namespace shoal::simulate
