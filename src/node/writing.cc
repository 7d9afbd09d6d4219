// Writing: staged versions of open files, from the first change to the seal at close.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cstring>

#include "async/backoff.h"
#include "base/object_name.h"
#include "node/fetcher.h"
#include "node/file_system_impl.h"
#include "replication/manifest.h"

namespace shoal {

namespace {

constexpr uint64_t kFileBytesMax = 1ull << 47;  // 128 TiB: 50,000 blocks of 4000 MiB, rounded down
constexpr const char* kUnlinkedName = ".shoal-unlinked";

}  // namespace

StagedRecord FileSystemImpl::new_record(const Inode& inode) {
  StagedRecord record;
  record.object = inode.attached() ? tree_.path(inode) : kUnlinkedName;
  record.write_id = core_.world.random.id128();
  record.base_etag = inode.etag;
  record.must_be_absent = inode.etag.empty();
  record.changed = core_.world.executor.wall_now();
  return record;
}

// For one more file that waits for its upload.
Task<Status> FileSystemImpl::find_place(Context context) {
  uint64_t most = core_.options.waiting_files_max;
  while (write_back_.objects() >= most) {
    if (co_await write_back_.await_room(context)) continue;
    SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
    co_return fail(Code::kNoSpace,
                   fmt::format("{} files wait for their upload; see shoal status, or raise "
                               "--waiting-files",
                               write_back_.objects()));
  }
  co_return Status();
}

void FileSystemImpl::attach_staged(Inode& inode, WriteBack::Version version) {
  version->inode = &inode;
  if (inode.attached()) {
    write_back_.add(version);
  } else {
    version->dropped = true;  // it has no name: never uploaded
  }
  inode.staged = std::move(version);
}

// Makes the content a staged, unsealed version that may be changed. Holds the inode's lock.
Task<Status> FileSystemImpl::begin_write(Inode& inode, bool discard, Context context) {
  if (core_.options.read_only) co_return fail(Code::kReadOnly, "mounted read-only");
  if (!inode.attached() && !inode.unlinked) {
    co_return fail(Code::kStale, "the file was replaced in the origin while it was open");
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await load(inode, context));
  if (inode.staged == nullptr) {
    SHOAL_CO_RETURN_IF_ERROR(co_await find_place(context));
    SHOAL_CO_RETURN_IF_ERROR(co_await stage_clean(inode, discard, context));
  } else if (inode.staged->record.sealed) {
    SHOAL_CO_RETURN_IF_ERROR(co_await reopen_sealed(inode, discard));
    if (inode.staged == nullptr) {  // its upload ended first
      SHOAL_CO_RETURN_IF_ERROR(co_await load(inode, context));
      SHOAL_CO_RETURN_IF_ERROR(co_await stage_clean(inode, discard, context));
    }
  } else if (discard) {
    SHOAL_CO_RETURN_IF_ERROR(co_await resize_locked(inode, 0, context));
  }
  SHOAL_ASSERT(inode.staged && !inode.staged->record.sealed && inode.content.loaded());
  touch(inode);
  co_return Status();
}

Task<Status> FileSystemImpl::stage_clean(Inode& inode, bool discard, Context context) {
  auto version = std::make_shared<StagedVersion>(core_.executor());
  StagedRecord record = new_record(inode);
  version->record = VersionRecord(record);
  version->base_write = inode.attributes.write_id;
  Content& content = inode.content;
  if (discard || content.small) {
    std::string bytes = discard ? std::string() : *content.small;
    drop_content(inode);
    content.small = std::make_shared<std::string>(std::move(bytes));
    version->bytes = content.small;
    inode.size = content.small->size();
  } else {
    version->small = false;
    bool shared = file_users_.at(content.file.get()) > 1;
    // In place if nobody else uses the file: our reference is then the only one. Readers of this
    // inode find no content meanwhile and wait for the lock.
    FileRef file = content.file;
    if (content.fetcher) co_await content.fetcher->wait_idle();
    drop_content(inode);
    Status converted = fail(Code::kBusy, "shared");
    if (!shared) converted = co_await core_.store.convert_to_staged(file, record);
    if (!converted && converted.error().code() == Code::kBusy) {
      SHOAL_CO_ASSIGN_OR_RETURN(file, co_await core_.store.clone_staged(file, record));
    } else {
      SHOAL_CO_RETURN_IF_ERROR(std::move(converted));
      version->durable = true;  // the store will find it after a crash
    }
    bool may_miss = !file->complete();
    set_file(inode, std::move(file), may_miss, version->record.object, inode.etag);
    version->file = content.file;
  }
  static_cast<void>(context);
  attach_staged(inode, std::move(version));
  co_return Status();
}

// A sealed version that waits for its upload is opened again. Leaves inode.staged null when the
// upload was faster.
Task<Status> FileSystemImpl::reopen_sealed(Inode& inode, bool discard) {
  WriteBack::Version version = inode.staged;
  UploadHold hold(write_back_, version);
  co_await write_back_.halt(version);
  if (inode.staged != version) {
    SHOAL_ASSERT(inode.staged == nullptr, "only its commit takes a version away");
    co_return Status();
  }
  bool shared = inode.content.file && file_users_.at(inode.content.file.get()) > 1;
  if (discard || shared) {
    // The sealed version stays what is acknowledged until its successor is sealed.
    auto next = std::make_shared<StagedVersion>(core_.executor());
    next->record = version->record;
    next->record.write_id = core_.world.random.id128();
    next->record.sealed = false;
    next->supersedes = version;
    next->add_ancestor(*version);
    next->base_write = version->base_write;
    if (discard) {
      drop_content(inode);
      inode.content.small = std::make_shared<std::string>();
      next->bytes = inode.content.small;
      inode.size = 0;
    } else {
      next->small = false;
      SHOAL_CO_ASSIGN_OR_RETURN(FileRef copy, co_await core_.store.clone_staged(
                                                  inode.content.file, next->record.unpack()));
      drop_content(inode);
      set_file(inode, copy, false, "", "");
      next->file = std::move(copy);
    }
    write_back_.remove_name(version);
    write_back_.reopened(version);
    version->inode = nullptr;
    inode.staged = nullptr;
    attach_staged(inode, std::move(next));
    co_return Status();
  }
  ++version->generation;
  version->record.sealed = false;
  write_back_.reopened(version);
  version->gate.clear();  // it is an ordinary file from now on
  version->forced = false;
  version->failures = 0;
  version->last_error.clear();
  if (version->small) {
    inode.content.small = std::make_shared<std::string>(*inode.content.small);
    version->bytes = inode.content.small;  // the store keeps the sealed bytes until the next seal
    co_return Status();
  }
  StagedRecord record = version->record.unpack();
  record.metadata["shoalwriteid"] = version->write_id_text();
  version->record = VersionRecord(record);
  co_return co_await version->file->sync(std::move(record));
}

// The content outgrew the small tier.
Task<Status> FileSystemImpl::spill(Inode& inode) {
  WriteBack::Version version = inode.staged;
  SHOAL_ASSERT(version && version->small && inode.content.small);
  StagedRecord record = version->record.unpack();
  if (version->durable) {
    // The small record stays what is acknowledged until the file is synced under its own id.
    auto old = std::make_shared<StagedVersion>(core_.executor());
    old->record = version->record;
    old->durable = true;
    old->supersedes = std::exchange(version->supersedes, nullptr);
    old->ancestors = version->ancestors;
    record.write_id = core_.world.random.id128();
    version->ancestors.clear();
    version->add_ancestor(*old);
    version->supersedes = std::move(old);
    version->durable = false;
  }
  SHOAL_CO_ASSIGN_OR_RETURN(FileRef file, co_await core_.store.create_staged(record));
  std::shared_ptr<std::string> bytes = inode.content.small;
  if (!bytes->empty()) {
    Status written = co_await file->write(0, as_bytes(*bytes));
    if (!written) {
      Status dropped = co_await core_.store.drop_staged(file);
      static_cast<void>(dropped);  // the write's error is the one to tell
      co_return written;
    }
  }
  version->record = VersionRecord(std::move(record));
  version->small = false;
  version->file = file;
  version->bytes = nullptr;
  set_file(inode, std::move(file), false, "", "");
  co_return Status();
}

// Pieces that a change touches only in part must be present before it.
Task<Status> FileSystemImpl::bring_edges(Inode& inode, Range range, uint64_t new_size,
                                         Context context) {
  std::shared_ptr<Fetcher> fetcher = inode.content.fetcher;
  if (fetcher == nullptr) co_return Status();
  uint64_t size = inode.content.file->size();
  std::vector<uint64_t> edges;
  if (range.offset % kPieceBytes != 0) edges.push_back(range.offset);
  if (range.end() % kPieceBytes != 0) edges.push_back(range.end());
  if (new_size != size && size > 0) edges.push_back(size - 1);  // its tail becomes whole or cut
  if (new_size < size && new_size % kPieceBytes != 0) edges.push_back(new_size);
  for (uint64_t edge : edges) {
    if (edge >= size) continue;
    uint64_t piece = edge / kPieceBytes * kPieceBytes;
    uint64_t length = std::min(kPieceBytes, size - piece);
    if (inode.content.file->missing({piece, length}).empty()) continue;
    SHOAL_CO_RETURN_IF_ERROR(
        co_await fetcher->complete({piece, length}, FetchRole::kReader, {}, context));
  }
  if (new_size < size) co_await fetcher->wait_idle();
  co_return Status();
}

Task<Status> FileSystemImpl::write_locked(Inode& inode, uint64_t offset, ConstByteSpan bytes,
                                          std::function<void()> accepted, Context context) {
  if (offset > kFileBytesMax || bytes.size() > kFileBytesMax - offset) {
    co_return fail(Code::kTooLarge, "beyond what one object can hold");
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await begin_write(inode, false, context));
  uint64_t end = offset + bytes.size();
  if (inode.content.small && end > kSmallBytesMax) {
    SHOAL_CO_RETURN_IF_ERROR(co_await spill(inode));
  }
  if (inode.content.small) {
    std::string& content = *inode.content.small;
    if (content.size() < end) content.resize(end);
    std::memcpy(content.data() + offset, bytes.data(), bytes.size());
    inode.size = content.size();
  } else {
    FileRef file = inode.content.file;
    SHOAL_CO_RETURN_IF_ERROR(
        co_await bring_edges(inode, {offset, bytes.size()}, std::max(file->size(), end), context));
    bool early = false;
    auto note = [&] {
      inode.size = file->size();
      note_change(inode, {offset, bytes.size()}, inode.size);
      touch(inode);
    };
    auto accept = [&] {
      early = true;
      note();
      accepted();
    };
    std::function<void()> if_wanted;
    if (accepted) if_wanted = accept;
    Status written =
        co_await file->write(offset, bytes, {}, CachedFile::Way::kPageCache, std::move(if_wanted));
    if (written && !early) note();
    co_return written;
  }
  touch(inode);
  co_return Status();
}

Task<Result<size_t>> FileSystemImpl::write(HandleId id, uint64_t offset, ConstByteSpan bytes,
                                           std::function<void()> accepted, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Handle> handle, handle_of(id));
  if (!handle->writer) co_return fail(Code::kInvalidArgument, "not open for writing");
  Inode& inode = *handle->inode;
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(inode, context));
  auto permit = co_await inode.lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  if (handle->append) {
    SHOAL_CO_RETURN_IF_ERROR(co_await load(inode, context));
    offset = inode.content.small ? inode.content.small->size() : inode.content.file->size();
  }
  if (bytes.empty()) co_return size_t{0};
  bool early = false;
  std::function<void()> accept;
  if (accepted) {
    accept = [&] {
      early = true;
      permit->release();  // its author goes on: to the next write, to close
      change = {};
      accepted();
    };
  }
  while (true) {
    Status written = co_await write_locked(inode, offset, bytes, accept, context);
    if (written || early) co_return bytes.size();
    bool again =
        written.error().code() == Code::kNoSpace && co_await write_back_.await_room(context);
    if (!again) co_return fail(std::move(written).error());
  }
}

