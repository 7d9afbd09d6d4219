// Open files: reading from cache and origin, writing into staged versions, sealing at close.
#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cstring>

#include "async/backoff.h"
#include "base/object_name.h"
#include "node/fetcher.h"
#include "node/file_system_impl.h"

namespace shoal {

namespace {

// Clean objects up to this size are fetched whole; larger ones by piece, so that one small read of
// a cold file moves at most two pieces.
constexpr uint64_t kFetchWholeMax = 2 * kPieceBytes;
constexpr uint64_t kFileBytesMax = 1ull << 47;  // 128 TiB: 50,000 blocks of 4000 MiB, rounded down
constexpr const char* kUnlinkedName = ".shoal-unlinked";

bool is_cache_trouble(const Error& error) {
  return error.code() == Code::kNoSpace || error.code() == Code::kDiskError ||
         error.code() == Code::kReadOnly;
}

}  // namespace

Result<std::shared_ptr<FileSystemImpl::Handle>> FileSystemImpl::handle_of(HandleId id) {
  auto found = handles_.find(static_cast<uint64_t>(id));
  if (found == handles_.end()) return fail(Code::kInvalidArgument, "unknown handle");
  return found->second;
}

HandleId FileSystemImpl::add_handle(Inode& inode, uint32_t flags) {
  auto handle = std::make_shared<Handle>();
  handle->inode = &inode;
  handle->writer = (flags & O_ACCMODE) != O_RDONLY;
  handle->append = (flags & O_APPEND) != 0;
  ++inode.handles;
  if (handle->writer) ++inode.writers;
  uint64_t number = next_handle_++;
  handles_.emplace(number, std::move(handle));
  return static_cast<HandleId>(number);
}

void FileSystemImpl::touch(Inode& inode) {
  inode.modified = core_.world.executor.wall_now();
  inode.changed = inode.modified;
  inode.attributes.modified = inode.modified;
  inode.pages_good = false;
  if (inode.staged) inode.staged->modified = true;
}

// --- content ---

void FileSystemImpl::set_file(Inode& inode, FileRef file, bool may_miss, const std::string& object,
                              const std::string& etag) {
  SHOAL_ASSERT(inode.content.file == nullptr && file != nullptr);
  ++file_users_[file.get()];
  inode.content.small = nullptr;
  inode.content.file = file;
  inode.content.fetcher = may_miss ? Fetcher::of(core_, std::move(file), object, etag) : nullptr;
}

void FileSystemImpl::drop_content(Inode& inode) {
  if (inode.content.file != nullptr) {
    auto users = file_users_.find(inode.content.file.get());
    SHOAL_ASSERT(users != file_users_.end() && users->second > 0);
    if (--users->second == 0) file_users_.erase(users);
  }
  inode.content = {};
}

// Makes inode.content say where the bytes are. The caller holds the inode's lock.
Task<Status> FileSystemImpl::load(Inode& inode, Context context) {
  if (inode.content.loaded()) co_return Status();
  if (WriteBack::Version version = inode.staged) {
    if (version->small) {
      if (!version->bytes) {
        SHOAL_CO_ASSIGN_OR_RETURN(Buffer bytes,
                                  co_await core_.store.read_staged_small(version->record.write_id));
        version->bytes = std::make_shared<std::string>(as_text(bytes.span()));
      }
      inode.content.small = version->bytes;
      co_return Status();
    }
    if (!version->file) {
      SHOAL_CO_ASSIGN_OR_RETURN(version->file,
                                co_await core_.store.find_staged(version->record.write_id));
    }
    if (!inode.content.loaded()) {
      set_file(inode, version->file, !version->file->complete(), version->record.object,
               version->record.base_etag);
    }
    co_return Status();
  }
  if (inode.size == 0) {
    inode.content.small = std::make_shared<std::string>();
    co_return Status();
  }
  if (!inode.attached()) co_return fail(Code::kStale, "the version that was opened is gone");
  std::string path = tree_.path(inode);
  std::string etag = inode.etag;
  uint64_t size = inode.size;
  if (size <= kSmallBytesMax) {
    auto cached = co_await core_.store.get_small(path, etag);
    if (cached && cached->size() == size) {
      core_.metrics.read_hits.add();
      inode.content.small = std::make_shared<std::string>(as_text(cached->span()));
      co_return Status();
    }
  }
  if (size <= kFetchWholeMax) {
    core_.metrics.read_misses.add();
    auto memory = co_await core_.fetch_memory.acquire(size, context);
    if (!memory) co_return fail(std::move(memory).error());
    Buffer bytes(size);
    SHOAL_CO_RETURN_IF_ERROR(co_await core_.origin.read(path, etag, 0, bytes.span(), {}, context));
    Status kept = co_await core_.store.put_small(path, etag, bytes.span());
    if (!kept) core_.log.debug("not caching {}: {}", path, kept.error().to_string());
    inode.content.small = std::make_shared<std::string>(as_text(bytes.span()));
    co_return Status();
  }
  SHOAL_CO_ASSIGN_OR_RETURN(FileRef file, co_await core_.store.open_file(path, etag, size));
  set_file(inode, std::move(file), true, path, etag);
  co_return Status();
}

// --- open and close ---

void FileSystemImpl::replace_inode(Inode& inode) {
  SHOAL_ASSERT(inode.attached() && inode.parent != nullptr);
  Inode& directory = *inode.parent;
  InodeUse keep(tree_, inode);
  InodeUse keep_directory_inode(tree_, directory);
  std::string name = inode.name;
  FileAttributes attributes = inode.attributes;
  tree_.detach(inode);
  Inode& made = tree_.add(directory, name, std::move(attributes));
  made.number = inode.number;
  made.size = inode.size;
  made.etag = inode.etag;
  made.accessed = inode.accessed;
  made.modified = inode.modified;
  made.changed = inode.changed;
  made.fresh_until =
      core_.now() + std::max<Duration>(core_.options.attr_ttl, std::chrono::seconds(1));
  if (inode.staged != nullptr) {
    made.staged = std::exchange(inode.staged, nullptr);
    made.staged->inode = &made;
  }
}

Task<void> FileSystemImpl::verify_in_background(FileSystemImpl* self, FileRef file) {
  Status status = co_await file->verify();
  if (!status && status.error().code() != Code::kCorrupt) {
    self->core_.log.warning("checking {}: {}", file->object(), status.error().to_string());
  }
}

OpenResult::Mode FileSystemImpl::choose_mode(Inode& inode, Handle& handle, bool can_passthrough,
                                             OpenResult& result) {
  if (inode.content.file == nullptr) {
    if (inode.writers > 0 || (inode.staged && !inode.staged->record.sealed)) {
      return OpenResult::Mode::kDirect;
    }
    result.keep_cache = inode.pages_good;
    inode.pages_good = true;
    return OpenResult::Mode::kCached;
  }
  const FileRef& file = inode.content.file;
  bool settled = inode.writers == 0 && (!inode.staged || inode.staged->record.sealed);
  // The kernel wants all or no handles of an inode to be passthrough.
  bool all_passthrough = inode.handles == inode.passthroughs + 1;
  int descriptor = file->descriptor();
  if (settled && all_passthrough && can_passthrough && descriptor >= 0) {
    if (file->vouched()) {
      file->hold();
      handle.held = file;
      handle.passthrough = true;
      ++inode.passthroughs;
      result.backing_descriptor = descriptor;
      return OpenResult::Mode::kPassthrough;
    }
    if (file->complete()) core_.gate.spawn(verify_in_background(this, file));
  }
  result.view = file->view();
  return OpenResult::Mode::kDirect;
}

Task<Result<OpenResult>> FileSystemImpl::open(InodeId id, uint32_t flags, bool can_passthrough,
                                              Context context) {
  context = core_.patient(context);
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  InodeUse keep(tree_, *inode);
  if (inode->is_directory()) co_return fail(Code::kIsDirectory, "a directory");
  bool writer = (flags & O_ACCMODE) != O_RDONLY;
  bool discard = (flags & O_TRUNC) != 0;
  if (core_.options.read_only && (writer || discard)) {
    co_return fail(Code::kReadOnly, "mounted read-only");
  }
  auto permit = co_await inode->lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  if (!inode->attached() && !inode->unlinked) co_return fail(Code::kStale, "replaced meanwhile");
  if ((writer || discard) && inode->passthroughs > 0) {
    // The kernel reads the old bytes by itself: the writer needs an inode of its own. It gets it
    // when the kernel, told ESTALE, looks the name up again.
    if (inode->attached()) replace_inode(*inode);
    co_return fail(Code::kStale, "opened for writing while read through the kernel");
  }
  OpenResult result;
  if (inode->size > kFetchWholeMax || inode->staged) {
    Status loaded = co_await load(*inode, context);
    // A cache that cannot take the file does not hinder reading it from the origin.
    if (!loaded && !(is_cache_trouble(loaded.error()) && !writer)) {
      co_return fail(std::move(loaded).error());
    }
  }
  if (discard) {
    Status begun = co_await begin_write(*inode, true, context);
    if (!begun) {
      resume(*inode);
      co_return fail(std::move(begun).error());
    }
  }
  result.handle = add_handle(*inode, flags);
  Handle& handle = *handles_.at(static_cast<uint64_t>(result.handle));
  result.mode =
      writer ? OpenResult::Mode::kDirect : choose_mode(*inode, handle, can_passthrough, result);
  co_return result;
}

Task<Result<FileSystem::Created>> FileSystemImpl::create(InodeId parent, std::string name,
                                                         uint32_t mode, uint32_t flags,
                                                         Caller caller, Context context) {
  context = core_.patient(context);
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * directory, directory_of(parent));
  InodeUse keep(tree_, *directory);
  SHOAL_CO_RETURN_IF_ERROR(co_await check_name(*directory, name));
  auto existing = co_await resolve(*directory, name, context);
  if (existing) {
    if (flags & O_EXCL) co_return fail(Code::kAlreadyExists, name);
    Created created;
    Inode& there = **existing;
    SHOAL_CO_ASSIGN_OR_RETURN(created.open, co_await open(there.id, flags, false, context));
    ++there.lookups;
    created.entry = entry_of(there);
    co_return created;
  }
  if (existing.error().code() != Code::kNotFound) co_return fail(std::move(existing).error());
  FileAttributes attributes;
  attributes.mode = mode & 07777;
  attributes.uid = caller.uid;
  attributes.gid = caller.gid;
  Inode& inode = tree_.add(*directory, name, std::move(attributes));
  inode.accessed = core_.world.executor.wall_now();
  inode.content.small = std::make_shared<std::string>();
  auto version = std::make_shared<StagedVersion>(core_.executor());
  version->record = new_record(inode);
  version->bytes = inode.content.small;
  attach_staged(inode, std::move(version));
  touch(inode);
  changed_names(*directory, name);
  Created created;
  created.open.handle = add_handle(inode, flags);
  created.open.mode = OpenResult::Mode::kDirect;
  ++inode.lookups;
  created.entry = entry_of(inode);
  co_return created;
}

