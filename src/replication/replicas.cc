#include "replication/replicas.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/object_name.h"
#include "replication/replication.h"

namespace shoal {

namespace {

constexpr uint64_t kSizeMax = uint64_t{1} << 47;
constexpr uint64_t kBlockBytesMax = 4000 * kMiB;
constexpr int kChunksMax = 4096;
constexpr uint64_t kUploadsBesideSends = 1;
// So long a block that others ask for lets chunks go first that a writer here waits for.
constexpr Duration kPatience = std::chrono::seconds(5);
// In the replica's record: the version's name in the origin.
constexpr const char* kReplicaName = "shoalname";
constexpr Duration kOriginLimit = std::chrono::minutes(10);

uint64_t block_length(uint64_t index, uint64_t block_bytes, uint64_t size) {
  uint64_t begin = index * block_bytes;
  return begin >= size ? 0 : std::min(block_bytes, size - begin);
}

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

Task<Status> Replicas::load() {
  Store& store = replication_.parts().store;
  for (const Store::Staged& staged : store.staged()) {
    auto mark = staged.record.metadata.find(kReplicaMark);
    if (staged.small || mark == staged.record.metadata.end()) continue;
    auto write = WriteName::parse(mark->second);
    auto file = co_await store.find_staged(staged.record.write_id);
    if (!write || !file) {
      replication_.parts().log.error("a replica of {} cannot be used: {}", staged.record.object,
                                     file ? "its mark is damaged" : file.error().to_string());
      continue;
    }
    Ref replica = make(staged.record.object, *write);
    replica->file = std::move(*file);
    auto name = staged.record.metadata.find(kReplicaName);
    if (name != staged.record.metadata.end()) replica->as_object = name->second;
    replica->unsynced = replica->synced = 1;
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
  replica->as_object = replica->object;
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
    SHOAL_CO_RETURN_IF_ERROR(co_await replica->changed.wait(replication_.limited(kOriginLimit)));
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
Task<Status> Replicas::bring(Replica& replica, NodeId source, uint64_t chunk, uint64_t size,
                             Context context) {
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
  SHOAL_CO_RETURN_IF_ERROR(co_await replica.file->write(chunk * chunk_bytes, buffer.span(), crcs,
                                                        CachedFile::Way::kDirect));
  ++replica.unsynced;
  replication_.metrics().replicated_bytes.add(length);
  co_return Status();
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

void Replicas::share_network(bool busy) {
  sharing_ = busy;
  set_uploads();
}

void Replicas::set_uploads() {
  uploads_.set_limit(sharing_ ? kUploadsBesideSends : width_.limit());
}

void Replicas::enqueue(const Ref& replica, uint64_t chunk) {
  replica->blocks[chunk] = {};  // one that is under way is of older bytes: its end changes nothing
  queue_.emplace_back(replica, chunk);
  queued_.notify_one();
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
  NodeId source{request.source().high(), request.source().low()};
  for (uint64_t chunk : request.chunks()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await bring(*replica, source, chunk, request.size(), context));
    replica->blocks.erase(chunk);
    if (request.upload()) {
      replica->block_bytes = request.block_bytes();
      enqueue(replica, chunk);
    }
  }
  // Who copies a chunk may know less of the version than its writer: neither its name, if this node
  // knows one, nor its end.
  bool repairs = request.sync() && !request.chunks().empty();
  replica->named = replica->named || !repairs;
  std::string as = repairs && replica->named     ? replica->as_object
                   : request.as_object().empty() ? replica->object
                                                 : request.as_object();
  SHOAL_CO_RETURN_IF_ERROR(validate_object_name(as));
  if (replica->as_object != as) {
    replica->as_object = std::move(as);
    replica->blocks.clear();  // those were of another object
    ++replica->unsynced;
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

Task<Status> Replicas::read(std::string object, WriteName write, uint64_t offset, ByteSpan into,
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
  co_return co_await replica->file->read(offset, into);
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

// Sends one block, with bytes from other nodes where they are not here.
Task<Status> Replicas::send_block(Replica& replica, uint64_t index, uint64_t size,
                                  std::set<std::string> there, Context context) {
  uint64_t revision = replica.blocks[index].revision;
  uint64_t begin = index * replica.block_bytes;
  uint64_t length = block_length(index, replica.block_bytes, size);
  auto memory = co_await replication_.upload_memory().acquire(length, context);
  if (!memory) co_return fail(std::move(memory).error());
  BufferPool::Lease buffer = replication_.buffers().take(length);
  Range range{begin, length};
  bool here = range.end() <= replica.file->size() && replica.file->missing(range).empty();
  if (here) {
    SHOAL_CO_RETURN_IF_ERROR(
        co_await replica.file->read(begin, buffer.span(), CachedFile::Way::kDirect));
    // Promise 2: checked against the checksum of when it entered, before it leaves.
    if (replica.synced >= replica.unsynced && begin % kPieceBytes == 0) {
      SHOAL_CO_ASSIGN_OR_RETURN(uint32_t crc, co_await crc_of(replica, range));
      if (crc32c(buffer.span()) != crc) {
        co_return fail(Code::kCorrupt, replica.object + ": a replica does not match its checksum");
      }
    }
  } else {
    SHOAL_CO_RETURN_IF_ERROR(co_await replication_.read(replica.object, replica.write, begin,
                                                        buffer.span(), {}, context));
  }
  std::string id = fmt::format("{:08}", index) + hash_bytes(buffer.span()).to_hex();
  if (!there.contains(id)) {
    SHOAL_CO_RETURN_IF_ERROR(co_await replication_.parts().upload_rate.take(length, context));
    Executor& executor = replication_.executor();
    auto width = static_cast<uint32_t>(uploads_.used());
    SteadyTime began = executor.now();
    width_.begin(width, began);
    SHOAL_CO_RETURN_IF_ERROR(co_await replication_.parts().origin.put_block(
        replica.as_object, id, begin, buffer.span(), context.tightened(executor, kOriginLimit)));
    width = std::max(width, static_cast<uint32_t>(uploads_.used()));
    width_.sent(length, executor.now() - began, width, executor.now());
    set_uploads();
    replication_.metrics().blocks.add();
  }
  auto block = replica.blocks.find(index);
  if (block != replica.blocks.end() && block->second.revision == revision) {
    block->second.id = std::move(id);
  }
  co_return Status();
}

// Sends what was queued early, so that little is left when the writer closes. Not while this node
// sends chunks of its own: a writer waits for those, and both would share its network.
Task<void> Replicas::upload_queued() {
  Context context{kNever, &replication_.stopping()};
  while (true) {
    if (queue_.empty()) {
      if (!co_await queued_.wait(context)) co_return;
      continue;
    }
    if (replication_.sends().used() > 0) {
      if (!co_await replication_.sends_idle().wait(context)) co_return;
      continue;
    }
    auto permit = co_await uploads_.acquire(1, context);
    if (!permit) co_return;
    if (queue_.empty()) continue;
    auto [replica, index] = std::move(queue_.front());
    queue_.pop_front();
    auto block = replica->blocks.find(index);
    if (replica->ending || block == replica->blocks.end() ||
        block->second.state != Block::State::kQueued) {
      continue;
    }
    block->second.state = Block::State::kUploading;
    block->second.revision = ++replica->revisions;
    replication_.gate().spawn(upload_early(std::move(replica), index, std::move(*permit)));
  }
}

Task<void> Replicas::upload_early(Ref replica, uint64_t index, Permit permit) {
  Use use(replica);
  Context context{kNever, &replica->cancel};
  uint64_t revision = replica->blocks[index].revision;
  uint64_t size = replica->file->size();
  uint64_t length = block_length(index, replica->block_bytes, size);
  Status sent = co_await send_block(*replica, index, size, {}, context);
  permit.release();
  auto block = replica->blocks.find(index);
  if (block != replica->blocks.end() && block->second.revision == revision) {
    if (sent) {
      block->second.state = Block::State::kDone;
      block->second.length = length;
    } else {
      replica->blocks.erase(block);  // whoever needs it asks for it
    }
  }
  replica->changed.notify_all();
}

Task<Status> Replicas::upload_one(Replica& replica, uint64_t index, uint64_t size,
                                  std::set<std::string> there, bool again, std::string* id,
                                  Context context) {
  uint64_t length = block_length(index, replica.block_bytes, size);
  Context patience = context.tightened(replication_.executor(), kPatience);
  Permit permit;
  while (true) {
    auto block = replica.blocks.find(index);
    if (block != replica.blocks.end() && block->second.state == Block::State::kUploading) {
      permit.release();
      SHOAL_CO_RETURN_IF_ERROR(co_await replica.changed.wait(context));
      continue;
    }
    bool done = block != replica.blocks.end() && block->second.state == Block::State::kDone;
    if (done && block->second.length == length && (!again || there.contains(block->second.id))) {
      *id = block->second.id;
      co_return Status();
    }
    if (permit.amount() > 0) break;
    // Until then it counts as not begun: somebody with nothing to do may take it.
    if (sharing_ && co_await replication_.sends_idle().wait(patience)) continue;
    SHOAL_CO_ASSIGN_OR_RETURN(permit, co_await uploads_.acquire(1, context));
  }
  uint64_t revision = ++replica.revisions;
  replica.blocks[index] = {Block::State::kUploading, {}, revision, length};
  Status sent = co_await send_block(replica, index, size, std::move(there), context);
  auto block = replica.blocks.find(index);
  if (block != replica.blocks.end() && block->second.revision == revision) {
    if (sent) {
      block->second.state = Block::State::kDone;
      *id = block->second.id;
    } else {
      replica.blocks.erase(block);
    }
  } else if (sent) {
    sent = fail(Code::kConflict, replica.object + " changed while it was sent");
  }
  replica.changed.notify_all();
  co_return sent;
}

Task<Result<wire::ReplicaUploadReply>> Replicas::upload(wire::ReplicaUploadRequest request,
                                                        Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_object_name(request.object()));
  uint64_t block_bytes = request.block_bytes();
  if (block_bytes == 0 || block_bytes > kBlockBytesMax || block_bytes % kPieceBytes != 0 ||
      request.size() > kSizeMax || request.blocks_size() > kChunksMax ||
      request.there_size() > kChunksMax) {
    co_return fail(Code::kInvalidArgument, "an upload that cannot be");
  }
  for (uint64_t index : request.blocks()) {
    if (index > request.size() / block_bytes ||
        block_length(index, block_bytes, request.size()) == 0) {
      co_return fail(Code::kInvalidArgument, "a block past the end of its object");
    }
  }
  Ref replica = find(request.object(), from_wire(request.write()));
  if (replica == nullptr) co_return fail(Code::kNotFound, request.object() + " is not held here");
  Use use(replica);
  wire::ReplicaUploadReply reply;
  if (request.release()) {
    for (uint64_t index : request.blocks()) {
      auto block = replica->blocks.find(index);
      bool begun = block != replica->blocks.end() && block->second.state != Block::State::kQueued;
      if (!begun && block != replica->blocks.end()) replica->blocks.erase(block);
      reply.add_ids(begun ? "begun" : "");
    }
    co_return reply;
  }
  std::string as = request.as_object().empty() ? request.object() : request.as_object();
  SHOAL_CO_RETURN_IF_ERROR(validate_object_name(as));
  if (replica->block_bytes != block_bytes || replica->as_object != as) {
    replica->blocks.clear();
    replica->block_bytes = block_bytes;
    replica->as_object = std::move(as);
  }
  std::set<std::string> there(request.there().begin(), request.there().end());
  std::vector<std::string> ids(static_cast<size_t>(request.blocks_size()));
  std::vector<Task<Status>> tasks;
  for (int i = 0; i < request.blocks_size(); ++i) {
    tasks.push_back(upload_one(*replica, request.blocks(i), request.size(), there, request.again(),
                               &ids[static_cast<size_t>(i)], context));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(replication_.executor(), std::move(tasks),
                                            replication_.options().upload_blocks_max));
  for (std::string& id : ids) reply.add_ids(std::move(id));
  reply.set_width(width_.limit());
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
