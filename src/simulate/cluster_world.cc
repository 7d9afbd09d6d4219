#include "simulate/cluster_world.h"

#include <fmt/format.h>

#include <algorithm>

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr size_t kLogLinesKept = 60;
constexpr Duration kPollPeriod = milliseconds(50);
constexpr Duration kCallSlack = seconds(5);  // past a call's deadline
constexpr int kStartsMax = 300;              // one per second, while faults are on
constexpr uint64_t kStepsBetweenChecks = 256;

BlobServiceConfig service_config() {
  BlobServiceConfig config;
  config.record_reads = true;
  return config;
}

}  // namespace

ClusterWorld::ClusterWorld(uint64_t seed, ClusterPlan plan, const SeedOptions& options)
    : ground_(std::move(plan)),
      sim_({seed, ground_.plan.shuffle}),
      random_(sim_.random().fork()),
      options_(options) {
  log_ = Log(options.log_level, [this](LogLevel level, std::string_view line) {
    std::string text = fmt::format("{:.6f} {}", to_seconds(sim_.now().time_since_epoch()), line);
    if (options_.log_sink) options_.log_sink(level, text);
    log_lines_.push_back(std::move(text));
    if (log_lines_.size() > kLogLinesKept) log_lines_.pop_front();
  });
  account_ = &sim_.add_blob_account(kBlobHost, service_config(), ground_.plan.blob);
  ground_.account = account_;
  ground_.scheduler = &sim_.scheduler();
  sim_.network().set_options(ground_.plan.network);
  set_up_objects();
  schedule_poll();
}

void ClusterWorld::set_up_objects() {
  account_->service.add_container(kContainer);
  WallTime wall = sim_.scheduler().wall_now();
  auto put = [&](const std::string& name, uint64_t size) {
    ground_.history.put(account_->service, name, make_content(ground_.next_write++, size),
                        sim_.now(), wall);
  };
  for (uint32_t i = 0; i < plan().objects; ++i) {
    std::string name = fmt::format("objects/o{}", i);
    put(name, random_.chance(0.3) ? random_.below(150 * kKiB) : random_.below(plan().size_max + 1));
    ground_.common.push_back(name);
  }
  put("bulk/0", 300 * kKiB + random_.below(3 * kMiB));
  if (!plan().writes) return;
  for (uint32_t i = 0; i < plan().nodes; ++i) {
    std::string name = fmt::format("objects/w{}", i);
    ObjectHistory& history = ground_.history.at(name);
    history.writer = fmt::format("n{}", i);
    ObjectVersion& absent = history.versions.emplace_back();
    absent.exists = false;
    ground_.common.push_back(name);
  }
}

// --- machines ---

SimNode& ClusterWorld::add_node() {
  size_t number = nodes_.size();
  SimNode& node = nodes_.emplace_back();
  node.machine = &sim_.add_machine(fmt::format("n{}", number), plan().disk);
  node.log = std::make_unique<Log>(options_.log_level, [this, name = node.machine->name()](
                                                           LogLevel level, std::string_view line) {
    log_.write(level, fmt::format("{}: {}", name, line));
  });
  if (plan().zones > 1) node.zone = fmt::format("z{}", number % plan().zones);
  return node;
}

void ClusterWorld::boot(SimNode& node) {
  World& world = node.machine->boot();
  node.gate = &node.machine->own(std::make_unique<Gate>(world.executor));
  node.returning = false;
  log_.info("--- {} boots", node.machine->name());
  node.gate->spawn(supervise(this, &node));
}

// Starts the daemon, again and again as systemd would.
Task<void> ClusterWorld::supervise(ClusterWorld* self, SimNode* node) {
  DaemonOptions options;
  options.name = node->machine->name();
  options.zone = node->zone;
  options.store = self->plan().store;
  options.cluster = self->plan().cluster;
  options.two_addresses = self->plan().two_addresses;
  options.node = self->plan().node;
  World& world = node->machine->world();
  int calm_failures = 0;
  for (int attempt = 0;; ++attempt) {
    Daemon& daemon = node->machine->own(std::make_unique<Daemon>(world, *node->log, options));
    Status started = co_await daemon.start();
    if (started) {
      node->daemon = &daemon;
      if (self->working_) self->start_programs(*node);
      co_return;
    }
    self->log_.warning("{} does not start: {}", options.name, started.error().to_string());
    self->ground_.findings.count("failed_starts");
    if (!self->faults_on_) ++calm_failures;
    if (calm_failures > 3 || attempt > kStartsMax) {
      co_return self->failed(
          fmt::format("{} does not start: {}", options.name, started.error().to_string()));
    }
    Status slept = co_await sleep_for(world.executor, seconds(1), {});
    static_cast<void>(slept);
  }
}