Task<void> FileSystemImpl::release(HandleId id) {
  auto found = handles_.find(static_cast<uint64_t>(id));
  if (found == handles_.end()) co_return;
  std::shared_ptr<Handle> handle = found->second;
  handles_.erase(found);
  Inode& inode = *handle->inode;
  InodeUse keep(tree_, inode);
  if (handle->held) handle->held->unhold();
  if (handle->passthrough) --inode.passthroughs;
  auto permit = co_await inode.lock.acquire(1, {});
  SHOAL_ASSERT(permit.has_value());
  if (handle->writer) {
    --inode.writers;
    if (inode.writers == 0 && inode.staged && !inode.staged->dropped) {
      Status sealed = co_await seal(inode, true, core_.background());
      if (!sealed) {
        core_.log.error("{}: its last bytes could not be made durable: {}",
                        inode.staged->record.object, sealed.error().to_string());
        resume(inode);
      } else if (inode.staged) {
        write_back_.enqueue(inode.staged, inode.staged->forced);
      }
    }
  }
  SHOAL_ASSERT(inode.handles > 0);
  --inode.handles;
  if (inode.handles == 0) {
    WriteBack::Version version = inode.staged;
    if (inode.unlinked && version != nullptr) {
      drop_content(inode);
      inode.staged = nullptr;
      version->inode = nullptr;
      Status dropped;
      if (version->file) dropped = co_await core_.store.drop_staged(version->file);
      if (!dropped) core_.log.warning("removing staged bytes: {}", dropped.error().to_string());
    } else if (inode.handles == 0) {
      drop_content(inode);
      if (version != nullptr && version->small && version->durable && !version->modified) {
        version->bytes = nullptr;  // the store has them
      }
    }
  }
}

