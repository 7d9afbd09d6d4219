#include "simulate/forecast_run.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "client/client.h"

namespace shoal::simulate {

namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr const char* kObject = "model";
constexpr const char* kBucket = "data";
constexpr double kRealChunk = 8.0 * 1024 * 1024;
constexpr uint64_t kReadStep = 2 * kForecastChunk;
constexpr Duration kLimit = hours(24);

// A byte of a real chunk passes through many nodes within a millisecond, a simulated chunk needs
// its whole time at each of them. Who may call a member silent must wait longer by that.
constexpr double kStallChunks = 20;
constexpr double kSlowChunks = 250;
Duration silence(const ForecastOptions& options, double chunks, Duration at_least) {
  double chunk = static_cast<double>(options.size) / static_cast<double>(options.chunks);
  return std::max(at_least, Duration(static_cast<int64_t>(chunks * chunk / options.nic * 1e9)));
}

uint64_t scaled(double rate, double scale) {
  return std::max<uint64_t>(1, static_cast<uint64_t>(rate / scale));
}

}  // namespace

ForecastRun::ForecastRun(const ForecastOptions& options, uint64_t nodes, bool together)
    : options_(options),
      scale_(static_cast<double>(options.size) /
             static_cast<double>(options.chunks * kForecastChunk)),
      together_(together),
      sim_({options.seed, false}) {
  log_ = Log(LogLevel::kError, [this](LogLevel, std::string_view line) { error_ = line; });
  BlobFaults blob;
  blob.latency = options.blob_latency;
  BlobServiceConfig service;
  service.record_reads = true;
  account_ = &sim_.add_blob_account(kBlobHost, std::move(service), blob);
  account_->service.add_container(kBucket);
  auto zeros = std::make_shared<Buffer>(options.chunks * kForecastChunk);
  std::ranges::fill(zeros->span(), std::byte{0});
  account_->service.add(kBucket, kObject, BlobContent::of(std::move(zeros)));

  SimNetworkOptions network;
  network.link.latency = options.latency;
  network.link.jitter = Duration(0);
  network.set_chunk(kForecastChunk);
  sim_.network().set_options(network);

  SimDiskOptions disk;
  disk.latency = Duration(0);
  disk.sync_latency = Duration(0);
  disk.bytes_per_second = 0;
  DaemonOptions daemon;
  daemon.clustered = together;
  daemon.store.directory = "/cache";
  daemon.store.capacity = kTiB;
  daemon.store.disk_reserve = 0;
  daemon.cluster.name = "forecast";
  daemon.cluster.reader.chunk_bytes = kForecastChunk;
  daemon.cluster.reader.stall = silence(options, kStallChunks, daemon.cluster.reader.stall);
  daemon.cluster.reader.slow = silence(options, kSlowChunks, daemon.cluster.reader.slow);
  daemon.cluster.pool.lanes = 1;  // a second connection for payload shares the same card
  daemon.node.memory = 64 * kMiB;
  daemon.node.prefetch_bytes_max = options.ahead * kForecastChunk;
  // One simulated request stands for those of all real chunks in the simulated one.
  double requests = std::max(1.0, scale_ * static_cast<double>(kForecastChunk) / kRealChunk);
  daemon.retry.concurrency_max =
      std::max(1u, static_cast<uint32_t>(std::lround(options.blob_connections / requests)));
  for (uint64_t i = 0; i < nodes; ++i) {
    SimMachine& machine = sim_.add_machine(fmt::format("n{}", i), disk);
    World& world = machine.boot();
    daemon.name = machine.name();
    daemons_.push_back(&machine.own(std::make_unique<Daemon>(world, log_, daemon)));
    machines_.push_back(&machine);
  }
}

// Maps, look-ups and pings are as large as real ones, so the nodes start at full speed; the rates
// are scaled down when the object's bytes begin to move.
void ForecastRun::scale_rates() {
  BlobFaults blob = account_->faults.faults();
  blob.account_out_bytes_per_second = scaled(options_.blob_out, scale_);
  // A connection needs for a simulated chunk what real ones need, side by side, for the real
  // chunks in it.
  double together = std::min(scale_, kRealChunk / static_cast<double>(kForecastChunk));
  blob.connection_bytes_per_second = scaled(options_.blob_connection, together);
  account_->faults.set(std::move(blob));
  SimNetworkOptions network = sim_.network().options();
  network.nic_in = scaled(options_.nic, scale_);  // of machines to come
  network.nic_out = network.nic_in;
  sim_.network().set_options(network);
  for (SimMachine* machine : machines_) {
    sim_.network().set_nic(machine->host(), network.nic_out, network.nic_in);
  }
}

// The machines' processes end by a crash: nothing of them is looked at any more.
ForecastRun::~ForecastRun() = default;

Status ForecastRun::run_until_done(const char* what) {
  bool done = sim_.run_until([this] { return running_ == 0; }, kLimit);
  if (!done) {
    return fail(Code::kDeadlineExceeded,
                fmt::format("{} took more than {} h of virtual time", what, kLimit / hours(1)));
  }
  if (!error_.empty()) return fail(Code::kInternal, fmt::format("{}: {}", what, error_));
  return {};
}

bool ForecastRun::agree() const {
  if (!together_) return true;
  uint64_t version = daemons_[0]->map()->version;
  return std::ranges::all_of(daemons_, [&](Daemon* daemon) {
    return daemon->map()->version == version && daemon->map()->members.size() == daemons_.size();
  });
}

Task<void> ForecastRun::start_one(ForecastRun* self, Daemon* daemon) {
  Status status = co_await daemon->start();
  if (!status) self->error_ = daemon->name() + ": " + status.error().to_string();
  --self->running_;
}