void ClusterWorld::crash(SimNode& node, CrashKind kind) {
  log_.info("--- {} {}", node.machine->name(),
            kind == CrashKind::kPowerLoss ? "loses power" : "is killed");
  ground_.findings.count(kind == CrashKind::kPowerLoss ? "power_losses" : "kills");
  std::erase_if(ground_.calls, [&](const auto& call) { return call.second.daemon == node.daemon; });
  for (auto& [object, history] : ground_.history.objects()) {
    if (history.writer == node.machine->name()) history.changing = false;
  }
  node.daemon = nullptr;
  node.gate = nullptr;
  node.programs = 0;
  node.machine->crash(kind);
}

Task<void> ClusterWorld::count_down(Task<void> task, uint64_t* running) {
  Task<void> mine = std::move(task);
  co_await mine;
  --*running;
}

void ClusterWorld::spawn(SimNode& node, Task<void> task, uint64_t* running) {
  bool spawned = node.gate->spawn(count_down(std::move(task), running));
  SHOAL_ASSERT(spawned);
}

namespace {
Task<void> stop_daemon(ClusterGround* ground, Daemon* daemon) {
  Status status = co_await daemon->stop();
  if (status) co_return;
  bool excused = status.error().code() == Code::kNoSpace && ground->plan.full_disks;
  if (!excused) {
    ground->failed(fmt::format("stopping {}: {}", daemon->name(), status.error().to_string()));
  }
}
}  // namespace

void ClusterWorld::stop_node(SimNode& node, Duration limit) {
  log_.info("--- {} stops", node.machine->name());
  uint64_t running = 1;
  spawn(node, stop_daemon(&ground_, node.daemon), &running);
  node.daemon = nullptr;
  auto over = [&] { return running == 0 && node.gate->count() == 0; };
  if (!run_until(over, limit, "stopping")) return;
  SimProcess& process = node.machine->process();
  auto left = [&](uint64_t count, const char* what) {
    if (count == 0) return;
    failed(fmt::format("{} {} are left after {} stopped", count, what, node.machine->name()));
  };
  left(process.disk.open_files(), "open files");
  left(process.http.in_flight(), "requests to the origin");
  left(process.network.in_flight(), "network operations");
  left(process.network.open_sockets(), "sockets");
  if (failing()) return;
  node.machine->shut_down();  // permits, gates and handles assert that they are back
  node.gate = nullptr;
}

Task<void> ClusterWorld::run_program(ClusterWorld* self, SimNode* node, SeededRandom random) {
  Program program(self->ground_, *node->daemon, random);
  co_await program.run();
}

void ClusterWorld::start_programs(SimNode& node) {
  for (uint32_t i = 0; i < plan().programs; ++i) {
    ++node.programs;
    spawn(node, run_program(this, &node, random_.fork()), &node.programs);
  }
}

std::vector<SimNode*> ClusterWorld::living() {
  std::vector<SimNode*> found;
  for (SimNode& node : nodes_) {
    if (node.daemon != nullptr) found.push_back(&node);
  }
  return found;
}

bool ClusterWorld::all_up() const {
  return std::ranges::all_of(
      nodes_, [](const SimNode& node) { return node.gone || node.daemon != nullptr; });
}

uint64_t ClusterWorld::programs() const {
  uint64_t count = 0;
  for (const SimNode& node : nodes_) count += node.programs;
  return count;
}

bool ClusterWorld::maps_agree() {
  std::shared_ptr<const SlotMap> first;
  size_t count = 0;
  for (const SimNode& node : nodes_) {
    if (node.daemon == nullptr) continue;
    ++count;
    std::shared_ptr<const SlotMap> map = node.daemon->map();
    if (map == nullptr || (first != nullptr && map->version != first->version)) return false;
    if (first == nullptr) first = map;
  }
  if (first == nullptr || first->members.size() != count) return false;
  for (const SimNode& node : nodes_) {
    if (node.daemon == nullptr) continue;
    const Member* member = first->find(node.daemon->id());
    if (member == nullptr || member->state != MemberState::kUp) return false;
  }
  for (const SimNode& node : nodes_) {
    if (node.daemon == nullptr || *node.daemon->map() == *first) continue;
    failed(fmt::format("two maps of version {} differ", first->version));
  }
  return true;
}