Task<Status> FileSystemImpl::seal_and_ack(Inode& inode, bool close, Context context) {
  bool durable = core_.options.ack == AckLevel::kDurable;
  WriteBack::Version version;
  {
    auto permit = co_await inode.lock.acquire(1, context);
    if (!permit) co_return fail(std::move(permit).error());
    SHOAL_CO_RETURN_IF_ERROR(co_await seal(inode, close || durable, context));
    version = inode.staged;
  }
  if (!durable || version == nullptr || version->dropped) co_return Status();
  write_back_.enqueue(version, true);
  co_return co_await write_back_.wait_committed(version, context);
}

Task<Status> FileSystemImpl::flush(HandleId id, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Handle> handle, handle_of(id));
  if (!handle->writer) co_return Status();
  InodeUse keep(tree_, *handle->inode);
  co_return co_await seal_and_ack(*handle->inode, true, context);
}

Task<Status> FileSystemImpl::sync(HandleId id, bool, Context context) {
  if (directories_.contains(static_cast<uint64_t>(id))) co_return Status();  // written through
  SHOAL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Handle> handle, handle_of(id));
  InodeUse keep(tree_, *handle->inode);
  co_return co_await seal_and_ack(*handle->inode, false, context);
}

// --- read ---

Task<Result<size_t>> FileSystemImpl::read(HandleId id, uint64_t offset, ByteSpan into,
                                          Context context) {
  context = core_.patient(context);
  SHOAL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Handle> handle, handle_of(id));
  Inode& inode = *handle->inode;
  InodeUse keep(tree_, inode);
  if (!inode.content.loaded()) {
    auto permit = co_await inode.lock.acquire(1, context);
    if (!permit) co_return fail(std::move(permit).error());
    Status loaded = co_await load(inode, context);
    if (!loaded && is_cache_trouble(loaded.error()) && !inode.staged && inode.attached()) {
      if (offset >= inode.size) co_return size_t{0};
      into = into.first(std::min<uint64_t>(into.size(), inode.size - offset));
      core_.metrics.read_misses.add();
      SHOAL_CO_RETURN_IF_ERROR(
          co_await core_.origin.read(tree_.path(inode), inode.etag, offset, into, {}, context));
      co_return into.size();
    }
    SHOAL_CO_RETURN_IF_ERROR(std::move(loaded));
  }
  Content content = inode.content;
  uint64_t size = content.small ? content.small->size() : content.file->size();
  if (offset >= size) co_return size_t{0};
  into = into.first(std::min<uint64_t>(into.size(), size - offset));
  if (content.small) {
    std::memcpy(into.data(), content.small->data() + offset, into.size());
  } else if (content.fetcher) {
    SHOAL_CO_RETURN_IF_ERROR(
        co_await content.fetcher->read(offset, into, &handle->pattern, context));
  } else {
    core_.metrics.read_hits.add();
    SHOAL_CO_RETURN_IF_ERROR(co_await content.file->read(offset, into));
  }
  co_return into.size();
}

