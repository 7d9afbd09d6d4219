#include "replication/replicas.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/object_name.h"
#include "replication/replication.h"

namespace shoal {

namespace {

// In the replica's record: the version's name in the origin.
constexpr const char* kReplicaName = "shoalname";
constexpr Duration kMadeLimit = std::chrono::minutes(10);

}  // namespace

std::vector<uint64_t> good_chunks(const wire::ReplicaStateReply& state, const LedgerRecord& record,
                                  uint64_t chunk_bytes, bool by_checksum) {
  std::vector<uint64_t> good;
  if (!state.known()) return good;
  std::vector<uint32_t> crcs = unpack_crcs(state.crcs());
  uint64_t chunks = (record.size + chunk_bytes - 1) / chunk_bytes;
  size_t next = 0;
  for (uint64_t c = 0; c < chunks && c / 8 < state.chunks().size(); ++c) {
    if (((state.chunks()[c / 8] >> (c % 8)) & 1) == 0) continue;
    bool same =
        next < crcs.size() && c < record.chunk_crcs.size() && crcs[next] == record.chunk_crcs[c];
    ++next;
    if (same || !by_checksum) good.push_back(c);
  }
  return good;
}

Replicas::Replicas(Replication& replication)
    : replication_(replication),
      queued_(replication.executor()),
      width_(replication.options().upload_blocks_max),
      uploads_(replication.executor(), width_.limit()) {}

Hash128 Replicas::key_of(const std::string& object, const WriteName& write) {
  return hash_string(object + '\n' + write.text(), 0x4e911ca);
}

void Replicas::note_recovered(const Store::Staged& staged) {
  bool is_replica = !staged.small && staged.record.metadata.contains(kReplicaMark);
  if (is_replica) recovered_.push_back(staged.record);
}

Task<Status> Replicas::load() {
  Store& store = replication_.parts().store;
  for (const StagedRecord& record : std::exchange(recovered_, {})) {
    auto write = WriteName::parse(record.metadata.at(kReplicaMark));
    auto file = co_await store.find_staged(record.write_id);
    if (!write || !file) {
      replication_.parts().log.error("a replica of {} cannot be used: {}", record.object,
                                     file ? "its mark is damaged" : file.error().to_string());
      continue;
    }
    Ref replica = make(record.object, *write);
    replica->file = std::move(*file);
    auto name = record.metadata.find(kReplicaName);
    if (name != record.metadata.end()) {
      replica->as_object = replica->blocks_as = name->second;
    }
    replica->named = true;
    replicas_.emplace(key_of(replica->object, *write), std::move(replica));
  }
  co_return Status();
}

void Replicas::start() { replication_.gate().spawn(upload_queued()); }

Replicas::Ref Replicas::find(const std::string& object, const WriteName& write) const {
  auto found = replicas_.find(key_of(object, write));
  if (found == replicas_.end() || found->second->ending || found->second->file == nullptr) {
    return nullptr;
  }
  return found->second;
}

Replicas::Ref Replicas::make(std::string object, WriteName write) const {
  uint64_t instance = replication_.parts().world.random.id128().low;
  auto replica = std::make_shared<Replica>(replication_.executor(), instance);
  replica->object = std::move(object);
  replica->as_object = replica->blocks_as = replica->object;
  replica->write = write;
  return replica;
}

// Finds or makes the replica.
Task<Result<Replicas::Ref>> Replicas::open(std::string object, WriteName write) {
  Hash128 key = key_of(object, write);
  while (true) {
    auto found = replicas_.find(key);
    if (found == replicas_.end()) break;
    Ref replica = found->second;
    if (replica->ending) co_return fail(Code::kNotFound, object + ": this version has ended");
    if (replica->file != nullptr) co_return replica;
    SHOAL_CO_RETURN_IF_ERROR(co_await replica->changed.wait(replication_.limited(kMadeLimit)));
  }
  Ref replica = make(object, write);
  replicas_.emplace(key, replica);
  StagedRecord record;
  record.object = object;
  record.write_id = key;
  record.base_etag = write.etag();
  record.partial = true;
  record.metadata[kReplicaMark] = write.text();
  auto file = co_await replication_.parts().store.create_staged(std::move(record));
  if (file) {
    replica->file = std::move(*file);
  } else {
    replicas_.erase(key);
  }
  replica->changed.notify_all();
  if (!file) co_return fail(std::move(file).error());
  co_return replica;
}

// Reads one chunk from the member that has it.
Task<Result<Replicas::Arrived>> Replicas::bring(Replica& replica, NodeId source, uint64_t chunk,
                                                uint64_t size, Context context) {
  uint64_t chunk_bytes = replication_.options().chunk_bytes;
  uint64_t length = block_length(chunk, chunk_bytes, size);
  if (length == 0) co_return fail(Code::kInvalidArgument, "a chunk past the end of its object");
  std::shared_ptr<const SlotMap> map = replication_.parts().view.map();
  const Member* member = map == nullptr ? nullptr : map->find(source);
  if (member == nullptr) co_return fail(Code::kUnavailable, "the source is no member");
  std::string address = member->address;
  auto memory = co_await replication_.memory().acquire(length, context);
  if (!memory) co_return fail(std::move(memory).error());
  BufferPool::Lease buffer = replication_.buffers().take(length);
  wire::ReadRequest request;
  request.set_object(replica.object);
  request.set_etag(replica.write.etag());
  request.set_size(size);
  request.set_offset(chunk * chunk_bytes);
  request.set_length(static_cast<uint32_t>(length));
  request.set_only_cached(true);
  request.set_no_redirect(true);
  request.set_as_held(true);
  std::vector<uint32_t> crcs;
  RpcSink sink{buffer.span(), &crcs};
  auto answer = co_await replication_.parts().pool.call(
      address, source, Method::kRead, request.SerializeAsString(), &sink,
      slot_of_chunk(replica.object, chunk), context);
  if (!answer) co_return fail(std::move(answer).error());
  if (sink.arrived < length) co_return fail(Code::kUnavailable, "the answer ended early");
  if (crcs.size() != (length + kPieceBytes - 1) / kPieceBytes) crcs.clear();  // an odd peer
  ++replica.unsynced;  // a sync that comes meanwhile waits for the write, and is not the last
  Status written = co_await replica.file->write(chunk * chunk_bytes, buffer.span(), crcs,
                                                CachedFile::Way::kDirect, {});
  ++replica.unsynced;  // also by one that failed: who knows what it has changed
  SHOAL_CO_RETURN_IF_ERROR(std::move(written));
  replication_.metrics().replicated_bytes.add(length);
  co_return Arrived{std::move(buffer), std::move(crcs), {}};
}

Task<Status> Replicas::sync(Replica& replica, uint64_t size) {
  uint64_t upto = replica.unsynced;
  if (replica.synced >= upto && replica.file->size() == size) co_return Status();
  if (replica.file->size() != size) {
    SHOAL_CO_RETURN_IF_ERROR(co_await replica.file->set_size(size));
  }
  StagedRecord record = replica.file->record();
  record.metadata[kReplicaName] = replica.as_object;
  SHOAL_CO_RETURN_IF_ERROR(co_await replica.file->sync(std::move(record)));
  replica.synced = std::max(replica.synced, upto);
  co_return Status();
}

Status Replicas::rename(Replica& replica, std::string as_object) {
  SHOAL_RETURN_IF_ERROR(validate_object_name(as_object));
  if (replica.as_object != as_object) ++replica.unsynced;
  if (replica.blocks_as != as_object) replica.blocks.clear();  // those were of another object
  replica.as_object = replica.blocks_as = std::move(as_object);
  return {};
}

bool Replicas::has_some(const Replica& replica, uint64_t chunk) const {
  uint64_t chunk_bytes = replication_.options().chunk_bytes;
  uint64_t size = replica.file->size();
  if (chunk >= (size + chunk_bytes - 1) / chunk_bytes) return false;
  Range range{chunk * chunk_bytes, std::min(chunk_bytes, size - chunk * chunk_bytes)};
  uint64_t missing = 0;
  for (const Range& part : replica.file->missing(range)) missing += part.length;
  return missing < range.length;
}

Task<Result<wire::ReplicateReply>> Replicas::replicate(wire::ReplicateRequest request,
                                                       Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_object_name(request.object()));
  WriteName write = from_wire(request.write());
  if (write.id.is_zero() || request.size() > kSizeMax || request.chunks_size() > kChunksMax ||
      (request.upload() && request.block_bytes() != replication_.options().chunk_bytes)) {
    co_return fail(Code::kInvalidArgument, "a replica that cannot be");
  }
  if (request.chunks().empty() && find(request.object(), write) == nullptr) {
    co_return fail(Code::kNotFound, request.object() + " is not held here");
  }
  SHOAL_CO_ASSIGN_OR_RETURN(Ref replica, co_await open(request.object(), write));
  Use use(replica);
  // Who copies a chunk may know less of the version than its writer: neither its name, if this node
  // knows one, nor its end.
  bool repairs = request.sync() && !request.chunks().empty();
  replica->named = replica->named || !repairs;
  if (!(repairs && replica->named)) {
    SHOAL_CO_RETURN_IF_ERROR(
        rename(*replica, request.as_object().empty() ? replica->object : request.as_object()));
  }
  NodeId source{request.source().high(), request.source().low()};
  for (uint64_t chunk : request.chunks()) {
    if (request.absent_only() && has_some(*replica, chunk)) {
      co_return fail(Code::kAlreadyExists, request.object() + ": some of this chunk is held here");
    }
    SHOAL_CO_ASSIGN_OR_RETURN(Arrived arrived,
                              co_await bring(*replica, source, chunk, request.size(), context));
    replica->blocks.erase(chunk);
    if (request.upload()) {
      replica->block_bytes = request.block_bytes();
      enqueue(replica, chunk);
      replica->blocks[chunk].arrived = keep(std::move(arrived));
    }
  }
  if (request.sync()) {
    uint64_t size = repairs ? replica->file->size() : 0;
    SHOAL_CO_RETURN_IF_ERROR(co_await sync(*replica, std::max(size, request.size())));
  }
  wire::ReplicateReply reply;
  reply.set_instance(replica->instance);
  co_return reply;
}

