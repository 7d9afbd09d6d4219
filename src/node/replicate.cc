// Replicating: what is written here goes to other nodes before it is acknowledged.
#include <algorithm>

#include "async/gate.h"
#include "base/checksum.h"
#include "base/object_name.h"
#include "node/file_system_impl.h"
#include "replication/recorded_crcs.h"

namespace shoal {

namespace {

constexpr size_t kReplicateParallel = 32;
constexpr size_t kReplicateBatch = 512;
constexpr Duration kAnnounceLimit = std::chrono::seconds(5);

// Names under which nothing stays: their blocks would be sent to the origin in vain.
bool looks_temporary(std::string_view leaf) {
  return leaf.starts_with('.') || leaf.starts_with("tmp") || leaf.ends_with(".tmp") ||
         leaf.ends_with(".part") || leaf.find(".tmp.") != std::string_view::npos;
}

}  // namespace

// What the file's xattr says, else that of the nearest directory above it with one, else the
// configuration.
AckLevel FileSystemImpl::ack_of(const Inode& inode) const {
  for (const Inode* at = &inode; at != nullptr; at = at->parent) {
    auto set = at->attributes.xattrs.find(kAckName);
    auto level = set == at->attributes.xattrs.end() ? std::nullopt : parse_ack(set->second);
    if (level) return *level;
  }
  AckLevel level = core_.options.ack;
  if (core_.options.ack_below.empty() || !tree_.has_path(inode)) return level;
  std::string path = tree_.path(inode);
  size_t longest = 0;
  for (const auto& [directory, below] : core_.options.ack_below) {
    bool fits = path == directory || path.starts_with(directory + "/");
    if (!fits || directory.size() < longest) continue;
    longest = directory.size();
    level = below;
  }
  return level;
}

bool FileSystemImpl::replicates(const Inode& inode) const {
  return core_.replication != nullptr && ack_of(inode) == AckLevel::kReplicated;
}

Task<Result<AckLevel>> FileSystemImpl::ack_below(std::string path, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(InodeUse inode, co_await walk(std::move(path), context));
  co_return ack_of(*inode);
}

LedgerRecord FileSystemImpl::record_of(const StagedVersion& version) const {
  LedgerRecord record;
  record.object = record.home = version.record.object;
  if (version.replicated != nullptr) {
    record.home = version.replicated->home();
    record.holders = version.replicated->holders();
  }
  record.write = version.write();
  record.sequence = version.sequence;
  record.size = version.size();
  record.base_etag = version.record.base_etag;
  record.must_be_absent = version.record.must_be_absent;
  record.sealed = version.record.sealed;
  record.changed = version.record.changed;
  record.metadata = version.record.metadata.unpack();
  record.metadata.erase(kAncestorsName);
  record.metadata.erase(kCrcsName);  // of the version before
  record.metadata["shoalwriteid"] = version.write_id_text();
  record.writer = core_.replication->self();
  record.replicas = core_.options.replication.replicas;
  record.metadata.erase(kRenamedFromName);
  record.ancestors = version.ancestors;
  record.placed = version.placed;
  return record;
}

// Before its first acknowledgement, so that its chunks are not taken for what nobody wants.
Task<void> FileSystemImpl::announce(WriteBack::Version version) {
  LedgerRecord record = record_of(*version);
  record.sealed = false;
  Status put =
      co_await write_back_.put_record(version, record, core_.replication->limited(kAnnounceLimit));
  if (!put) core_.log.debug("announcing {}: {}", version->record.object, put.error().to_string());
}

void FileSystemImpl::note_change(Inode& inode, Range range, uint64_t size) {
  if (inode.staged == nullptr || inode.staged->dropped || !replicates(inode)) return;
  StagedVersion& version = *inode.staged;
  if (version.small || !inode.attached()) return;
  if (version.replicated == nullptr || version.replicated->write() != version.write()) {
    bool early = !looks_temporary(leaf_of(version.record.object));
    version.replicated = std::make_shared<ReplicatedVersion>(
        *core_.replication, version.record.object, version.write(), early);
    version.replicated->resized(size);
    write_back_.publish(inode.staged);
    if (!version.recorded) core_.gate.spawn(announce(inode.staged));
  }
  version.replicated->wrote(range, size);
}

void FileSystemImpl::note_resize(Inode& inode, uint64_t size) {
  note_change(inode, {std::min(size, inode.size), 0}, size);
  if (inode.staged && inode.staged->replicated) inode.staged->replicated->resized(size);
}

// The last close let go of them.
Task<Status> FileSystemImpl::bring_small(StagedVersion& version) {
  if (!version.small || version.bytes) co_return Status();
  SHOAL_CO_ASSIGN_OR_RETURN(Buffer bytes,
                            co_await core_.store.read_staged_small(version.record.write_id));
  version.bytes = std::make_shared<std::string>(as_text(bytes.span()));
  co_return Status();
}

// Holds the inode's lock, so nothing changes meanwhile.
Task<Status> FileSystemImpl::replicate(WriteBack::Version version, Context context) {
  const WriteName write = version->write();
  bool sealed = version->record.sealed;
  if (version->recorded && version->recorded->write() == write && !version->modified &&
      version->recorded->sealed() == sealed) {
    LedgerRecord known = version->recorded->unpack();
    bool same = known.size == version->size() && known.changed == version->record.changed &&
                known.object == version->record.object;
    if (same) co_return Status();
  }
  write_back_.publish(version);
  bool content = version->small && version->size() <= kLedgerContentMax;
  std::shared_ptr<ReplicatedVersion> replicated;  // its own: a commit lets the version's go
  if (!content) {
    if (version->replicated == nullptr || version->replicated->write() != write) {
      version->replicated = std::make_shared<ReplicatedVersion>(
          *core_.replication, version->record.object, write, false);
    }
    replicated = version->replicated;
    SHOAL_CO_RETURN_IF_ERROR(co_await replicated->settle(version->size(), context));
    if (version->committed) co_return Status();
  }
  context = context.tightened(core_.executor(), core_.options.replication.ack_timeout);
  ++version->sequence;
  LedgerRecord record = record_of(*version);
  if (content) {
    SHOAL_CO_RETURN_IF_ERROR(co_await bring_small(*version));
    record.has_content = true;
    record.content = *version->bytes;
    record.holders.clear();
    record.crc = crc32c(as_bytes(*record.content));
  } else {
    uint64_t chunk = core_.options.replication.chunk_bytes;
    for (uint64_t at = 0; at < record.size; at += chunk) {
      Range range{at, std::min(chunk, record.size - at)};
      uint32_t crc = version->small
                         ? crc32c(as_bytes(*version->bytes).subspan(range.offset, range.length))
                         : version->file->crc(range);
      record.chunk_crcs.push_back(crc);
      record.crc = at == 0 ? crc : crc32c_combine(record.crc, crc, range.length);
    }
  }
  std::vector<uint32_t> crcs(content && record.size > 0 ? 1 : 0, record.crc);
  record_crcs(record.metadata, record.size, core_.options.replication.chunk_bytes,
              content ? std::move(crcs) : record.chunk_crcs);
  SHOAL_CO_RETURN_IF_ERROR(co_await write_back_.put_record(version, record, context));
  bool degraded = !content && replicated->copies() < record.replicas;
  if (degraded) {
    core_.replication->metrics().degraded.add();
    core_.log.warning("{} was acknowledged on {} of {} nodes", record.object, replicated->copies(),
                      record.replicas);
  }
  std::vector<LedgerRecord> ended = std::exchange(version->earlier, {});
  if (version->recorded && version->recorded->write() != write) {
    // The record itself was replaced; the chunks of the generation before are not wanted any more.
    ended.push_back(version->recorded->unpack());
    ended.back().sequence = kAllSequences;
  }
  version->recorded = std::make_unique<PackedRecord>(std::move(record));
  version->renamed_from.clear();
  for (LedgerRecord& old : ended) {
    bool renamed = old.object != version->record.object;
    EndReason reason = renamed ? EndReason::kGone : EndReason::kReplaced;
    core_.replication->remove_record(std::move(old), {reason, "", {}});
  }
  co_return Status();
}

Task<Status> FileSystemImpl::replicate_counted(WriteBack::Version version, SyncProgress* left,
                                               Context context) {
  uint64_t size = version->size();
  SHOAL_CO_RETURN_IF_ERROR(co_await replicate_one(version, context));
  --left->objects_left;
  left->bytes_left -= std::min(left->bytes_left, size);
  co_return Status();
}

Task<Status> FileSystemImpl::replicate_below(std::string path,
                                             std::function<void(const SyncProgress&)> progress,
                                             Context context) {
  std::vector<WriteBack::Version> versions = write_back_.below(path);
  SyncProgress left;
  left.objects_left = versions.size();
  for (const WriteBack::Version& version : versions) left.bytes_left += version->size();
  for (size_t at = 0; at < versions.size();) {
    if (progress) progress(left);
    std::vector<Task<Status>> tasks;
    for (; at < versions.size() && tasks.size() < kReplicateBatch; ++at) {
      tasks.push_back(replicate_counted(versions[at], &left, context));
    }
    SHOAL_CO_RETURN_IF_ERROR(
        co_await run_all(core_.executor(), std::move(tasks), kReplicateParallel));
  }
  if (progress) progress({});
  co_return Status();
}

void FileSystemImpl::replicate_in_background(const WriteBack::Version& version) {
  if (core_.replication == nullptr || std::exchange(version->replicating, true)) return;
  to_replicate_.push_back(version);
  if (replicators_ < kReplicateParallel && core_.gate.spawn(replicate_queued(this))) {
    ++replicators_;
  }
}

Task<void> FileSystemImpl::replicate_queued(FileSystemImpl* self) {
  Context context{kNever, &self->core_.stopping};
  while (!self->to_replicate_.empty() && context.check(self->core_.executor())) {
    WriteBack::Version version = std::move(self->to_replicate_.front());
    self->to_replicate_.pop_front();
    Context limit = self->core_.background();
    limit.cancel = &self->core_.stopping;
    Status status = co_await self->replicate_one(version, limit);
    version->replicating = false;
    if (!status && status.error().code() != Code::kCancelled) {
      version->last_error = status.error().to_string();
    }
  }
  --self->replicators_;
}

Task<Status> FileSystemImpl::replicate_one(WriteBack::Version version, Context context) {
  if (version->committed || version->dropped) co_return Status();
  // The nearest inode that is known, so that no move of what is above runs meanwhile.
  Inode* above =
      version->inode != nullptr ? version->inode : &tree_.nearest(version->record.object);
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(*above, context));
  Permit permit;
  if (Inode* inode = version->inode) {
    SHOAL_CO_ASSIGN_OR_RETURN(permit, co_await inode->lock.acquire(1, context));
    if (version->inode == inode) SHOAL_CO_RETURN_IF_ERROR(co_await seal(*inode, true, context));
  }
  if (version->committed || version->dropped) co_return Status();
  // Recovered after a restart, it may have to be loaded first.
  SHOAL_CO_RETURN_IF_ERROR(co_await bring_small(*version));
  if (!version->small && !version->file) {
    SHOAL_CO_ASSIGN_OR_RETURN(version->file,
                              co_await core_.store.find_staged(version->record.write_id));
  }
  co_return co_await replicate(version, context);
}