// --- write ---

StagedRecord FileSystemImpl::new_record(const Inode& inode) {
  StagedRecord record;
  record.object = inode.attached() ? tree_.path(inode) : kUnlinkedName;
  record.write_id = core_.world.random.id128();
  record.base_etag = inode.etag;
  record.must_be_absent = inode.etag.empty();
  record.changed = core_.world.executor.wall_now();
  return record;
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
  version->record = new_record(inode);
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
    if (!shared) converted = co_await core_.store.convert_to_staged(file, version->record);
    if (!converted && converted.error().code() == Code::kBusy) {
      SHOAL_CO_ASSIGN_OR_RETURN(file, co_await core_.store.clone_staged(file, version->record));
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
    if (discard) {
      drop_content(inode);
      inode.content.small = std::make_shared<std::string>();
      next->bytes = inode.content.small;
      inode.size = 0;
    } else {
      next->small = false;
      SHOAL_CO_ASSIGN_OR_RETURN(
          FileRef copy, co_await core_.store.clone_staged(inode.content.file, next->record));
      drop_content(inode);
      set_file(inode, copy, false, "", "");
      next->file = std::move(copy);
    }
    write_back_.remove_name(version);
    version->inode = nullptr;
    inode.staged = nullptr;
    attach_staged(inode, std::move(next));
    co_return Status();
  }
  ++version->generation;
  version->record.sealed = false;
  version->forced = false;
  version->failures = 0;
  version->last_error.clear();
  if (version->small) {
    inode.content.small = std::make_shared<std::string>(*inode.content.small);
    version->bytes = inode.content.small;  // the store keeps the sealed bytes until the next seal
    co_return Status();
  }
  version->record.metadata["shoalwriteid"] = version->write_id_text();
  co_return co_await version->file->sync(version->record);
}

