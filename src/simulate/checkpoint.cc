// The life of one cluster that checkpoints are written to: the phases, and what must hold in each.
#include "simulate/checkpoint.h"

#include <fmt/format.h>

#include "simulate/checkpoint_files.h"
#include "simulate/cluster_world.h"
#include "simulate/content.h"

namespace shoal::simulate {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr Duration kStartMax = minutes(2);
constexpr Duration kWorkMax = std::chrono::hours(2);
constexpr Duration kReadMax = minutes(20);
constexpr Duration kDrainMax = minutes(15);
constexpr Duration kStopMax = minutes(3);
constexpr Duration kSlack = seconds(90);     // looks at the map store, back-off
constexpr Duration kVerifyMax = minutes(2);  // after the last fault
constexpr Duration kPollPeriod = milliseconds(200);
constexpr uint64_t kBytesPerSecondSlow = 1'500'000;

template <typename T>
T pick(SeededRandom& random, std::initializer_list<T> choices) {
  return *(choices.begin() + random.below(choices.size()));
}

ClusterPlan make_checkpoint_plan(uint64_t seed, uint32_t nodes) {
  SeededRandom random(seed * 2 + 4099);
  ClusterPlan plan;
  plan.shuffle = random.chance(0.8);
  plan.nodes = nodes;
  plan.zones = random.chance(0.3) ? 3 : 1;
  plan.cluster.name = "sim";
  plan.cluster.copies = 2;
  plan.cluster.grace = pick<Duration>(random, {seconds(15), seconds(30)});
  plan.cluster.attr_ttl = pick<Duration>(random, {Duration(0), milliseconds(500), seconds(5)});
  plan.cluster.negative_ttl = pick<Duration>(random, {Duration(0), milliseconds(500), seconds(2)});
  plan.cluster.reader.chunk_bytes = pick<uint64_t>(random, {256 * kKiB, kMiB, kMiB, 8 * kMiB});
  plan.node.attr_ttl = plan.cluster.attr_ttl;
  plan.node.negative_ttl = plan.cluster.negative_ttl;
  plan.node.ack = AckLevel::kReplicated;
  plan.node.replication.replicas = 2;
  plan.node.replication.chunk_bytes = plan.cluster.reader.chunk_bytes;
  plan.node.upload_delay =
      pick<Duration>(random, {Duration(0), milliseconds(20), milliseconds(500), seconds(20)});
  plan.node.memory = pick<uint64_t>(random, {32 * kMiB, 256 * kMiB});
  plan.store.directory = "/cache";
  plan.store.capacity = kGiB;
  plan.store.memory = 512 * kKiB;
  plan.store.disk_reserve = 0;
  plan.network.link.latency = pick<Duration>(random, {microseconds(30), microseconds(300)});
  plan.network.link.jitter = plan.network.link.latency;
  plan.blob.latency = pick<Duration>(random, {milliseconds(1), milliseconds(8), milliseconds(30)});
  plan.blob.latency_jitter = plan.blob.latency;
  if (random.chance(0.3)) plan.blob.account_in_bytes_per_second = kBytesPerSecondSlow;
  plan.programs = 1 + static_cast<uint32_t>(random.below(2));
  plan.operations = 3 + static_cast<uint32_t>(random.below(8));
  plan.objects = 0;
  plan.size_max = pick<uint64_t>(random, {200 * kKiB, kMiB, 3 * kMiB});
  plan.check_fetches = false;
  bool calm = random.chance(0.15);  // but for the node that is destroyed
  if (!calm) {
    double each = pick<double>(random, {0.2, 0.4});
    for (bool* fault : {&plan.kills, &plan.power_losses, &plan.lost_caches, &plan.long_downs,
                        &plan.one_way, &plan.slow_nodes, &plan.blob_away, &plan.blob_bursts}) {
      *fault = random.chance(each);
    }
    for (bool* fault : {&plan.partitions, &plan.full_disks}) *fault = random.chance(each / 2);
  }
  plan.contested = random.chance(0.3);
  // What is in the page cache is read while writes are still on their way.
  if (random.chance(0.3)) {
    plan.disk.bytes_per_second = pick<uint64_t>(random, {20'000'000, 200'000'000});
    plan.disk.read_bytes_per_second = 5'000'000'000;
  }
  // Replicas go past the page cache where they can.
  if (random.chance(0.2)) plan.disk.direct_block = pick<uint64_t>(random, {0, 8 * kKiB});
  return plan;
}

class CheckpointLife : public ClusterWorld {
 public:
  CheckpointLife(uint64_t seed, uint32_t nodes, const SeedOptions& options)
      : ClusterWorld(seed, make_checkpoint_plan(seed, nodes), options),
        files_(ground_),
        seed_(seed) {}
  Report run();

