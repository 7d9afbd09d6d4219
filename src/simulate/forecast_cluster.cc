#include "simulate/forecast_cluster.h"

#include <fmt/format.h>

#include <algorithm>

namespace shoal::simulate {

using std::chrono::hours;
using std::chrono::milliseconds;

ForecastCluster::ForecastCluster(const ForecastOptions& options, double scale, uint64_t chunk,
                                 BlobServiceConfig service)
    : options_(options), scale_(scale), chunk_(chunk), sim_({options.seed, false}) {
  log_ = Log(LogLevel::kError, [this](LogLevel, std::string_view line) { error_ = line; });
  BlobFaults blob;
  blob.latency = options.blob_latency;
  account_ = &sim_.add_blob_account(kBlobHost, std::move(service), blob);
  account_->service.add_container(kForecastBucket);

  SimNetworkOptions network;
  network.link.latency = options.latency;
  network.link.jitter = Duration(0);
  network.set_chunk(chunk);
  sim_.network().set_options(network);
}

ForecastCluster::~ForecastCluster() = default;

// A byte of a real chunk passes through many nodes within a millisecond, a simulated chunk needs
// its whole time at each of them. Who may call a member silent must wait longer by that.
Duration ForecastCluster::silence(double chunks, Duration at_least) const {
  double chunk = scale_ * static_cast<double>(chunk_);
  return std::max(at_least, Duration(static_cast<int64_t>(chunks * chunk / options_.nic * 1e9)));
}

uint64_t ForecastCluster::scaled(double rate) const {
  return std::max<uint64_t>(1, static_cast<uint64_t>(rate / scale_));
}

DaemonOptions ForecastCluster::daemon_options() const {
  DaemonOptions daemon;
  daemon.clustered = together_;
  daemon.store.directory = "/cache";
  daemon.store.capacity = kTiB;
  daemon.store.disk_reserve = 0;
  daemon.cluster.name = kForecastName;
  daemon.cluster.reader.chunk_bytes = chunk_;
  return daemon;
}

SimMachine& ForecastCluster::add_machine(const std::string& name) {
  SimDiskOptions disk;
  disk.latency = Duration(0);
  disk.sync_latency = Duration(0);
  disk.bytes_per_second = 0;
  SimMachine& machine = sim_.add_machine(name, disk);
  machine.boot();
  return machine;
}

void ForecastCluster::add_daemon(DaemonOptions options) {
  SimMachine& machine = add_machine(fmt::format("n{}", machines_.size()));
  options.name = machine.name();
  daemons_.push_back(
      &machine.own(std::make_unique<Daemon>(machine.world(), log_, std::move(options))));
  machines_.push_back(&machine);
}

void ForecastCluster::scale_rates() {
  SimNetworkOptions network = sim_.network().options();
  network.nic_in = scaled(options_.nic);  // of machines to come
  network.nic_out = network.nic_in;
  sim_.network().set_options(network);
  for (SimMachine* machine : machines_) {
    sim_.network().set_nic(machine->host(), network.nic_out, network.nic_in);
  }
}

Status ForecastCluster::run_until_done(const char* what) {
  bool done = sim_.run_until([this] { return running_ == 0; }, kForecastLimit);
  if (!done) {
    return fail(Code::kDeadlineExceeded, fmt::format("{} took more than {} h of virtual time", what,
                                                     kForecastLimit / hours(1)));
  }
  if (!error_.empty()) return fail(Code::kInternal, fmt::format("{}: {}", what, error_));
  return {};
}

bool ForecastCluster::agree() const {
  if (!together_) return true;
  uint64_t version = daemons_[0]->map()->version;
  return std::ranges::all_of(daemons_, [&](Daemon* daemon) {
    return daemon->map()->version == version && daemon->map()->members.size() == daemons_.size();
  });
}

Task<void> ForecastCluster::start_one(ForecastCluster* self, Daemon* daemon) {
  Status status = co_await daemon->start();
  if (!status) self->error_ = daemon->name() + ": " + status.error().to_string();
  --self->running_;
}

Result<double> ForecastCluster::start() {
  SteadyTime begun = sim_.now();
  for (Daemon* daemon : daemons_) {
    ++running_;
    daemon->gate().spawn(start_one(this, daemon));
  }
  SHOAL_RETURN_IF_ERROR(run_until_done("starting the nodes"));
  while (!daemons_.empty() && !agree()) {
    if (sim_.now() - begun > hours(1)) {
      return fail(Code::kDeadlineExceeded, "the nodes do not agree on the map");
    }
    sim_.run_for(milliseconds(20));
  }
  double seconds_taken = to_seconds(sim_.now() - begun);
  scale_rates();
  count_traffic();
  return seconds_taken;
}

void ForecastCluster::count_traffic() {
  sent_before_.clear();
  for (SimMachine* machine : machines_) {
    sent_before_.push_back(sim_.network().traffic(machine->host()).bytes_sent);
  }
}

double ForecastCluster::sent(size_t machine) {
  uint64_t bytes = sim_.network().traffic(machines_[machine]->host()).bytes_sent;
  return static_cast<double>(bytes - sent_before_[machine]);
}

double ForecastCluster::peer_bytes() {
  double bytes = 0;
  for (size_t i = 0; i < machines_.size(); ++i) bytes += sent(i);
  return bytes * scale_;
}

double ForecastCluster::busiest_sender() {
  double most = 0;
  for (size_t i = 0; i < machines_.size(); ++i) most = std::max(most, sent(i));
  double mean = peer_bytes() / scale_ / static_cast<double>(machines_.size());
  return mean > 0 ? most / mean : 0;
}

}  // namespace shoal::simulate
