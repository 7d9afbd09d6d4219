// What `shoal bench` offers.
#include "apps/commands.h"
#include "one_node/one_node.h"

namespace shoal {

std::span<const Scenario> bench_scenarios() {
  static constexpr Scenario kScenarios[] = {
      {"one-node",
       "The mount against native disk, plain downloads and a minimal FUSE server [rounds=5 "
       "seconds=1 "
       "size=1GiB stream-size=10GiB files=10000 objects=100000 connections=16 memory=256MiB "
       "dir=/var/tmp only='*' quick=no strict=no keep=no]",
       [](const ScenarioArguments& arguments) {
         return bench::run_one_node(arguments.parameters, arguments.json);
       }}};
  return kScenarios;
}

}  // namespace shoal
