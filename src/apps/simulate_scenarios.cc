// What `shoal simulate` offers.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "apps/commands.h"
#include "simulate/placement_scenario.h"
#include "simulate/run_seeds.h"

namespace shoal {
namespace {

constexpr int kSeedsMax = 100'000'000;

bool parse_count(const std::string& text, uint64_t& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && out <= kSeedsMax;
}

int usage(std::string_view scenario, const std::string& message) {
  fmt::print(stderr, "shoal: shoal simulate {}: {}; see shoal simulate {} --help\n", scenario,
             message, scenario);
  return kExitUsage;
}

int run_one_node_scenario(const ScenarioArguments& arguments) {
  if (arguments.nodes != 1) return usage("one-node", "it has one node");
  simulate::OneNodeCommand command;
  command.seeds.first = arguments.seed;
  command.json = arguments.json;
  for (const auto& [name, value] : arguments.parameters) {
    uint64_t count = 0;
    bool yes = value == "yes" || value == "true";
    if (name == "seeds" || name == "jobs" || name == "twice-every") {
      if (!parse_count(value, count) || (count == 0 && name != "twice-every")) {
        return usage("one-node", fmt::format("{} must be a number, not \"{}\"", name, value));
      }
      if (name == "seeds") command.seeds.count = count;
      if (name == "jobs") command.seeds.jobs = static_cast<uint32_t>(std::min<uint64_t>(count, 64));
      if (name == "twice-every") command.seeds.twice_every = count;
    } else if (name == "log") {
      command.seeds.log = yes;
    } else if (name == "stop-at-failure") {
      command.seeds.stop_at_failure = yes;
    } else if (name == "expect-failure") {
      command.expect_failure = yes;
    } else {
      return usage("one-node", fmt::format("it has no parameter \"{}\"", name));
    }
  }
  return simulate::run_one_node_command(command);
}

int run_placement_scenario(const ScenarioArguments& arguments) {
  simulate::PlacementCommand command;
  command.seed = arguments.seed;
  command.json = arguments.json;
  if (arguments.nodes > 1) command.nodes = {arguments.nodes};
  for (const auto& [name, value] : arguments.parameters) {
    uint64_t count = 0;
    if (name != "nodes-max" && name != "objects" && name != "changes") {
      return usage("placement", fmt::format("it has no parameter \"{}\"", name));
    }
    if (!parse_count(value, count) || (count < 2 && name != "changes")) {
      return usage("placement", fmt::format("{} must be a number, not \"{}\"", name, value));
    }
    if (name == "objects") command.objects = count;
    if (name == "changes") command.changes = count;
    if (name == "nodes-max") {
      std::erase_if(command.nodes, [count](uint64_t nodes) { return nodes > count; });
    }
  }
  if (command.nodes.empty() || command.nodes.back() > simulate::kPlacementNodesMax) {
    return usage("placement", fmt::format("it has 2 to {} nodes", simulate::kPlacementNodesMax));
  }
  return simulate::run_placement_command(command);
}

}  // namespace

std::span<const Scenario> simulate_scenarios() {
  static constexpr Scenario kScenarios[] = {
      {"one-node",
       "One node's life of mounts, faults and crashes, checked against a model [seeds=1 jobs=1 "
       "twice-every=8 log=no stop-at-failure=no expect-failure=no]",
       run_one_node_scenario},
      {"placement",
       "The slot map beside a hash ring and rendezvous hashing, for 4 to 10,000 nodes "
       "[nodes-max=10000 objects=100 changes=200]",
       run_placement_scenario}};
  return kScenarios;
}

}  // namespace shoal
