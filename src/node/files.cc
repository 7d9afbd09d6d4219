// Open files: open, read and close, what is in the cache, and what the write-back tells.
#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "base/object_name.h"
#include "node/chunk_filler.h"
#include "node/fetcher.h"
#include "node/file_system_impl.h"

namespace shoal {

namespace {

constexpr size_t kYieldEvery = 1000;

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
  if (size <= kFetchWholeMax) {
    SHOAL_CO_ASSIGN_OR_RETURN(
        std::shared_ptr<Buffer> bytes,
        co_await core_.filler->small({path, etag, size}, FetchRole::kReader, context));
    inode.content.small = std::make_shared<std::string>(as_text(bytes->span()));
    co_return Status();
  }
  if (size <= kSmallBytesMax) {  // written here, then committed from the small tier
    auto cached = co_await core_.store.get_small(path, etag);
    if (cached && cached->size() == size) {
      core_.metrics.read_hits.add();
      inode.content.small = std::make_shared<std::string>(as_text(cached->span()));
      co_return Status();
    }
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
  Moves::Change change;
  if (discard) {
    SHOAL_CO_ASSIGN_OR_RETURN(change, co_await moves_.change(*inode, context));
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
  SHOAL_CO_RETURN_IF_ERROR(co_await find_place(context));
  auto existing = co_await resolve(*directory, name, context);
  // From here on to the new name nothing waits, so no change has to be held.
  while (!existing && moves_.is_moving(*directory)) {
    SHOAL_CO_RETURN_IF_ERROR(co_await moves_.wait(context));
    existing = co_await resolve(*directory, name, context);
  }
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
  version->record = VersionRecord(new_record(inode));
  version->bytes = inode.content.small;
  attach_staged(inode, std::move(version));
  touch(inode);
  changed_names(*directory, name);
  directory->names().written_here = true;
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
  Moves::Change change;
  if (handle->writer) {
    auto begun = co_await moves_.change(inode, {});
    SHOAL_ASSERT(begun.has_value());
    change = std::move(*begun);
  }
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
  bool durable = ack_of(inode) == AckLevel::kDurable;
  WriteBack::Version version;
  {
    SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(inode, context));
    auto permit = co_await inode.lock.acquire(1, context);
    if (!permit) co_return fail(std::move(permit).error());
    SHOAL_CO_RETURN_IF_ERROR(co_await seal(inode, close || durable, context));
    version = inode.staged;
    if (version != nullptr && !version->dropped && replicates(inode)) {
      SHOAL_CO_RETURN_IF_ERROR(co_await replicate(version, context));
    }
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
  return read_content(id, offset, into, nullptr, context);
}

Task<Result<size_t>> FileSystemImpl::read_or_lend(HandleId id, uint64_t offset, ByteSpan into,
                                                  Lent& lent, Context context) {
  return read_content(id, offset, into, &lent, context);
}

Task<Result<size_t>> FileSystemImpl::read_content(HandleId id, uint64_t offset, ByteSpan into,
                                                  Lent* lent, Context context) {
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
        co_await content.fetcher->read(offset, into, &handle->pattern, lent, context));
  } else {
    core_.metrics.read_hits.add();
    SHOAL_CO_RETURN_IF_ERROR(co_await content.file->read(offset, into));
  }
  core_.metrics.read_bytes.add(into.size());
  co_return into.size();
}

// --- what the write-back tells ---

void FileSystemImpl::on_committed(const WriteBack::Version& version, const ObjectInfo& info) {
  if (Inode* directory = tree_.find_path(parent_of(version->record.object))) {
    outdate_listed(*directory, std::string(leaf_of(version->record.object)));
  }
  heads_.forget(version->record.object);
  Inode* inode = std::exchange(version->inode, nullptr);
  if (inode == nullptr) return;
  SHOAL_ASSERT(inode->staged == version);
  InodeUse keep(tree_, *inode);
  inode->staged = nullptr;
  inode->etag = info.etag;
  inode->attributes.crcs = decode_attributes(info.metadata).crcs;
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
  heads_.forget(object);
  Inode* inode = version->inode;
  if (inode == nullptr || !inode->attached()) return;
  std::string name(leaf_of(version->record.object));
  inode->etag.clear();
  if (tree_.child(*inode->parent, name) == nullptr) rename_in_tree(*inode, *inode->parent, name);
}

// --- for Node ---

Task<Status> FileSystemImpl::seal_below(std::string path, Context context) {
  Status first;
  size_t seen = 0;
  for (const WriteBack::Version& version : write_back_.below(path)) {
    if (++seen % kYieldEvery == 0) co_await Yield(core_.executor());
    Inode* inode = version->inode;
    if (inode == nullptr || version->committed || version->dropped) continue;
    SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(*inode, context));
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
    auto bytes = co_await core_.filler->small({info.name, info.etag, info.size}, FetchRole::kReader,
                                              context);
    if (!bytes) co_return fail(std::move(bytes).error());
    if (progress) progress(info.size);
    co_return Status();
  }
  SHOAL_CO_ASSIGN_OR_RETURN(FileRef file,
                            co_await core_.store.open_file(info.name, info.etag, info.size));
  auto fetcher = Fetcher::of(core_, std::move(file), info.name, info.etag);
  co_return co_await fetcher->complete({0, info.size}, FetchRole::kReader, std::move(progress),
                                       context);
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
