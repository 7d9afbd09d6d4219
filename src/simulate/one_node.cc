#include "simulate/one_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <memory>

#include "origin/make_origin.h"
#include "simulate/workload.h"
#include "world_sim/sim_world.h"

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr const char* kHost = "127.0.0.1:10000";
constexpr const char* kOrigin = "http://127.0.0.1:10000/devstoreaccount1/data";
constexpr uint32_t kForeignObjects = 4;
constexpr uint32_t kContestedObjects = 2;
constexpr size_t kLogLinesKept = 60;
constexpr uint64_t kStepsMax = 20'000'000;  // of one incarnation
constexpr uint64_t kIdleSteps = 30;         // after the last client, before a crash
constexpr Duration kLifeMax = std::chrono::hours(6);
constexpr Duration kDrainMax = minutes(15);
constexpr Duration kStopMax = minutes(3);
// Metadata, segment rounding and what was let in just before the limit.
constexpr uint64_t kCapacitySlack = 24 * kMiB;

// One process: the daemon and the programs that use its mount.
struct Incarnation {
  Incarnation(World& world_in, Ground& ground_in, const Log& log_in)
      : world(world_in), ground(ground_in), log(log_in), gate(world_in.executor) {}

  World& world;
  Ground& ground;
  const Log& log;
  Registry registry;
  std::unique_ptr<Origin> origin;
  std::unique_ptr<Store> store;
  std::unique_ptr<Node> node;
  std::unique_ptr<Kernel> kernel;
  std::unique_ptr<Session> session;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::unique_ptr<Reader>> readers;
  Gate gate;
  bool up = false;
  bool done = false;  // of the task that the driver waits for
};

class OneNode {
 public:
  OneNode(uint64_t seed, const SeedOptions& options);
  Report run();

 private:
  void set_up_origin();
  void schedule_world();
  void foreign_change();
  void contested_change();
  void outage();
  void jump_clock();
  void fill_disk();
  void poll_origin();
  void check_capacity();
  void flip_bits();

  void boot();
  bool live(uint64_t steps, bool until_idle);
  bool step_until(const std::function<bool()>& done, Duration limit, const char* what);
  void crash(const Plan::Crash& crash);
  void end_in_order();
  void last_life();
  void check_origin();
  void spawn(Task<void> task);
  static Task<void> start_all(OneNode* self, Incarnation* at);
  static Task<void> stop_all(OneNode* self, Incarnation* at);
  static Task<void> observe_again(OneNode* self, Incarnation* at);
  static Task<void> drain(OneNode* self, Incarnation* at);
  static Task<void> read_twice(OneNode* self, Incarnation* at);

  bool failing() const { return !ground_.findings.failures.empty(); }
  void failed(std::string what) {
    ground_.findings.failed(
        fmt::format("[{:.3f} s] {}", to_seconds(sim_.now().time_since_epoch()), what));
  }

  uint64_t seed_;
  const SeedOptions& options_;
  Ground ground_;
  Simulation sim_;
  SeededRandom random_;
  SimMachine* machine_ = nullptr;
  SimBlobAccount* account_ = nullptr;
  Log log_;
  std::deque<std::string> log_lines_;
  Incarnation* at_ = nullptr;  // owned by the machine; dead after a crash
  std::map<std::string, std::string> etags_;
  std::set<Hash128> committed_;  // everything that ever stood in the origin
  std::vector<std::pair<std::string, std::string>> suspects_;  // committed, not yet explained
  bool world_moves_ = true;
};

OneNode::OneNode(uint64_t seed, const SeedOptions& options)
    : seed_(seed),
      options_(options),
      ground_{make_plan(seed), {}, {}, nullptr, {}, {}, {}, {}, true},
      sim_({seed, ground_.plan.shuffle}),
      random_(sim_.random().fork()) {
  log_ = Log(options.log_level, [this](LogLevel level, std::string_view line) {
    std::string text = fmt::format("{:.6f} {}", to_seconds(sim_.now().time_since_epoch()), line);
    if (options_.log_sink) options_.log_sink(level, text);
    log_lines_.push_back(std::move(text));
    if (log_lines_.size() > kLogLinesKept) log_lines_.pop_front();
  });
  machine_ = &sim_.add_machine("node", ground_.plan.disk);
  account_ = &sim_.add_blob_account(kHost, {}, ground_.plan.blob);
  ground_.service = &account_->service;
  for (uint32_t i = 0; i < ground_.plan.clients + ground_.plan.readers; ++i) {
    ground_.randoms.push_back(random_.fork());
  }
}

