// `shoal simulate placement`: the slot map beside a plain hash ring and rendezvous hashing,
// measured for 4 to 10,000 nodes. Arithmetic on the real code; no simulated world takes part.
//
// Uses the machine's clock for the cost of a look-up, and nothing else from outside.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal::simulate {

inline constexpr uint64_t kPlacementNodesMax = 16'383;  // one more joins

struct PlacementCommand {
  std::vector<uint64_t> nodes = {4, 8, 16, 32, 64, 100, 1'000, 10'000};
  uint64_t seed = 1;
  uint64_t objects = 100;  // per size, where that takes no more than a second or so
  uint64_t changes = 200;  // random joins and leaves of 12 to 16 nodes; 0: none
  bool json = false;
};

// Prints; answers 0, or 1 when a target of the slot map is missed.
int run_placement_command(const PlacementCommand& command);

}  // namespace shoal::simulate
