// What the programs of a simulated cluster share, and what outlives its nodes: the history of the
// objects, findings, faults so far, calls under way.
//
// Simulation's thread.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "simulate/cluster_plan.h"
#include "simulate/daemon.h"
#include "simulate/history.h"
#include "simulate/workload.h"
#include "world_sim/sim_world.h"

namespace shoal::simulate {

// Times at which something was wrong, with what it leaves behind for a while.
class Disturbances {
 public:
  void add(SteadyTime begin, SteadyTime end) {
    spans_.emplace_back(begin, end);
    last_end_ = std::max(last_end_, end);
  }
  SteadyTime last_end() const { return last_end_; }
  bool any_in(SteadyTime begin, SteadyTime end) const {
    for (const auto& [from, to] : spans_) {
      if (from <= end && to + kAfter >= begin) return true;
    }
    return false;
  }

 private:
  static constexpr Duration kAfter = std::chrono::seconds(15);
  std::vector<std::pair<SteadyTime, SteadyTime>> spans_;
  SteadyTime last_end_{};
};

// A call that must end.
struct RunningCall {
  std::string what;
  SteadyTime deadline{};
  const Daemon* daemon = nullptr;
};

struct ClusterGround {
  explicit ClusterGround(ClusterPlan chosen) : plan(std::move(chosen)), history(kContainer) {}

  ClusterPlan plan;
  History history;
  Findings findings;
  Disturbances disturbances;
  SimBlobAccount* account = nullptr;
  SimScheduler* scheduler = nullptr;
  WriteId next_write = 1;
  std::vector<std::string> common;  // objects that the programs use
  bool ending = false;              // programs finish what they are at
  std::map<uint64_t, RunningCall> calls;
  uint64_t calls_begun = 0;

  SteadyTime now() const { return scheduler->now(); }
  void failed(const std::string& what) {
    findings.failed(fmt::format("[{:.3f} s] {}", to_seconds(now().time_since_epoch()), what));
  }
  bool failing() const { return !findings.failures.empty(); }
  // How old what a node shows may be.
  Duration age_max() const;
  // Whether the faults of the plan excuse that error. `changed`: the object had other versions.
  bool may_fail_so(const Error& error, bool changed) const;
};

// Registers a call while it exists. Those of a crashed node are dropped by the driver.
class [[nodiscard]] CallWatch {
 public:
  CallWatch(ClusterGround& ground, const Daemon& daemon, std::string what, Context context)
      : ground_(ground), number_(++ground.calls_begun) {
    ground.calls[number_] = {std::move(what), context.deadline, &daemon};
  }
  ~CallWatch() { ground_.calls.erase(number_); }
  CallWatch(const CallWatch&) = delete;
  CallWatch& operator=(const CallWatch&) = delete;

 private:
  ClusterGround& ground_;
  uint64_t number_;
};

// A program on one node's machine: reads, looks up, lists, writes, warms, and checks every answer.
class Program {
 public:
  Program(ClusterGround& ground, Daemon& daemon, SeededRandom random)
      : ground_(ground), daemon_(daemon), random_(random) {}

  // Some operations at random, until they are done or the ground is ending.
  Task<void> run();
  // The whole object in steps, as one open file.
  Task<bool> read_whole(std::string object, uint64_t step);
  Task<void> read_ranges(std::string object);
  // Every object that exists; exactly the bytes that stand in the origin now.
  Task<void> read_all(std::string prefix);

 private:
  struct Opened;
  Task<void> operation();
  Task<bool> open(std::string object, Opened* opened);
  Task<bool> read_at(Opened* opened, uint64_t offset, uint64_t length);
  Task<void> look_up_absent();
  Task<void> list();
  Task<void> write();
  Task<void> warm();
  std::string some_object();
  bool skips(const std::string& object) const;
  Context limit() const;

  ClusterGround& ground_;
  Daemon& daemon_;
  SeededRandom random_;
};

}  // namespace shoal::simulate
