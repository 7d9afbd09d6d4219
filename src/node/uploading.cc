// How one staged version goes to the origin, alone or with the nodes that hold replicas of it, and
// what happens when somebody else's version stands there.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/object_name.h"
#include "node/fetcher.h"
#include "node/write_back.h"
#include "replication/commit_order.h"
#include "replication/manifest.h"
#include "replication/recorded_crcs.h"
#include "replication/spread_upload.h"

namespace shoal {

namespace {

constexpr Duration kRetryMax = std::chrono::seconds(60);
constexpr size_t kFew = 1000;
constexpr Duration kKeepPeriod = std::chrono::seconds(30);
constexpr Duration kPutAgain = std::chrono::milliseconds(250);
constexpr Duration kPutLimit = std::chrono::seconds(5);  // in the background
constexpr Duration kHurryLimit = std::chrono::seconds(1);

Condition condition_of(const VersionRecord& record) {
  if (!record.base_etag.empty()) return Condition::match(record.base_etag);
  if (record.must_be_absent) return Condition::absent();
  return Condition::none();
}

}  // namespace

Task<std::optional<WriterSide::Local>> WriteBack::find_written(WriteName write) {
  auto found = by_write_.find(write.id);
  Version version = found == by_write_.end() ? nullptr : found->second.lock();
  if (version == nullptr || version->generation != write.generation) co_return std::nullopt;
  if (version->committed || version->dropped) co_return std::nullopt;
  if (version->small && !version->bytes) {
    auto stored = co_await core_.store.read_staged_small(write.id);
    if (!stored) co_return std::nullopt;
    co_return Local{nullptr, std::make_shared<std::string>(as_text(stored->span()))};
  }
  if (!version->small && !version->file) {
    auto file = co_await core_.store.find_staged(write.id);
    if (!file) co_return std::nullopt;
    co_return Local{std::move(*file), nullptr};
  }
  co_return Local{version->file, version->small ? version->bytes : nullptr};
}

bool WriteBack::is_written(const WriteName& write) const {
  auto found = by_write_.find(write.id);
  Version version = found == by_write_.end() ? nullptr : found->second.lock();
  return version != nullptr && version->generation >= write.generation && !version->committed &&
         !version->dropped;
}

bool WriteBack::is_written_as(const WriteName& write, const std::string& object) const {
  if (!is_written(write)) {
    Version successor = find(object);
    return successor && std::ranges::any_of(successor->earlier, [&](const LedgerRecord& record) {
             return record.write == write && record.object == object;
           });
  }
  Version version = by_write_.find(write.id)->second.lock();
  if (version->record.object == object || version->renamed_from == object) return true;
  return version->recorded && version->recorded->unpack().object == object;
}

bool WriteBack::may_be_in_origin(const std::string& object) {
  Version version = find(object);
  if (version != nullptr) version->tried = true;
  return version != nullptr;
}

bool WriteBack::upload_now(const WriteName& write) {
  auto found = by_write_.find(write.id);
  Version version = found == by_write_.end() ? nullptr : found->second.lock();
  if (version == nullptr || version->committed || version->dropped) return false;
  if (version->record.sealed && version->durable) enqueue(version, true);
  return true;
}

// Chunks that were on a node that is lost go to another one.
Task<Status> WriteBack::replace_holders(Version version) {
  std::shared_ptr<ReplicatedVersion> replicated = version->replicated;
  LedgerRecord record = version->recorded->unpack();
  SHOAL_CO_RETURN_IF_ERROR(
      co_await replicated->settle(record.size, {kNever, &core_.replication->stopping()}));
  bool same = version->recorded && version->recorded->write() == record.write &&
              version->recorded->unpack().object == record.object;
  if (!same) co_return Status();  // it went on meanwhile, and settled itself
  record.holders = replicated->holders();
  record.sequence = ++version->sequence;
  SHOAL_CO_RETURN_IF_ERROR(
      co_await put_record(version, record, core_.replication->limited(kPutLimit)));
  if (version->recorded && version->recorded->write() == record.write) {
    LedgerRecord now = version->recorded->unpack();
    now.holders = std::move(record.holders);
    now.sequence = record.sequence;
    *version->recorded = PackedRecord(std::move(now));
  }
  co_return Status();
}

// Many are looked at only when the map has changed, and now and then.
Task<void> WriteBack::keep_replicated() {
  bool few = by_name_.size() <= kFew;
  bool same = core_.map_version() == kept_.map_version && !kept_.failed;
  if (!few && same && core_.now() - kept_.when < kKeepPeriod) co_return;
  kept_ = {core_.map_version(), core_.now(), false};
  std::vector<Version> versions;
  for (const auto& [name, version] : by_name_) {
    bool waits = version->recorded && version->replicated && version->record.sealed &&
                 !version->recorded->has_content() &&
                 version->recorded->write() == version->replicated->write();
    if (!waits) continue;
    std::vector<NodeId> holders = version->recorded->unpack().holders;
    bool lost = std::ranges::any_of(
        holders, [&](const NodeId& node) { return core_.replication->is_lost(node); });
    if (lost) versions.push_back(version);
  }
  for (const Version& version : versions) {
    if (version->committed || version->dropped || !version->recorded || !version->replicated) {
      continue;
    }
    Status replaced = co_await replace_holders(version);
    if (replaced) continue;
    kept_.failed = true;
    core_.replication->note_error(replaced.error().to_string());
    core_.log.warning("{}: a node with replicas of it is lost and cannot be replaced yet: {}",
                      version->record.object, replaced.error().to_string());
  }
}

bool WriteBack::ends_with_successor(const StagedVersion& version, const LedgerRecord& record) {
  for (Version next = version.successor.lock(); next != nullptr; next = next->successor.lock()) {
    for (LedgerRecord& earlier : next->earlier) {
      if (earlier.write.id != record.write.id) continue;
      earlier.add_placed(record.placed);
      return true;
    }
  }
  return false;
}

Task<Status> WriteBack::put_record(Version version, LedgerRecord& record, Context context) {
  auto has_ended = [&] {
    return version->committed ? Status()
                              : fail(Code::kStale, record.object + " has ended meanwhile");
  };
  while (true) {
    if (version->ended) co_return has_ended();
    Status put = co_await core_.replication->put_record(record, context);
    version->placed = record.placed;
    if (version->ended && ends_with_successor(*version, record)) co_return has_ended();
    if (version->ended) {
      LedgerRecord late = record;
      late.sequence = kAllSequences;
      EndReason reason = version->committed ? EndReason::kCommitted : EndReason::kReplaced;
      core_.replication->remove_record(std::move(late), {reason, "", {}});
      co_return has_ended();
    }
    if (put || put.error().code() != Code::kUnavailable) co_return put;
    // Nothing tells when a node that failed could take it.
    Status slept = co_await sleep_for(core_.executor(), kPutAgain, context);
    if (!slept) co_return put;
  }
}

// What it replaces was another node's and not in the origin when it was opened.
Task<Status> WriteBack::resolve_base(Version version) {
  auto base = WriteName::parse(version->record.base_etag);
  if (!base) co_return fail(Code::kInternal, "a base that cannot be");
  const std::string object = version->record.object;
  Context context{kNever, &version->cancel};
  bool gone = false;
  while (true) {
    auto etag = co_await core_.replication->resolve(object, *base, context);
    if (etag) {
      version->record.base_etag = std::move(*etag);
      co_return Status();
    }
    Code code = etag.error().code();
    if (code != Code::kNotFound && code != Code::kConflict) co_return fail(std::move(etag).error());
    if (gone && code == Code::kNotFound) {
      version->record.base_etag.clear();
      version->record.must_be_absent = true;
    }
    // On a conflict the condition fails, and that is settled like any other.
    if (gone) co_return Status();
    SHOAL_CO_ASSIGN_OR_RETURN(
        Replication::Standing standing,
        co_await core_.replication->ask_standing(object, *base, kAllSequences, context));
    if (standing.recorded && version->forced) {
      // Somebody waits for this one, so the writer of that one is asked not to wait. Own records
      // are among those that are asked for: this ends by its limit.
      static_cast<void>(co_await core_.replication->wait_uploaded(
          object, context.tightened(core_.executor(), kHurryLimit)));
    }
    if (standing.recorded) {
      co_return fail(Code::kBusy, "the version that it replaces is not in the origin yet");
    }
    gone = true;  // or committed between the two questions
  }
}

// A manifest, or a pointer to a published directory, waits for what it names.
Task<Status> WriteBack::pass_gate(Version version) {
  if (version->gate.empty()) co_return Status();
  std::string content;
  if (version->gate == kGateSelf) {
    content.resize(version->size());
    ByteSpan into(reinterpret_cast<std::byte*>(content.data()), content.size());
    if (version->bytes) {
      content = *version->bytes;
    } else {
      SHOAL_CO_RETURN_IF_ERROR(co_await version->file->read(0, into));
    }
  }
  if (core_.replication != nullptr) {
    co_return co_await ::shoal::pass_gate(*core_.replication, version->record.object, version->gate,
                                          std::move(content), core_.background());
  }
  co_return co_await check_gate(core_.origin, version->record.object, version->gate,
                                std::move(content), core_.background());
}

// Of blocks of the replication's chunk size.
Task<Result<std::vector<uint32_t>>> WriteBack::crcs_of(Version version) {
  uint64_t size = version->size();
  uint64_t block = core_.options.replication.chunk_bytes;
  if (version->recorded && version->recorded->write() == version->write()) {
    LedgerRecord record = version->recorded->unpack();
    if (record.size == size && !record.chunk_crcs.empty()) co_return std::move(record.chunk_crcs);
  }
  std::vector<uint32_t> crcs;
  for (uint64_t at = 0; at < size; at += block) {
    Range range{at, std::min(block, size - at)};
    crcs.push_back(version->small
                       ? crc32c(as_bytes(*version->bytes).subspan(range.offset, range.length))
                       : version->file->crc(range));
    if (crcs.size() % 64 == 0) co_await Yield(core_.executor());
  }
  co_return crcs;
}

Task<Result<ObjectInfo>> WriteBack::upload(Version version) {
  if (version->ask_ledger) co_await ask_ledger(version);
  bool on_unuploaded = core_.replication != nullptr && is_unuploaded(version->record.base_etag);
  // A pointer does not wait for the one before it, which may never come.
  if (on_unuploaded && version->gate.empty()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await resolve_base(version));
  }
  if (!version->small && !version->file) {
    SHOAL_CO_ASSIGN_OR_RETURN(version->file,
                              co_await core_.store.find_staged(version->record.write_id));
  }
  if (version->small && !version->bytes) {
    SHOAL_CO_ASSIGN_OR_RETURN(Buffer bytes,
                              co_await core_.store.read_staged_small(version->record.write_id));
    version->bytes = std::make_shared<std::string>(as_text(bytes.span()));
  }
  if (version->file && !version->file->complete()) {
    // Found unsealed after a crash: what was not written since is the base's.
    auto fetcher =
        Fetcher::of(core_, version->file, version->record.object, version->record.base_etag);
    Status filled = co_await fetcher->complete({0, version->file->size()}, FetchRole::kReader, {},
                                               {kNever, &version->cancel});
    co_await fetcher->wait_idle();
    SHOAL_CO_RETURN_IF_ERROR(std::move(filled));
  }
  if (version->reseal) {
    // Found after a crash: checksums that must be made again, and data, become durable before they
    // leave.
    StagedRecord record = version->record.unpack();
    record.sealed = true;
    SHOAL_CO_RETURN_IF_ERROR(co_await version->file->sync(std::move(record)));
    version->reseal = false;
  }
  SteadyTime began = core_.now();
  Status turn = co_await pass_gate(version);
  if (turn) turn = co_await check_others(version);
  version->look_took = core_.now() - began;
  SHOAL_CO_RETURN_IF_ERROR(std::move(turn));
  PutOptions options{condition_of(version->record), version->record.metadata.unpack()};
  if (on_unuploaded && !version->gate.empty()) options.condition = Condition::none();
  options.metadata["shoalwriteid"] = version->write_id_text();
  options.metadata.erase(kAncestorsName);
  options.metadata.erase(kGateName);
  options.metadata.erase(kRenamedFromName);
  core_.sign(options.metadata);
  SHOAL_CO_ASSIGN_OR_RETURN(std::vector<uint32_t> crcs, co_await crcs_of(version));
  record_crcs(options.metadata, version->size(), core_.options.replication.chunk_bytes,
              std::move(crcs));
  version->tried = true;
  Context context{kNever, &version->cancel};
  version->uploaded_bytes = 0;
  if (version->size() <= kWholePutMax) {
    co_return co_await upload_whole(version, std::move(options), context);
  }
  co_return co_await upload_blocks(version, std::move(options), context);
}

