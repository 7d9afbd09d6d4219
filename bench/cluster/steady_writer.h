// Checkpoints that are saved one after the other while the cluster and the origin suffer: which of
// them were acknowledged, what failed, and how long the longest save blocked its writer. In a
// process of its own, because the benchmark forks children meanwhile.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "cluster/reporting_child.h"

namespace shoal::bench {

struct SteadyWrites {
  std::vector<std::string> directories;  // a thread for each
  uint64_t size = 12 * kMiB + 4321;      // of each file
  uint64_t seed = 0;                     // file i of thread t has bytes of steady_seed(seed, t, i)
  double pause_seconds = 0.5;            // between two saves, as a training has
};

uint64_t steady_seed(uint64_t seed, size_t thread, uint64_t file);
std::string steady_name(uint64_t file);  // below its directory

struct SteadyWritten {
  std::vector<uint64_t> acknowledged;  // files whose close succeeded
  uint64_t errors = 0;                 // saves that failed
  double longest_seconds = 0;          // of one save, failed ones included
  std::string first_error;
};

class SteadyWriter {
 public:
  static Result<std::unique_ptr<SteadyWriter>> start(const WorkDirectory& work,
                                                     const SteadyWrites& writes);
  // By directory. A save that hangs is waited for, a minute at most, and is an error here.
  Result<std::vector<SteadyWritten>> stop();

 private:
  explicit SteadyWriter(ReportingChild child) : child_(std::move(child)) {}
  ReportingChild child_;
};

}  // namespace shoal::bench
