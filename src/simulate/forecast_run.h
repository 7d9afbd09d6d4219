// ForecastRun: one simulated cluster of a forecast. See forecast.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "simulate/daemon.h"
#include "simulate/forecast.h"
#include "world_sim/sim_world.h"

namespace shoal::simulate {

// One simulated chunk. The smallest that the cache knows: one piece.
inline constexpr uint64_t kForecastChunk = kPieceBytes;

class ForecastRun {
 public:
  // `together`: they form a cluster; else every node is by itself.
  ForecastRun(const ForecastOptions& options, uint64_t nodes, bool together);
  ~ForecastRun();

  // Starts all nodes at once; until all are up and agree on the map. Seconds.
  Result<double> start();
  // Seconds until each node, in order of nodes, has read the object.
  Result<std::vector<double>> read_everywhere();
  // The object into the caches of its owners.
  Result<double> warm();
  // One more machine, no member, reads the object through the client library. Seconds.
  Result<double> read_by_client();

  // Real bytes, not scaled ones.
  double origin_bytes() const;
  double peer_bytes();  // that nodes sent to nodes
  // The most bytes that one node sent, over the mean.
  double busiest_sender();
  uint64_t origin_gets() const;
  uint64_t origin_lookups() const;
  // Real bytes that one simulated byte stands for.
  double scale() const { return scale_; }
  uint64_t steps() { return sim_.scheduler().steps(); }

 private:
  struct Reading;
  static Task<void> start_one(ForecastRun* self, Daemon* daemon);
  static Task<void> read_one(ForecastRun* self, Daemon* daemon, double* seconds);
  static Task<void> warm_one(ForecastRun* self, Daemon* daemon);
  static Task<void> read_as_client(ForecastRun* self, World* world);
  Status run_until_done(const char* what);
  bool agree() const;
  void scale_rates();

  ForecastOptions options_;
  double scale_;
  bool together_;
  Log log_;
  Simulation sim_;
  SimBlobAccount* account_ = nullptr;
  std::vector<Daemon*> daemons_;  // owned by their machines
  std::vector<SimMachine*> machines_;
  uint64_t running_ = 0;
  std::string error_;
};

}  // namespace shoal::simulate
