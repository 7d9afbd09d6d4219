// `shoal bench fan-in-read`: one reader pulls what lies on many nodes.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cluster/client_read.h"
#include "cluster/cluster_bench.h"
#include "rpc/rpc.h"

namespace shoal::bench {

namespace {

using std::chrono::milliseconds;

constexpr uint64_t kSeed = 78;
constexpr milliseconds kWarmPatience{600'000};
// Goals of the project for a peer hit, in CPU seconds per GiB; or within 15% of what raw TCP needs.
constexpr double kServingGoal = 0.35;
constexpr double kReadingGoal = 0.5;
constexpr double kNearCeiling = 1.15;

double gib(double bytes) { return bytes / static_cast<double>(kGiB); }

// What all of one read cost and moved, by the counters of the nodes.
struct FanIn {
  double seconds = 0;
  double received = 0;       // bytes, by the reader from its peers
  double busiest_share = 0;  // of the owners' bytes, over their mean
  double serving_cpu = 0;    // seconds, all owners
  double reading_cpu = 0;    // seconds, the reader's daemon
};

// In the order of the nodes.
Result<std::vector<double>> bytes_sent(const std::vector<ClusterNode*>& nodes) {
  std::vector<double> out;
  for (ClusterNode* node : nodes) {
    SHOAL_ASSIGN_OR_RETURN(double sent, node->number("peer.bytes_sent"));
    out.push_back(sent);
  }
  return out;
}

Result<double> cpu_of(const std::vector<ClusterNode*>& nodes) {
  double sum = 0;
  for (ClusterNode* node : nodes) {
    SHOAL_ASSIGN_OR_RETURN(double cpu, node->process().cpu_seconds());
    sum += cpu;
  }
  return sum;
}

// Node 0 reads what the others hold. It is a member too and holds its own share of what is read;
// only what came from peers counts.
Result<FanIn> fan_in(ClusterBench& bench, ClusterNodes& nodes) {
  uint64_t size = bench.settings.size;
  SHOAL_ASSIGN_OR_RETURN(std::string object, bench.new_object(size, kSeed));
  SHOAL_ASSIGN_OR_RETURN(CommandResult warmed,
                         nodes[1].command({"warm", nodes[1] / object, "--wait"}, kWarmPatience));
  if (warmed.status != 0) return fail(Code::kUnavailable, "shoal warm: " + warmed.output);
  std::vector<ClusterNode*> owners = nodes.running();
  owners.erase(owners.begin());
  SHOAL_ASSIGN_OR_RETURN(std::vector<double> before, bytes_sent(owners));
  SHOAL_ASSIGN_OR_RETURN(double received, nodes[0].number("peer.bytes_received"));
  SHOAL_RETURN_IF_ERROR(bench.stub.reset_stats());
  // Nothing but the read lies between the looks at the CPU: a node that is asked for a counter asks
  // all others, which would count as serving.
  SHOAL_ASSIGN_OR_RETURN(double cpu, nodes[0].process().cpu_seconds());
  SHOAL_ASSIGN_OR_RETURN(double owners_cpu, cpu_of(owners));

  auto readers = read_together({nodes[0] / object}, size, kSeed);
  SHOAL_ASSIGN_OR_RETURN(double owners_cpu_after, cpu_of(owners));
  SHOAL_ASSIGN_OR_RETURN(double cpu_after, nodes[0].process().cpu_seconds());
  SHOAL_RETURN_IF_ERROR(check_readers(readers));

  SHOAL_ASSIGN_OR_RETURN(double gets, origin_gets(bench.stub, object));
  if (gets > 0) {
    return fail(Code::kInternal,
                fmt::format("the origin was asked {} times for what owners held", gets));
  }
  SHOAL_ASSIGN_OR_RETURN(std::vector<double> after, bytes_sent(owners));
  SHOAL_ASSIGN_OR_RETURN(double received_after, nodes[0].number("peer.bytes_received"));
  FanIn out{readers[0].seconds, received_after - received, 0, owners_cpu_after - owners_cpu,
            cpu_after - cpu};
  double sum = 0;
  double most = 0;
  for (size_t i = 0; i < owners.size(); ++i) {
    double sent = after[i] - before[i];
    sum += sent;
    most = std::max(most, sent);
  }
  if (sum <= 0) return fail(Code::kInternal, "no owner sent anything");
  out.busiest_share = most * static_cast<double>(owners.size()) / sum;
  return out;
}

// The same bytes over as many connections, by TCP alone.
Result<TcpOutcome> raw_fan_in(ClusterBench& bench, const Lab& lab, double bytes) {
  TcpLoad load;
  for (unsigned i = 1; i < lab.places(); ++i) load.senders.push_back(lab.network(i));
  load.receiver = lab.network(0);
  load.address = lab.address(0);
  load.connections = RpcPoolOptions{}.lanes;
  load.bytes = static_cast<uint64_t>(bytes);
  SHOAL_ASSIGN_OR_RETURN(load.file, bench.payload());
  return run_tcp(load);
}

Status run_limited(ClusterBench& bench) {
  unsigned places = bench.settings.nodes + 1;
  SHOAL_ASSIGN_OR_RETURN(auto lab,
                         Lab::make({.places = places, .bytes_per_second = 0, .loopback = false}));
  SHOAL_RETURN_IF_ERROR(lab->limit(0, bench.settings.bytes_per_second()));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, places, {}));
  Pairs rate;
  std::vector<double> share;
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    bench.progress(fmt::format("one reader behind a limited link, {} owners, round {}",
                               bench.settings.nodes, round + 1));
    SHOAL_ASSIGN_OR_RETURN(FanIn one, fan_in(bench, *nodes));
    double raw_bytes = std::min(one.received, bench.settings.bytes_per_second() * 4);
    SHOAL_ASSIGN_OR_RETURN(TcpOutcome raw, raw_fan_in(bench, *lab, raw_bytes));
    rate.add(one.received / one.seconds / 1e6, raw.rate() / 1e6);
    share.push_back(one.busiest_share);
  }
  bench.add(rate.row("fan_in.limited", "MB/s", Goal::kRatioAtLeast, 0.94));
  bench.add({"fan_in.busiest_owner", "x mean", *std::max_element(share.begin(), share.end()),
             std::nullopt, std::nullopt, Goal::kValueAtMost, 1.15});
  return {};
}

