// `shoal bench cluster`: as many nodes as one machine can hold; what they cost when nothing
// happens, and that a fan-out read still goes right.
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "cluster/cluster_bench.h"
#include "one_node/load.h"

namespace shoal::bench {

namespace {

using std::chrono::milliseconds;

constexpr uint64_t kSeed = 79;
constexpr milliseconds kJoinPatience{120'000};
constexpr double kMiBytes = static_cast<double>(kMiB);

Status measure_idle(ClusterBench& bench, ClusterNodes& nodes) {
  double seconds = bench.settings.quick ? 2 : 20;
  bench.progress(fmt::format("{} idle nodes for {} s", bench.settings.nodes, seconds));
  SHOAL_ASSIGN_OR_RETURN(double cores, idle_cores(nodes, seconds));
  bench.add_value("idle.cpu", "cores", cores, Goal::kValueAtMost, 0.5);
  std::vector<double> memory;
  for (ClusterNode* node : nodes.running()) {
    SHOAL_ASSIGN_OR_RETURN(uint64_t rss, node->process().memory_field("VmRSS"));
    memory.push_back(static_cast<double>(rss) / kMiBytes);
  }
  bench.add({"idle.memory", "MiB", *std::max_element(memory.begin(), memory.end()), std::nullopt,
             std::nullopt, Goal::kValueAtMost, 25});
  return {};
}

Status measure_fan_out(ClusterBench& bench, const Lab& lab, ClusterNodes& nodes) {
  uint64_t size = bench.settings.size;
  bench.progress(fmt::format("{} nodes read {}", bench.settings.nodes, format_size(size)));
  SHOAL_ASSIGN_OR_RETURN(double rate, bench.link_rate(lab, 0));
  SHOAL_ASSIGN_OR_RETURN(std::string object, bench.new_object(size, kSeed));
  std::vector<std::string> paths;
  for (ClusterNode* node : nodes.running()) paths.push_back(*node / object);
  SHOAL_RETURN_IF_ERROR(bench.stub.reset_stats());
  auto readers = read_together(paths, size, kSeed);
  SHOAL_RETURN_IF_ERROR(check_readers(readers));
  SHOAL_ASSIGN_OR_RETURN(double share, origin_share(bench.stub, size));
  bench.add({"fan_out.origin_share", "x size", share, std::nullopt, std::nullopt,
             Goal::kValueAtMost, 1.02});
  Pairs time;
  time.add(slowest(readers), static_cast<double>(size) / rate);
  bench.add(time.row("fan_out.time", "s", Goal::kNone, 0));
  return {};
}

Status run_many(ClusterBench& bench) {
  unsigned count = bench.settings.nodes;
  double begun = seconds_now();
  SHOAL_ASSIGN_OR_RETURN(auto lab, Lab::make({.places = count,
                                              .bytes_per_second = bench.settings.bytes_per_second(),
                                              .loopback = false}));
  bench.add(
      {"start.namespaces", "s", seconds_now() - begun, std::nullopt, std::nullopt, Goal::kNone, 0});
  bench.progress(fmt::format("{} nodes start and join", count));
  begun = seconds_now();
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, count, {.cache_size = "256MiB"}));
  SHOAL_RETURN_IF_ERROR(nodes->wait_for_members(count, kJoinPatience));
  bench.add({"start.joined", "s", seconds_now() - begun, std::nullopt, std::nullopt,
             Goal::kValueAtMost, 60});
  SHOAL_RETURN_IF_ERROR(measure_idle(bench, *nodes));
  return measure_fan_out(bench, *lab, *nodes);
}

}  // namespace

ClusterScenario many_nodes_scenario() {
  ClusterScenario scenario{"cluster", {}, {}};
  scenario.defaults.nodes = 100;
  scenario.defaults.mbit = 40;
  scenario.defaults.size = 64 * kMiB;
  scenario.groups = {{"many",
                      {"start.namespaces", "start.joined", "idle.cpu", "idle.memory",
                       "fan_out.origin_share", "fan_out.time"},
                      run_many}};
  return scenario;
}

}  // namespace shoal::bench
