// The seam to everything outside: rooms from async to node reach the outside through this only.
// world_linux makes the real one, world_sim a simulated one. One World per shard.
#pragma once

#include "world/disk.h"
#include "world/executor.h"
#include "world/http.h"
#include "world/network.h"
#include "world/random.h"

namespace shoal {

struct World {
  Executor& executor;
  Random& random;
  Disk& disk;
  Http& http;
  Network& network;
};

}  // namespace shoal