Task<Result<std::optional<uint32_t>>> Replicas::sealed_crc(std::string object, WriteName write,
                                                           uint64_t offset, Context context) {
  Ref replica = find(object, write);
  if (replica == nullptr) co_return std::optional<uint32_t>();
  Use use(replica);
  if (replica->sealed_crcs.empty()) {
    auto records = co_await replication_.get_records(replica->as_object, context);
    if (!records) co_return fail(Code::kNotFound, records.error().message());
    for (LedgerRecord& record : *records) {
      if (record.write == write && record.sealed) {
        replica->sealed_crcs = std::move(record.chunk_crcs);
      }
    }
  }
  uint64_t chunk = offset / replication_.options().chunk_bytes;
  if (chunk >= replica->sealed_crcs.size()) {
    co_return fail(Code::kNotFound, object + ": whether this part is the newest is not known");
  }
  co_return std::optional<uint32_t>(replica->sealed_crcs[chunk]);
}

Task<Result<std::vector<uint32_t>>> Replicas::read(std::string object, WriteName write,
                                                   uint64_t offset, ByteSpan into,
                                                   std::optional<uint32_t> chunk_crc) {
  Ref replica = find(object, write);
  if (replica == nullptr) co_return fail(Code::kNotFound, object + " is not held here");
  Use use(replica);
  bool here = offset + into.size() <= replica->file->size() &&
              replica->file->missing({offset, into.size()}).empty();
  if (!here) co_return fail(Code::kNotFound, object + ": this part is not held here");
  if (chunk_crc) {
    SHOAL_CO_RETURN_IF_ERROR(co_await sync(*replica, replica->file->size()));
    uint64_t chunk_bytes = replication_.options().chunk_bytes;
    uint64_t begin = offset / chunk_bytes * chunk_bytes;
    Range whole{begin, block_length(offset / chunk_bytes, chunk_bytes, replica->file->size())};
    if (!replica->file->missing(whole).empty() || replica->file->crc(whole) != *chunk_crc) {
      co_return fail(Code::kNotFound, object + ": older bytes of this part are held here");
    }
  }
  co_return co_await replica->file->read_with_crcs(offset, into);
}