Task<Status> FileSystemImpl::resize_locked(Inode& inode, uint64_t size, Context context) {
  if (size > kFileBytesMax) co_return fail(Code::kTooLarge, "beyond what one object can hold");
  bool already_open = inode.staged && !inode.staged->record.sealed;
  if (already_open) {
    SHOAL_CO_RETURN_IF_ERROR(co_await load(inode, context));
  } else {
    SHOAL_CO_RETURN_IF_ERROR(co_await begin_write(inode, size == 0, context));
  }
  if (inode.content.small && size > kSmallBytesMax) {
    SHOAL_CO_RETURN_IF_ERROR(co_await spill(inode));
  }
  if (inode.content.small) {
    inode.content.small->resize(size);
  } else {
    SHOAL_CO_RETURN_IF_ERROR(co_await bring_edges(inode, {0, 0}, size, context));
    SHOAL_CO_RETURN_IF_ERROR(co_await inode.content.file->set_size(size));
    note_resize(inode, size);
  }
  inode.size = size;
  touch(inode);
  co_return Status();
}

Task<Status> FileSystemImpl::zero_locked(Inode& inode, Range range, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await begin_write(inode, false, context));
  uint64_t size = inode.content.small ? inode.content.small->size() : inode.content.file->size();
  if (range.offset >= size) co_return Status();
  range.length = std::min(range.length, size - range.offset);
  if (inode.content.small) {
    std::memset(inode.content.small->data() + range.offset, 0, range.length);
  } else {
    SHOAL_CO_RETURN_IF_ERROR(co_await bring_edges(inode, range, size, context));
    SHOAL_CO_RETURN_IF_ERROR(co_await inode.content.file->zero(range));
    note_change(inode, range, size);
  }
  touch(inode);
  co_return Status();
}