Task<Result<BufferPool::Lease>> WriteBack::read_bytes(Version version, uint64_t offset,
                                                      uint64_t length) {
  BufferPool::Lease buffer = core_.buffers.take(length);
  if (version->bytes) {
    SHOAL_ASSERT(offset + length <= version->bytes->size());
    if (length > 0) std::memcpy(buffer.data(), version->bytes->data() + offset, length);
    co_return std::move(buffer);
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await version->file->read(offset, buffer.span()));
  // Promise 2: checked against the checksum of when it entered, before it leaves.
  if (length > 0 && crc32c(buffer.span()) != version->file->crc({offset, length})) {
    co_return fail(Code::kCorrupt, fmt::format("{}: the staged bytes at {} do not match their "
                                               "checksum",
                                               version->record.object, offset));
  }
  co_return std::move(buffer);
}

Task<Result<ObjectInfo>> WriteBack::upload_whole(Version version, PutOptions options,
                                                 Context context) {
  auto memory = co_await core_.upload_memory.acquire(version->size(), context);
  if (!memory) co_return fail(std::move(memory).error());
  SHOAL_CO_ASSIGN_OR_RETURN(BufferPool::Lease bytes,
                            co_await read_bytes(version, 0, version->size()));
  SHOAL_CO_RETURN_IF_ERROR(co_await core_.upload_rate.take(version->size(), context));
  version->committing = true;
  auto info = co_await core_.origin.put(version->record.object, bytes.span(), std::move(options),
                                        context.tightened(core_.executor(), 10 * kRetryMax));
  version->committing = false;
  if (info) version->uploaded_bytes = bytes.size();
  co_return info;
}