 private:
  void live();
  void start_together();
  void work();
  void calm_down();
  void destroy_writer();
  void destroy_open_writer();
  void destroy_committed_writer();
  void drain();
  void check_contents();
  void stop_all();

  void start_programs(SimNode& node) override;
  static Task<void> run_program(CheckpointLife* self, SimNode* node, SeededRandom random);
  static Task<void> write_some(CheckpointLife* self, SimNode* node, uint32_t count);
  static Task<void> write_again(CheckpointLife* self, SimNode* node);
  static Task<void> take_name(CheckpointLife* self, SimNode* node, std::string path);
  void cut_off_origin(const SimNode& but, Duration length);
  struct OpenWriter {
    std::string path;
    uint32_t syncs = 0;     // to make
    uint32_t may_sync = 1;  // so many of them
    uint32_t begun = 0;
  };
  static Task<void> write_open(CheckpointLife* self, SimNode* node, OpenWriter* writer);
  SimNode* lose_holder(const SimNode& writer);
  // Nobody reaches them, and they nobody, for less than the grace time: they are not lost.
  void cut_off_some(const SimNode& but);
  // Every file whose name begins so.
  static Task<void> verify_below(CheckpointLife* self, SimNode* node, std::string prefix);
  void verify_everywhere(const std::string& prefix, const char* what);

  void schedule_fault();
  void schedule_poll();
  void lose_node();
  void crash_node(SimNode& node, CrashKind kind, bool destroyed);
  void refuse_uploads();
  bool drained();
  void log_backlog();