// --- the world around the node ---

void OneNode::set_up_origin() {
  BlobService& service = account_->service;
  service.add_container(kContainer);
  const Plan& plan = ground_.plan;
  WallTime now = sim_.scheduler().wall_now();
  for (uint32_t i = 0; i < plan.clients; ++i) {
    service.add(kContainer, Client::home(i), {}, {{"hdi_isfolder", "true"}}, now);
    for (const std::string& directory : Client::directories(i)) {
      bool exists = random_.chance(0.7);
      ground_.directories[directory] = {exists, false};
      if (exists) service.add(kContainer, directory, {}, {{"hdi_isfolder", "true"}}, now);
    }
    for (const std::string& path : Client::paths(i, plan.files)) {
      auto parent = ground_.directories.find(path.substr(0, path.rfind('/')));
      bool may_be = parent == ground_.directories.end() || parent->second.exists;
      if (!may_be || !random_.chance(0.4)) {
        ground_.model.slot(path);
        continue;
      }
      std::string bytes =
          make_content(ground_.model.next_write(), random_.below(plan.size_max + 1));
      service.add(kContainer, path, BlobContent::copy_of(bytes), {}, now);
      ground_.model.preload(path, std::move(bytes));
    }
  }
  if (plan.foreign) {
    for (uint32_t i = 0; i < kForeignObjects; ++i) {
      ground_.foreign[fmt::format("shared/o{}", i)] = {{sim_.now(), false, ""}};
      foreign_change();
    }
  }
  poll_origin();
}

void OneNode::foreign_change() {
  auto at = ground_.foreign.begin();
  std::advance(at, random_.below(ground_.foreign.size()));
  auto& [name, versions] = *at;
  if (versions.back().exists && random_.chance(0.15)) {
    account_->service.remove(kContainer, name);
    versions.push_back({sim_.now(), false, ""});
    return;
  }
  std::string bytes = make_content(ground_.model.next_write(),
                                   random_.below(std::min(ground_.plan.size_max, kMiB) + 1));
  account_->service.add(kContainer, name, BlobContent::copy_of(bytes), {},
                        sim_.scheduler().wall_now());
  versions.push_back({sim_.now(), true, std::move(bytes)});
}

