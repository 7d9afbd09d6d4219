// Reads that go on while the cluster changes: small, random, each compared with what it must be;
// what failed and how long the longest took. In a process of its own, because the benchmark forks
// children meanwhile.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "cluster/reporting_child.h"

namespace shoal::bench {

struct SteadyReads {
  std::vector<std::string> paths;  // a thread for each
  uint64_t size = 0;               // of each file
  uint64_t seed = 0;
  uint64_t block = 64 * kKiB;
  // Between two reads of a thread: so that the machine has time for what is to be observed.
  double pause_seconds = 0.002;
};

struct SteadyOutcome {
  uint64_t reads = 0;
  uint64_t errors = 0;  // wrong bytes are among them
  double longest_seconds = 0;
  std::string first_error;
};

class SteadyReader {
 public:
  static Result<std::unique_ptr<SteadyReader>> start(const WorkDirectory& work,
                                                     const SteadyReads& reads);
  // A read that hangs is waited for, half a minute at most, and then counted as an error.
  Result<SteadyOutcome> stop();

 private:
  explicit SteadyReader(ReportingChild child) : child_(std::move(child)) {}
  ReportingChild child_;
};

}  // namespace shoal::bench
