// shoal-bench-cluster SCENARIO [--json] [NAME=VALUE...]: the same as `shoal bench SCENARIO`, as a
// program of its own, so that a `shoal` built elsewhere can be measured: shoal=PATH.
#include <cstdio>
#include <string_view>

#include "cluster/cluster_bench.h"

int main(int argc, char** argv) {
  using namespace shoal::bench;
  NameValues pairs;
  bool json = false;
  bool usage = argc < 2;
  for (int i = 2; i < argc; ++i) {
    std::string_view word = argv[i];
    size_t equals = word.find('=');
    if (word == "--json") {
      json = true;
    } else if (equals == std::string_view::npos || equals == 0) {
      usage = true;
    } else {
      pairs.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    }
  }
  for (const ClusterScenario& scenario : cluster_scenarios()) {
    if (!usage && scenario.name == argv[1]) return run_cluster_scenario(scenario, pairs, json);
  }
  std::fprintf(stderr, "usage: %s SCENARIO [--json] [NAME=VALUE...]; scenarios:", argv[0]);
  for (const ClusterScenario& scenario : cluster_scenarios()) {
    std::fprintf(stderr, " %s", scenario.name.c_str());
  }
  std::fprintf(stderr, "\n");
  return 2;
}
