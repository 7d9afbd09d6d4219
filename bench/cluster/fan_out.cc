// `shoal bench fan-out-read`: many nodes read the same object at the same moment.
#include <fmt/format.h>

#include <algorithm>

#include "base/assert.h"
#include "cluster/cluster_bench.h"

namespace shoal::bench {

namespace {

constexpr uint64_t kSeed = 77;
constexpr uint64_t kChunk = 8 * kMiB;
constexpr unsigned kHotCounts[] = {2, 4, 8, 16, 32};
// 32 links of so much are 800 MB/s together, which two cores can still move.
constexpr double kHotMbit = 200;
constexpr unsigned kChunkReaders = 3;

std::vector<std::string> paths_of(ClusterNodes& nodes, const std::string& object) {
  std::vector<std::string> paths;
  for (ClusterNode* node : nodes.running()) paths.push_back(*node / object);
  return paths;
}

struct FanOut {
  double origin_share = 0;
  double seconds = 0;
  double spread = 0;  // of the finishing times, in percent of the last
  double cpu_per_gib = 0;
};

Result<FanOut> fan_out(ClusterBench& bench, const Lab& lab, const NodeChoice& choice) {
  uint64_t size = bench.settings.size;
  SHOAL_ASSIGN_OR_RETURN(std::string object, bench.new_object(size, kSeed));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(lab, lab.places(), choice));
  SHOAL_RETURN_IF_ERROR(bench.stub.reset_stats());
  SHOAL_ASSIGN_OR_RETURN(double cpu_before, nodes->cpu_seconds());
  auto readers = read_together(paths_of(*nodes, object), size, kSeed);
  SHOAL_RETURN_IF_ERROR(check_readers(readers));
  SHOAL_ASSIGN_OR_RETURN(double cpu_after, nodes->cpu_seconds());
  FanOut out;
  SHOAL_ASSIGN_OR_RETURN(out.origin_share, origin_share(bench.stub, size));
  out.seconds = slowest(readers);
  out.spread = 100 * (slowest(readers) - fastest(readers)) / slowest(readers);
  double gib = static_cast<double>(size * lab.places()) / static_cast<double>(kGiB);
  out.cpu_per_gib = (cpu_after - cpu_before) / gib;
  return out;
}

void add_fan_out(ClusterBench& bench, const std::string& name, const std::vector<FanOut>& rounds,
                 const std::vector<double>& rates, bool cluster) {
  std::vector<double> share, spread, cpu;
  Pairs time;
  for (size_t i = 0; i < rounds.size(); ++i) {
    share.push_back(rounds[i].origin_share);
    spread.push_back(rounds[i].spread);
    cpu.push_back(rounds[i].cpu_per_gib);
    time.add(rounds[i].seconds, static_cast<double>(bench.settings.size) / rates[i]);
  }
  auto value = [&bench](std::string row, std::string unit, double amount, Goal goal,
                        double target) {
    bench.add({std::move(row), std::move(unit), amount, std::nullopt, std::nullopt, goal, target});
  };
  Goal most = cluster ? Goal::kValueAtMost : Goal::kNone;
  // The worst round: one that reads twice is one too many.
  value(name + ".origin_share", "x size", *std::max_element(share.begin(), share.end()), most,
        1.01);
  bench.add(time.row(name + ".time", "s", cluster ? Goal::kRatioAtMost : Goal::kNone, 1.25));
  value(name + ".spread", "%", median(spread), most, 10);
  value(name + ".cpu", "CPU s/GiB", median(cpu), Goal::kNone, 0);
}

Status run_fan_out(ClusterBench& bench, const std::string& name, const NodeChoice& choice,
                   unsigned rounds) {
  SHOAL_ASSIGN_OR_RETURN(auto lab, Lab::make({.places = bench.settings.nodes,
                                              .bytes_per_second = bench.settings.bytes_per_second(),
                                              .loopback = false}));
  std::vector<FanOut> done;
  std::vector<double> rates;
  for (unsigned round = 0; round < rounds; ++round) {
    bench.progress(fmt::format("{}: {} nodes read {}, round {}", name, bench.settings.nodes,
                               format_size(bench.settings.size), round + 1));
    SHOAL_ASSIGN_OR_RETURN(double rate, bench.link_rate(*lab, 0));
    rates.push_back(rate);
    SHOAL_ASSIGN_OR_RETURN(FanOut one, fan_out(bench, *lab, choice));
    done.push_back(one);
  }
  add_fan_out(bench, name, done, rates, !choice.cluster.empty());
  return {};
}

Status run_cluster(ClusterBench& bench) {
  return run_fan_out(bench, "fan_out", {}, bench.settings.rounds);
}

// The same without a cluster: what every node does by itself.
Status run_alone(ClusterBench& bench) { return run_fan_out(bench, "alone", {.cluster = ""}, 1); }

Status run_one_chunk(ClusterBench& bench) {
  SHOAL_ASSIGN_OR_RETURN(auto lab, Lab::make({.places = kChunkReaders,
                                              .bytes_per_second = bench.settings.bytes_per_second(),
                                              .loopback = false}));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, kChunkReaders, {}));
  double most = 0;
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    bench.progress(fmt::format("{} readers of one cold chunk, round {}", kChunkReaders, round + 1));
    SHOAL_ASSIGN_OR_RETURN(std::string object, bench.new_object(kChunk, kSeed + round));
    auto readers = read_together(paths_of(*nodes, object), kChunk, kSeed + round);
    SHOAL_RETURN_IF_ERROR(check_readers(readers));
    SHOAL_ASSIGN_OR_RETURN(double gets, origin_gets(bench.stub, object));
    most = std::max(most, gets);
  }
  bench.add(
      {"one_chunk.origin_gets", "GETs", most, std::nullopt, std::nullopt, Goal::kValueAtMost, 1});
  return {};
}

