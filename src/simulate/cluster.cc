// The life of one simulated cluster: the phases, and what must hold in each.
#include "simulate/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "simulate/cluster_world.h"

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr Duration kStartMax = minutes(2);
constexpr Duration kCalmStartMax = seconds(20);
constexpr Duration kWorkMax = std::chrono::hours(2);
constexpr Duration kReadAllMax = minutes(20);
constexpr Duration kUploadMax = minutes(15);
constexpr Duration kDrainMax = minutes(5);
constexpr Duration kStopMax = minutes(3);
// Who could not be reached a moment ago is not asked for a while.
constexpr Duration kHoldOff = seconds(10);
constexpr Duration kSlack = seconds(90);  // looks at the map store, back-off

class ClusterLife : public ClusterWorld {
 public:
  ClusterLife(uint64_t seed, uint32_t nodes, const SeedOptions& options)
      : ClusterWorld(seed, make_cluster_plan(seed, nodes), options), seed_(seed) {}
  Report run();

 private:
  void live();
  void start_together();
  void read_one_together();
  void work();
  void calm_down();
  void check_contents();
  void check_restart();
  void check_join();
  void check_drain();
  void stop_all();

  // Every living node does it at the same time.
  using Deed = Task<void> (*)(ClusterLife*, SimNode*, std::string);
  void everywhere(Deed deed, const std::string& argument, Duration limit, const char* what);
  static Task<void> read_bulk(ClusterLife* self, SimNode* node, std::string object);
  static Task<void> read_below(ClusterLife* self, SimNode* node, std::string prefix);
  static Task<void> await_clean(ClusterLife* self, SimNode* node, std::string);
  static Task<void> warm_path(ClusterLife* self, SimNode* node, std::string path);
  static Task<void> drain_node(ClusterLife* self, SimNode* node, std::string);
  uint64_t origin_bytes(const std::string& prefix);
  void put_objects(const std::string& prefix, uint32_t count, uint64_t size);
  void check_one_read(const std::string& object);
  bool settled_cache() const { return !plan().small_cache; }

  uint64_t seed_;
};

void ClusterLife::everywhere(Deed deed, const std::string& argument, Duration limit,
                             const char* what) {
  struct Doer {
    SimMachine* machine;
    uint64_t boots;
    uint64_t running;
  };
  std::deque<Doer> doers;  // counted down where they lie
  for (SimNode* node : living()) {
    Doer& doer = doers.emplace_back(Doer{node->machine, node->machine->boots(), 1});
    spawn(*node, deed(this, node, argument), &doer.running);
  }
  // Who crashes does nothing more, whether it has come back since or not.
  auto over = [](const Doer& doer) {
    return doer.running == 0 || !doer.machine->running() || doer.machine->boots() != doer.boots;
  };
  run_until([&] { return std::ranges::all_of(doers, over); }, limit, what);
}

// --- phases ---

// Phase 1: all at once, without a map yet.
void ClusterLife::start_together() {
  SteadyTime begun = sim_.now();
  for (uint32_t i = 0; i < plan().nodes; ++i) boot(add_node());
  if (plan().early) begin_faults();
  run_until([this] { return all_up(); }, kStartMax, "starting the cluster");
  ground_.findings.count("start_ms", static_cast<uint64_t>((sim_.now() - begun) / milliseconds(1)));
  bool calm = !plan().early && !plan().blob_noise;
  if (calm && sim_.now() - begun > kCalmStartMax) failed("the cluster starts too slowly");
}

Task<void> ClusterLife::read_bulk(ClusterLife* self, SimNode* node, std::string object) {
  Program program(self->ground_, *node->daemon, self->random_.fork());
  uint64_t step = 128 * kKiB + self->random_.below(512 * kKiB);
  bool whole = co_await program.read_whole(object, step);
  bool excused = self->plan().blob_noise || self->plan().early;
  if (!whole && !excused)
    self->failed(fmt::format("{} could not read {}", node->machine->name(), object));
}

// Checker: each chunk one request, each byte once, for the whole cluster.
void ClusterLife::check_one_read(const std::string& object) {
  uint64_t size = ground_.history.at(object).now().bytes.size();
  uint64_t chunk = plan().cluster.reader.chunk_bytes;
  uint64_t gets = account_->service.gets(kContainer, object);
  uint64_t bytes = origin_bytes(object);
  if (bytes != size) failed(fmt::format("{}: {} bytes were fetched of {}", object, bytes, size));
  if (gets != (size + chunk - 1) / chunk) {
    failed(fmt::format("{}: {} requests for {} chunks:{}", object, gets, (size + chunk - 1) / chunk,
                       fetched_ranges(object)));
  }
}

