#include "world_sim/sim_world.h"

#include <mutex>

namespace shoal {

namespace {

// What crashed processes leave behind. Reachable from here, so that a leak checker does not take it
// for a mistake; never read, never freed.
struct Grave {
  std::unique_ptr<SimProcess> process;
  std::vector<Runnable*> work;
  std::vector<DiskOp*> disk;
  std::vector<HttpCall*> http;
  std::vector<NetOp*> network;
};

void bury(Grave grave) {
  static std::mutex mutex;
  static auto* graves = new std::vector<Grave>;
  std::lock_guard lock(mutex);
  graves->push_back(std::move(grave));
}

}  // namespace

SimProcess::SimProcess(SimScheduler& scheduler, SimInternet& internet, SimFabric& fabric,
                       SimHostId host, SimDiskState& disk_state, SeededRandom& seeds)
    : executor(scheduler),
      random(seeds.fork()),
      disk(disk_state, executor, seeds.fork()),
      http(internet, fabric, host, executor, seeds.fork()),
      network(fabric, host, executor, disk),
      world{executor, random, disk, http, network} {}

SimProcess::~SimProcess() {
  while (!owned.empty()) owned.pop_back();
}

SimMachine::SimMachine(std::string name, SimScheduler& scheduler, SimInternet& internet,
                       SimFabric& fabric, SimDiskOptions disk_options, uint64_t seed)
    : name_(std::move(name)),
      scheduler_(scheduler),
      internet_(internet),
      fabric_(fabric),
      host_(fabric.add_host(name_)),
      random_(seed),
      disk_(disk_options) {}

SimMachine::~SimMachine() {
  if (running()) crash(CrashKind::kProcess);
}

SimProcess& SimMachine::process() {
  SHOAL_ASSERT(process_ != nullptr, "the machine is down");
  return *process_;
}

World& SimMachine::boot() {
  SHOAL_ASSERT(process_ == nullptr, "the machine is up already");
  process_ = std::make_unique<SimProcess>(scheduler_, internet_, fabric_, host_, disk_, random_);
  fabric_.set_up(host_, true);
  ++boots_;
  return process_->world;
}

void SimMachine::crash(CrashKind kind) {
  SimProcess& dead = process();
  Grave grave;
  grave.work = dead.executor.kill();
  grave.disk = dead.disk.crash(kind);
  grave.http = dead.http.crash();
  grave.network = dead.network.crash(kind);
  grave.process = std::move(process_);
  bury(std::move(grave));
}

void SimMachine::shut_down() {
  SHOAL_ASSERT(running(), "the machine is down");
  while (!process_->owned.empty()) process_->owned.pop_back();
  process_->network.close_all();
  process_.reset();
}

Simulation::Simulation(SimOptions options)
    : scheduler_(options.seed, options.shuffle),
      random_(scheduler_.random().fork()),
      network_(scheduler_, options.seed),
      pages_(std::make_shared<SimPagePool>()),
      driver_(scheduler_) {}

Simulation::~Simulation() {
  // All at once: machine by machine would look at everybody's work each time. The driver's own
  // tasks may wait for what never comes.
  Grave grave;
  grave.work = scheduler_.end();
  if (!grave.work.empty()) bury(std::move(grave));
  machines_.clear();
}

SimMachine& Simulation::add_machine(std::string name, SimDiskOptions disk) {
  machines_.push_back(std::make_unique<SimMachine>(std::move(name), scheduler_, internet_, network_,
                                                   disk, scheduler_.random().next()));
  machines_.back()->disk().share_pages(pages_);
  return *machines_.back();
}

SimBlobAccount& Simulation::add_blob_account(std::string host, BlobServiceConfig config,
                                             BlobFaults faults) {
  SHOAL_ASSERT(!internet_.contains(host), "the host exists already");
  auto account = std::make_unique<SimBlobAccount>(host, std::move(config), std::move(faults),
                                                  scheduler_.random().next());
  return *internet_.emplace(std::move(host), std::move(account)).first->second;
}

bool Simulation::run_until(const std::function<bool()>& done, Duration limit) {
  SteadyTime end = scheduler_.now() + limit;
  while (!done()) {
    if (scheduler_.next_time() > end) {
      scheduler_.advance_to(end);
      return false;
    }
    if (!scheduler_.step()) return false;
  }
  return true;
}

void Simulation::run_for(Duration duration) {
  SteadyTime end = scheduler_.now() + duration;
  while (scheduler_.next_time() <= end) scheduler_.step();
  scheduler_.advance_to(end);
}

bool Simulation::run_steps(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    if (!scheduler_.step()) return false;
  }
  return true;
}

void Simulation::at(Duration from_now, std::function<void()> action) {
  scheduler_.at(scheduler_.now() + from_now, nullptr, std::move(action));
}

}  // namespace shoal