std::string hot_row(unsigned count) { return fmt::format("hot_chunk.{}", count); }

// Seconds until the last of `count` nodes has the chunk, and what one link needs for it.
Status run_hot(ClusterBench& bench) {
  constexpr unsigned kMost = kHotCounts[std::size(kHotCounts) - 1];
  double rate = kHotMbit * 1e6 / 8;
  SHOAL_ASSIGN_OR_RETURN(auto lab,
                         Lab::make({.places = kMost, .bytes_per_second = rate, .loopback = false}));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, kMost, {.cache_size = "256MiB"}));
  SHOAL_ASSIGN_OR_RETURN(double goodput, bench.link_rate(*lab, 0));
  std::vector<double> first, last;
  for (unsigned count : kHotCounts) {
    Pairs time;
    for (unsigned round = 0; round < bench.settings.rounds; ++round) {
      bench.progress(fmt::format("one hot chunk for {} nodes, round {}", count, round + 1));
      SHOAL_ASSIGN_OR_RETURN(std::string object, bench.new_object(kChunk, kSeed + round));
      auto paths = paths_of(*nodes, object);
      paths.resize(count);
      auto readers = read_together(paths, kChunk, kSeed + round);
      SHOAL_RETURN_IF_ERROR(check_readers(readers));
      time.add(slowest(readers), static_cast<double>(kChunk) / goodput);
    }
    if (count == kHotCounts[0]) first = time.ours;
    if (count == kMost) last = time.ours;
    bench.add(time.row(hot_row(count), "s", Goal::kNone, 0));
  }
  // From 2 to 32 nodes: 5 times if it grows with log N, 16 times with N.
  double growth = median(last) / median(first);
  bench.add({"hot_chunk.growth", "x", growth, 5.0, growth / 5.0, Goal::kRatioAtMost, 1});
  return {};
}

}  // namespace

ClusterScenario fan_out_scenario() {
  ClusterScenario scenario{"fan-out-read", {}, {}};
  scenario.groups = {
      {"fan_out",
       {"fan_out.origin_share", "fan_out.time", "fan_out.spread", "fan_out.cpu"},
       run_cluster},
      {"alone", {"alone.origin_share", "alone.time", "alone.spread", "alone.cpu"}, run_alone},
      {"one_chunk", {"one_chunk.origin_gets"}, run_one_chunk},
      {"hot_chunk", {}, run_hot}};
  for (unsigned count : kHotCounts) scenario.groups.back().rows.push_back(hot_row(count));
  scenario.groups.back().rows.push_back("hot_chunk.growth");
  return scenario;
}

}  // namespace shoal::bench
