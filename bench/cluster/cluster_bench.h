// What the scenarios of many nodes share: settings, the stage (namespaces, work directory, stub),
// the loop over groups of rows. One file per scenario: fan_out.cc, fan_in.cc, metadata.cc,
// elastic.cc, many_nodes.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "cluster/lab.h"
#include "cluster/node.h"
#include "cluster/raw_tcp.h"
#include "one_node/report.h"
#include "one_node/stage.h"

namespace shoal::bench {

using NameValues = std::vector<std::pair<std::string, std::string>>;

struct ClusterSettings {
  unsigned nodes = 8;
  unsigned rounds = 3;
  uint64_t size = kGiB;     // of the object that is read
  double mbit = 500;        // limit of each node's link in each direction
  uint64_t files = 10'000;  // metadata
  double seconds = 2;       // of each measure of a rate
  std::string directory = "/var/tmp";
  std::string only = "*";               // glob over names of rows and groups
  std::string baseline = "async-copy";  // of writes; none: left out
  std::string shoal = "/proc/self/exe";
  bool keep = false;
  bool strict = false;
  bool quick = false;

  double bytes_per_second() const { return mbit * 1e6 / 8; }
};
// Over the defaults that the scenario gives. Understands nodes, rounds, size, mbit, files, seconds,
// dir, only, baseline, shoal, keep, strict, quick.
Result<ClusterSettings> parse_cluster_settings(const NameValues& pairs, ClusterSettings defaults);

class ClusterBench {
 public:
  ClusterBench(const ClusterSettings& settings, WorkDirectory& work, Stub& stub, Report& report)
      : settings(settings), work(work), stub(stub), report(report) {}

  const ClusterSettings& settings;
  WorkDirectory& work;
  Stub& stub;
  Report& report;

  bool wants(const std::string& row) const;
  void add(Row row);
  // A row without a ceiling.
  void add_value(std::string name, std::string unit, double value, Goal goal = Goal::kNone,
                 double target = 0);
  void fact(std::string name, std::string value);
  // One line on stderr, so that the wait has a face.
  void progress(const std::string& text) const;

  // A file of `bytes` that raw TCP sends.
  Result<std::string> payload();
  // Goodput in bytes per second into a place through its limit, from the hub, by plain TCP.
  Result<double> link_rate(const Lab& lab, unsigned place);
  // Nodes in the first `count` places of the lab, all members of one cluster (or each by itself),
  // each with an empty cache. Earlier ones must be gone.
  Result<std::unique_ptr<ClusterNodes>> start_nodes(const Lab& lab, unsigned count,
                                                    const NodeChoice& choice);
  // A synthetic object that no node has seen; its name.
  Result<std::string> new_object(uint64_t size, uint64_t seed);

 private:
  unsigned objects_ = 0;
  unsigned clusters_ = 0;
};

struct ClusterGroup {
  std::string name;
  std::vector<std::string> rows;
  Status (*run)(ClusterBench&);
};

struct ClusterScenario {
  std::string name;
  ClusterSettings defaults;
  std::vector<ClusterGroup> groups;
};
ClusterScenario fan_out_scenario();
ClusterScenario elastic_scenario();
ClusterScenario fan_in_scenario();
ClusterScenario metadata_scenario();
ClusterScenario many_nodes_scenario();
ClusterScenario fan_out_write_scenario();
std::vector<ClusterScenario> cluster_scenarios();  // all

// Exit status: 0 all rows measured (strict: and every target met), 1 not, 2 usage.
int run_cluster_scenario(const ClusterScenario& scenario, const NameValues& pairs, bool json);

// What the origin gave since its counters were reset, over `size`; by the origin's own count.
Result<double> origin_share(const Stub& stub, uint64_t size);
// Cores that all nodes together take while nobody asks anything of them for so long: each watches
// the others, whatever is read or written.
Result<double> idle_cores(ClusterNodes& nodes, double seconds);
// How often it was asked for bytes of the object.
Result<double> origin_gets(const Stub& stub, const std::string& object);

// --- what readers do ---

struct ReaderOutcome {
  double seconds = 0;  // from the common start to its last byte
  Status status;       // kCorrupt: wrong bytes
};
// Reads whole files through mounts, one thread each, all at the same moment, and compares every
// byte with the synthetic ones of `seed`.
std::vector<ReaderOutcome> read_together(const std::vector<std::string>& paths, uint64_t size,
                                         uint64_t seed);
// The first failure.
Status check_readers(const std::vector<ReaderOutcome>& readers);
double slowest(const std::vector<ReaderOutcome>& readers);
double fastest(const std::vector<ReaderOutcome>& readers);

}  // namespace shoal::bench
