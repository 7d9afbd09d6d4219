#include "simulate/forecast_run.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "client/client.h"

namespace shoal::simulate {

namespace {

constexpr const char* kObject = "model";
constexpr double kRealChunk = 8.0 * 1024 * 1024;
constexpr uint64_t kReadStep = 2 * kForecastChunk;
// Connections of everybody to everybody would cost more memory than all else.
constexpr uint64_t kManyNodes = 128;
constexpr Duration kIdleClose = std::chrono::seconds(1);
constexpr double kFetchChunks = 4;  // at most, of a sequential reader
constexpr double kStallChunks = 20;
constexpr double kSlowChunks = 250;

BlobServiceConfig recording() {
  BlobServiceConfig service;
  service.record_reads = true;
  return service;
}

}  // namespace

ForecastRun::ForecastRun(const ForecastOptions& options, uint64_t nodes, bool together)
    : ForecastCluster(
          options,
          static_cast<double>(options.size) / static_cast<double>(options.chunks * kForecastChunk),
          kForecastChunk, recording()) {
  together_ = together;
  auto zeros = std::make_shared<Buffer>(options.chunks * kForecastChunk);
  std::ranges::fill(zeros->span(), std::byte{0});
  account_->service.add(kForecastBucket, kObject, BlobContent::of(std::move(zeros)));
  DaemonOptions daemon = daemon_options();
  daemon.cluster.reader.stall = silence(kStallChunks, daemon.cluster.reader.stall);
  daemon.cluster.reader.slow = silence(kSlowChunks, daemon.cluster.reader.slow);
  daemon.cluster.reader.slow_max = silence(kSlowChunks, daemon.cluster.reader.slow_max);
  daemon.cluster.pool.lanes = 1;  // a second connection for payload shares the same card
  if (nodes >= kManyNodes) daemon.cluster.pool.idle_close = kIdleClose;
  daemon.node.memory = 64 * kMiB;
  daemon.node.prefetch_bytes_max = options.ahead * kForecastChunk;
  // One simulated request stands for those of all real chunks in the simulated one.
  double requests = std::max(1.0, scale_ * static_cast<double>(kForecastChunk) / kRealChunk);
  daemon.retry.concurrency_max =
      std::max(1u, static_cast<uint32_t>(std::lround(options.blob_connections / requests)));
  // Nor may a request time out because it stands for more bytes than a real one.
  if (!together) {
    Duration limit = in_flight_time(nodes);
    daemon.node.origin_timeout = std::max(daemon.node.origin_timeout, limit);
    daemon.retry.retry_limit_time = std::max(daemon.retry.retry_limit_time, limit);
    daemon.retry.stall_timeout = std::max(daemon.retry.stall_timeout, limit);
  }
  for (uint64_t i = 0; i < nodes; ++i) add_daemon(daemon);
}

// What the account needs, twice, for all that nodes by themselves have in flight: fetches of
// several chunks each.
Duration ForecastRun::in_flight_time(uint64_t nodes) const {
  double chunk = scale_ * static_cast<double>(kForecastChunk);
  double bytes = chunk * kFetchChunks * static_cast<double>((options_.ahead + 1) * nodes);
  return Duration(static_cast<int64_t>(2 * bytes / options_.blob_out * 1e9));
}

void ForecastRun::scale_rates() {
  BlobFaults blob = account_->faults.faults();
  blob.account_out_bytes_per_second = scaled(options_.blob_out);
  // A connection needs for a simulated chunk what real ones need, side by side, for the real
  // chunks in it.
  double together = std::min(scale_, kRealChunk / static_cast<double>(kForecastChunk));
  blob.connection_bytes_per_second =
      std::max<uint64_t>(1, static_cast<uint64_t>(options_.blob_connection / together));
  account_->faults.set(std::move(blob));
  ForecastCluster::scale_rates();
}

Task<void> ForecastRun::read_one(ForecastRun* self, Daemon* daemon, double* seconds_taken) {
  SteadyTime begun = self->sim_.now();
  Context context = Context::within(daemon->world().executor, kForecastLimit);
  auto file = co_await daemon->kernel().open(kObject, O_RDONLY, context);
  Buffer buffer(kReadStep);
  Status status;
  if (!file) status = fail(file.error());
  uint64_t size = self->options_.chunks * kForecastChunk;
  for (uint64_t at = 0; status && at < size; at += kReadStep) {
    auto count = co_await daemon->kernel().read(file->handle, at, buffer.span(), context);
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
      Context::within(daemon->world().executor, kForecastLimit));
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
  Context context = Context::within(*executor, kForecastLimit);
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
  auto map_store = make_origin_map_store(**origin, *world, kForecastName);
  ClientOptions options;
  options.cluster = kForecastName;
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

uint64_t ForecastRun::origin_gets() const {
  return account_->service.gets(kForecastBucket, kObject);
}

uint64_t ForecastRun::origin_lookups() const {
  const BlobServiceStats& stats = account_->service.stats();
  return stats.of(BlobOperation::kHeadBlob) + stats.of(BlobOperation::kList);
}

}  // namespace shoal::simulate
