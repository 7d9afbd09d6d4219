// `shoal bench elastic`: a node joins, dies, comes back and leaves while others read.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "cluster/cluster_bench.h"
#include "cluster/steady_reader.h"
#include "membership/map_store.h"
#include "one_node/load.h"

namespace shoal::bench {

namespace {

using std::chrono::milliseconds;

constexpr uint64_t kSeed = 80;
// Cold and so large that nearly every small read of it needs its owner.
constexpr uint64_t kLoadBytes = 16 * kGiB;
constexpr milliseconds kPatience{600'000};
constexpr milliseconds kDownPatience{30'000};

Result<SlotMap> stored_map(ClusterBench& bench, const ClusterNodes& nodes) {
  auto target = bench.stub.target(fmt::format(".shoal/{}/map", nodes.cluster()));
  SHOAL_ASSIGN_OR_RETURN(std::string bytes, bench.stub.ask("GET", target));
  return decode_map(bytes);
}

NodeId first_owner(const SlotMap& map, uint32_t slot) {
  uint16_t owner = map.owners_of(slot)[0];
  return owner == kNoMember ? NodeId{} : map.members[owner].id;
}

double moved_share(const SlotMap& before, const SlotMap& after) {
  double moved = 0;
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    if (first_owner(before, slot) != first_owner(after, slot)) ++moved;
  }
  return moved / kSlots;
}

const Member* find_by_name(const SlotMap& map, const std::string& name) {
  auto found = std::find_if(map.members.begin(), map.members.end(),
                            [&name](const Member& member) { return member.name == name; });
  return found == map.members.end() ? nullptr : &*found;
}

// Seconds until the stored map says so.
Result<double> wait_for_state(ClusterBench& bench, const ClusterNodes& nodes,
                              const std::string& name, MemberState state) {
  double begun = seconds_now();
  double patience = std::chrono::duration<double>(kDownPatience).count();
  while (seconds_now() - begun < patience) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    SHOAL_ASSIGN_OR_RETURN(SlotMap map, stored_map(bench, nodes));
    const Member* member = find_by_name(map, name);
    if (member != nullptr && member->state == state) return seconds_now() - begun;
    std::this_thread::sleep_for(milliseconds(20));
  }
  return fail(Code::kDeadlineExceeded,
              fmt::format("the state of {} did not change within {} s", name, patience));
}

// What the groups of this scenario share: one cluster through all its changes.
struct Stage {
  ClusterBench& bench;
  ClusterNodes& nodes;
  std::vector<std::string> warmed;  // objects that the owners hold and nobody has read yet

