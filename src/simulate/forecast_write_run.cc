#include "simulate/forecast_write_run.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "async/disk_io.h"
#include "async/gate.h"

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr double kRealChunk = 8.0 * 1024 * 1024;
// More only cost memory: a simulated request gets the speed of all that it stands for.
constexpr uint32_t kInFlightMax = 4;
constexpr uint32_t kSendsMin = 4;  // a chunk passes the disk and the card of both nodes in turn
constexpr double kAckChunks = 200;
constexpr double kBlockChunks = 40;
constexpr double kStallChunks = 20;
constexpr double kSlowChunks = 250;
// After a loss everything must be in the origin within a few times what it takes without.
constexpr double kAfterLoss = 3;
constexpr Duration kAfterLossMin = std::chrono::minutes(10);
constexpr double kLooks = 1000;  // at what is in the origin, while everything gets there
constexpr const char* kLocalFile = "/checkpoint";

double share_of(const ForecastOptions& options) {
  return static_cast<double>(options.size) / static_cast<double>(options.writers);
}

BlobServiceConfig discarding() {
  BlobServiceConfig service;
  service.discard_writes = true;
  service.discard_from = kWriteChunk;  // names of blocks tell what was in them
  return service;
}

std::string block_id(uint64_t index, ConstByteSpan bytes) {
  return fmt::format("{:08}", index) + hash_bytes(bytes).to_hex();
}

}  // namespace

struct WriteRun::Uploader {
  Uploader(World& in, const Log& log, uint32_t connections) : world(in), gate(in.executor) {
    OriginConfig config;
    config.location = kBlobOrigin;
    config.retry.concurrency_max = connections;
    auto made = make_origin(std::move(config), world, registry, log);
    SHOAL_ASSERT(made.has_value());
    origin = std::move(*made);
  }
  World& world;
  Registry registry;
  std::unique_ptr<Origin> origin;
  Gate gate;
};

WriteRun::WriteRun(const ForecastOptions& options, Saving saving)
    : ForecastCluster(options,
                      share_of(options) / static_cast<double>(options.file_chunks * kWriteChunk),
                      kWriteChunk, discarding()),
      saving_(saving) {
  SimNetworkOptions network = sim_.network().options();
  network.free_bytes = kPieceBytes;  // what is smaller is nobody's data
  sim_.network().set_options(network);
  bool shoal = saving == Saving::kShoal;
  together_ = shoal;
  // One simulated request stands for those of all real blocks in the simulated one, as many as a
  // node has in flight.
  double real = shoal ? options.upload_blocks : options.blob_connections;
  double requests = std::max(1.0, scale_ * static_cast<double>(kWriteChunk) / kRealChunk);
  auto scaled_down = [requests](double count, uint32_t most) {
    return std::clamp(static_cast<uint32_t>(std::lround(count / requests)), 1u, most);
  };
  in_flight_ = scaled_down(real, kInFlightMax);
  connection_ = options.blob_connection * real / in_flight_;

  DaemonOptions daemon = daemon_options();
  daemon.cluster.reader.stall = silence(kStallChunks, daemon.cluster.reader.stall);
  daemon.cluster.reader.slow = silence(kSlowChunks, daemon.cluster.reader.slow);
  daemon.cluster.reader.slow_max = silence(kSlowChunks, daemon.cluster.reader.slow_max);
  daemon.cluster.pool.lanes = 1;  // a second connection for payload shares the same card
  daemon.node.memory = 64 * kMiB;
  daemon.node.ack = AckLevel::kReplicated;  // of one replica: on this node's disk
  daemon.node.upload_blocks_max = in_flight_;
  ReplicationOptions& replication = daemon.node.replication;
  replication.replicas = options.replicas;
  replication.chunk_bytes = kWriteChunk;
  replication.upload_blocks_max = in_flight_;
  replication.sends_max = std::max(kSendsMin, scaled_down(replication.sends_max, kInFlightMax));
  replication.ack_timeout = patience(kAckChunks, replication.ack_timeout);
  replication.block_timeout = patience(kBlockChunks, replication.block_timeout);
  daemon.retry.concurrency_max = std::max(
      1u, static_cast<uint32_t>(std::lround(options.blob_connections * in_flight_ / real)));
  for (uint64_t i = 0; i < options.nodes; ++i) {
    if (shoal) {
      add_daemon(daemon);
      continue;
    }
    SimMachine& machine = add_machine(fmt::format("n{}", i));
    machines_.push_back(&machine);
    uploaders_.push_back(
        &machine.own(std::make_unique<Uploader>(machine.world(), log_, in_flight_)));
  }
  for (SimMachine* machine : machines_) machine->disk().options().free_bytes = kPieceBytes;
  for (uint64_t i = 0; i < options.writers; ++i) {
    Writer& writer = writers_.emplace_back();
    writer.node = i * options.nodes / options.writers;
    writer.object = fmt::format("rank-{:05}", i);
  }
  look_period_ =
      std::clamp<Duration>(Duration(static_cast<int64_t>(static_cast<double>(options.size) /
                                                         options.blob_in / kLooks * 1e9)),
                           milliseconds(5), seconds(1));
}