// The content outgrew the small tier.
Task<Status> FileSystemImpl::spill(Inode& inode) {
  WriteBack::Version version = inode.staged;
  SHOAL_ASSERT(version && version->small && inode.content.small);
  StagedRecord record = version->record;
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
  version->record = std::move(record);
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
    SHOAL_CO_RETURN_IF_ERROR(co_await fetcher->complete({piece, length}, {}, context));
  }
  if (new_size < size) co_await fetcher->wait_idle();
  co_return Status();
}

Task<Status> FileSystemImpl::write_locked(Inode& inode, uint64_t offset, ConstByteSpan bytes,
                                          Context context) {
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
    SHOAL_CO_RETURN_IF_ERROR(co_await file->write(offset, bytes));
    inode.size = file->size();
  }
  touch(inode);
  co_return Status();
}

Task<Result<size_t>> FileSystemImpl::write(HandleId id, uint64_t offset, ConstByteSpan bytes,
                                           Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Handle> handle, handle_of(id));
  if (!handle->writer) co_return fail(Code::kInvalidArgument, "not open for writing");
  Inode& inode = *handle->inode;
  InodeUse keep(tree_, inode);
  auto permit = co_await inode.lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  if (handle->append) {
    SHOAL_CO_RETURN_IF_ERROR(co_await load(inode, context));
    offset = inode.content.small ? inode.content.small->size() : inode.content.file->size();
  }
  if (bytes.empty()) co_return size_t{0};
  SHOAL_CO_RETURN_IF_ERROR(co_await write_locked(inode, offset, bytes, context));
  co_return bytes.size();
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
  InodeUse keep(tree_, inode);
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
    SHOAL_CO_RETURN_IF_ERROR(
        co_await inode.content.fetcher->complete({0, inode.content.file->size()}, {}, context));
  }
  StagedRecord before = version->record;
  version->record.sealed = sealed;
  version->record.changed = inode.modified;
  Status saved = co_await save_record(inode);
  if (!saved) {
    version->record = std::move(before);
    co_return saved;
  }
  if (WriteBack::Version old = std::exchange(version->supersedes, nullptr)) {
    while (old != nullptr) {
      WriteBack::Version older = std::exchange(old->supersedes, nullptr);
      Status dropped = co_await write_back_.drop(old);
      if (!dropped) core_.log.warning("dropping an old version: {}", dropped.error().to_string());
      old = std::move(older);
    }
  }
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
  SHOAL_CO_ASSIGN_OR_RETURN(version->record.metadata, encode_attributes(inode.attributes));
  if (!version->ancestors.empty()) version->record.metadata[kAncestorsName] = version->ancestors;
  if (version->small) {
    if (!version->bytes) {
      SHOAL_CO_ASSIGN_OR_RETURN(Buffer bytes,
                                co_await core_.store.read_staged_small(version->record.write_id));
      version->bytes = std::make_shared<std::string>(as_text(bytes.span()));
    }
    version->record.size = version->bytes->size();
    std::shared_ptr<std::string> bytes = version->bytes;
    SHOAL_CO_RETURN_IF_ERROR(co_await core_.store.stage_small(version->record, as_bytes(*bytes)));
  } else {
    version->record.size = version->file->size();
    SHOAL_CO_RETURN_IF_ERROR(co_await version->file->sync(version->record));
  }
  version->durable = true;
  version->modified = false;
  co_return Status();
}

