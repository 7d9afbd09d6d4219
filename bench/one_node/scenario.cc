// What `shoal bench` offers.
#include "apps/commands.h"
#include "cluster/cluster_bench.h"
#include "one_node/one_node.h"

namespace shoal {

namespace {

// A cluster of one is none, so 1 (nothing said) means the scenario's own number.
template <bench::ClusterScenario (*scenario)()>
int run_cluster(const ScenarioArguments& arguments) {
  bench::NameValues pairs;
  if (arguments.nodes > 1) pairs.emplace_back("nodes", std::to_string(arguments.nodes));
  pairs.insert(pairs.end(), arguments.parameters.begin(), arguments.parameters.end());
  return bench::run_cluster_scenario(scenario(), pairs, arguments.json);
}

}  // namespace

std::span<const Scenario> bench_scenarios() {
  static constexpr Scenario kScenarios[] = {
      {"one-node",
       "The mount against native disk, plain downloads and a minimal FUSE server [rounds=5 "
       "seconds=1 "
       "size=1GiB stream-size=10GiB files=10000 objects=100000 connections=16 memory=256MiB "
       "dir=/var/tmp only='*' quick=no strict=no keep=no]",
       [](const ScenarioArguments& arguments) {
         return bench::run_one_node(arguments.parameters, arguments.json);
       }},
      {"fan-out-read",
       "Nodes read the same object at the same moment, each behind a limited link [nodes=8 "
       "size=1GiB mbit=500 rounds=3 seconds=2 dir=/var/tmp only='*' quick=no strict=no keep=no]",
       run_cluster<bench::fan_out_scenario>},
      {"fan-in-read",
       "One node reads what many others hold [nodes=8 size=1GiB mbit=500 rounds=3 dir=/var/tmp "
       "only='*' quick=no strict=no keep=no]",
       run_cluster<bench::fan_in_scenario>},
      {"fan-out-write",
       "Checkpoints on several nodes before they are acknowledged, uploaded by all, against a "
       "local "
       "disk with an upload beside it; every node behind a limited link [nodes=8 size=256MiB "
       "mbit=250 rounds=3 baseline=async-copy dir=/var/tmp only='*' quick=no strict=no keep=no]",
       run_cluster<bench::fan_out_write_scenario>},
      {"elastic",
       "A node joins, dies, comes back and leaves while others read [nodes=4 size=256MiB mbit=500 "
       "dir=/var/tmp only='*' quick=no strict=no keep=no]",
       run_cluster<bench::elastic_scenario>},
      {"metadata",
       "Many nodes open the same files; look-ups beside Redis and etcd [nodes=8 files=10000 "
       "seconds=2 dir=/var/tmp only='*' quick=no strict=no keep=no]",
       run_cluster<bench::metadata_scenario>},
      {"cluster",
       "As many nodes as fit one machine, idle and reading [nodes=100 size=64MiB mbit=40 "
       "dir=/var/tmp only='*' quick=no strict=no keep=no]",
       run_cluster<bench::many_nodes_scenario>}};
  return kScenarios;
}

}  // namespace shoal