// The record follows the name. The version is on this node's disk under the new one already. After
// an error it goes to the origin under the new name, but other nodes may know it by the old one.
Task<Status> FileSystemImpl::replicate_renamed(WriteBack::Version version, Context context) {
  if (core_.replication == nullptr || !version->recorded) co_return Status();
  if (version->replicated) version->replicated->renamed(version->record.object);
  LedgerRecord before = version->recorded->unpack();
  version->renamed_from = before.object;
  LedgerRecord record = before;
  record.object = version->record.object;
  record.base_etag = version->record.base_etag;
  record.must_be_absent = version->record.must_be_absent;
  record.changed = version->record.changed;
  record.ancestors = version->ancestors;
  record.sequence = ++version->sequence;
  if (record.has_content) {
    SHOAL_CO_RETURN_IF_ERROR(co_await bring_small(*version));
    record.content = *version->bytes;
  }
  record.placed.clear();
  before.add_placed(version->placed);
  std::shared_ptr<ReplicatedVersion> replicated = version->replicated;
  if (replicated && replicated->write() == record.write) {
    SHOAL_CO_RETURN_IF_ERROR(co_await replicated->settle(record.size, context));
    record.holders = replicated->holders();
  }
  context = context.tightened(core_.executor(), core_.options.replication.ack_timeout);
  SHOAL_CO_RETURN_IF_ERROR(co_await write_back_.put_record(version, record, context));
  if (version->ended) co_return Status();  // committed meanwhile
  version->recorded = std::make_unique<PackedRecord>(std::move(record));
  before.holders.clear();               // the chunks are those of the new record
  before.sequence = version->sequence;  // others were put under the old name until now
  Status ended =
      co_await core_.replication->end_record(before, {EndReason::kGone, "", {}}, context);
  if (ended) {
    version->renamed_from.clear();
  } else {
    version->earlier.push_back(std::move(before));
  }
  co_return ended;
}