// --- what the write-back tells ---

void FileSystemImpl::on_committed(const WriteBack::Version& version, const ObjectInfo& info) {
  invalidate_listing(parent_of(version->record.object));
  Inode* inode = std::exchange(version->inode, nullptr);
  if (inode == nullptr) return;
  SHOAL_ASSERT(inode->staged == version);
  InodeUse keep(tree_, *inode);
  inode->staged = nullptr;
  inode->etag = info.etag;
  inode->size = version->size();
  inode->fresh_until = core_.now() + core_.options.attr_ttl;
  if (inode->content.file) {
    // Clean chunks may be evicted from now on: somebody must be able to bring them back.
    inode->content.fetcher =
        Fetcher::of(core_, inode->content.file, version->record.object, info.etag);
  }
  if (inode->handles == 0) drop_content(*inode);
}

void FileSystemImpl::on_conflicted(const WriteBack::Version& version, const std::string& object) {
  invalidate_listing(parent_of(object));
  Inode* inode = version->inode;
  if (inode == nullptr || !inode->attached()) return;
  std::string name(leaf_of(version->record.object));
  inode->etag.clear();
  if (tree_.child(*inode->parent, name) == nullptr) rename_in_tree(*inode, *inode->parent, name);
}

// --- for Node ---

Task<Status> FileSystemImpl::seal_below(std::string path, Context context) {
  Status first;
  for (const WriteBack::Version& version : write_back_.below(path)) {
    Inode* inode = version->inode;
    if (inode == nullptr || version->committed || version->dropped) continue;
    InodeUse keep(tree_, *inode);
    auto permit = co_await inode->lock.acquire(1, context);
    if (!permit) co_return fail(std::move(permit).error());
    Status sealed = co_await seal(*inode, true, context);
    if (!sealed && first) first = std::move(sealed);
  }
  co_return first;
}

Task<Status> FileSystemImpl::warm_object(const ObjectInfo& info,
                                         std::function<void(uint64_t)> progress, Context context) {
  if (info.size == 0 || !is_representable(info.name)) co_return Status();
  if (info.size <= kFetchWholeMax) {
    auto cached = co_await core_.store.get_small(info.name, info.etag);
    if (!cached) {
      auto memory = co_await core_.fetch_memory.acquire(info.size, context);
      if (!memory) co_return fail(std::move(memory).error());
      Buffer bytes(info.size);
      SHOAL_CO_RETURN_IF_ERROR(
          co_await core_.origin.read(info.name, info.etag, 0, bytes.span(), {}, context));
      SHOAL_CO_RETURN_IF_ERROR(co_await core_.store.put_small(info.name, info.etag, bytes.span()));
    }
    if (progress) progress(info.size);
    co_return Status();
  }
  SHOAL_CO_ASSIGN_OR_RETURN(FileRef file,
                            co_await core_.store.open_file(info.name, info.etag, info.size));
  auto fetcher = Fetcher::of(core_, std::move(file), info.name, info.etag);
  co_return co_await fetcher->complete({0, info.size}, std::move(progress), context);
}

Task<void> FileSystemImpl::shut_down() {
  Status sealed = co_await seal_below("", core_.background());
  if (!sealed) {
    core_.log.error("some open files could not be made durable: {}", sealed.error().to_string());
  }
  while (!handles_.empty()) co_await release(static_cast<HandleId>(handles_.begin()->first));
  while (!directories_.empty()) {
    co_await release_directory(static_cast<HandleId>(directories_.begin()->first));
  }
  co_await flights_gate_.close();
}

}  // namespace shoal
