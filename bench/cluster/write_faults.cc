// Saves that go on while the origin is busy and away and nodes are killed: part of
// `shoal bench fan-out-write`.
#include "cluster/write_faults.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "cluster/steady_writer.h"
#include "cluster/write_rounds.h"
#include "one_node/load.h"

namespace shoal::bench {

namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr uint64_t kSeed = 91;
constexpr double kBusy = 0.2;
constexpr double kOutageSeconds = 60;
constexpr double kDrainSeconds = 180;
// --ack-timeout, in seconds: within it a save is acknowledged or fails.
constexpr double kDeadline = 30;

struct Suffering {
  ClusterBench& bench;
  ClusterNodes& nodes;
  std::vector<std::string> directories;  // below the mountpoints, one for each writer
  SteadyWrites writes;
};

double quick_or(const ClusterBench& bench, double seconds) {
  return bench.settings.quick ? std::min(seconds, 3.0) : seconds;
}

Status wait_seconds(double seconds) {
  double until = seconds_now() + seconds;
  while (seconds_now() < until) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    std::this_thread::sleep_for(milliseconds(20));
  }
  return {};
}

// The rows of a run: PREFIX.lost_files and so on.
Status check_saved(Suffering& s, const std::string& prefix,
                   const std::vector<SteadyWritten>& written) {
  double lost = 0;
  double saved = 0;
  double longest = 0;
  for (size_t thread = 0; thread < written.size(); ++thread) {
    longest = std::max(longest, written[thread].longest_seconds);
    if (written[thread].errors > 0) {
      s.bench.progress(fmt::format("{}: {} saves failed, the first: {}", prefix,
                                   written[thread].errors, written[thread].first_error));
    }
    for (uint64_t file : written[thread].acknowledged) {
      ++saved;
      auto object = fmt::format("{}/{}", s.directories[thread], steady_name(file));
      Status status = verify_in_origin(s.bench, object, s.writes.size,
                                       steady_seed(s.writes.seed, thread, file));
      if (status) continue;
      if (++lost <= 3) s.bench.progress(status.error().to_string());
    }
  }
  if (saved == 0) return fail(Code::kInternal, "nothing was saved meanwhile");
  s.bench.add_value(prefix + ".saved_files", "files", saved);
  s.bench.add_value(prefix + ".lost_files", "files", lost, Goal::kValueAtMost, 0);
  s.bench.add_value(prefix + ".longest_save", "s", longest, Goal::kValueAtMost, kDeadline);
  return {};
}

Result<double> repeated_blocks(ClusterBench& bench) {
  SHOAL_ASSIGN_OR_RETURN(nlohmann::json stats, bench.stub.stats());
  return stats.value("blocks_repeated", 0.0);
}

Result<std::unique_ptr<SteadyWriter>> begin_saves(Suffering& s) {
  s.writes.seed = kSeed;
  s.writes.directories.clear();
  for (size_t i = 0; i < s.directories.size(); ++i) {
    std::string path = s.nodes[static_cast<unsigned>(i)] / s.directories[i];
    std::error_code error;
    fs::create_directories(path, error);
    if (error) return fail(Code::kUnavailable, path + ": " + error.message());
    s.writes.directories.push_back(path);
  }
  return SteadyWriter::start(s.bench.work, s.writes);
}

Result<std::unique_ptr<Lab>> make_lab(const ClusterBench& bench) {
  return Lab::make({.places = std::max(bench.settings.nodes, 5u),
                    .bytes_per_second = bench.settings.bytes_per_second(),
                    .loopback = false});
}

NodeChoice patient() {
  NodeChoice choice = replicated();
  choice.flags.insert(choice.flags.end(),
                      {"--ack-timeout", fmt::format("{}s", kDeadline), "--create-during-outage"});
  return choice;
}

}  // namespace

Status run_origin_faults(ClusterBench& bench) {
  bench.progress("saves while the origin is busy, and then away for a minute");
  SHOAL_ASSIGN_OR_RETURN(auto lab, make_lab(bench));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, lab->places(), patient()));
  Suffering s{bench, *nodes, {"outage-a", "outage-b"}, {}};
  SHOAL_ASSIGN_OR_RETURN(auto writer, begin_saves(s));
  SHOAL_RETURN_IF_ERROR(bench.stub.reset_stats());
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({.busy = kBusy}));
  SHOAL_RETURN_IF_ERROR(wait_seconds(quick_or(bench, 10)));
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({.busy = kBusy, .outage = true}));
  SHOAL_RETURN_IF_ERROR(wait_seconds(quick_or(bench, kOutageSeconds)));
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({.busy = kBusy}));
  SHOAL_RETURN_IF_ERROR(wait_seconds(quick_or(bench, 5)));
  SHOAL_ASSIGN_OR_RETURN(auto written, writer->stop());
  SHOAL_RETURN_IF_ERROR(wait_drained(s.nodes, kDrainSeconds));
  SHOAL_ASSIGN_OR_RETURN(double repeated, repeated_blocks(bench));
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
  SHOAL_RETURN_IF_ERROR(check_saved(s, "outage", written));
  double errors = 0;
  for (const SteadyWritten& one : written) errors += static_cast<double>(one.errors);
  bench.add_value("outage.failed_saves", "files", errors, Goal::kValueAtMost, 0);
  bench.add_value("outage.blocks_repeated", "blocks", repeated, Goal::kValueAtMost, 0);
  return {};
}

Status run_node_faults(ClusterBench& bench) {
  bench.progress("saves while the origin is busy and nodes are killed");
  SHOAL_ASSIGN_OR_RETURN(auto lab, make_lab(bench));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, lab->places(), patient()));
  Suffering s{bench, *nodes, {"kills-a", "kills-b"}, {}};
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({.busy = kBusy}));
  SHOAL_ASSIGN_OR_RETURN(auto writer, begin_saves(s));
  // One after the other, each down long enough to be noticed, back with its cache. Every node that
  // is no writer holds chunks and owns records; who dies in the middle of what is chance.
  uint64_t state = 88172645463325252ull;
  for (unsigned kill = 0; kill < (bench.settings.quick ? 1u : 4u); ++kill) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    SHOAL_RETURN_IF_ERROR(wait_seconds(1 + static_cast<double>(state % 2000) / 1000));
    unsigned place = 2 + static_cast<unsigned>(state / 4096 % (lab->places() - 2));
    bench.progress(fmt::format("kill -9 of node {}", place));
    SHOAL_RETURN_IF_ERROR((*nodes)[place].kill9());
    SHOAL_RETURN_IF_ERROR(wait_seconds(quick_or(bench, 6)));
    SHOAL_RETURN_IF_ERROR((*nodes)[place].begin_again());
    SHOAL_RETURN_IF_ERROR((*nodes)[place].wait_until_ready(milliseconds(60'000)));
    SHOAL_RETURN_IF_ERROR(wait_seconds(quick_or(bench, 4)));
  }
  bench.progress("kill -9 of a writer, whose disk is lost");
  SHOAL_RETURN_IF_ERROR((*nodes)[1].kill9());
  std::error_code error;
  fs::remove_all((*nodes)[1].cache_directory(), error);
  SHOAL_ASSIGN_OR_RETURN(auto written, writer->stop());
  SHOAL_RETURN_IF_ERROR(wait_drained(s.nodes, kDrainSeconds));
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
  return check_saved(s, "kills", written);
}

}  // namespace shoal::bench
