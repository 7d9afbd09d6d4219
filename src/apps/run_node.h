// A node from its first breath to its last: the wiring that `shoal mount` and `shoal serve` share.
#pragma once

#include <string>
#include <vector>

#include "apps/options.h"

namespace shoal {

struct NodePlan {
  std::string origin;      // as typed
  std::string mountpoint;  // as typed; empty for `shoal serve`
  Options options;
  std::vector<std::string> warnings;  // to be logged
};

// Becomes a daemon unless options.foreground. Returns the exit status when the node has stopped.
int run_node(NodePlan plan);

}  // namespace shoal