Task<Status> WriteBack::send_block(Version version, uint64_t offset, uint64_t length,
                                   std::string* id, const std::set<std::string>* there,
                                   Context context) {
  auto permit = co_await blocks_.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  auto memory = co_await core_.upload_memory.acquire(length, context);
  if (!memory) co_return fail(std::move(memory).error());
  SHOAL_CO_ASSIGN_OR_RETURN(BufferPool::Lease bytes, co_await read_bytes(version, offset, length));
  *id += hash_bytes(bytes.span()).to_hex();  // it came with the index: equal ids, equal bytes
  if (!there->contains(*id)) {
    SHOAL_CO_RETURN_IF_ERROR(co_await core_.upload_rate.take(length, context));
    SHOAL_CO_RETURN_IF_ERROR(
        co_await core_.origin.put_block(version->record.object, *id, offset, bytes.span(),
                                        context.tightened(core_.executor(), 10 * kRetryMax)));
  }
  version->uploaded_bytes += length;
  co_return Status();
}

// All nodes that hold chunks send theirs.
Task<Result<ObjectInfo>> WriteBack::upload_spread(Version version, PutOptions options,
                                                  Context context) {
  SpreadUpload upload;
  upload.object = version->record.object;
  upload.home = version->replicated->home();
  upload.write = version->replicated->write();
  upload.size = version->size();
  uint64_t chunk_bytes = core_.options.replication.chunk_bytes;
  upload.block_bytes = block_bytes_of(core_.origin, upload.size, chunk_bytes);
  upload.here_max = core_.options.upload_blocks_max;
  bool whole = upload.block_bytes == chunk_bytes;  // else no other node has a block whole
  for (uint64_t i = 0; i * upload.block_bytes < upload.size; ++i) {
    upload.holders.push_back(whole ? version->replicated->holders_of(i) : std::vector<NodeId>{});
  }
  uint64_t block = upload.block_bytes;
  uint64_t size = upload.size;
  upload.send_here = [this, version, block, size](uint64_t index,
                                                  const std::set<std::string>& there,
                                                  std::string* id, Context limit) {
    *id = fmt::format("{:08}", index);
    uint64_t offset = index * block;
    return send_block(version, offset, std::min(block, size - offset), id, &there, limit);
  };
  StagedVersion* counted = version.get();  // lives as long as this call
  upload.progress = [counted, total = uint64_t{0}](uint64_t bytes) mutable {
    total += bytes;
    counted->uploaded_bytes = std::min(total, counted->size());
  };
  auto commit = [&](std::vector<BlockInfo> blocks) {
    return commit_blocks(version, std::move(blocks), options, context);
  };
  co_return co_await spread_upload(*core_.replication, std::move(upload), commit, context);
}