void OneNode::contested_change() {
  poll_origin();  // what stands there now goes down in history
  std::string name = fmt::format("shared/x{}", random_.below(kContestedObjects));
  std::string bytes = make_content(ground_.model.next_write(), random_.below(100'000));
  ground_.model.allow(bytes);
  account_->service.add(kContainer, name, BlobContent::copy_of(bytes), {},
                        sim_.scheduler().wall_now());
  ground_.findings.count("contested_changes");
}

void OneNode::outage() {
  BlobFaults faults = account_->faults.faults();
  faults.outage = true;
  account_->faults.set(faults);
  Duration length = milliseconds(1 << random_.below(18));  // up to two minutes
  sim_.at(length, [this] {
    BlobFaults over = account_->faults.faults();
    over.outage = false;
    account_->faults.set(over);
  });
}

void OneNode::jump_clock() {
  if (!machine_->running()) return;
  auto offset = seconds(static_cast<int64_t>(random_.below(1200)) - 600);
  machine_->process().executor.set_wall_offset(offset);
}

void OneNode::fill_disk() {
  // Somebody else fills the disk, and frees it after a while.
  machine_->disk().set_capacity(machine_->disk().used() + random_.below(2 * kMiB));
  sim_.at(milliseconds(100 + random_.below(20'000)),
          [this] { machine_->disk().set_capacity(kTiB); });
}

// Things happen at random times for as long as faults are on.
void OneNode::schedule_world() {
  sim_.at(milliseconds(20 + random_.below(2500)), [this] {
    if (!world_moves_) return;
    const Plan& plan = ground_.plan;
    if (plan.foreign && random_.chance(0.5)) foreign_change();
    if (plan.contested && random_.chance(0.3)) contested_change();
    if (plan.outages && !account_->faults.faults().outage && random_.chance(0.05)) outage();
    if (plan.clock_jumps && random_.chance(0.1)) jump_clock();
    if (plan.small_disk && random_.chance(0.05)) fill_disk();
    schedule_world();
  });
}

// Checker: the origin only ever holds complete versions that somebody wrote.
void OneNode::poll_origin() {
  std::erase_if(etags_, [this](const auto& known) {
    if (account_->service.find(kContainer, known.first)) return false;
    log_.debug("  origin: {} is gone", known.first);
    return true;
  });
  for (const std::string& name : account_->service.names(kContainer)) {
    auto blob = account_->service.find(kContainer, name);
    if (!blob) continue;
    std::string& etag = etags_[name];
    if (etag == blob->etag) continue;
    etag = blob->etag;
    log_.debug("  origin: {} has {} bytes, {}", name, blob->size, blob->etag);
    if (blob->size == 0) continue;
    std::string bytes = blob->content.to_string();
    Hash128 hash = hash_of(bytes);
    committed_.insert(hash);
    if (ground_.foreign.contains(name) || ground_.model.may_be_committed(hash)) continue;
    // A version recovered after a crash that no client has looked at yet: ask again at the end.
    suspects_.emplace_back(name, std::move(bytes));
  }
}

// Checker: the limit holds, but for what was in flight.
void OneNode::check_capacity() {
  if (at_ == nullptr || !at_->up) return;
  uint64_t used = machine_->disk().used();
  uint64_t limit = ground_.plan.store.capacity + kCapacitySlack;
  if (used > limit) failed(fmt::format("the disk holds {} bytes, the limit is {}", used, limit));
}

void OneNode::flip_bits() {
  // Only when nothing is staged: flips of clean data must cost nothing but a fetch. Not of headers
  // and of the small tier's log: there a flip may bring back an older state.
  ground_.findings.count("bit_flips");
  SimNodePtr directory = machine_->disk().tree().find(ground_.plan.store.directory);
  if (directory == nullptr) return;
  std::vector<std::pair<std::string, SimNodePtr>> stack{{"", directory}};
  while (!stack.empty()) {
    auto [path, node] = stack.back();
    stack.pop_back();
    for (auto& [name, child] : node->seen) {
      if (!child->file) {
        stack.emplace_back(path + "/" + name, child);
      } else if (name.ends_with(".data") && child->file->size() > 0 && random_.chance(0.5)) {
        child->file->flip_bit(random_.below(child->file->size()),
                              static_cast<unsigned>(random_.below(8)));
      }
    }
  }
}

// --- lives ---

Task<void> OneNode::start_all(OneNode* self, Incarnation* at) {
  Ground& ground = self->ground_;
  OriginConfig config;
  config.location = kOrigin;
  auto origin = make_origin(config, at->world, at->registry, at->log);
  SHOAL_ASSERT(origin.has_value());
  at->origin = std::move(*origin);
  StoreOptions options = ground.plan.store;
  options.identity = at->origin->identity();
  // A full disk may keep the daemon from starting; its supervisor tries again.
  for (int attempt = 0;; ++attempt) {
    auto store = co_await Store::open(at->world, at->registry, at->log, options);
    if (store) {
      at->store = std::move(*store);
      break;
    }
    if (!may_fail_so(ground, store.error()) || attempt > 100) {
      self->failed("opening the store: " + store.error().to_string());
      at->done = true;
      co_return;
    }
    Status slept = co_await sleep_for(at->world.executor, seconds(1), {});
    static_cast<void>(slept);
  }
  auto node = co_await Node::start(at->world, *at->origin, *at->store, at->registry, at->log,
                                   ground.plan.node);
  if (!node) {
    self->failed("starting the node: " + node.error().to_string());
    at->done = true;
    co_return;
  }
  at->node = std::move(*node);
  at->kernel = std::make_unique<Kernel>(at->node->file_system(), at->world.executor);
  at->session = std::make_unique<Session>(
      Session{ground, *at->kernel, *at->node, at->world.executor,
              at->registry.counter("shoal_stale_attributes_total", ""), at->gate, at->log});
  for (uint32_t i = 0; i < ground.plan.clients; ++i) {
    at->clients.push_back(std::make_unique<Client>(*at->session, i));
    at->gate.spawn(at->clients.back()->run());
  }
  for (uint32_t i = 0; i < ground.plan.readers; ++i) {
    at->readers.push_back(std::make_unique<Reader>(*at->session, ground.plan.clients + i));
    at->gate.spawn(at->readers.back()->run());
  }
  at->up = true;
}

void OneNode::boot() {
  World& world = machine_->boot();
  at_ = &machine_->own(std::make_unique<Incarnation>(world, ground_, log_));
  log_.info("--- boot {}", machine_->boots());
  at_->gate.spawn(start_all(this, at_));
}

// Runs for so many steps, or (0) until every client is through. True: the latter happened.
bool OneNode::live(uint64_t steps, bool until_idle) {
  SteadyTime end = sim_.now() + kLifeMax;
  if (until_idle) steps = kStepsMax;
  for (uint64_t i = 0; i < steps; ++i) {
    if (failing()) return true;
    if (at_->up && at_->gate.count() == 0) {
      if (until_idle) return true;
      steps = std::min(steps, i + kIdleSteps);
    }
    if (!sim_.scheduler().step()) break;
    if (i % 256 == 0) {
      poll_origin();
      check_capacity();
    }
    if (sim_.now() > end) break;
  }
  if (until_idle && !failing()) {
    failed(fmt::format("{} clients still wait for something after {} hours",
                       at_->session ? at_->session->running : 0, kLifeMax / std::chrono::hours(1)));
  }
  return false;
}

bool OneNode::step_until(const std::function<bool()>& done, Duration limit, const char* what) {
  if (sim_.run_until(done, limit)) return true;
  if (!failing()) {
    failed(fmt::format("{} takes more than {} s", what, limit / seconds(1)));
  }
  return false;
}

void OneNode::spawn(Task<void> task) {
  at_->done = false;
  bool spawned = at_->gate.spawn(std::move(task));
  SHOAL_ASSERT(spawned);
}

void OneNode::crash(const Plan::Crash& crash) {
  log_.info("--- {}", crash.kind == CrashKind::kPowerLoss ? "power loss" : "kill");
  ground_.findings.count(crash.kind == CrashKind::kPowerLoss ? "power_losses" : "kills");
  bool clean_store = at_->up && at_->session->running == 0 && at_->gate.count() == 0 &&
                     at_->node->status().dirty_objects == 0;
  machine_->crash(crash.kind);
  at_ = nullptr;
  if (clean_store && ground_.plan.bit_flips) flip_bits();
  for (const auto& [path, slot] : ground_.model.slots()) {
    if (slot.moving) ground_.conflicts_possible = true;
  }
  ground_.model.crashed();
  // Requests on their way are still executed, the slowest before a machine has restarted.
  sim_.run_for(seconds(6) + milliseconds(random_.below(3000)));
  poll_origin();
}

Task<void> OneNode::stop_all(OneNode* self, Incarnation* at) {
  Status status = co_await at->node->stop();
  if (!status) self->failed("stopping the node: " + status.error().to_string());
  co_await at->kernel->close();
  at->node.reset();
  status = co_await at->store->close();
  if (!status && !may_fail_so(self->ground_, status.error())) {
    self->failed("closing the store: " + status.error().to_string());
  }
  at->store.reset();
  at->done = true;
}

void OneNode::end_in_order() {
  log_.info("--- clean stop");
  ground_.findings.count("clean_stops");
  at_->session->ending = true;
  if (!live(0, true) || failing()) return;
  at_->clients.clear();
  at_->readers.clear();
  uint64_t files_before = machine_->process().disk.open_files();
  static_cast<void>(files_before);
  spawn(stop_all(this, at_));
  at_->up = false;
  if (!step_until([this] { return at_->done && at_->gate.count() == 0; }, kStopMax, "stopping")) {
    return;
  }
  if (machine_->process().disk.open_files() != 0) {
    failed(fmt::format("{} files are still open after the store closed",
                       machine_->process().disk.open_files()));
  }
  if (machine_->process().http.in_flight() != 0) failed("requests are in flight after the stop");
  machine_->shut_down();  // permits, gates and handles assert that they are back
  at_ = nullptr;
}

Task<void> OneNode::observe_again(OneNode* self, Incarnation* at) {
  for (auto& client : at->clients) co_await client->observe_all();
  static_cast<void>(self);
  at->done = true;
}

Task<void> OneNode::drain(OneNode* self, Incarnation* at) {
  // Nobody asks for it: what was acknowledged goes up by itself.
  while (at->node->status().dirty_objects > 0) {
    Status slept = co_await sleep_for(at->world.executor, seconds(1), {});
    static_cast<void>(slept);
  }
  static_cast<void>(self);
  at->done = true;
}

// Checker: what is in the cache and intact is not fetched again.
Task<void> OneNode::read_twice(OneNode* self, Incarnation* at) {
  for (auto& [path, slot] : self->ground_.model.slots()) {
    if (!slot.now) continue;
    Context context = Context::within(at->world.executor, minutes(5));
    auto first = co_await at->kernel->read_path(path, kMiB, context);
    uint64_t evicted = at->node->status().store.evicted_bytes;
    uint64_t gets = self->account_->service.gets(kContainer, path);
    auto second = co_await at->kernel->read_path(path, 64 * kKiB, context);
    if (!first || !second) {
      self->failed(fmt::format("{}: reading at the end: {}", path,
                               (!first ? first : second).error().to_string()));
      break;
    }
    if (*first != slot.now->live || *second != slot.now->live) {
      self->failed(fmt::format(
          "{}: at the end: {}", path,
          first_difference(slot.now->live, *first == slot.now->live ? *second : *first)));
      break;
    }
    bool kept = at->node->status().store.evicted_bytes == evicted;
    bool fits = self->ground_.plan.store.capacity > 4 * second->size() + 16 * kMiB;
    if (kept && fits && self->account_->service.gets(kContainer, path) != gets) {
      self->failed(
          fmt::format("{}: read again, {} bytes were fetched again", path, second->size()));
      break;
    }
  }
  at->done = true;
}

void OneNode::last_life() {
  ground_.faults_on = false;
  world_moves_ = false;
  BlobFaults calm;
  calm.latency = milliseconds(2);
  account_->faults.set(calm);
  machine_->disk().options().faults = {};
  machine_->disk().set_capacity(kTiB);
  if (at_ == nullptr) boot();
  if (!live(0, true) || failing()) return;
  spawn(drain(this, at_));
  if (!step_until([this] { return at_->done; }, kDrainMax, "draining")) {
    for (const BacklogItem& item : at_->node->status().backlog) {
      log_.error("left: {} ({} bytes) {} {}", item.object, item.size, item.state, item.last_error);
    }
    return;
  }
  sim_.run_for(ground_.plan.node.attr_ttl + ground_.plan.node.negative_ttl + seconds(6));
  spawn(read_twice(this, at_));
  if (!step_until([this] { return at_->done; }, minutes(60), "reading everything")) return;
  poll_origin();
  check_origin();
  if (failing()) return;
  // Once more, from what a clean stop leaves in the cache; and after it, from what a kill leaves.
  for (int round = 0; round < 2 && !failing(); ++round) {
    if (round == 0) {
      end_in_order();
      if (failing()) return;
      ground_.model.crashed();
    } else {
      crash({0, CrashKind::kPowerLoss, false});
    }
    ground_.plan.operations = 0;
    boot();
    if (!live(0, true) || failing()) return;
  }
  end_in_order();
}

// Checker: the origin holds exactly what the model holds.
void OneNode::check_origin() {
  for (auto& [path, slot] : ground_.model.slots()) {
    auto blob = account_->service.find(kContainer, path);
    if (!slot.now && blob) failed(path + ": it was removed, and the origin still has it");
    if (slot.now && !blob) failed(path + ": the origin does not have it");
    if (!slot.now || !blob) continue;
    std::string bytes = blob->content.to_string();
    if (bytes != slot.now->live) {
      failed(fmt::format("{}: in the origin: {}", path, first_difference(slot.now->live, bytes)));
    }
  }
  for (const std::string& name : account_->service.names(kContainer, "c")) {
    bool ours = ground_.model.slots().contains(name) || ground_.directories.contains(name) ||
                name.find('/') == std::string::npos;
    if (!ours && is_conflict_name(name) && ground_.conflicts_possible) continue;
    if (!ours) failed(name + ": nobody made this object");
  }
  for (auto& [name, bytes] : ground_.contested) {
    if (!bytes.empty() && !committed_.contains(hash_of(bytes))) {
      failed(name + ": acknowledged bytes never reached the origin, under no name");
    }
  }
  for (auto& [name, bytes] : suspects_) {
    if (ground_.model.may_be_committed(hash_of(bytes))) continue;
    failed(fmt::format("{}: the origin held {} bytes that are no version anybody sealed", name,
                       bytes.size()));
  }
}

Report OneNode::run() {
  set_up_origin();
  schedule_world();
  for (const Plan::Crash& crash_plan : ground_.plan.crashes) {
    if (failing()) break;
    if (at_ == nullptr) boot();
    bool through = live(crash_plan.after_steps, false);
    if (failing()) break;
    static_cast<void>(through);
    if (crash_plan.clean && at_->up) {
      end_in_order();
      ground_.model.crashed();
    } else {
      crash(crash_plan);
    }
  }
  if (!failing()) {
    if (at_ == nullptr) boot();
    // The last workload still meets the faults; then they stop.
    live(0, true);
  }
  if (!failing()) last_life();
  return make_report(seed_, ground_.findings, ground_.plan.describe(), sim_, log_lines_);
}

}  // namespace

Report run_one_node(uint64_t seed, const SeedOptions& options) {
  return OneNode(seed, options).run();
}

SeedScenario one_node_scenario() { return {"one-node", "shoal simulate one-node", run_one_node}; }

}  // namespace shoal::simulate
