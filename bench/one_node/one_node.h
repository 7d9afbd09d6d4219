// `shoal bench one-node`: the real daemon from outside, as a user runs it, against what the
// plumbing below it can do, both measured in turn in the same run. docs/benchmarks.md explains
// every row.
//
// Single-threaded but for the loads; everything lives in run_one_node().
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "one_node/load.h"
#include "one_node/report.h"
#include "one_node/stage.h"

namespace shoal::bench {

struct Settings {
  unsigned rounds = 5;
  double seconds = 1;    // of each measure of a rate
  uint64_t size = kGiB;  // of the files that are read and written
  uint64_t stream_size = 10 * kGiB;
  uint64_t small_files = 10'000;
  uint64_t list_objects = 100'000;
  uint64_t latency_reads = 100;   // cold reads of 4 KiB
  unsigned connections = 16;      // of the plain download
  std::string memory = "256MiB";  // of the daemon in memory.busy
  double idle_seconds = 3;        // before memory.idle
  std::string directory = "/var/tmp";
  std::string only = "*";  // glob over names of rows and groups
  std::string shoal = "/proc/self/exe";
  bool quick = false;
  bool keep = false;    // leave the work directory behind
  bool strict = false;  // a missed target fails the run
  bool json = false;
};

using NameValues = std::vector<std::pair<std::string, std::string>>;
// Understands rounds=5, seconds=1, size=1GiB, stream-size=10GiB, files=10000, objects=100000,
// connections=16, memory=256MiB, dir=PATH, only=GLOB, shoal=PATH, quick=yes, keep=yes, strict=yes.
Result<Settings> parse_settings(const NameValues& pairs);

// What the groups of rows share.
class Bench {
 public:
  Bench(const Settings& settings, WorkDirectory& work, Stub& stub, Report& report)
      : settings(settings), work(work), stub(stub), report(report) {}

  const Settings& settings;
  WorkDirectory& work;
  Stub& stub;
  Report& report;

  bool wants(const std::string& row) const;
  void add(Row row);
  void fact(std::string name, std::string value);
  // One line on stderr, so that the wait has a face.
  void progress(const std::string& text) const;
  Result<std::unique_ptr<Mount>> mount(const MountChoice& choice) const;
};

// A measure in one round.
using Measure = std::function<Result<double>()>;
// Runs both in turn for every round, first one, then the other way round.
Result<Pairs> alternate(const Bench& bench, const Measure& ours, const Measure& ceiling);

struct Group {
  std::string name;
  std::vector<std::string> rows;
  Status (*run)(Bench&);
};
const std::vector<Group>& groups();

// The groups, each in its file.
Status run_warm(Bench& bench);
Status run_direct(Bench& bench);
Status run_cold(Bench& bench);
Status run_cold_random(Bench& bench);
Status run_write(Bench& bench);
Status run_small(Bench& bench);
Status run_list(Bench& bench);
Status run_memory(Bench& bench);
Status run_reread(Bench& bench);

// The whole scenario. Exit status: 0 all rows measured (strict: and every target met), 1 not, 2
// usage.
int run_one_node(const NameValues& pairs, bool json);

}  // namespace shoal::bench