void FileSystemImpl::follow_commit(Inode& inode, const std::string& etag) {
  std::string path = tree_.path(inode);
  core_.gate.spawn(rekey(path, inode.etag, path, etag));
  inode.etag = etag;
  if (inode.content.fetcher) inode.content.fetcher->renamed(path, etag);
}

// Whether other nodes have something there that the origin does not have yet.
Task<Result<bool>> FileSystemImpl::any_waiting_below(ListOptions below, Context context) {
  if (core_.replication == nullptr) co_return false;
  below.waiting_only = true;
  SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.lookups->list(below, context));
  co_return !page.objects.empty() || !page.prefixes.empty();
}

// Versions that this node has put into the origin before its name is taken away: a node that has
// not been told would put them there again.
Task<Status> FileSystemImpl::await_ends(std::string path, Context context) {
  if (core_.replication == nullptr) co_return Status();
  context = context.tightened(core_.executor(), core_.options.replication.ack_timeout);
  co_return co_await core_.replication->wait_ended(std::move(path), context);
}

std::optional<WriteBack::LeftBehind> FileSystemImpl::left_behind(const Inode& inode) const {
  const StagedVersion* staged = inode.staged.get();
  return write_back_.left_behind(tree_.path(inode),
                                 staged ? staged->base_write : inode.attributes.write_id,
                                 staged ? staged->record.base_etag : inode.etag);
}