Task<Status> FileSystemImpl::allocate(HandleId id, uint32_t mode, Range range, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Handle> handle, handle_of(id));
  if (!handle->writer) co_return fail(Code::kInvalidArgument, "not open for writing");
  if (range.length == 0 || range.offset > kFileBytesMax || range.length > kFileBytesMax) {
    co_return fail(Code::kTooLarge, "the range to allocate");
  }
  Inode& inode = *handle->inode;
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(inode, context));
  auto permit = co_await inode.lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  constexpr uint32_t kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  if ((mode & ~kKnown) != 0) co_return fail(Code::kNotSupported, "this kind of fallocate");
  bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  SHOAL_CO_RETURN_IF_ERROR(co_await begin_write(inode, false, context));
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) {
    SHOAL_CO_RETURN_IF_ERROR(co_await zero_locked(inode, range, context));
    if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) co_return Status();
  }
  uint64_t size = inode.content.small ? inode.content.small->size() : inode.content.file->size();
  if (!keep_size && range.end() > size) {
    SHOAL_CO_RETURN_IF_ERROR(co_await resize_locked(inode, range.end(), context));
  }
  if (inode.content.small) co_return Status();  // fits in the log anyway
  co_return co_await inode.content.file->allocate(range);
}

Task<Result<uint64_t>> FileSystemImpl::seek(HandleId id, uint64_t offset, bool data,
                                            Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Handle> handle, handle_of(id));
  Inode& inode = *handle->inode;
  InodeUse keep(tree_, inode);
  auto permit = co_await inode.lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  uint64_t size = inode.content.small  ? inode.content.small->size()
                  : inode.content.file ? inode.content.file->size()
                                       : inode.size;
  if (offset >= size) co_return fail(Code::kNoData, "past the end of the file");
  if (inode.content.file && inode.staged && !inode.content.fetcher) {
    SHOAL_CO_ASSIGN_OR_RETURN(uint64_t at, co_await inode.content.file->seek(offset, data));
    if (data && at >= size) co_return fail(Code::kNoData, "no data up to the end");
    co_return at;
  }
  co_return data ? offset : size;
}

