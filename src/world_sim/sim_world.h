// Simulation: machines with disks, Blob accounts and one virtual clock, in one thread.
//
//   Simulation sim({.seed = 7});
//   SimBlobAccount& blob = sim.add_blob_account("127.0.0.1:10000", {}, {});
//   SimMachine& machine = sim.add_machine("a", {});
//   World& world = machine.boot();
//   auto& node = machine.own(std::make_unique<Node>(world, ...));
//   ... node starts tasks; sim.run_until([&] { return done; }, minutes(10)) ...
//   machine.crash(CrashKind::kPowerLoss);   // `node` must not be touched any more
//   World& again = machine.boot();          // what survived is on its disk
//
// A crashed process's objects and suspended coroutines are kept for ever, unreachable for the
// program but reachable for leak checkers: they cannot be destroyed, since they wait for operations
// that will never end. So give simulated nodes small caches.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "world/world.h"
#include "world_sim/sim_disk.h"
#include "world_sim/sim_executor.h"
#include "world_sim/sim_fabric.h"
#include "world_sim/sim_http.h"
#include "world_sim/sim_network.h"

namespace shoal {

// One incarnation of a process: everything that dies with it.
struct SimProcess {
  SimProcess(SimScheduler& scheduler, SimInternet& internet, SimFabric& fabric, SimHostId host,
             SimDiskState& disk_state, SeededRandom& seeds);
  ~SimProcess();

  SimExecutor executor;
  SeededRandom random;
  SimDisk disk;
  SimHttp http;
  SimNetwork network;
  World world;
  // Destroyed in reverse order at shut_down(), never after a crash.
  std::vector<std::shared_ptr<void>> owned;
};

class SimMachine {
 public:
  SimMachine(std::string name, SimScheduler& scheduler, SimInternet& internet, SimFabric& fabric,
             SimDiskOptions disk_options, uint64_t seed);
  ~SimMachine();
  SimMachine(const SimMachine&) = delete;
  SimMachine& operator=(const SimMachine&) = delete;

  const std::string& name() const { return name_; }
  // On the network; kept across restarts.
  SimHostId host() const { return host_; }
  const std::string& address() const { return fabric_.address(host_); }
  SimDiskState& disk() { return disk_; }
  bool running() const { return process_ != nullptr; }
  SimProcess& process();
  World& world() { return process().world; }

  // Starts a new process over what is on the disk.
  World& boot();
  // Kills the process at this point. Call between steps, not from its own code. After kPowerLoss
  // the machine is silent until the next boot().
  void crash(CrashKind kind);
  // Ends the process in good order: its objects are destroyed (they have drained and closed).
  void shut_down();
  // Objects that live as long as the process. Create every root object of the process so.
  template <typename T>
  T& own(std::unique_ptr<T> object) {
    T& reference = *object;
    process().owned.push_back(std::shared_ptr<T>(std::move(object)));
    return reference;
  }
  uint64_t boots() const { return boots_; }

 private:
  std::string name_;
  SimScheduler& scheduler_;
  SimInternet& internet_;
  SimFabric& fabric_;
  SimHostId host_;
  SeededRandom random_;
  SimDiskState disk_;
  std::unique_ptr<SimProcess> process_;
  uint64_t boots_ = 0;
};

struct SimOptions {
  uint64_t seed = 1;
  bool shuffle = true;  // run ready work in random order
};

class Simulation {
 public:
  explicit Simulation(SimOptions options);
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  SimMachine& add_machine(std::string name, SimDiskOptions disk);
  SimBlobAccount& add_blob_account(std::string host, BlobServiceConfig config, BlobFaults faults);
  const std::vector<std::unique_ptr<SimMachine>>& machines() const { return machines_; }

  // Cards, links, partitions and counters.
  SimFabric& network() { return network_; }
  SimScheduler& scheduler() { return scheduler_; }
  // For the test's own tasks (clients outside any machine); never crashes.
  SimExecutor& driver() { return driver_; }
  SeededRandom& random() { return random_; }
  SteadyTime now() const { return scheduler_.now(); }

  // Runs until `done` holds; false if `limit` of virtual time passed or nothing was left to do
  // first. `done` is looked at after every step.
  bool run_until(const std::function<bool()>& done, Duration limit);
  void run_for(Duration duration);
  // At most `count` steps: a crash at an arbitrary point. False: nothing was left to do.
  bool run_steps(uint64_t count);
  // Something that the test does to the world at a time: a crash, an outage, a full disk.
  void at(Duration from_now, std::function<void()> action);

  // Equal for equal seeds; anything that depends on memory addresses or real time breaks it.
  uint64_t trace_hash() const { return scheduler_.trace_hash(); }

 private:
  SimScheduler scheduler_;
  SeededRandom random_;
  SimInternet internet_;
  SimFabric network_;
  std::shared_ptr<SimPagePool> pages_;  // shared by the disks of all machines
  SimExecutor driver_;
  std::vector<std::unique_ptr<SimMachine>> machines_;
};

}  // namespace shoal