Result<double> ForecastRun::start() {
  SteadyTime begun = sim_.now();
  for (Daemon* daemon : daemons_) {
    ++running_;
    daemon->gate().spawn(start_one(this, daemon));
  }
  SHOAL_RETURN_IF_ERROR(run_until_done("starting the nodes"));
  while (!agree()) {
    if (sim_.now() - begun > hours(1)) {
      return fail(Code::kDeadlineExceeded, "the nodes do not agree on the map");
    }
    sim_.run_for(milliseconds(20));
  }
  double seconds_taken = to_seconds(sim_.now() - begun);
  scale_rates();
  return seconds_taken;
}

Task<void> ForecastRun::read_one(ForecastRun* self, Daemon* daemon, double* seconds_taken) {
  SteadyTime begun = self->sim_.now();
  Context context = Context::within(daemon->world().executor, kLimit);
  auto file = co_await daemon->kernel().open(kObject, O_RDONLY, context);
  Buffer buffer(kReadStep);
  Status status;
  if (!file) status = fail(file.error());
  uint64_t size = self->options_.chunks * kForecastChunk;
  for (uint64_t at = 0; status && at < size; at += kReadStep) {
    auto count = co_await daemon->kernel().fs.read(file->handle, at, buffer.span(), context);
    if (!count) status = fail(count.error());
    if (count && *count == 0) status = fail(Code::kInternal, "the object is too short");
  }
  if (file) co_await daemon->kernel().fs.release(file->handle);
  if (!status) self->error_ = daemon->name() + ": " + status.error().to_string();
  *seconds_taken = to_seconds(self->sim_.now() - begun);
  --self->running_;
}

Result<std::vector<double>> ForecastRun::read_everywhere() {
  std::vector<double> seconds_taken(daemons_.size());
  for (size_t i = 0; i < daemons_.size(); ++i) {
    ++running_;
    daemons_[i]->gate().spawn(read_one(this, daemons_[i], &seconds_taken[i]));
  }
  SHOAL_RETURN_IF_ERROR(run_until_done("reading"));
  return seconds_taken;
}

Task<void> ForecastRun::warm_one(ForecastRun* self, Daemon* daemon) {
  Status status = co_await daemon->node().warm(
      kObject, false, [](const WarmProgress&) {},
      Context::within(daemon->world().executor, kLimit));
  if (!status) self->error_ = status.error().to_string();
  --self->running_;
}

Result<double> ForecastRun::warm() {
  SteadyTime begun = sim_.now();
  ++running_;
  daemons_[0]->gate().spawn(warm_one(this, daemons_[0]));
  SHOAL_RETURN_IF_ERROR(run_until_done("warming"));
  return to_seconds(sim_.now() - begun);
}

namespace {

Task<Status> read_object(Client* client, uint64_t size, Executor* executor) {
  Context context = Context::within(*executor, kLimit);
  SHOAL_CO_ASSIGN_OR_RETURN(ObjectInfo object, co_await client->head(kObject, context));
  Buffer buffer(size);
  co_return co_await client->read(object, 0, buffer.span(), context);
}

}  // namespace

Task<void> ForecastRun::read_as_client(ForecastRun* self, World* world) {
  OriginConfig config;
  config.location = kBlobOrigin;
  auto registry = std::make_unique<Registry>();
  auto origin = make_origin(std::move(config), *world, *registry, self->log_);
  SHOAL_ASSERT(origin.has_value());
  auto map_store = make_origin_map_store(**origin, *world, "forecast");
  ClientOptions options;
  options.cluster = "forecast";
  options.reader.chunk_bytes = kForecastChunk;
  options.chunks_parallel = static_cast<uint32_t>(self->options_.ahead);
  auto client = co_await Client::connect(*world, **origin, *map_store, *registry, self->log_,
                                         std::move(options));
  Status status;
  if (client) {
    status = co_await read_object(client->get(), self->options_.chunks * kForecastChunk,
                                  &world->executor);
    co_await (*client)->close();
    client->reset();
  } else {
    status = fail(std::move(client).error());
  }
  if (!status) self->error_ = "the client: " + status.error().to_string();
  --self->running_;
}

Result<double> ForecastRun::read_by_client() {
  SimDiskOptions disk;
  SimMachine& machine = sim_.add_machine("client", disk);
  World& world = machine.boot();
  Gate& gate = machine.own(std::make_unique<Gate>(world.executor));
  SteadyTime begun = sim_.now();
  ++running_;
  gate.spawn(read_as_client(this, &world));
  SHOAL_RETURN_IF_ERROR(run_until_done("reading"));
  return to_seconds(sim_.now() - begun);
}

double ForecastRun::origin_bytes() const {
  uint64_t bytes = 0;
  for (const BlobRead& read : account_->service.reads()) {
    if (read.name == kObject) bytes += read.length;
  }
  return static_cast<double>(bytes) * scale_;
}

double ForecastRun::peer_bytes() {
  double bytes = 0;
  for (SimMachine* machine : machines_) {
    bytes += static_cast<double>(sim_.network().traffic(machine->host()).bytes_sent);
  }
  return bytes * scale_;
}

double ForecastRun::busiest_sender() {
  double most = 0;
  for (SimMachine* machine : machines_) {
    most = std::max(most, static_cast<double>(sim_.network().traffic(machine->host()).bytes_sent));
  }
  double mean = peer_bytes() / scale_ / static_cast<double>(machines_.size());
  return mean > 0 ? most / mean : 0;
}

uint64_t ForecastRun::origin_gets() const { return account_->service.gets(kBucket, kObject); }

uint64_t ForecastRun::origin_lookups() const {
  const BlobServiceStats& stats = account_->service.stats();
  return stats.of(BlobOperation::kHeadBlob) + stats.of(BlobOperation::kList);
}

}  // namespace shoal::simulate