Task<Result<ObjectInfo>> WriteBack::commit_blocks(Version version, std::vector<BlockInfo> blocks,
                                                  PutOptions options, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await await_turn(version, context));
  version->committing = true;
  auto info = co_await core_.origin.commit_blocks(version->record.object, std::move(blocks),
                                                  std::move(options),
                                                  context.tightened(core_.executor(), kRetryMax));
  version->committing = false;
  co_return info;
}

Task<Result<ObjectInfo>> WriteBack::upload_blocks(Version version, PutOptions options,
                                                  Context context) {
  if (version->replicated != nullptr && version->replicated->write() == version->write()) {
    co_return co_await upload_spread(version, std::move(options), context);
  }
  const std::string object = version->record.object;
  uint64_t size = version->size();
  uint64_t block = kChunkBytesDefault;
  uint64_t count_max = core_.origin.blocks_max();
  while ((size + block - 1) / block > count_max) block *= 2;
  SHOAL_ASSERT(block <= core_.origin.block_bytes_max());
  SHOAL_CO_ASSIGN_OR_RETURN(
      std::vector<BlockInfo> staged,
      co_await core_.origin.staged_blocks(object, context.tightened(core_.executor(), kRetryMax)));
  std::set<std::string> there;
  for (const BlockInfo& info : staged) there.insert(info.id);

  std::vector<BlockInfo> blocks((size + block - 1) / block);
  std::vector<Task<Status>> tasks;
  for (size_t i = 0; i < blocks.size(); ++i) {
    uint64_t offset = i * block;
    blocks[i].size = std::min(block, size - offset);
    blocks[i].id = fmt::format("{:08}", i);
    tasks.push_back(send_block(version, offset, blocks[i].size, &blocks[i].id, &there, context));
  }
  SHOAL_CO_RETURN_IF_ERROR(
      co_await run_all(core_.executor(), std::move(tasks), core_.options.upload_blocks_max));
  co_return co_await commit_blocks(version, std::move(blocks), std::move(options), context);
}

