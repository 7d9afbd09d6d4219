// One seed's choice of knobs, faults and workload ("swarm": most seeds switch most faults off, so
// that the ones that are on get deep).
#pragma once

#include <string>
#include <vector>

#include "node/node_core.h"
#include "store/store.h"
#include "world_sim/blob_faults.h"
#include "world_sim/sim_disk.h"

namespace shoal::simulate {

struct Plan {
  bool shuffle = true;
  NodeOptions node;
  StoreOptions store;
  SimDiskOptions disk;
  BlobFaults blob;

  uint32_t clients = 2;
  uint32_t readers = 1;
  uint32_t operations = 30;  // of each client and incarnation
  uint32_t files = 5;        // names in each client's directory
  uint64_t size_max = 2 * kMiB;

  struct Crash {
    uint64_t after_steps = 0;
    CrashKind kind = CrashKind::kProcess;
    bool clean = false;  // no crash: stop and start again
  };
  std::vector<Crash> crashes;

  bool outages = false;    // the account goes away for a while, now and then
  bool foreign = false;    // another writer changes objects
  bool contested = false;  // ... even ones that we write
  bool clock_jumps = false;
  bool small_disk = false;  // the disk is full at times
  bool bit_flips = false;   // of clean data, while the process is down
  bool impatient = false;   // some calls have short deadlines or are interrupted
  bool any_blob_fault = false;
  bool disk_errors = false;

  // "503,reset_in_body,outages; 2 crashes".
  std::string describe() const;
  // What is staged may fill the cache, so that a writer hears of it.
  bool tight() const {
    return small_disk || uint64_t{clients} * files * 3 * size_max > store.capacity / 2;
  }
};

// Equal for equal seeds.
Plan make_plan(uint64_t seed);

}  // namespace shoal::simulate