  CheckpointFiles files_;
  uint64_t seed_;
  SteadyTime next_look_{};  // whether all is drained
  bool destroyed_ = false;  // since everything was in the origin
  SteadyTime cut_until_{};  // some are cut off, or just back
  uint64_t verifying_ = 0;  // programs that look after a destroyed node's files
};

// --- phases ---

void CheckpointLife::start_together() {
  for (uint32_t i = 0; i < plan().nodes; ++i) {
    SimNode& node = add_node();
    account_->service.add(
        kContainer, CheckpointFiles::directory_of(node.machine->name()) + "README",
        BlobContent::copy_of("whose checkpoints these are"), {}, sim_.scheduler().wall_now());
    boot(node);
  }
  account_->service.add(
      kContainer, CheckpointFiles::directory_of(CheckpointFiles::kShared) + "README",
      BlobContent::copy_of("what several write"), {}, sim_.scheduler().wall_now());
  auto ready = [this] { return all_up() && maps_agree(); };
  run_until(ready, kStartMax, "starting the cluster");
}

void CheckpointLife::work() {
  working_ = faults_on_ = true;
  faults_until_ = sim_.now() + (plan().calm() ? seconds(0) : seconds(10 + random_.below(40)));
  for (SimNode* node : living()) start_programs(*node);
  if (!plan().calm()) schedule_fault();
  run_until([this] { return programs() == 0 && sim_.now() >= faults_until_; }, kWorkMax,
            "the programs");
}

void CheckpointLife::calm_down() {
  end_faults();
  for (SimNode& node : nodes_) {
    if (!node.machine->running()) boot(node);
  }
  account_->faults.set(plan().blob);
  if (!run_until([this] { return all_up(); }, kStartMax, "everybody's return")) return;
  ground_.disturbances.add(sim_.now(), sim_.now());
  if (!run_until([this] { return maps_agree(); }, plan().cluster.grace + kSlack,
                 "agreement on the map")) {
    log_maps();
  }
}

// A writer is destroyed when nothing of what it wrote is in the origin, nor can be.
void CheckpointLife::destroy_writer() {
  refuse_uploads();
  SimNode& victim = *living()[random_.below(living().size())];
  std::string prefix = CheckpointFiles::directory_of(victim.machine->name());
  uint64_t running = 1;
  spawn(victim, write_some(this, &victim, 3), &running);
  if (!run_until([&] { return running == 0; }, minutes(10), "writing a checkpoint")) return;
  // While it writes the first file anew. If that was synced, but not closed, others see it when it
  // was uploaded for its writer.
  bool again = random_.chance(0.5);
  SimNode* away = again && random_.chance(0.5) ? lose_holder(victim) : nullptr;
  if (again) spawn(victim, write_again(this, &victim), &running);
  sim_.run_for(milliseconds(random_.below(again ? 1000 : 3000)));
  crash_node(victim, CrashKind::kProcess, true);
  if (again) account_->faults.set(plan().blob);
  if (away != nullptr) {
    boot(*away);
    if (!run_until([&] { return away->daemon != nullptr; }, kStartMax, "a holder's return")) return;
  }
  verify_everywhere(prefix, "reading a destroyed node's files from its peers");
  if (failing()) return;
  account_->faults.set(plan().blob);
  ground_.disturbances.add(sim_.now(), sim_.now());
  if (random_.chance(0.5)) {  // not needed for what follows
    if (!run_until([this] { return drained(); }, kDrainMax, "uploading for a destroyed node")) {
      return log_backlog();
    }
    files_.check_origin();
  }
  boot(victim);
  auto back = [this] { return all_up() && maps_agree(); };
  if (!run_until(back, plan().cluster.grace + kSlack, "a new node's start")) log_maps();
}

// It has a file open that it synced more than once. Who keeps records or replicas of it is cut off
// now and then, so that the records of the syncs lie on different nodes, and those who act in its
// place know some of them only.
void CheckpointLife::destroy_open_writer() {
  if (random_.chance(0.4)) return;
  SimNode& victim = *living()[random_.below(living().size())];
  std::string prefix = CheckpointFiles::directory_of(victim.machine->name());
  OpenWriter writer;
  writer.path = prefix + "open";
  writer.syncs = 2 + static_cast<uint32_t>(random_.below(2));
  uint64_t running = 1;
  spawn(victim, write_open(this, &victim, &writer), &running);
  for (uint32_t sync = 1; sync < writer.syncs; ++sync) {
    auto begun = [&] { return writer.begun >= sync || running == 0; };
    if (!run_until(begun, minutes(10), "writing a file that stays open")) return;
    sim_.run_for(milliseconds(random_.below(4000)));
    if (random_.chance(0.7)) cut_off_some(victim);
    sim_.run_for(milliseconds(random_.below(4000)));
    writer.may_sync = sync + 1;
  }
  if (!run_until([&] { return running == 0; }, minutes(10), "syncing it again")) return;
  sim_.run_for(milliseconds(random_.below(2000)));
  if (random_.chance(0.7)) cut_off_some(victim);
  crash_node(victim, CrashKind::kProcess, true);
  verify_everywhere(prefix, "reading what was synced on a destroyed node");
  if (failing()) return;
  boot(victim);
  auto back = [this] { return all_up() && maps_agree(); };
  if (!run_until(back, plan().cluster.grace + kSlack + seconds(60), "a new node's start")) {
    log_maps();
  }
}

// Its file is in the origin, but nobody was told. Who acts in its place cannot reach the origin,
// while its successor can, and takes the name.
void CheckpointLife::destroy_committed_writer() {
  if (random_.chance(0.6)) return;
  SimNode& victim = *living()[random_.below(living().size())];
  std::string path = CheckpointFiles::directory_of(victim.machine->name()) + "f0";
  uint64_t running = 1;
  spawn(victim, write_some(this, &victim, 1), &running);
  auto committed = [&] { return running == 0 && files_.is_in_origin(path); };
  if (!run_until(committed, minutes(10), "committing a file")) return;
  crash_node(victim, CrashKind::kProcess, true);
  boot(victim);
  auto back = [&] { return victim.daemon != nullptr; };
  if (!run_until(back, plan().cluster.grace + kSlack, "a successor's start")) return;
  cut_off_origin(victim, disturb(seconds(1), seconds(40)));
  ++running;
  spawn(victim, take_name(this, &victim, path), &running);
  if (!run_until([&] { return running == 0; }, minutes(10), "taking the name")) return;
  if (!run_until([this] { return maps_agree(); }, plan().cluster.grace + kSlack,
                 "agreement on the map")) {
    log_maps();
  }
}

void CheckpointLife::cut_off_origin(const SimNode& but, Duration length) {
  for (SimNode& node : nodes_) {
    if (&node == &but || !node.machine->running()) continue;
    node.machine->process().http.set_partitioned(true);
    sim_.at(length, [&node] { node.machine->process().http.set_partitioned(false); });
  }
}

// It may hold replicas and records, and is away for so long that others take its place. While
// those are asked to, some may not answer.
SimNode* CheckpointLife::lose_holder(const SimNode& writer) {
  std::vector<SimNode*> others = living();
  std::erase(others, &writer);
  if (others.empty()) return nullptr;
  SimNode* holder = others[random_.below(others.size())];
  crash_node(*holder, CrashKind::kProcess, false);
  sim_.run_for(disturb(plan().cluster.grace, plan().cluster.grace + seconds(10)));
  if (random_.chance(0.5)) cut_off_some(writer);
  return holder;
}

void CheckpointLife::cut_off_some(const SimNode& but) {
  if (sim_.now() < cut_until_) sim_.run_for(cut_until_ - sim_.now());
  std::vector<SimHostId> inside;
  std::vector<SimHostId> outside;
  uint64_t first = random_.below(nodes_.size());
  uint64_t count = 1 + random_.below(2);
  for (uint64_t i = 0; i < nodes_.size(); ++i) {
    const SimNode& node = nodes_[(first + i) % nodes_.size()];
    bool cut = &node != &but && inside.size() < count;
    (cut ? inside : outside).push_back(node.machine->host());
  }
  uint64_t cut = sim_.network().partition(inside, outside, SimCut::kBothWays);
  Duration length = disturb(seconds(1), plan().cluster.grace - seconds(5));
  sim_.at(length, [this, cut] { sim_.network().heal(cut); });
  cut_until_ = sim_.now() + length + seconds(5);
}

void CheckpointLife::drain() {
  SteadyTime begun = sim_.now();
  if (!run_until([this] { return drained(); }, kDrainMax, "uploading everything")) {
    return log_backlog();
  }
  ground_.findings.count("drain_ms", static_cast<uint64_t>((sim_.now() - begun) / milliseconds(1)));
  destroyed_ = false;
  files_.poll();
  files_.check_origin();
}

void CheckpointLife::check_contents() {
  sim_.run_for(ground_.age_max() + seconds(1));
  verify_everywhere("", "reading everything");
}

void CheckpointLife::stop_all() {
  for (SimNode& node : nodes_) {
    if (node.machine->running() && !failing()) stop_node(node, kStopMax);
  }
}

void CheckpointLife::live() {
  using Phase = void (CheckpointLife::*)();
  schedule_poll();
  start_together();
  uint32_t rounds = 1 + static_cast<uint32_t>(random_.below(2));
  for (uint32_t round = 0; round < rounds && !failing(); ++round) {
    for (Phase phase : {&CheckpointLife::work, &CheckpointLife::calm_down}) {
      if (!failing()) (this->*phase)();
    }
    if (!failing()) verify_everywhere("", "reading what was acknowledged");
    if (!failing()) drain();
  }
  for (Phase phase : {&CheckpointLife::destroy_writer, &CheckpointLife::drain,
                      &CheckpointLife::destroy_open_writer, &CheckpointLife::drain,
                      &CheckpointLife::destroy_committed_writer, &CheckpointLife::drain,
                      &CheckpointLife::check_contents, &CheckpointLife::stop_all}) {
    if (!failing()) (this->*phase)();
  }
}

// --- programs ---

Task<void> CheckpointLife::run_program(CheckpointLife* self, SimNode* node, SeededRandom random) {
  CheckpointProgram program(self->ground_, self->files_, *node->daemon, random);
  co_await program.run();
}

void CheckpointLife::start_programs(SimNode& node) {
  for (uint32_t i = 0; i < plan().programs; ++i) {
    ++node.programs;
    spawn(node, run_program(this, &node, random_.fork()), &node.programs);
  }
}

Task<void> CheckpointLife::write_some(CheckpointLife* self, SimNode* node, uint32_t count) {
  CheckpointProgram program(self->ground_, self->files_, *node->daemon, self->random_.fork());
  for (uint32_t i = 0; i < count && !self->failing(); ++i) {
    std::string path =
        fmt::format("{}f{}", CheckpointFiles::directory_of(node->machine->name()), i);
    if (co_await program.rewrite(path)) continue;
    self->failed(path + ": could not be written when all is well");
  }
}

Task<void> CheckpointLife::write_again(CheckpointLife* self, SimNode* node) {
  CheckpointProgram program(self->ground_, self->files_, *node->daemon, self->random_.fork());
  bool written =
      co_await program.rewrite(CheckpointFiles::directory_of(node->machine->name()) + "f0");
  static_cast<void>(written);  // nobody may live to see it
}

Task<void> CheckpointLife::take_name(CheckpointLife* self, SimNode* node, std::string path) {
  CheckpointProgram program(self->ground_, self->files_, *node->daemon, self->random_.fork());
  if (self->random_.chance(0.5)) {
    bool written = co_await program.rewrite(path);
    static_cast<void>(written);  // those who keep it are cut off from the origin only
  }
  co_await program.remove(path);
}

Task<void> CheckpointLife::write_open(CheckpointLife* self, SimNode* node, OpenWriter* writer) {
  CheckpointProgram program(self->ground_, self->files_, *node->daemon, self->random_.fork());
  auto may_sync = [writer](uint32_t sync) {
    if (sync >= writer->may_sync) return false;
    writer->begun = sync + 1;
    return true;
  };
  bool written = co_await program.write_open(writer->path, writer->syncs, may_sync);
  static_cast<void>(written);  // who is cut off may have been needed
}

Task<void> CheckpointLife::verify_below(CheckpointLife* self, SimNode* node, std::string prefix) {
  CheckpointProgram program(self->ground_, self->files_, *node->daemon, self->random_.fork());
  std::vector<std::string> paths;
  for (const auto& [path, file] : self->files_.all()) {
    if (path.starts_with(prefix)) paths.push_back(path);
  }
  for (std::string& path : paths) co_await program.verify(std::move(path), kVerifyMax);
}

void CheckpointLife::verify_everywhere(const std::string& prefix, const char* what) {
  uint64_t running = 0;
  for (SimNode* node : living()) {
    ++running;
    spawn(*node, verify_below(this, node, prefix), &running);
  }
  run_until([&running] { return running == 0; }, kReadMax, what);
}

// --- faults ---

void CheckpointLife::schedule_poll() {
  sim_.at(kPollPeriod, [this] {
    files_.poll();
    schedule_poll();
  });
}

void CheckpointLife::schedule_fault() {
  sim_.at(milliseconds(100 + random_.below(4000)), [this] {
    if (!faults_on_ || sim_.now() > faults_until_) return;
    std::vector<int> known;
    auto add = [&known](bool on, int fault) {
      if (on) known.push_back(fault);
    };
    add(plan().kills || plan().power_losses || plan().lost_caches, 0);
    add(plan().one_way, 1);
    add(plan().slow_nodes, 2);
    add(plan().blob_away, 3);
    add(plan().blob_bursts, 4);
    add(plan().partitions, 5);
    add(plan().full_disks, 6);
    switch (known.empty() ? -1 : known[random_.below(known.size())]) {
      case 0:
        lose_node();
        break;
      case 1:
        part_one_way();
        break;
      case 2:
        slow_node();
        break;
      case 3:
        lose_blob();
        break;
      case 4:
        burst_blob();
        break;
      case 5:
        part_both();
        break;
      case 6:
        fill_disk();
        break;
      default:
        break;
    }
    schedule_fault();
  });
}

// One node at a time: with two copies no more is promised.
void CheckpointLife::lose_node() {
  if (!all_up()) return;
  SimNode& victim = nodes_[random_.below(nodes_.size())];
  bool destroy = plan().lost_caches && !destroyed_ && random_.chance(0.5);
  if (!destroy && !plan().kills && !plan().power_losses) return;
  bool power = plan().power_losses && (!plan().kills || random_.chance(0.5));
  crash_node(victim, power ? CrashKind::kPowerLoss : CrashKind::kProcess, destroy);
  Duration grace = plan().cluster.grace;
  Duration down = destroy || (plan().long_downs && random_.chance(0.5))
                      ? disturb(seconds(1), grace + seconds(30))
                      : disturb(milliseconds(50), seconds(8));
  victim.returning = true;
  if (destroy) {
    SimNode* reader = some_living();
    std::string prefix = CheckpointFiles::directory_of(victim.machine->name());
    ++verifying_;
    spawn(*reader, verify_below(this, reader, prefix), &verifying_);
  }
  sim_.at(down, [this, &victim] {
    if (victim.returning && !victim.machine->running()) boot(victim);
  });
}

void CheckpointLife::crash_node(SimNode& node, CrashKind kind, bool destroyed) {
  crash(node, kind);
  files_.crashed(node.machine->name(), destroyed);
  if (!destroyed) return;
  destroyed_ = true;
  log_.info("--- {} is destroyed", node.machine->name());
  ground_.findings.count("destroyed");
  node.machine->disk().wipe();
}

void CheckpointLife::refuse_uploads() {
  BlobFaults faults = plan().blob;
  ScriptedFault refuse;
  refuse.fault = BlobFault::kBusy;
  refuse.method = "PUT";
  refuse.target_part = "ckpt";
  refuse.count = UINT64_MAX;
  faults.script.push_back(refuse);
  account_->faults.set(std::move(faults));
}

bool CheckpointLife::drained() {
  if (sim_.now() < next_look_) return false;  // it costs more than a step
  next_look_ = sim_.now() + milliseconds(100);
  for (SimNode* node : living()) {
    NodeStatus status = node->daemon->node().status();
    if (status.dirty_objects != 0 || status.replication.records != 0 ||
        status.replication.replicas != 0) {
      return false;
    }
  }
  return true;
}

void CheckpointLife::log_backlog() {
  for (SimNode* node : living()) {
    NodeStatus status = node->daemon->node().status();
    log_.info("{}: {} dirty, {} records, {} replicas; {}", node->machine->name(),
              status.dirty_objects, status.replication.records, status.replication.replicas,
              status.replication.last_error);
    for (const BacklogItem& item : status.backlog) {
      log_.info("  {}: {} {}", item.object, item.state, item.last_error);
    }
  }
}

Report CheckpointLife::run() {
  live();
  return make_report(seed_, ground_.findings, plan().describe(), sim_, log_lines_);
}

}  // namespace

Report run_checkpoint(uint64_t seed, uint32_t nodes, const SeedOptions& options) {
  return CheckpointLife(seed, nodes, options).run();
}

SeedScenario checkpoint_scenario(uint32_t nodes) {
  std::string command = "shoal simulate checkpoint";
  if (nodes != kCheckpointNodes) command += fmt::format(" --nodes {}", nodes);
  return {"checkpoint", command, [nodes](uint64_t seed, const SeedOptions& options) {
            return run_checkpoint(seed, nodes, options);
          }};
}

}  // namespace shoal::simulate