// Somebody else's version stands where ours should go, or ours is there already.
Task<Result<ObjectInfo>> WriteBack::settle_conflict(Version version) {
  auto there = co_await core_.origin.head(version->record.object, core_.background());
  if (!there) {
    if (there.error().code() != Code::kNotFound) co_return fail(std::move(there).error());
    version->record.base_etag.clear();
    version->record.must_be_absent = true;
    co_return fail(Code::kUnavailable, "the object that this one replaces was deleted");
  }
  std::string theirs = decode_attributes(there->metadata).write_id;
  if (theirs == version->write_id_text()) co_return std::move(*there);
  bool same_base = !version->base_write.empty() && theirs == version->base_write;
  if (core_.has_signed(there->metadata) || same_base || version->descends_from(theirs)) {
    version->record.base_etag = there->etag;  // an earlier state of this very file
    version->record.must_be_absent = false;
    co_return fail(Code::kUnavailable, "an earlier state of this file was committed");
  }
  core_.log.debug("{}: {} on {} (after {}) meets {}, {}", version->record.object,
                  version->write_id_text(), version->record.base_etag, version->ancestors, theirs,
                  there->etag);
  SHOAL_CO_RETURN_IF_ERROR(co_await move_aside(version));
  co_return fail(Code::kUnavailable, "another writer changed the object; keeping both");
}

Task<Status> WriteBack::move_aside(Version version) {
  std::string from = version->record.object;
  auto now = std::chrono::floor<std::chrono::seconds>(core_.world.executor.wall_now());
  StagedRecord record = version->record.unpack();
  record.object = fmt::format("{}.conflict-{}-{:%Y%m%dT%H%M%S}-{}", from, core_.options.name, now,
                              record.write_id.to_hex().substr(0, 6));
  record.base_etag.clear();
  record.must_be_absent = true;
  if (record.object.size() > kObjectNameBytesMax || leaf_of(record.object).size() > kNameBytesMax) {
    record.object = std::string(parent_of(from)) + (parent_of(from).empty() ? "" : "/") +
                    "conflict-" + record.write_id.to_hex();
  }
  if (version->small) {
    // The last close may have let go of the bytes meanwhile.
    if (!version->bytes) {
      SHOAL_CO_ASSIGN_OR_RETURN(Buffer stored,
                                co_await core_.store.read_staged_small(record.write_id));
      version->bytes = std::make_shared<std::string>(as_text(stored.span()));
    }
    std::shared_ptr<std::string> bytes = version->bytes;
    SHOAL_CO_RETURN_IF_ERROR(co_await core_.store.stage_small(record, as_bytes(*bytes)));
  } else {
    SHOAL_CO_RETURN_IF_ERROR(co_await version->file->sync(record));
  }
  version->record = VersionRecord(std::move(record));
  renamed(version, from);
  core_.metrics.conflicts.add();
  core_.log.error("{} was changed in the origin by somebody else; the local version is kept as {}",
                  from, version->record.object);
  callbacks_.conflicted(version, from);
  co_return Status();
}

}  // namespace shoal