// Limits of time that are meant for a real chunk: what the slowest part needs for so many.
Duration WriteRun::patience(double chunks, Duration at_least) const {
  double account = options_.blob_in / static_cast<double>(options_.nodes);
  double slowest = std::min({options_.nic, options_.nvme / options_.replicas, account});
  double chunk = scale_ * static_cast<double>(kWriteChunk);
  return std::max(at_least, Duration(static_cast<int64_t>(chunks * chunk / slowest * 1e9)));
}

void WriteRun::scale_rates() {
  BlobFaults blob = account_->faults.faults();
  blob.account_in_bytes_per_second = scaled(options_.blob_in);
  blob.connection_bytes_per_second = scaled(connection_);
  account_->faults.set(std::move(blob));
  for (SimMachine* machine : machines_) {
    machine->disk().set_rates(scaled(options_.nvme), scaled(options_.nvme_read));
  }
  ForecastCluster::scale_rates();
}

// Every chunk differs from all others, and little of it from zeros, which cost no memory.
void WriteRun::make_chunk(const Writer& writer, uint64_t index, ByteSpan into) const {
  SHOAL_ASSERT(into.size() == kWriteChunk);
  std::ranges::fill(into, std::byte{0});
  std::string head = fmt::format("{} {}", writer.object, index);
  std::memcpy(into.data(), head.data(), head.size());
}

// --- with Shoal ---

Task<Status> WriteRun::write_file(Writer* writer) {
  Daemon* daemon = daemons_[writer->node];
  Context context = Context::within(daemon->world().executor, kForecastLimit);
  SHOAL_CO_ASSIGN_OR_RETURN(
      OpenFile file,
      co_await daemon->kernel().open(writer->object, O_WRONLY | O_CREAT | O_TRUNC, context));
  FileSystem& fs = daemon->kernel().fs;
  Buffer buffer(kWriteChunk);
  Status status;
  for (uint64_t i = 0; status && i < options_.file_chunks; ++i) {
    make_chunk(*writer, i, buffer.span());
    auto wrote =
        co_await daemon->kernel().write(file.handle, i * kWriteChunk, buffer.span(), context);
    if (!wrote) status = fail(std::move(wrote).error());
  }
  if (status) status = co_await fs.flush(file.handle, context);
  if (status) writer->file.acknowledged = since_begun();
  co_await fs.release(file.handle);
  co_return status;
}

Task<void> WriteRun::write_one(WriteRun* self, Writer* writer) {
  Status status = co_await self->write_file(writer);
  if (!status) writer->error = status.error().to_string();
  writer->running = false;
}

// --- without ---

Task<Status> WriteRun::write_local(Writer* writer) {
  Disk& disk = uploaders_[writer->node]->world.disk;
  SHOAL_CO_ASSIGN_OR_RETURN(
      FileId file,
      co_await disk_io::open(disk, kLocalFile, DiskOp::kOpenWrite | DiskOp::kOpenCreate));
  Buffer buffer(kWriteChunk);
  Status status;
  for (uint64_t i = 0; status && i < options_.file_chunks; ++i) {
    make_chunk(*writer, i, buffer.span());
    status = co_await disk_io::write(disk, file, i * kWriteChunk, buffer.span());
  }
  if (status) status = co_await disk_io::sync(disk, file);
  Status closed = co_await disk_io::close(disk, file);
  co_return status ? closed : status;
}

namespace {

Task<Status> send_block(World* world, Origin* origin, std::string object, FileId file,
                        uint64_t index, BlockInfo* block) {
  Buffer buffer(kWriteChunk);
  uint64_t offset = index * kWriteChunk;
  SHOAL_CO_RETURN_IF_ERROR(
      co_await disk_io::read_exactly(world->disk, file, offset, buffer.span()));
  *block = {block_id(index, buffer.span()), kWriteChunk};
  co_return co_await origin->put_block(object, block->id, offset, buffer.span(),
                                       Context::within(world->executor, kForecastLimit));
}

}  // namespace

