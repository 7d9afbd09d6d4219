// An Origin that reads versions which only other nodes have yet from them.
#pragma once

#include <memory>

#include "origin/origin.h"
#include "replication/replication.h"

namespace shoal {

// Both outlive it.
std::unique_ptr<Origin> make_origin_and_nodes(Origin& origin, Replication& replication);

}  // namespace shoal