// --- seal ---

// Makes the staged content durable on this node. With `close` it becomes a version to upload.
// Holds the inode's lock.
Task<Status> FileSystemImpl::seal(Inode& inode, bool close, Context context) {
  WriteBack::Version version = inode.staged;
  if (version == nullptr || version->dropped) co_return Status();
  bool sealed = version->record.sealed || close;
  if (version->durable && !version->modified && version->record.sealed == sealed) {
    co_return Status();
  }
  if (!version->small && version->file && !version->file->complete()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await load(inode, context));
    SHOAL_ASSERT(inode.content.fetcher != nullptr, "missing pieces have a base");
    SHOAL_CO_RETURN_IF_ERROR(co_await inode.content.fetcher->complete(
        {0, inode.content.file->size()}, FetchRole::kReader, {}, context));
  }
  VersionRecord before = version->record;
  version->record.sealed = sealed;
  version->record.changed = inode.modified;
  Status saved = co_await save_record(inode);
  if (!saved) {
    version->record = std::move(before);
    co_return saved;
  }
  if (close) write_back_.closed(version);
  co_await write_back_.drop_superseded(version);
  co_return Status();
}

void FileSystemImpl::resume(Inode& inode) {
  WriteBack::Version version = inode.staged;
  if (version == nullptr || version->dropped || inode.writers > 0) return;
  if (version->record.sealed && version->durable && !version->modified) {
    write_back_.enqueue(version, version->forced);
    return;
  }
  if (inode.seal_waits) return;
  inode.seal_waits = core_.gate.spawn(seal_later(this, InodeUse(tree_, inode)));
}