  Result<std::string> take_warmed() {
    if (warmed.empty()) return fail(Code::kInternal, "no object is left");
    std::string name = warmed.back();
    warmed.pop_back();
    return name;
  }
};

Status warm_objects(Stage& stage, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    SHOAL_ASSIGN_OR_RETURN(std::string name,
                           stage.bench.new_object(stage.bench.settings.size, kSeed));
    SHOAL_ASSIGN_OR_RETURN(
        CommandResult result,
        stage.nodes[0].command({"warm", stage.nodes[0] / name, "--wait"}, kPatience));
    if (result.status != 0) return fail(Code::kUnavailable, "shoal warm: " + result.output);
    stage.warmed.push_back(std::move(name));
  }
  return {};
}

Result<std::unique_ptr<SteadyReader>> begin_load(Stage& stage) {
  SHOAL_ASSIGN_OR_RETURN(std::string name, stage.bench.new_object(kLoadBytes, kSeed));
  return SteadyReader::start(
      stage.bench.work,
      {.paths = {stage.nodes[0] / name, stage.nodes[1] / name}, .size = kLoadBytes, .seed = kSeed});
}

// The load's rows: PREFIX.read_errors and PREFIX.longest_read.
Status end_load(Stage& stage, SteadyReader& load, const std::string& prefix) {
  SHOAL_ASSIGN_OR_RETURN(SteadyOutcome outcome, load.stop());
  if (outcome.errors > 0) {
    fmt::print(stderr, "shoal: {}: {} of {} reads failed, the first: {}\n", prefix, outcome.errors,
               outcome.reads, outcome.first_error);
  }
  if (outcome.reads == 0) return fail(Code::kInternal, "nothing was read meanwhile");
  stage.bench.add_value(prefix + ".read_errors", "reads", static_cast<double>(outcome.errors),
                        Goal::kValueAtMost, 0);
  stage.bench.add_value(prefix + ".longest_read", "s", outcome.longest_seconds, Goal::kValueAtMost,
                        1);
  return {};
}

// Reads a warmed object whole through the mounts of `readers`; the row: GETs that the origin saw of
// it.
Status read_warmed(Stage& stage, const std::vector<unsigned>& readers, const std::string& row) {
  SHOAL_ASSIGN_OR_RETURN(std::string name, stage.take_warmed());
  std::vector<std::string> paths;
  for (unsigned place : readers) paths.push_back(stage.nodes[place] / name);
  SHOAL_ASSIGN_OR_RETURN(double before, origin_gets(stage.bench.stub, name));
  SHOAL_RETURN_IF_ERROR(check_readers(read_together(paths, stage.bench.settings.size, kSeed)));
  SHOAL_ASSIGN_OR_RETURN(double after, origin_gets(stage.bench.stub, name));
  stage.bench.add_value(row, "GETs", after - before, Goal::kValueAtMost, 0);
  return {};
}

Status measure_join(Stage& stage, unsigned joiner) {
  ClusterBench& bench = stage.bench;
  bench.progress(fmt::format("node {} joins while others read", joiner));
  SHOAL_ASSIGN_OR_RETURN(SlotMap before, stored_map(bench, stage.nodes));
  SHOAL_ASSIGN_OR_RETURN(auto load, begin_load(stage));
  double begun = seconds_now();
  SHOAL_RETURN_IF_ERROR(stage.nodes.start(joiner, 1, stage.nodes.choice()));
  SHOAL_RETURN_IF_ERROR(stage.nodes.wait_for_members(joiner + 1, kDownPatience));
  bench.add(
      {"join.seconds", "s", seconds_now() - begun, std::nullopt, std::nullopt, Goal::kNone, 0});
  SHOAL_ASSIGN_OR_RETURN(SlotMap after, stored_map(bench, stage.nodes));
  double least = 1.0 / (joiner + 1);
  double moved = moved_share(before, after);
  bench.add(
      {"join.moved_share", "of slots", moved, least, moved / least, Goal::kRatioAtMost, 1.05});
  // The joiner owns what others hold; it and one of the others read.
  SHOAL_RETURN_IF_ERROR(read_warmed(stage, {0, joiner}, "join.origin_gets"));
  return end_load(stage, *load, "join");
}

Status measure_kill(Stage& stage, unsigned victim) {
  ClusterBench& bench = stage.bench;
  bench.progress(fmt::format("node {} dies (kill -9) while others read", victim));
  SHOAL_ASSIGN_OR_RETURN(auto load, begin_load(stage));
  std::this_thread::sleep_for(milliseconds(500));  // the load has settled
  SHOAL_RETURN_IF_ERROR(stage.nodes[victim].kill9());
  SHOAL_ASSIGN_OR_RETURN(
      double seconds,
      wait_for_state(bench, stage.nodes, stage.nodes[victim].name(), MemberState::kDown));
  bench.add_value("kill.marked_down", "s", seconds, Goal::kValueAtMost, 5);
  return end_load(stage, *load, "kill");
}

Status measure_restart(Stage& stage, unsigned victim, double files_before) {
  ClusterBench& bench = stage.bench;
  ClusterNode& node = stage.nodes[victim];
  bench.progress(fmt::format("node {} comes back within its grace time", victim));
  SHOAL_ASSIGN_OR_RETURN(SlotMap before, stored_map(bench, stage.nodes));
  double begun = seconds_now();
  SHOAL_RETURN_IF_ERROR(node.begin_again());
  SHOAL_RETURN_IF_ERROR(node.wait_until_ready(kDownPatience));
  SHOAL_ASSIGN_OR_RETURN(double up,
                         wait_for_state(bench, stage.nodes, node.name(), MemberState::kUp));
  (void)up;
  bench.add(
      {"restart.seconds", "s", seconds_now() - begun, std::nullopt, std::nullopt, Goal::kNone, 0});
  SHOAL_ASSIGN_OR_RETURN(SlotMap after, stored_map(bench, stage.nodes));
  bench.add_value("restart.moved_share", "of slots", moved_share(before, after), Goal::kValueAtMost,
                  0);
  SHOAL_ASSIGN_OR_RETURN(double files, node.number("files.bytes"));
  bench.add({"restart.cache_kept", "B", files, files_before, files / files_before,
             Goal::kRatioAtLeast, 0.99});
  return read_warmed(stage, {victim, 0}, "restart.origin_gets");
}

Status measure_drain(Stage& stage, unsigned leaver) {
  ClusterBench& bench = stage.bench;
  ClusterNode& node = stage.nodes[leaver];
  bench.progress(fmt::format("node {} is drained while others read", leaver));
  SHOAL_ASSIGN_OR_RETURN(auto load, begin_load(stage));
  double begun = seconds_now();
  SHOAL_ASSIGN_OR_RETURN(
      CommandResult result,
      stage.nodes[0].command({"drain", node.name(), "--at", node.http_address()}, kPatience));
  if (result.status != 0) return fail(Code::kUnavailable, "shoal drain: " + result.output);
  bench.add(
      {"drain.seconds", "s", seconds_now() - begun, std::nullopt, std::nullopt, Goal::kNone, 0});
  SHOAL_RETURN_IF_ERROR(node.stop());
  SHOAL_RETURN_IF_ERROR(read_warmed(stage, {0, 1}, "drain.origin_gets"));
  return end_load(stage, *load, "drain");
}

Status run_elastic(ClusterBench& bench) {
  unsigned count = bench.settings.nodes;
  SHOAL_ASSIGN_OR_RETURN(auto lab, Lab::make({.places = count + 1,
                                              .bytes_per_second = bench.settings.bytes_per_second(),
                                              .loopback = false}));
  // A quarter of everything and the copies of what is read must fit.
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, count, {.cache_size = "8GiB"}));
  Stage stage{bench, *nodes, {}};
  bench.progress(fmt::format("{} nodes are warmed", count));
  SHOAL_RETURN_IF_ERROR(warm_objects(stage, 3));
  SHOAL_RETURN_IF_ERROR(measure_join(stage, count));
  unsigned victim = count - 1;
  SHOAL_ASSIGN_OR_RETURN(double files, (*nodes)[victim].number("files.bytes"));
  SHOAL_RETURN_IF_ERROR(measure_kill(stage, victim));
  SHOAL_RETURN_IF_ERROR(measure_restart(stage, victim, files));
  return measure_drain(stage, count - 2);
}

}  // namespace

ClusterScenario elastic_scenario() {
  ClusterScenario scenario{"elastic", {}, {}};
  scenario.defaults.nodes = 4;
  scenario.defaults.size = 256 * kMiB;
  scenario.groups = {
      {"elastic",
       {"join.seconds", "join.moved_share", "join.origin_gets", "join.read_errors",
        "join.longest_read", "kill.marked_down", "kill.read_errors", "kill.longest_read",
        "restart.seconds", "restart.moved_share", "restart.cache_kept", "restart.origin_gets",
        "drain.seconds", "drain.origin_gets", "drain.read_errors", "drain.longest_read"},
       run_elastic}};
  return scenario;
}

}  // namespace shoal::bench
