// What `shoal simulate` offers.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "apps/commands.h"
#include "simulate/checkpoint.h"
#include "simulate/cluster.h"
#include "simulate/forecast.h"
#include "simulate/one_node.h"
#include "simulate/placement_scenario.h"
#include "simulate/run_seeds.h"

namespace shoal {
namespace {

constexpr int kSeedsMax = 100'000'000;
constexpr uint64_t kClusterNodesMax = 200;
constexpr uint64_t kForecastNodesMax = 10'000;
constexpr uint64_t kForecastChunksMax = 100'000;
constexpr uint64_t kLossesMax = 1000;
constexpr uint64_t kCheckpointBytes = 105'000'000'000;  // of a model of 8 B parameters

bool parse_count(const std::string& text, uint64_t& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && out <= kSeedsMax;
}

int usage(const std::string& scenario, const std::string& message) {
  fmt::print(stderr, "shoal: shoal simulate {0}: {1}; see shoal simulate {0} --help\n", scenario,
             message);
  return kExitUsage;
}

// --- seeds ---

int run_seeds_scenario(simulate::SeedScenario scenario, const ScenarioArguments& arguments) {
  simulate::SeedsCommand command;
  std::string called = scenario.name;
  command.scenario = std::move(scenario);
  command.seeds.first = arguments.seed;
  command.json = arguments.json;
  for (const auto& [name, value] : arguments.parameters) {
    uint64_t count = 0;
    bool yes = value == "yes" || value == "true";
    if (name == "seeds" || name == "jobs" || name == "twice-every") {
      if (!parse_count(value, count) || (count == 0 && name != "twice-every")) {
        return usage(called, fmt::format("{} must be a number, not \"{}\"", name, value));
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
      return usage(called, fmt::format("it has no parameter \"{}\"", name));
    }
  }
  return simulate::run_seeds_command(command);
}

int run_one_node_scenario(const ScenarioArguments& arguments) {
  if (arguments.nodes != 1) return usage("one-node", "it has one node");
  return run_seeds_scenario(simulate::one_node_scenario(), arguments);
}

int run_cluster_scenario(const ScenarioArguments& arguments) {
  if (arguments.nodes > kClusterNodesMax) {
    return usage("cluster", fmt::format("it has at most {} nodes", kClusterNodesMax));
  }
  auto nodes = arguments.nodes == 1 ? 0 : static_cast<uint32_t>(arguments.nodes);
  return run_seeds_scenario(simulate::cluster_scenario(nodes), arguments);
}

int run_checkpoint_scenario(const ScenarioArguments& arguments) {
  uint64_t nodes = arguments.nodes == 1 ? simulate::kCheckpointNodes : arguments.nodes;
  if (nodes < 3 || nodes > kClusterNodesMax) {
    return usage("checkpoint", fmt::format("it has 3 to {} nodes", kClusterNodesMax));
  }
  return run_seeds_scenario(simulate::checkpoint_scenario(static_cast<uint32_t>(nodes)), arguments);
}

// --- forecasts ---

enum class Forecasts { kRead, kWrite };
using Forecaster = Result<simulate::Forecast> (*)(const simulate::ForecastOptions&);

Result<Duration> parse_time(const std::string& text) {
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  double factor = unit == "us"    ? 1e3
                  : unit == "ms"  ? 1e6
                  : unit == "s"   ? 1e9
                  : unit == "min" ? 60e9
                                  : 0;
  bool good = error == std::errc() && factor > 0 && value >= 0 && value < 1e6;
  if (!good) return fail(Code::kInvalidArgument, fmt::format("\"{}\" is no time like 15ms", text));
  return Duration(static_cast<int64_t>(value * factor));
}

bool set_common(simulate::ForecastOptions& options, const std::string& name, double amount) {
  auto whole = static_cast<uint64_t>(amount);
  if (name == "size" && amount < 1e18) {
    options.size = whole;
  } else if (name == "nic") {
    options.nic = amount;
  } else if (name == "blob-connection") {
    options.blob_connection = amount;
  } else if (name == "blob-connections" && whole >= 1 && whole <= 10'000) {
    options.blob_connections = static_cast<uint32_t>(whole);
  } else {
    return false;
  }
  return true;
}

bool set_of_read(simulate::ForecastOptions& options, const std::string& name, double amount) {
  auto whole = static_cast<uint64_t>(amount);
  if (name == "blob-out") {
    options.blob_out = amount;
  } else if (name == "blob-requests") {
    options.blob_requests = amount;
  } else if (name == "chunks" && whole >= 1 && whole <= kForecastChunksMax) {
    options.chunks = whole;
  } else if (name == "ahead" && whole >= 1 && whole <= 1024) {
    options.ahead = whole;
  } else {
    return false;
  }
  return true;
}

bool set_of_write(simulate::ForecastOptions& options, const std::string& name, double amount) {
  auto whole = static_cast<uint64_t>(amount);
  if (name == "blob-in") {
    options.blob_in = amount;
  } else if (name == "nvme") {
    options.nvme = amount;
  } else if (name == "nvme-read") {
    options.nvme_read = amount;
  } else if (name == "writers" && whole >= 1 && whole <= kForecastNodesMax) {
    options.writers = whole;
  } else if (name == "replicas" && whole >= 1 && whole <= 5) {
    options.replicas = static_cast<uint32_t>(whole);
  } else if (name == "upload-blocks" && whole >= 1 && whole <= 1024) {
    options.upload_blocks = static_cast<uint32_t>(whole);
  } else if (name == "chunks" && whole >= 1 && whole <= kForecastChunksMax) {
    options.file_chunks = whole;
  } else if (name == "losses" && whole <= kLossesMax) {
    options.losses = whole;
  } else {
    return false;
  }
  return true;
}

Status set_parameter(simulate::ForecastOptions& options, Forecasts kind, const std::string& name,
                     const std::string& value) {
  bool writes = kind == Forecasts::kWrite;
  bool is_time = name == "latency" || name == "blob-latency" || (writes && name == "interval");
  if (is_time) {
    SHOAL_ASSIGN_OR_RETURN(Duration time, parse_time(value));
    if (name == "interval" && time == Duration(0)) {
      return fail(Code::kInvalidArgument, "interval must be more than nothing");
    }
    (name == "latency"    ? options.latency
     : name == "interval" ? options.interval
                          : options.blob_latency) = time;
    return {};
  }
  if (writes && name == "losses" && value == "0") {
    options.losses = 0;
    return {};
  }
  SHOAL_ASSIGN_OR_RETURN(double amount, simulate::parse_amount(value));
  auto own = writes ? set_of_write : set_of_read;
  if (set_common(options, name, amount) || own(options, name, amount)) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("it has no parameter \"{}\" that may be \"{}\"", name, value));
}

int run_forecast(const std::string& scenario, Forecasts kind, Forecaster forecaster,
                 uint64_t nodes_usual, const ScenarioArguments& arguments) {
  simulate::ForecastOptions options;
  options.nodes = arguments.nodes == 1 ? nodes_usual : arguments.nodes;
  options.seed = arguments.seed;
  if (kind == Forecasts::kWrite) options.size = kCheckpointBytes;
  if (options.nodes > kForecastNodesMax) {
    return usage(scenario, fmt::format("it has at most {} nodes", kForecastNodesMax));
  }
  for (const auto& [name, value] : arguments.parameters) {
    Status set = set_parameter(options, kind, name, value);
    if (!set) return usage(scenario, set.error().message());
  }
  auto forecast = forecaster(options);
  if (!forecast && forecast.error().code() == Code::kInvalidArgument) {
    return usage(scenario, forecast.error().message());
  }
  if (!forecast) return fail_with(forecast.error());
  fmt::print("{}\n", arguments.json ? forecast->to_json() : forecast->to_table());
  return kExitDone;
}

int run_fan_out_read(const ScenarioArguments& arguments) {
  return run_forecast("fan-out-read", Forecasts::kRead, simulate::forecast_fan_out_read, 64,
                      arguments);
}
int run_fan_in_read(const ScenarioArguments& arguments) {
  return run_forecast("fan-in-read", Forecasts::kRead, simulate::forecast_fan_in_read, 8,
                      arguments);
}
int run_scale(const ScenarioArguments& arguments) {
  return run_forecast("scale", Forecasts::kRead, simulate::forecast_scale, 64, arguments);
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

int run_fan_out_write(const ScenarioArguments& arguments) {
  return run_forecast("fan-out-write", Forecasts::kWrite, simulate::forecast_fan_out_write, 8,
                      arguments);
}

}  // namespace

std::span<const Scenario> simulate_scenarios() {
  static constexpr Scenario kScenarios[] = {
      {"one-node",
       "One node's life of mounts, faults and crashes, checked against a model [seeds=1 jobs=1 "
       "twice-every=8 log=no stop-at-failure=no expect-failure=no]",
       run_one_node_scenario},
      {"cluster",
       "A cluster's life: reads, writes, kills, partitions, joins, a drain, all checked; without "
       "--nodes the seed chooses how many [seeds=1 jobs=1 twice-every=8 log=no stop-at-failure=no "
       "expect-failure=no]",
       run_cluster_scenario},
      {"checkpoint",
       "Checkpoints that are replicated and uploaded while nodes are destroyed, killed, cut off "
       "and "
       "the origin is away [nodes 5, seeds=1 jobs=1 twice-every=8 log=no stop-at-failure=no "
       "expect-failure=no]",
       run_checkpoint_scenario},
      {"fan-out-read",
       "Forecast: many nodes read one cold object at once [nodes 64, size=140GB nic=100Gbit "
       "blob-out=200Gbit blob-connection=60MB blob-connections=64 blob-requests=40000 "
       "blob-latency=15ms latency=50us chunks=1024 ahead=16]",
       run_fan_out_read},
      {"fan-in-read",
       "Forecast: one client reads an object that lies on many nodes [nodes 8, parameters as of "
       "fan-out-read]",
       run_fan_in_read},
      {"scale",
       "Forecast: the fan-out read and the start of 8, 16, 32 ... nodes [nodes 64, parameters as "
       "of fan-out-read]",
       run_scale},
      {"fan-out-write",
       "Forecast: nodes write a checkpoint, and some are lost; against local NVMe with one "
       "uploader "
       "per node [nodes 8, size=105GB writers=all replicas=2 nic=100Gbit nvme=5GB nvme-read=10GB "
       "blob-in=60Gbit blob-connection=60MB blob-connections=64 upload-blocks=16 blob-latency=15ms "
       "latency=50us interval=30min losses=8 chunks=36 or more of each file]",
       run_fan_out_write},
      {"placement",
       "The slot map beside a hash ring and rendezvous hashing, for 4 to 10,000 nodes "
       "[nodes-max=10000 objects=100 changes=200]",
       run_placement_scenario}};
  return kScenarios;
}

}  // namespace shoal