// The same object's twin through the client library, which holds nothing itself.
Result<ClientOutcome> client_fan_in(ClusterBench& bench, const Lab& lab, ClusterNodes& nodes) {
  uint64_t size = bench.settings.size;
  SHOAL_ASSIGN_OR_RETURN(std::string object, bench.new_object(size, kSeed));
  SHOAL_ASSIGN_OR_RETURN(CommandResult warmed,
                         nodes[1].command({"warm", nodes[1] / object, "--wait"}, kWarmPatience));
  if (warmed.status != 0) return fail(Code::kUnavailable, "shoal warm: " + warmed.output);
  return read_through_client({.origin = bench.stub.url(lab.hub_address()),
                              .cluster = nodes.cluster(),
                              .object = object,
                              .size = size,
                              .seed = kSeed});
}

// The goal, or so near to what TCP alone needs.
void add_cpu(ClusterBench& bench, const std::string& name, const Pairs& pairs, double goal) {
  double target = std::max(goal, kNearCeiling * median(pairs.ceiling));
  bench.add(pairs.row(name, "CPU s/GiB", Goal::kValueAtMost, target));
}

Status run_unlimited(ClusterBench& bench) {
  unsigned places = bench.settings.nodes + 1;
  SHOAL_ASSIGN_OR_RETURN(auto lab,
                         Lab::make({.places = places, .bytes_per_second = 0, .loopback = true}));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, places, {}));
  Pairs rate, client, serving, reading, client_cpu;
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    bench.progress(fmt::format("one reader on loopback, {} owners, round {}", bench.settings.nodes,
                               round + 1));
    SHOAL_ASSIGN_OR_RETURN(FanIn one, fan_in(bench, *nodes));
    SHOAL_ASSIGN_OR_RETURN(TcpOutcome raw, raw_fan_in(bench, *lab, one.received));
    SHOAL_ASSIGN_OR_RETURN(ClientOutcome library, client_fan_in(bench, *lab, *nodes));
    rate.add(one.received / one.seconds / 1e6, raw.rate() / 1e6);
    client.add(library.received / library.seconds / 1e6, raw.rate() / 1e6);
    client_cpu.add(library.cpu / gib(library.received), raw.receiver_cpu / gib(raw.bytes));
    serving.add(one.serving_cpu / gib(one.received), raw.sender_cpu / gib(raw.bytes));
    reading.add(one.reading_cpu / gib(one.received), raw.receiver_cpu / gib(raw.bytes));
  }
  bench.add(rate.row("fan_in.mount", "MB/s", Goal::kRatioAtLeast, 0.65));
  bench.add(client.row("fan_in.client", "MB/s", Goal::kRatioAtLeast, 0.8));
  add_cpu(bench, "cpu.client", client_cpu, kReadingGoal);
  add_cpu(bench, "cpu.serving", serving, kServingGoal);
  add_cpu(bench, "cpu.reading", reading, kReadingGoal);
  return {};
}

}  // namespace

ClusterScenario fan_in_scenario() {
  ClusterScenario scenario{"fan-in-read", {}, {}};
  scenario.groups = {{"limited", {"fan_in.limited", "fan_in.busiest_owner"}, run_limited},
                     {"unlimited",
                      {"fan_in.mount", "fan_in.client", "cpu.client", "cpu.serving", "cpu.reading"},
                      run_unlimited}};
  return scenario;
}

}  // namespace shoal::bench
