// One seed's choice of a cluster, its faults and its work. As in plan.h most seeds switch most
// faults off, so that the ones that are on get deep.
#pragma once

#include <string>

#include "node/cluster.h"
#include "node/node_core.h"
#include "store/store.h"
#include "world_sim/blob_faults.h"
#include "world_sim/sim_disk.h"
#include "world_sim/sim_fabric.h"

namespace shoal::simulate {

struct ClusterPlan {
  bool shuffle = true;
  uint32_t nodes = 3;
  uint32_t zones = 1;
  ClusterOptions cluster;
  NodeOptions node;
  StoreOptions store;
  SimDiskOptions disk;
  BlobFaults blob;
  SimNetworkOptions network;

  uint32_t programs = 2;     // per node
  uint32_t operations = 10;  // of each program
  uint32_t objects = 6;
  uint64_t size_max = kMiB;

  // What happens while the programs work. The cluster is calm before and after.
  bool kills = false;         // of the process; it comes back within the grace time
  bool power_losses = false;  // of the machine, likewise
  bool long_downs = false;    // some come back only after the grace time
  bool lost_caches = false;   // some come back with an empty cache directory
  bool partitions = false;    // both ways
  bool one_way = false;       // partitions of one direction
  bool slow_nodes = false;
  bool bad_links = false;  // loss, resets, little bandwidth
  bool corrupt = false;    // bits change on the way
  bool blob_away = false;  // the account cannot be reached, from one node or from all
  bool blob_bursts = false;
  bool map_away = false;  // nothing below .shoal/ can be written
  bool clock_jumps = false;
  bool full_disks = false;
  bool contested = false;      // several nodes write the same paths
  bool small_cache = false;    // things are evicted
  bool changes = false;        // another writer replaces objects
  bool writes = false;         // programs write objects
  bool joins = false;          // a further node comes
  bool check_fetches = true;   // no byte of a version is fetched twice without an excuse
  bool early = false;          // faults begin while the cluster starts
  bool two_addresses = false;  // of each node

  // No fault of any kind, but what others write.
  bool calm() const { return !any_peer_fault() && !any_blob_fault() && !full_disks; }
  bool any_peer_fault() const {
    return kills || power_losses || partitions || one_way || slow_nodes || bad_links || corrupt;
  }
  bool any_blob_fault() const { return blob_away || blob_bursts || blob_noise; }
  bool blob_noise = false;  // single requests fail, all the time

  // "5 nodes, 256 KiB chunks; kills, one_way, changes".
  std::string describe() const;
};

// Equal for equal arguments. `nodes`: 0 lets the seed choose.
ClusterPlan make_cluster_plan(uint64_t seed, uint32_t nodes);

}  // namespace shoal::simulate