void ClusterWorld::log_maps() {
  for (const SimNode& node : nodes_) {
    if (node.daemon == nullptr || node.daemon->map() == nullptr) {
      log_.info("{}: {}", node.machine->name(), node.gone ? "gone" : "down");
      continue;
    }
    std::string members;
    for (const Member& member : node.daemon->map()->members) {
      members += fmt::format(" {}{}", member.name,
                             member.state == MemberState::kUp     ? ""
                             : member.state == MemberState::kDown ? "(down)"
                                                                  : "(draining)");
    }
    log_.info("{}: map {}:{}", node.machine->name(), node.daemon->map()->version, members);
  }
}

uint64_t ClusterWorld::placement_signature(SimNode& node) {
  std::shared_ptr<const SlotMap> map = node.daemon->map();
  std::string rows;
  for (uint16_t owner : map->owners) {
    rows += owner == kNoMember ? "-" : map->members[owner].id.to_hex();
  }
  return hash_of(rows).low;
}

// --- time ---

bool ClusterWorld::run_until(const std::function<bool()>& done, Duration limit, const char* what) {
  SteadyTime end = sim_.now() + limit;
  for (uint64_t i = 1; !failing(); ++i) {
    if (done()) return !failing();
    if (sim_.now() > end || !sim_.scheduler().step()) {
      failed(fmt::format("{} takes more than {} s", what, limit / seconds(1)));
      for (const auto& [number, call] : ground_.calls) {
        log_.info("under way: {} on {}", call.what, call.daemon->name());
      }
      break;
    }
    if (i % kStepsBetweenChecks == 0) check_calls();
  }
  return false;
}

// Checker: every call ends.
void ClusterWorld::check_calls() {
  for (const auto& [number, call] : ground_.calls) {
    if (sim_.now() <= call.deadline + kCallSlack) continue;
    failed(fmt::format("{} on {} does not end", call.what, call.daemon->name()));
    return;
  }
}

void ClusterWorld::poll_origin() {
  ground_.history.poll(account_->service, sim_.now(),
                       [this](const std::string& what) { failed(what); });
  look_at_reads();
}

void ClusterWorld::schedule_poll() {
  sim_.at(kPollPeriod, [this] {
    poll_origin();
    schedule_poll();
  });
}

// --- what is fetched ---

void ClusterWorld::look_at_reads() {
  for (const BlobRead& read : account_->service.reads()) {
    if (!read.name.starts_with(".shoal/")) check_read(read);
  }
  account_->service.clear_reads();
}

void ClusterWorld::check_read(const BlobRead& read) {
  fetched_[read.name] += read.length;
  ground_.findings.count("origin_bytes", read.length);
  auto& earlier = reads_[{read.name, read.etag}];
  Range range{read.offset, read.length};
  for (const Fetched& old : earlier) {
    uint64_t begin = std::max(old.range.offset, range.offset);
    uint64_t end = std::min(old.range.end(), range.end());
    if (begin >= end) continue;
    ground_.findings.count("fetched_again", end - begin);
    bool excused = !plan().check_fetches || plan().any_blob_fault() || plan().small_cache ||
                   plan().full_disks || ground_.disturbances.any_in(old.when, sim_.now());
    if (excused) continue;
    failed(fmt::format("{}: bytes {} to {} were fetched at {:.3f} s, and again", read.name, begin,
                       end, to_seconds(old.when.time_since_epoch())));
    break;
  }
  earlier.push_back({range, sim_.now()});
}

std::string ClusterWorld::fetched_ranges(const std::string& prefix) const {
  std::string text;
  for (const auto& [version, ranges] : reads_) {
    if (!version.first.starts_with(prefix)) continue;
    text += " " + version.first;
    for (const Fetched& fetched : ranges) {
      text += fmt::format(" {}+{}@{:.3f}", fetched.range.offset, fetched.range.length,
                          to_seconds(fetched.when.time_since_epoch()));
    }
  }
  return text;
}

}  // namespace shoal::simulate