// Of bytes that are here and synced.
Task<Result<uint32_t>> Replicas::crc_of(Replica& replica, Range range) {
  uint64_t whole =
      range.end() == replica.file->size() ? range.end() : range.end() / kPieceBytes * kPieceBytes;
  if (whole >= range.end()) co_return replica.file->crc(range);
  Buffer tail(range.end() - whole);
  SHOAL_CO_RETURN_IF_ERROR(co_await replica.file->read(whole, tail.span()));
  uint32_t crc = crc32c(tail.span());
  if (whole <= range.offset) co_return crc;
  uint32_t head = replica.file->crc({range.offset, whole - range.offset});
  co_return crc32c_combine(head, crc, range.end() - whole);
}

Task<Result<wire::ReplicaStateReply>> Replicas::state(std::string object, WriteName write,
                                                      uint64_t size) {
  wire::ReplicaStateReply reply;
  Ref replica = find(object, write);
  if (replica == nullptr) co_return reply;
  Use use(replica);
  // Its checksums are whole after a sync only, and what comes later is not on the disk yet.
  uint64_t chunk_bytes = replication_.options().chunk_bytes;
  size = size == 0 ? replica->file->size() : std::min(size, replica->file->size());
  auto is_here = [&](uint64_t chunk) {
    Range range{chunk * chunk_bytes, block_length(chunk, chunk_bytes, size)};
    return replica->file->missing(range).empty();
  };
  std::vector<bool> before;
  for (uint64_t chunk = 0; chunk * chunk_bytes < size; ++chunk) before.push_back(is_here(chunk));
  SHOAL_CO_RETURN_IF_ERROR(co_await sync(*replica, replica->file->size()));
  reply.set_known(true);
  reply.set_instance(replica->instance);
  reply.set_size(size);
  std::string bits((size / chunk_bytes) / 8 + 1, '\0');
  std::vector<uint32_t> crcs;
  for (uint64_t chunk = 0; chunk < before.size(); ++chunk) {
    Range range{chunk * chunk_bytes, block_length(chunk, chunk_bytes, size)};
    if (!before[chunk] || !is_here(chunk)) continue;
    auto crc = co_await crc_of(*replica, range);
    if (!crc) continue;  // damaged
    bits[chunk / 8] = static_cast<char>(bits[chunk / 8] | (1 << (chunk % 8)));
    crcs.push_back(*crc);
  }
  reply.set_crcs(pack_crcs(crcs));
  reply.set_chunks(std::move(bits));
  co_return reply;
}