Task<Status> WriteRun::upload(Writer* writer) {
  Uploader& node = *uploaders_[writer->node];
  SHOAL_CO_ASSIGN_OR_RETURN(FileId file, co_await disk_io::open(node.world.disk, kLocalFile, 0));
  std::vector<BlockInfo> blocks(options_.file_chunks);
  std::vector<Task<Status>> tasks;
  for (uint64_t i = 0; i < blocks.size(); ++i) {
    tasks.push_back(
        send_block(&node.world, node.origin.get(), writer->object, file, i, &blocks[i]));
  }
  Status status = co_await run_all(node.world.executor, std::move(tasks), in_flight_);
  Status closed = co_await disk_io::close(node.world.disk, file);
  SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  SHOAL_CO_RETURN_IF_ERROR(std::move(closed));
  Context context = Context::within(node.world.executor, kForecastLimit);
  auto info = co_await node.origin->commit_blocks(writer->object, std::move(blocks), {}, context);
  if (!info) co_return fail(std::move(info).error());
  co_return Status();
}

Task<void> WriteRun::save_locally(WriteRun* self, Writer* writer) {
  Status status = co_await self->write_local(writer);
  if (status) {
    writer->file.acknowledged = self->since_begun();
    status = co_await self->upload(writer);
  }
  if (!status) writer->error = status.error().to_string();
  writer->running = false;
}

// --- both ---

void WriteRun::lose(const NodeLoss& loss) {
  lost_ = loss.node;
  for (Writer& writer : writers_) {
    if (writer.node == loss.node) writer.running = false;
  }
  machines_[loss.node]->crash(CrashKind::kPowerLoss);
  machines_[loss.node]->disk().wipe();
}

// What was written is what the blocks' names say.
bool WriteRun::intact(const Writer& writer) const {
  std::vector<std::string> ids = account_->service.block_ids(kForecastBucket, writer.object);
  if (ids.size() != options_.file_chunks) return false;
  Buffer chunk(kWriteChunk);
  for (uint64_t i = 0; i < ids.size(); ++i) {
    make_chunk(writer, i, chunk.span());
    if (ids[i] != block_id(i, chunk.span())) return false;
  }
  return true;
}

bool WriteRun::over() {
  if (sim_.now() < next_look_) return false;  // it costs more than a step
  next_look_ = sim_.now() + look_period_;
  std::vector<std::string> names = account_->service.names(kForecastBucket, "rank-");
  std::set<std::string> there(names.begin(), names.end());
  return std::ranges::all_of(writers_, [&](const Writer& writer) {
    if (writer.running) return false;
    bool excused = lost_ == writer.node && writer.file.acknowledged < 0;
    return excused || !writer.error.empty() || there.contains(writer.object);
  });
}

Result<std::vector<SavedFile>> WriteRun::save(std::optional<NodeLoss> loss) {
  begun_ = sim_.now();
  begun_wall_ = sim_.scheduler().wall_now();
  for (Writer& writer : writers_) {
    writer.running = true;
    if (saving_ == Saving::kShoal) {
      daemons_[writer.node]->gate().spawn(write_one(this, &writer));
    } else {
      uploaders_[writer.node]->gate.spawn(save_locally(this, &writer));
    }
  }
  if (loss) sim_.at(loss->after, [this, lost = *loss] { lose(lost); });
  auto done = [&] { return (!loss || lost_) && over(); };
  Duration limit = kForecastLimit;
  if (loss) {
    double whole = static_cast<double>(options_.size) / options_.blob_in;
    limit = loss->after + kAfterLossMin + Duration(static_cast<int64_t>(kAfterLoss * whole * 1e9));
  }
  bool ended = sim_.run_until(done, limit);
  next_look_ = {};  // nothing may have been left to do before it
  ended = ended || done();
  std::vector<SavedFile> files;
  for (Writer& writer : writers_) {
    if (!writer.error.empty()) {
      return fail(Code::kInternal, fmt::format("{}: {}", writer.object, writer.error));
    }
    auto blob = account_->service.find(kForecastBucket, writer.object);
    if (blob && intact(writer)) writer.file.durable = to_seconds(blob->modified - begun_wall_);
    files.push_back(writer.file);
  }
  if (!ended && !loss) return fail(Code::kDeadlineExceeded, "the checkpoint never gets durable");
  if (!loss && !error_.empty()) return fail(Code::kInternal, error_);
  return files;
}

double WriteRun::origin_bytes() const {
  return static_cast<double>(account_->service.stats().bytes_in) * scale_;
}

}  // namespace shoal::simulate
