// ClusterWorld: the machines of a simulated cluster, what goes wrong with them, and the checks that
// hold at all times. The phases of a life are in cluster.cc.
//
// Simulation's thread.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "simulate/cluster_ground.h"
#include "simulate/report.h"

namespace shoal::simulate {

// A machine and what runs on it.
struct SimNode {
  SimMachine* machine = nullptr;
  std::string zone;
  std::unique_ptr<Log> log;  // lines begin with the node's name
  Gate* gate = nullptr;      // of this boot
  Daemon* daemon = nullptr;  // once it has started; null while it is down
  uint64_t programs = 0;     // that run
  bool gone = false;         // has left for good
  bool returning = false;    // down, and will come back by itself
};

class ClusterWorld {
 protected:
  ClusterWorld(uint64_t seed, ClusterPlan plan, const SeedOptions& options);
  virtual ~ClusterWorld() = default;

  const ClusterPlan& plan() const { return ground_.plan; }
  void failed(const std::string& what) { ground_.failed(what); }
  bool failing() const { return ground_.failing(); }

  // --- machines ---
  SimNode& add_node();
  void boot(SimNode& node);
  void crash(SimNode& node, CrashKind kind);
  // In good order; everything must be given back.
  void stop_node(SimNode& node, Duration limit);
  // Also when a node comes back while programs run.
  virtual void start_programs(SimNode& node);
  // Runs on the node, and dies with it; then `running` does not come down.
  void spawn(SimNode& node, Task<void> task, uint64_t* running);
  std::vector<SimNode*> living();
  bool all_up() const;
  // Everybody has the same map, and exactly the living are in it, up.
  bool maps_agree();
  void log_maps();
  uint64_t placement_signature(SimNode& node);
  uint64_t programs() const;

  // --- time ---
  // False, and a failure, if it takes longer.
  bool run_until(const std::function<bool()>& done, Duration limit, const char* what);

  // --- faults ---
  void begin_faults();
  void end_faults();
  // How long a fault lasts; notes it as an excuse.
  Duration disturb(Duration least, Duration most);
  SimNode* some_living();
  void part_both();
  void part_one_way();
  void slow_node();
  void lose_blob();
  void burst_blob();
  void fill_disk();

  // --- what is always checked ---
  void poll_origin();
  // Checker: no byte of a version is fetched twice without an excuse.
  void look_at_reads();
  // What was fetched of objects with that prefix and when, for people.
  std::string fetched_ranges(const std::string& prefix) const;

  ClusterGround ground_;
  Simulation sim_;
  SeededRandom random_;
  SimBlobAccount* account_ = nullptr;
  std::deque<SimNode> nodes_;
  std::deque<std::string> log_lines_;
  std::map<std::string, uint64_t> fetched_;  // bytes from the origin, by object
  SteadyTime faults_until_{};
  bool faults_on_ = false;
  bool working_ = false;  // programs start with their nodes
  Log log_;

 private:
  using Fault = void (ClusterWorld::*)();
  static Task<void> supervise(ClusterWorld* self, SimNode* node);
  static Task<void> count_down(Task<void> task, uint64_t* running);
  static Task<void> run_program(ClusterWorld* self, SimNode* node, SeededRandom random);
  void set_up_objects();
  void schedule_poll();
  void schedule_fault();
  void check_calls();
  std::vector<SimHostId> some_hosts();
  void set_blob_faults();
  void check_read(const BlobRead& read);

  void kill();
  void bad_link();
  void corrupt_links();
  void lose_map();
  void jump_clock();
  void change_object();
  void join_node();

  const SeedOptions& options_;
  bool polling_ = false;
  uint32_t bursts_ = 0;  // under way
  uint32_t map_losses_ = 0;
  uint64_t links_changed_ = 0;  // number of the change that stands
  bool joined_ = false;
  struct Fetched {
    Range range;
    SteadyTime when{};
  };
  std::map<std::pair<std::string, std::string>, std::vector<Fetched>> reads_;  // by name and etag
};

}  // namespace shoal::simulate