// Phase 2: the same object, everywhere, cold, at the same moment.
void ClusterLife::read_one_together() {
  everywhere(&ClusterLife::read_bulk, "bulk/0", kReadAllMax, "reading one object everywhere");
  if (failing() || plan().blob_noise || plan().early) return;
  check_one_read("bulk/0");
}

// Phase 3: programs on every node, and whatever goes wrong.
void ClusterLife::work() {
  for (SimNode* node : living()) start_programs(*node);
  begin_faults();
  run_until([this] { return programs() == 0 && sim_.now() >= faults_until_; }, kWorkMax,
            "the programs");
}

// Phase 4: everybody comes back, and all agree on who is there.
void ClusterLife::calm_down() {
  end_faults();
  for (SimNode& node : nodes_) {
    if (!node.machine->running()) boot(node);
  }
  if (!run_until([this] { return all_up(); }, kStartMax, "everybody's return")) return;
  SteadyTime begun = sim_.now();
  if (!run_until([this] { return maps_agree(); }, plan().cluster.grace + kSlack,
                 "agreement on the map")) {
    log_maps();
    return;
  }
  ground_.findings.count("agree_ms", static_cast<uint64_t>((sim_.now() - begun) / milliseconds(1)));
  ground_.disturbances.add(begun, sim_.now());
}

Task<void> ClusterLife::await_clean(ClusterLife* self, SimNode* node, std::string) {
  while (!self->failing() && node->daemon->node().status().dirty_objects > 0) {
    Status slept = co_await sleep_for(node->daemon->world().executor, seconds(1), {});
    static_cast<void>(slept);
  }
}

Task<void> ClusterLife::read_below(ClusterLife* self, SimNode* node, std::string prefix) {
  Program program(self->ground_, *node->daemon, self->random_.fork());
  co_await program.read_all(prefix);
}

// Phase 5: everything, everywhere; and once more from the caches.
void ClusterLife::check_contents() {
  everywhere(&ClusterLife::await_clean, "", kUploadMax, "uploading");
  if (failing()) return;
  sim_.run_for(ground_.age_max() + seconds(1));
  poll_origin();
  everywhere(&ClusterLife::read_below, "", kReadAllMax, "reading everything");
  if (failing()) return;
  uint64_t before = origin_bytes("");
  everywhere(&ClusterLife::read_below, "", kReadAllMax, "reading everything again");
  if (!failing() && settled_cache() && origin_bytes("") != before) {
    failed(
        fmt::format("{} bytes were fetched again, all of them cached", origin_bytes("") - before));
  }
}

Task<void> ClusterLife::warm_path(ClusterLife* self, SimNode* node, std::string path) {
  Status status = co_await node->daemon->node().warm(
      path, false, [](const WarmProgress&) {},
      Context::within(node->daemon->world().executor, minutes(5)));
  if (!status) self->failed("warming " + path + ": " + status.error().to_string());
}

void ClusterLife::put_objects(const std::string& prefix, uint32_t count, uint64_t size) {
  for (uint32_t i = 0; i < count; ++i) {
    ground_.history.put(account_->service, fmt::format("{}{}", prefix, i),
                        make_content(ground_.next_write++, size + i * 1000), sim_.now(),
                        sim_.scheduler().wall_now());
  }
}

// Phase 6: a restart within the grace time moves nothing, and what was cached is still there.
void ClusterLife::check_restart() {
  SimNode* victim = living()[random_.below(living().size())];
  uint64_t before = placement_signature(*victim);
  put_objects("kept/", 2, plan().size_max);
  uint64_t running = 1;
  spawn(*living()[0], warm_path(this, living()[0], "kept"), &running);
  if (!run_until([&] { return running == 0; }, kReadAllMax, "warming")) return;
  sim_.run_for(seconds(1));
  bool orderly = random_.chance(0.5);
  if (orderly) {
    stop_node(*victim, kStopMax);
  } else {
    crash(*victim, CrashKind::kProcess);
  }
  if (failing()) return;
  sim_.run_for(milliseconds(random_.below(static_cast<uint64_t>(
      std::min<Duration>(plan().cluster.grace / 2, seconds(12)) / milliseconds(1)))));
  boot(*victim);
  auto back = [this] { return all_up() && maps_agree(); };
  if (!run_until(back, kStartMax, "a restart within the grace time")) return log_maps();
  sim_.run_for(kHoldOff);
  if (placement_signature(*victim) != before) failed("a restart within the grace time moved slots");
  everywhere(&ClusterLife::read_below, "kept", kReadAllMax, "reading after a restart");
  uint64_t size = 0;
  for (const auto& [object, history] : ground_.history.objects()) {
    if (object.starts_with("kept/")) size += history.versions.back().bytes.size();
  }
  if (!failing() && settled_cache() && origin_bytes("kept/") != size) {
    failed(fmt::format("after a restart {} bytes of {} were fetched", origin_bytes("kept/"), size));
  }
}