// The writer heard of the failure, but its bytes must not stay staged for ever.
Task<void> FileSystemImpl::seal_later(FileSystemImpl* self, InodeUse inode) {
  NodeCore& core = self->core_;
  Backoff backoff(core.world.random, std::chrono::seconds(1), std::chrono::seconds(60));
  while (inode->staged && !inode->staged->dropped && inode->writers == 0) {
    Status slept = co_await sleep_for(core.executor(), backoff.next(), {kNever, &core.stopping});
    if (!slept) break;
    auto change = co_await self->moves_.change(*inode, {kNever, &core.stopping});
    if (!change) break;
    auto permit = co_await inode->lock.acquire(1, {kNever, &core.stopping});
    if (!permit) break;
    if (!inode->staged || inode->staged->dropped || inode->writers > 0) break;
    Status sealed = co_await self->seal(*inode, true, core.background());
    if (!sealed && sealed.error().code() == Code::kStale && inode->handles == 0) {
      // Never acknowledged, and never to be completed: what it left as it was is gone.
      WriteBack::Version version = inode->staged;
      core.log.error("{}: what was written is given up: {}", version->record.object,
                     sealed.error().to_string());
      self->drop_content(*inode);
      inode->staged = nullptr;
      inode->fresh_until = SteadyTime{};
      version->inode = nullptr;
      Status dropped = co_await self->write_back_.drop(version);
      if (!dropped) core.log.warning("dropping it: {}", dropped.error().to_string());
      break;
    }
    if (!sealed) continue;
    self->write_back_.enqueue(inode->staged, inode->staged->forced);
    if (inode->handles == 0) self->drop_content(*inode);
    break;
  }
  inode->seal_waits = false;
}

// Writes the staged version's record (and small bytes) durably, with the inode's attributes.
Task<Status> FileSystemImpl::save_record(Inode& inode) {
  WriteBack::Version version = inode.staged;
  inode.attributes.write_id = version->write_id_text();
  SHOAL_CO_ASSIGN_OR_RETURN(Metadata metadata, encode_attributes(inode.attributes));
  if (!version->ancestors.empty()) metadata[kAncestorsName] = version->ancestors;
  if (!version->gate.empty()) metadata[kGateName] = version->gate;
  if (!version->renamed_from.empty()) metadata[kRenamedFromName] = version->renamed_from;
  version->record.metadata = PackedMetadata(metadata);
  if (version->small) {
    if (!version->bytes) {
      SHOAL_CO_ASSIGN_OR_RETURN(Buffer bytes,
                                co_await core_.store.read_staged_small(version->record.write_id));
      version->bytes = std::make_shared<std::string>(as_text(bytes.span()));
    }
  }
  std::shared_ptr<std::string> bytes = version->bytes;
  version->record.size = version->small ? bytes->size() : version->file->size();
  while (true) {
    StagedRecord record = version->record.unpack();
    Status saved;
    if (version->small) {
      saved = co_await core_.store.stage_small(std::move(record), as_bytes(*bytes));
    } else {
      saved = co_await version->file->sync(std::move(record));
    }
    if (saved) break;
    bool again = saved.error().code() == Code::kNoSpace &&
                 co_await write_back_.await_room(core_.background());
    if (!again) co_return saved;
  }
  version->durable = true;
  version->modified = false;
  co_return Status();
}

}  // namespace shoal
