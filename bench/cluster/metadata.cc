// `shoal bench metadata`: many nodes open the same files, and look-ups of attributes at a peer
// beside the same look-ups at real Redis and etcd.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <thread>

#include "cluster/cluster_bench.h"
#include "cluster/lookups.h"
#include "cluster/peer_lookups.h"
#include "membership/map_store.h"
#include "one_node/load.h"

namespace shoal::bench {

namespace {

using Json = nlohmann::json;

constexpr uint64_t kFileBytes = 4 * kKiB;
constexpr double kPeerLookupsGoal = 60'000;  // per second and core

Status open_all(const std::string& prefix, uint64_t files) {
  for (uint64_t i = 0; i < files; ++i) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    std::string path = fmt::format("{}-f{:08}", prefix, i);
    int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return fail(error_from_errno(errno, "cannot open " + path));
    struct stat info{};
    bool right = fstat(file, &info) == 0 && info.st_size == static_cast<off_t>(kFileBytes);
    close(file);
    if (!right) return fail(Code::kCorrupt, path + " has a wrong size");
  }
  return {};
}

// All nodes open all files, each with one thread; the seconds until the last is done.
Result<double> open_everywhere(ClusterNodes& nodes, const std::string& prefix, uint64_t files) {
  auto running = nodes.running();
  std::vector<Status> outcomes(running.size());
  double begun = seconds_now();
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < running.size(); ++i) {
      threads.emplace_back([&, i] { outcomes[i] = open_all(*running[i] / prefix, files); });
    }
  }
  double seconds = seconds_now() - begun;
  for (Status& one : outcomes) SHOAL_RETURN_IF_ERROR(std::move(one));
  return seconds;
}

Status run_open(ClusterBench& bench) {
  uint64_t files = bench.settings.files;
  bench.progress(fmt::format("{} nodes open the same {} files", bench.settings.nodes, files));
  SHOAL_ASSIGN_OR_RETURN(
      auto lab,
      Lab::make({.places = bench.settings.nodes, .bytes_per_second = 0, .loopback = false}));
  SHOAL_RETURN_IF_ERROR(bench.stub.add_many("opened-f", files, kFileBytes, 1));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, bench.settings.nodes, {}));
  SHOAL_RETURN_IF_ERROR(bench.stub.reset_stats());
  SHOAL_ASSIGN_OR_RETURN(double seconds, open_everywhere(*nodes, "opened", files));
  SHOAL_ASSIGN_OR_RETURN(Json stats, bench.stub.stats());
  auto many = static_cast<double>(files);
  double heads = stats["requests"].value("head_blob", 0.0);
  bench.add({"open.origin_heads", "requests", heads, many, heads / many, Goal::kRatioAtMost, 1});
  bench.add({"open.origin_lists", "requests", stats["requests"].value("list", 0.0), std::nullopt,
             std::nullopt, Goal::kNone, 0});
  bench.add({"open.rate", "opens/s", many * bench.settings.nodes / seconds, std::nullopt,
             std::nullopt, Goal::kNone, 0});
  return {};
}

void add_lookups(ClusterBench& bench, const std::string& name, const LookupOutcome& outcome,
                 Goal goal, double target) {
  bench.add({name + ".per_core", "1/s/core", outcome.per_core(), std::nullopt, std::nullopt, goal,
             target});
  bench.add({name + ".rate", "1/s", outcome.rate(), std::nullopt, std::nullopt, Goal::kNone, 0});
}

Status run_references(ClusterBench& bench) {
  LookupLoad load{.seconds = bench.settings.seconds};
  bench.progress("look-ups at a server that only answers");
  SHOAL_ASSIGN_OR_RETURN(LookupOutcome framing, framing_lookups(bench.work, load));
  add_lookups(bench, "lookup.framing", framing, Goal::kNone, 0);
  bench.progress("look-ups at Redis and etcd");
  SHOAL_ASSIGN_OR_RETURN(LookupOutcome redis, redis_lookups(bench.work, load));
  add_lookups(bench, "lookup.redis", redis, Goal::kNone, 0);
  for (bool linearizable : {true, false}) {
    SHOAL_ASSIGN_OR_RETURN(LookupOutcome etcd, etcd_lookups(bench.work, load, linearizable));
    add_lookups(bench, linearizable ? "lookup.etcd" : "lookup.etcd_serializable", etcd, Goal::kNone,
                0);
  }
  return {};
}

// The object with the cluster's key: hexadecimal digits and a line end.
Result<std::string> secret_of(std::string_view text) {
  std::string secret;
  while (text.size() >= 2 && text[0] != '\n') {
    unsigned value = 0;
    if (std::from_chars(text.data(), text.data() + 2, value, 16).ptr != text.data() + 2) {
      return fail(Code::kCorrupt, "the cluster's key is not hexadecimal");
    }
    secret.push_back(static_cast<char>(value));
    text.remove_prefix(2);
  }
  return secret;
}

// Look-ups at a real node, over loopback as the others.
Status run_peer(ClusterBench& bench) {
  LookupLoad load{.seconds = bench.settings.seconds};
  bench.progress("look-ups at a peer");
  SHOAL_ASSIGN_OR_RETURN(auto lab,
                         Lab::make({.places = 2, .bytes_per_second = 0, .loopback = true}));
  SHOAL_RETURN_IF_ERROR(bench.stub.add_many("data/dir/f", load.keys, kFileBytes, 1));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, 2, {.mount = false}));
  auto below = [&bench, &nodes](std::string_view name) {
    return bench.stub.target(fmt::format(".shoal/{}/{}", nodes->cluster(), name));
  };
  SHOAL_ASSIGN_OR_RETURN(std::string stored, bench.stub.ask("GET", below("map")));
  SHOAL_ASSIGN_OR_RETURN(SlotMap map, decode_map(stored));
  SHOAL_ASSIGN_OR_RETURN(std::string key, bench.stub.ask("GET", below("key")));
  SHOAL_ASSIGN_OR_RETURN(key, secret_of(key));
  std::vector<std::string> objects;
  for (unsigned i = 0; i < load.keys; ++i) objects.push_back(fmt::format("data/dir/f{:08}", i));
  PeerTarget target{(*nodes)[1].address(), nodes->cluster(), map.origin, key};
  SHOAL_ASSIGN_OR_RETURN(LookupOutcome peer,
                         peer_lookups(target, (*nodes)[1].process(), objects, load));
  add_lookups(bench, "lookup.peer", peer, Goal::kValueAtLeast, kPeerLookupsGoal);
  return {};
}

}  // namespace

ClusterScenario metadata_scenario() {
  ClusterScenario scenario{"metadata", {}, {}};
  scenario.groups = {{"open", {"open.origin_heads", "open.origin_lists", "open.rate"}, run_open},
                     {"peer", {"lookup.peer.per_core", "lookup.peer.rate"}, run_peer},
                     {"lookup",
                      {"lookup.framing.per_core", "lookup.framing.rate", "lookup.redis.per_core",
                       "lookup.redis.rate", "lookup.etcd.per_core", "lookup.etcd.rate",
                       "lookup.etcd_serializable.per_core", "lookup.etcd_serializable.rate"},
                      run_references}};
  return scenario;
}

}  // namespace shoal::bench