// Phase 7: a new node asks the owners before it, not the origin.
void ClusterLife::check_join() {
  put_objects("moved/", 3, plan().size_max);
  uint64_t running = 1;
  spawn(*living()[0], warm_path(this, living()[0], "moved"), &running);
  if (!run_until([&] { return running == 0; }, kReadAllMax, "warming")) return;
  boot(add_node());
  auto joined = [this] { return all_up() && maps_agree(); };
  if (!run_until(joined, kStartMax, "joining")) return log_maps();
  everywhere(&ClusterLife::read_below, "moved", kReadAllMax, "reading after a join");
  uint64_t size = 0;
  for (const auto& [object, history] : ground_.history.objects()) {
    if (object.starts_with("moved/")) size += history.versions.back().bytes.size();
  }
  if (!failing() && settled_cache() && origin_bytes("moved/") != size) {
    failed(fmt::format("after a join {} bytes of {} were fetched", origin_bytes("moved/"), size));
  }
}

Task<void> ClusterLife::drain_node(ClusterLife* self, SimNode* node, std::string) {
  Status status = co_await node->daemon->node().drain(
      "", [](const DrainProgress&) {}, Context::within(node->daemon->world().executor, kDrainMax));
  if (!status) self->failed("draining: " + status.error().to_string());
}

// Phase 8: a node leaves in good order, and nothing that it held is fetched again.
void ClusterLife::check_drain() {
  // The store knows only chunks of the default size, so of smaller ones only whole objects are
  // handed over.
  bool usual = plan().cluster.reader.chunk_bytes == kChunkBytesDefault;
  put_objects("left/", 6, usual ? plan().size_max : 90 * kKiB);
  uint64_t running = 1;
  spawn(*living()[0], warm_path(this, living()[0], "left"), &running);
  if (!run_until([&] { return running == 0; }, kReadAllMax, "warming")) return;
  SimNode* leaver = living()[random_.below(living().size())];
  running = 1;
  spawn(*leaver, drain_node(this, leaver, ""), &running);
  if (!run_until([&] { return running == 0; }, kDrainMax + seconds(10), "draining")) return;
  if (failing()) return;
  stop_node(*leaver, kStopMax);
  leaver->gone = true;
  auto left = [this] { return maps_agree(); };
  if (!run_until(left, kStartMax, "agreement after a drain")) return log_maps();
  sim_.run_for(kHoldOff);
  everywhere(&ClusterLife::read_below, "left", kReadAllMax, "reading after a drain");
  uint64_t size = 0;
  for (const auto& [object, history] : ground_.history.objects()) {
    if (object.starts_with("left/")) size += history.versions.back().bytes.size();
  }
  if (!failing() && settled_cache() && origin_bytes("left/") != size) {
    failed(fmt::format("after a drain {} bytes of {} were fetched:{}", origin_bytes("left/"), size,
                       fetched_ranges("left/")));
  }
}

void ClusterLife::stop_all() {
  for (SimNode& node : nodes_) {
    if (node.machine->running() && !failing()) stop_node(node, kStopMax);
  }
  if (failing()) return;
  sim_.run_for(minutes(1));
  if (sim_.network().streams() != 0) {
    failed(
        fmt::format("{} connections are left after everybody stopped", sim_.network().streams()));
  }
}

void ClusterLife::live() {
  using Phase = void (ClusterLife::*)();
  for (Phase phase :
       {&ClusterLife::start_together, &ClusterLife::read_one_together, &ClusterLife::work,
        &ClusterLife::calm_down, &ClusterLife::check_contents, &ClusterLife::check_restart,
        &ClusterLife::check_join, &ClusterLife::check_drain, &ClusterLife::stop_all}) {
    (this->*phase)();
    if (failing()) return;
  }
}

uint64_t ClusterLife::origin_bytes(const std::string& prefix) {
  look_at_reads();
  uint64_t bytes = 0;
  for (const auto& [object, count] : fetched_) {
    if (object.starts_with(prefix)) bytes += count;
  }
  return bytes;
}

Report ClusterLife::run() {
  live();
  return make_report(seed_, ground_.findings, plan().describe(), sim_, log_lines_);
}

}  // namespace

Report run_cluster(uint64_t seed, uint32_t nodes, const SeedOptions& options) {
  return ClusterLife(seed, nodes, options).run();
}

SeedScenario cluster_scenario(uint32_t nodes) {
  std::string command = "shoal simulate cluster";
  if (nodes != 0) command += fmt::format(" --nodes {}", nodes);
  return {"cluster", command, [nodes](uint64_t seed, const SeedOptions& options) {
            return run_cluster(seed, nodes, options);
          }};
}

}  // namespace shoal::simulate
