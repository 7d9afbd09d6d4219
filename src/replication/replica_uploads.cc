// Replicas: their blocks on the way to the origin.
#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/object_name.h"
#include "base/piece_crcs.h"
#include "replication/replicas.h"
#include "replication/replication.h"

namespace shoal {

namespace {

constexpr uint64_t kBlockBytesMax = 4000 * kMiB;
constexpr uint64_t kUploadsBesideSends = 1;
// So long a block that others ask for lets chunks go first that a writer here waits for.
constexpr Duration kPatience = std::chrono::seconds(5);
constexpr Duration kOriginLimit = std::chrono::minutes(10);

}  // namespace

void Replicas::share_network(bool busy) {
  sharing_ = busy;
  set_uploads();
}

void Replicas::set_uploads() {
  uploads_.set_limit(sharing_ ? kUploadsBesideSends : width_.limit());
}

void Replicas::enqueue(const Ref& replica, uint64_t chunk) {
  replica->blocks[chunk] =
      Block();  // one that is under way is of older bytes: its end changes nothing
  queue_.emplace_back(replica, chunk);
  queued_.notify_one();
}

// As long as uploads leave half of their memory.
std::unique_ptr<Replicas::Arrived> Replicas::keep(Arrived arrived) {
  Semaphore& all = replication_.upload_memory();
  uint64_t bytes = arrived.bytes.size();
  if (arrived.crcs.empty() || all.used() + bytes > all.limit() / 2) return nullptr;
  auto memory = all.try_acquire(bytes);
  if (!memory) return nullptr;
  arrived.memory = std::move(*memory);
  return std::make_unique<Arrived>(std::move(arrived));
}

// A block as it arrived, else from the disk, or from other nodes where it is not here.
Task<Result<Replicas::Loaded>> Replicas::load_block(Replica& replica, uint64_t index,
                                                    uint64_t length, Context context) {
  auto arrived = std::move(replica.blocks[index].arrived);
  if (arrived != nullptr && arrived->bytes.size() == length) {
    // Promise 2: checked against the checksums with which it came, before it leaves.
    PieceSums sums = piece_sums(arrived->bytes.span());
    if (sums.crcs == arrived->crcs) co_return Loaded{std::move(*arrived), sums.hash};
    replication_.parts().log.error("{}: block {} changed in memory; it is read from the disk",
                                   replica.object, index);
  }
  arrived.reset();
  Arrived block;
  SHOAL_CO_ASSIGN_OR_RETURN(block.memory,
                            co_await replication_.upload_memory().acquire(length, context));
  block.bytes = replication_.buffers().take(length);
  ByteSpan into = block.bytes.span();
  Range range{index * replica.block_bytes, length};
  bool here = range.end() <= replica.file->size() && replica.file->missing(range).empty();
  if (!here) {
    SHOAL_CO_RETURN_IF_ERROR(
        co_await replication_.read(replica.object, replica.write, range.offset, into, {}, context));
    co_return Loaded{std::move(block), hash_bytes(into)};
  }
  SHOAL_CO_RETURN_IF_ERROR(
      co_await replica.file->read(range.offset, into, CachedFile::Way::kDirect));
  // Promise 2: checked against the checksum of when it entered, before it leaves.
  if (replica.synced >= replica.unsynced && range.offset % kPieceBytes == 0) {
    SHOAL_CO_ASSIGN_OR_RETURN(uint32_t crc, co_await crc_of(replica, range));
    if (crc32c(into) != crc) {
      co_return fail(Code::kCorrupt, replica.object + ": a replica does not match its checksum");
    }
  }
  co_return Loaded{std::move(block), hash_bytes(into)};
}

Task<Status> Replicas::send_block(Replica& replica, uint64_t index, uint64_t size,
                                  std::set<std::string> there, Context context) {
  uint64_t revision = replica.blocks[index].revision;
  uint64_t begin = index * replica.block_bytes;
  uint64_t length = block_length(index, replica.block_bytes, size);
  SHOAL_CO_ASSIGN_OR_RETURN(Loaded loaded, co_await load_block(replica, index, length, context));
  ConstByteSpan bytes = loaded.block.bytes.span();
  std::string id = fmt::format("{:08}", index) + loaded.hash.to_hex();
  if (!there.contains(id)) {
    SHOAL_CO_RETURN_IF_ERROR(co_await replication_.parts().upload_rate.take(length, context));
    Executor& executor = replication_.executor();
    auto width = static_cast<uint32_t>(uploads_.used());
    SteadyTime began = executor.now();
    width_.begin(width, began);
    SHOAL_CO_RETURN_IF_ERROR(co_await replication_.parts().origin.put_block(
        replica.blocks_as, id, begin, bytes, context.tightened(executor, kOriginLimit)));
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
  Block& begun = replica.blocks[index];
  begun = {Block::State::kUploading, std::move(begun.arrived), {}, revision, length};
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
  if (replica->block_bytes != block_bytes || replica->blocks_as != as) {
    replica->blocks.clear();
    replica->block_bytes = block_bytes;
    replica->blocks_as = std::move(as);
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

}  // namespace shoal