Task<Result<bool>> Replicas::matches(Replica& replica, uint64_t size, std::vector<uint32_t> crcs) {
  uint64_t chunk_bytes = replication_.options().chunk_bytes;
  if (replica.file->size() != size || crcs.size() != (size + chunk_bytes - 1) / chunk_bytes) {
    co_return false;
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await sync(replica, size));
  for (uint64_t chunk = 0; chunk < crcs.size(); ++chunk) {
    Range range{chunk * chunk_bytes, block_length(chunk, chunk_bytes, size)};
    uint64_t missing = 0;
    for (const Range& part : replica.file->missing(range)) missing += part.length;
    if (missing == range.length) continue;
    if (missing > 0 || replica.file->crc(range) != crcs[chunk]) co_return false;
  }
  co_return true;
}

Task<Status> Replicas::end(std::string object, WriteName write, std::string as_object,
                           std::string etag, uint64_t size, std::vector<uint32_t> crcs) {
  Hash128 key = key_of(object, write);
  auto found = replicas_.find(key);
  if (found == replicas_.end()) co_return Status();
  Ref replica = found->second;
  if (replica->ending) co_return Status();
  // It goes by another name, which whoever ends it does not know.
  if (replica->as_object != as_object) co_return Status();
  replica->ending = true;
  replica->cancel.request();
  while (replica->users > 0 || replica->file == nullptr) {
    Status waited = co_await replica->changed.wait({});
    SHOAL_ASSERT(waited.has_value());
    if (replica->file == nullptr && !replicas_.contains(key)) co_return Status();  // never made
  }
  Store& store = replication_.parts().store;
  Status status;
  if (!etag.empty()) {
    auto same = co_await matches(*replica, size, std::move(crcs));
    if (!same || !*same) etag.clear();  // the origin has it
  }
  if (status && !etag.empty() && as_object != object) {
    StagedRecord record = replica->file->record();
    record.object = as_object;
    status = co_await replica->file->sync(std::move(record));
  }
  if (status) {
    status = etag.empty() ? co_await store.drop_staged(replica->file)
                          : co_await store.commit_staged(replica->file, std::move(etag));
  }
  if (!status && status.error().code() != Code::kNotFound) {
    replica->ending = false;
    replica->cancel.reset();
    co_return status;
  }
  replicas_.erase(key);
  co_return Status();
}

std::string Replicas::as_object(const std::string& object, const WriteName& write) const {
  Ref replica = find(object, write);
  return replica == nullptr ? object : replica->as_object;
}

void Replicas::cancel_all() {
  for (auto& [key, replica] : replicas_) replica->cancel.request();
}

std::vector<std::pair<std::string, WriteName>> Replicas::list() const {
  std::vector<std::pair<std::string, WriteName>> result;
  for (const auto& [key, replica] : replicas_) {
    if (!replica->ending && replica->file) result.emplace_back(replica->object, replica->write);
  }
  return result;
}

uint64_t Replicas::bytes() const {
  uint64_t bytes = 0;
  for (const auto& [key, replica] : replicas_) {
    if (replica->file) bytes += replica->file->allocated();
  }
  return bytes;
}

}  // namespace shoal
