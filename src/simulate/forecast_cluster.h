// ForecastCluster: the nodes, the account and the network of a forecast. See forecast.h.
//
// Simulation's thread. Whoever derives from it makes the nodes, and what they do.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "simulate/daemon.h"
#include "simulate/forecast.h"
#include "world_sim/sim_world.h"

namespace shoal::simulate {

inline constexpr const char* kForecastBucket = "data";
inline constexpr const char* kForecastName = "forecast";  // of the cluster
inline constexpr Duration kForecastLimit = std::chrono::hours(24);

class ForecastCluster {
 public:
  ForecastCluster(const ForecastCluster&) = delete;
  ForecastCluster& operator=(const ForecastCluster&) = delete;

  // Starts all nodes at once; until all are up and agree on the map. Seconds. Rates are scaled from
  // then on.
  Result<double> start();

  // What nodes send from now on counts; start() ends so.
  void count_traffic();
  // Real bytes, not scaled ones.
  double peer_bytes();  // that nodes sent to nodes
  // The most bytes that one node sent, over the mean.
  double busiest_sender();
  // Real bytes that one simulated byte stands for.
  double scale() const { return scale_; }

 protected:
  // `chunk`: simulated bytes that move together.
  ForecastCluster(const ForecastOptions& options, double scale, uint64_t chunk,
                  BlobServiceConfig service);
  // The machines' processes end by a crash: nothing of them is looked at any more.
  virtual ~ForecastCluster();

  // What all daemons of a forecast have in common.
  DaemonOptions daemon_options() const;
  // A member that has been silent for so many chunks' time, or for `at_least`, is silent.
  Duration silence(double chunks, Duration at_least) const;
  SimMachine& add_machine(const std::string& name);
  void add_daemon(DaemonOptions options);
  // Maps, look-ups and pings are as large as real ones, so the nodes start at full speed; the rates
  // are scaled down when the object's bytes begin to move.
  virtual void scale_rates();
  uint64_t scaled(double rate) const;
  Status run_until_done(const char* what);

  ForecastOptions options_;
  double scale_;
  uint64_t chunk_;
  bool together_ = true;  // the daemons form a cluster; else every node is by itself
  Log log_;
  Simulation sim_;
  SimBlobAccount* account_ = nullptr;
  std::vector<Daemon*> daemons_;  // owned by their machines
  std::vector<SimMachine*> machines_;
  uint64_t running_ = 0;
  std::string error_;

 private:
  double sent(size_t machine);
  static Task<void> start_one(ForecastCluster* self, Daemon* daemon);
  bool agree() const;
  std::vector<uint64_t> sent_before_;  // by machine, when counting began
};

}  // namespace shoal::simulate