Task<Status> FileSystemImpl::end_left_behind(std::optional<WriteBack::LeftBehind> left,
                                             Context context) {
  if (!left) co_return Status();
  context = context.tightened(core_.executor(), core_.options.replication.ack_timeout);
  co_return co_await core_.replication->end_left_behind(std::move(left->record),
                                                        std::move(left->end), context);
}

// What another node wrote has to be in the origin before it is changed there.
Task<Status> FileSystemImpl::await_origin(Inode& inode, Context context) {
  if (inode.staged != nullptr || !is_unuploaded(inode.etag)) co_return Status();
  std::string path = tree_.path(inode);
  auto write = WriteName::parse(inode.etag);
  SHOAL_CO_RETURN_IF_ERROR(co_await core_.replication->wait_uploaded(path, context));
  auto etag = write ? co_await core_.replication->resolve(path, *write, context)
                    : Result<std::string>(fail(Code::kStale, path));
  if (!etag) co_return fail(Code::kStale, path + " was replaced meanwhile");
  inode.etag = std::move(*etag);
  co_return Status();
}

// The same for a directory: what other nodes wrote there, as far as its owner was told of it.
Task<Status> FileSystemImpl::await_origin_below(std::string directory, Context context) {
  if (core_.replication == nullptr) co_return Status();
  ListOptions below;
  below.prefix = directory + "/";
  below.recursive = true;
  below.waiting_only = true;
  do {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.lookups->list(below, context));
    for (const ObjectInfo& object : page.objects) {
      if (write_back_.find(object.name) != nullptr) continue;
      SHOAL_CO_RETURN_IF_ERROR(co_await core_.replication->wait_uploaded(object.name, context));
    }
    below.marker = std::move(page.next_marker);
  } while (!below.marker.empty());
  co_return co_await await_ends(directory, context);
}

}  // namespace shoal
