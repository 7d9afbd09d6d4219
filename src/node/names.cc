// Names: look-up, directories, links, unlink.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/object_name.h"
#include "node/file_system_impl.h"

namespace shoal {

FileSystemImpl::FileSystemImpl(NodeCore& core)
    : core_(core),
      tree_(core.executor()),
      moves_(core.executor(), tree_),
      write_back_(
          core,
          {[this](const auto& version, const auto& info) { on_committed(version, info); },
           [this](const auto& version, const auto& object) { on_conflicted(version, object); },
           [this](const auto& version) { replicate_in_background(version); }}),
      flights_gate_(core.executor()),
      heads_(core.executor(), flights_gate_) {
  tree_.root().attributes.mode = core.options.directory_mode;
  tree_.root().modified = core.world.executor.wall_now();
}

FileSystemImpl::~FileSystemImpl() = default;

Result<Inode*> FileSystemImpl::inode_of(InodeId id) {
  Inode* inode = tree_.find(id);
  if (inode == nullptr) return fail(Code::kStale, "the kernel names an inode that is gone");
  return inode;
}

Result<Inode*> FileSystemImpl::directory_of(InodeId id) {
  SHOAL_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  if (!inode->is_directory()) return fail(Code::kNotDirectory, "not a directory");
  if (!tree_.has_path(*inode)) return fail(Code::kNotFound, "the directory was removed");
  return inode;
}

Attributes FileSystemImpl::attributes_of(const Inode& inode) const {
  const NodeOptions& options = core_.options;
  Attributes out;
  out.inode = inode.id;
  out.number = inode.number;
  out.size = inode.content.file && inode.staged ? inode.content.file->size() : inode.size;
  out.uid = inode.attributes.uid.value_or(options.uid);
  out.gid = inode.attributes.gid.value_or(options.gid);
  switch (inode.attributes.kind) {
    case FileKind::kDirectory:
      out.mode = S_IFDIR | inode.attributes.mode.value_or(options.directory_mode);
      out.links = 1;  // not counted: tools take 1 for "unknown"
      break;
    case FileKind::kSymlink:
      out.mode = S_IFLNK | 0777;
      break;
    case FileKind::kFile:
      out.mode = S_IFREG | inode.attributes.mode.value_or(options.file_mode);
      break;
  }
  if (inode.unlinked && !inode.is_directory()) out.links = 0;
  out.allocated = inode.content.file && inode.staged ? inode.content.file->allocated()
                                                     : (out.size + 511) / 512 * 512;
  out.modified = inode.attributes.modified.value_or(inode.modified);
  out.accessed = inode.accessed;
  out.changed = std::max(inode.changed, inode.modified);
  return out;
}

Entry FileSystemImpl::entry_of(Inode& inode) const {
  Entry entry;
  entry.attributes = attributes_of(inode);
  entry.entry_ttl = core_.options.attr_ttl;
  if (!inode.staged && inode.fresh_until > core_.now()) {
    entry.entry_ttl = std::min(entry.entry_ttl, inode.fresh_until - core_.now());
  }
  entry.attribute_ttl = core_.options.attr_ttl;
  return entry;
}

void FileSystemImpl::forget(InodeId id, uint64_t lookups) {
  Inode* inode = tree_.find(id);
  if (inode == nullptr || id == InodeId::kRoot) return;
  inode->lookups -= std::min(lookups, inode->lookups);
  tree_.drop_if_unused(*inode);
}

void FileSystemImpl::invalidate_listing(std::string_view directory) {
  Inode* inode = tree_.find_path(directory);
  if (inode == nullptr || inode->names().listing == nullptr) return;
  inode->names().listing->usable = false;
  inode->names().listing = nullptr;
}

void FileSystemImpl::forget_listings(Inode& directory) {
  std::vector<DirectoryPart*> ahead{&directory.names()};
  while (!ahead.empty()) {
    DirectoryPart& at = *ahead.back();
    ahead.pop_back();
    if (at.listing != nullptr) at.listing->usable = false;
    at.listing = nullptr;
    for (auto& [name, child] : at.children) {
      if (child->directory != nullptr) ahead.push_back(child->directory.get());
    }
  }
}

void FileSystemImpl::outdate_listed(Inode& directory, const std::string& name) {
  std::shared_ptr<Listing>& listing = directory.names().listing;
  if (listing == nullptr) return;
  listing->usable = false;  // for reading the directory
  listing->outdated.insert(name);
  bool worth = listing->outdated.size() <= Listing::kForLookupsMax;
  if (!worth) listing = nullptr;
}

// After a local change of a name: nothing remembered about it holds.
void FileSystemImpl::changed_names(Inode& directory, const std::string& name) {
  if (tree_.has_path(directory)) heads_.forget(join_path(tree_.path(directory), name));
  directory.names().absent_until.erase(name);
  outdate_listed(directory, name);
  directory.modified = core_.world.executor.wall_now();
  if (directory.attributes.modified) directory.attributes.modified = directory.modified;
  directory.changed = directory.modified;
}

Inode& FileSystemImpl::adopt(Inode& directory, const std::string& name, const ObjectInfo& info) {
  FileAttributes attributes = decode_attributes(info.metadata);
  Inode* child = tree_.child(directory, name);
  if (child != nullptr) {
    bool same_kind = child->attributes.kind == attributes.kind;
    if (child->staged != nullptr) return *child;
    if (same_kind && child->etag == "~" + attributes.write_id) follow_commit(*child, info.etag);
    if (same_kind && (child->is_directory() || child->etag == info.etag)) {
      child->fresh_until = core_.now() + core_.options.attr_ttl - info.age;
      if (child->is_directory() && !info.etag.empty()) {
        child->etag = info.etag;
        child->marker = true;
        child->attributes = std::move(attributes);
      }
      return *child;
    }
    tree_.detach(*child);  // another version: whoever has the old one open keeps it
    tree_.drop_if_unused(*child);
  }
  Inode& made = tree_.add(directory, name, std::move(attributes));
  made.size = made.is_directory() ? 0 : info.size;
  made.etag = info.etag;
  made.marker = made.is_directory() && !info.etag.empty();
  made.modified = info.modified;
  made.changed = info.modified;
  made.accessed = made.attributes.modified.value_or(info.modified);
  made.fresh_until = core_.now() + core_.options.attr_ttl - info.age;
  return made;
}

Inode& FileSystemImpl::adopt_staged(Inode& directory, const std::string& name,
                                    const WriteBack::Version& version) {
  if (Inode* child = tree_.child(directory, name)) {
    if (child->staged == version) return *child;
    tree_.detach(*child);
    tree_.drop_if_unused(*child);
  }
  SHOAL_ASSERT(version->inode == nullptr);
  Inode& made = tree_.add(directory, name, decode_attributes(version->record.metadata.unpack()));
  made.size = version->size();
  made.etag = version->record.base_etag;
  made.modified = version->record.changed;
  made.changed = version->record.changed;
  made.accessed = made.attributes.modified.value_or(version->record.changed);
  made.staged = version;
  version->inode = &made;
  return made;
}

Task<Result<Entry>> FileSystemImpl::lookup(InodeId parent, std::string name, Context context) {
  context = core_.patient(context);
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * directory, directory_of(parent));
  // Half moved, the name is at neither place for the origin.
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change still, co_await moves_.change(*directory, context));
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, co_await resolve(*directory, std::move(name), context));
  ++inode->lookups;
  co_return entry_of(*inode);
}

Task<Status> FileSystemImpl::check_name(Inode& directory, const std::string& name) {
  if (core_.options.read_only) co_return fail(Code::kReadOnly, "mounted read-only");
  if (!is_valid_component(name)) {
    co_return fail(name.size() > kNameBytesMax ? Code::kNameTooLong : Code::kInvalidArgument, name);
  }
  std::string path = join_path(tree_.path(directory), name);
  if (path == ".shoal") co_return fail(Code::kPermissionDenied, ".shoal belongs to Shoal");
  co_return validate_object_name(path);
}

Task<Result<HandleId>> FileSystemImpl::open_directory(InodeId id, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, directory_of(id));
  SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
  auto handle = std::make_shared<DirectoryHandle>();
  handle->inode = inode;
  ++inode->handles;
  uint64_t number = next_handle_++;
  directories_.emplace(number, std::move(handle));
  co_return static_cast<HandleId>(number);
}

Task<void> FileSystemImpl::release_directory(HandleId id) {
  auto found = directories_.find(static_cast<uint64_t>(id));
  if (found == directories_.end()) co_return;
  Inode* inode = found->second->inode;
  if (found->second->listing) found->second->listing->changed.notify_all();
  directories_.erase(found);
  SHOAL_ASSERT(inode->handles > 0);
  --inode->handles;
  tree_.drop_if_unused(*inode);
}

Task<Status> FileSystemImpl::read_directory(HandleId id, uint64_t cookie, bool plus,
                                            std::function<bool(const DirectoryItem&)> add,
                                            Context context) {
  context = core_.patient(context);
  auto found = directories_.find(static_cast<uint64_t>(id));
  if (found == directories_.end()) co_return fail(Code::kInvalidArgument, "unknown handle");
  std::shared_ptr<DirectoryHandle> handle = found->second;
  Inode& directory = *handle->inode;
  InodeUse keep(tree_, directory);
  if (!directory.attached()) co_return Status();  // removed: empty
  std::string path = tree_.path(directory);
  if (handle->listing == nullptr || cookie == 0) {  // rewinddir sees the directory anew
    handle->overlay = write_back_.list(path);
    handle->overlay_names.clear();
    for (const auto& [name, version] : handle->overlay) handle->overlay_names[name] = true;
    std::shared_ptr<Listing>& last = directory.names().listing;
    bool reuse = last && last->complete && last->usable && last->status && last->waiting.empty() &&
                 last->fresh_until > core_.now();
    handle->listing = reuse ? last : Listing::start(core_, path, context);
    if (!reuse && core_.options.attr_ttl > Duration(0)) last = handle->listing;
  }
  std::shared_ptr<Listing> listing = handle->listing;
  uint64_t overlay_end = 2 + handle->overlay.size();
  for (uint64_t at = cookie;; ++at) {
    DirectoryItem item;
    item.cookie = at + 1;
    Inode* inode = nullptr;
    if (at < 2) {
      item.name = at == 0 ? "." : "..";
      item.entry.attributes = attributes_of(directory);
      item.entry.attributes.inode = InodeId::kNone;
      if (!add(item)) co_return Status();
      continue;
    }
    if (at < overlay_end) {
      const auto& [name, version] = handle->overlay[at - 2];
      item.name = name;
      std::string child_path = join_path(path, name);
      if (version != nullptr && write_back_.find(child_path) != version) {
        // Committed, renamed or unlinked since the directory was opened.
        auto now = co_await resolve(directory, name, context);
        if (!now) continue;
        inode = *now;
      } else if (version != nullptr) {
        inode = &adopt_staged(directory, name, version);
      } else {
        auto now = co_await resolve(directory, name, context);
        if (!now) continue;
        inode = *now;
      }
      item.entry = entry_of(*inode);
    } else {
      size_t index = at - overlay_end;
      while (index >= listing->entries.size() && !listing->complete) {
        listing->consumed = std::max(listing->consumed, index);
        SHOAL_CO_RETURN_IF_ERROR(co_await listing->changed.wait(context));
      }
      if (index >= listing->entries.size()) co_return listing->status;
      if (index >= listing->consumed + 1000) {
        listing->consumed = index;
        listing->changed.notify_all();
      }
      const ListedEntry& entry = listing->entries[index];
      if (!handle->overlay_names.empty() && handle->overlay_names.contains(entry.name)) continue;
      item.name = entry.name;
      Inode* known = tree_.child(directory, entry.name);
      if (plus || known != nullptr) {
        if (known != nullptr && (known->staged || !listing->usable)) {
          inode = known;
        } else if (plus) {
          ObjectInfo info{"", entry.size, entry.etag, entry.modified, entry.metadata};
          if (entry.is_prefix) info.metadata["hdi_isfolder"] = "true";
          inode = &adopt(directory, entry.name, info);
        } else {
          inode = known;
        }
        item.entry = entry_of(*inode);
      } else {
        item.entry.attributes.number = hash_string(join_path(path, entry.name)).low | 2;
        FileKind kind =
            entry.is_prefix ? FileKind::kDirectory : decode_attributes(entry.metadata).kind;
        item.entry.attributes.mode = kind == FileKind::kDirectory ? S_IFDIR
                                     : kind == FileKind::kSymlink ? S_IFLNK
                                                                  : S_IFREG;
      }
    }
    if (!plus) item.entry.attributes.inode = InodeId::kNone;
    bool taken = add(item);
    if (inode != nullptr) {
      if (taken && plus) ++inode->lookups;
      tree_.drop_if_unused(*inode);
    }
    if (!taken) co_return Status();
  }
}

// Creates a directory marker or a symbolic link: small objects, written through to the origin.
Task<Result<Inode*>> FileSystemImpl::put_special(Inode& directory, std::string name,
                                                 FileAttributes attributes, std::string content,
                                                 Context context) {
  context = core_.patient(context);
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(directory, context));
  SHOAL_CO_RETURN_IF_ERROR(co_await check_name(directory, name));
  auto existing = co_await resolve(directory, name, context);
  if (existing) co_return fail(Code::kAlreadyExists, name);
  if (existing.error().code() != Code::kNotFound) co_return fail(std::move(existing).error());
  std::string path = join_path(tree_.path(directory), name);
  attributes.modified = core_.world.executor.wall_now();
  SHOAL_CO_ASSIGN_OR_RETURN(Metadata metadata, encode_attributes(attributes));
  PutOptions options{Condition::absent(), std::move(metadata)};
  options.metadata["shoalwriteid"] = core_.world.random.id128().to_hex() + ".0";
  SHOAL_CO_ASSIGN_OR_RETURN(ObjectInfo info,
                            co_await core_.origin.put(path, as_bytes(content), options, context));
  info.metadata = std::move(options.metadata);
  info.size = content.size();
  if (info.modified == WallTime{}) info.modified = *attributes.modified;
  changed_names(directory, name);
  directory.names().written_here = true;
  Inode& made = adopt(directory, name, info);
  // Nothing is in it but what this node knows.
  if (made.is_directory()) made.names().written_here = true;
  co_return &made;
}

Task<Result<Entry>> FileSystemImpl::make_directory(InodeId parent, std::string name, uint32_t mode,
                                                   Caller caller, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * directory, directory_of(parent));
  FileAttributes attributes;
  attributes.kind = FileKind::kDirectory;
  attributes.mode = mode & 07777;
  attributes.uid = caller.uid;
  attributes.gid = caller.gid;
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * made, co_await put_special(*directory, std::move(name),
                                                               std::move(attributes), "", context));
  made->marker = true;
  ++made->lookups;
  co_return entry_of(*made);
}

Task<Result<Entry>> FileSystemImpl::make_symlink(InodeId parent, std::string name,
                                                 std::string target, Caller caller,
                                                 Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * directory, directory_of(parent));
  FileAttributes attributes;
  attributes.kind = FileKind::kSymlink;
  attributes.uid = caller.uid;
  attributes.gid = caller.gid;
  auto made = co_await put_special(*directory, std::move(name), std::move(attributes),
                                   std::move(target), context);
  if (!made) co_return fail(std::move(made).error());
  ++(*made)->lookups;
  co_return entry_of(**made);
}

Task<Result<std::string>> FileSystemImpl::read_symlink(InodeId id, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  if (inode->attributes.kind != FileKind::kSymlink) {
    co_return fail(Code::kInvalidArgument, "not a symbolic link");
  }
  if (inode->size > 4096) co_return fail(Code::kNameTooLong, "the link's target");
  InodeUse keep(tree_, *inode);
  auto permit = co_await inode->lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  SHOAL_CO_RETURN_IF_ERROR(co_await load(*inode, context));
  SHOAL_ASSERT(inode->content.small != nullptr, "links are small");
  std::string target = *inode->content.small;
  if (inode->handles == 0) drop_content(*inode);
  co_return target;
}

// A directory that exists only because of what is below it would vanish with its last object.
Task<Status> FileSystemImpl::keep_directory(Inode& directory, Context context) {
  if (directory.id == InodeId::kRoot || directory.marker || core_.origin.has_rename()) {
    co_return Status();
  }
  FileAttributes attributes = directory.attributes;
  SHOAL_CO_ASSIGN_OR_RETURN(Metadata metadata, encode_attributes(attributes));
  auto made = co_await core_.origin.put(tree_.path(directory), {},
                                        {Condition::absent(), std::move(metadata)}, context);
  if (made) directory.etag = made->etag;
  if (!made && made.error().code() != Code::kAlreadyExists) {
    co_return fail(std::move(made).error());
  }
  directory.marker = true;
  co_return Status();
}

// Still open: its bytes are kept until the last handle is gone, but not over a crash.
Task<Status> FileSystemImpl::make_orphan(WriteBack::Version version) {
  if (version->durable && version->small) {
    SHOAL_CO_RETURN_IF_ERROR(co_await core_.store.drop_staged_small(version->record.write_id));
    version->durable = false;
  } else if (version->durable) {
    StagedRecord record = version->record.unpack();
    record.metadata["shoalorphan"] = "1";
    SHOAL_CO_RETURN_IF_ERROR(co_await version->file->sync(record));
  }
  if (WriteBack::Version old = std::exchange(version->supersedes, nullptr)) {
    SHOAL_CO_RETURN_IF_ERROR(co_await write_back_.drop(std::move(old)));
  }
  write_back_.remove_name(version);
  version->dropped = true;
  version->changed.notify_all();
  co_return Status();
}

// Takes the file's name away, here and (if asked) in the origin. Whoever has it open keeps it.
Task<Status> FileSystemImpl::remove_file(Inode& directory, Inode& inode, bool remove_object,
                                         Context context) {
  InodeUse keep(tree_, inode);
  Status status = co_await remove_file_locked(directory, inode, remove_object, context);
  if (!status && inode.attached()) resume(inode);
  co_return status;
}

Task<Status> FileSystemImpl::remove_file_locked(Inode& directory, Inode& inode, bool remove_object,
                                                Context context) {
  InodeUse keep(tree_, inode);
  InodeUse keep_directory_inode(tree_, directory);
  auto permit = co_await inode.lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  if (!inode.attached()) co_return fail(Code::kNotFound, "removed meanwhile");
  std::string path = tree_.path(inode);
  if (remove_object) {
    SHOAL_CO_RETURN_IF_ERROR(co_await await_origin(inode, context));
    SHOAL_CO_RETURN_IF_ERROR(co_await await_ends(path, context));
  }
  UploadHold hold(write_back_, inode.staged);
  if (inode.staged) co_await write_back_.halt(inode.staged);
  // An upload that was cut short may have reached the origin all the same.
  bool maybe_there = !inode.etag.empty() || (inode.staged && inode.staged->tried);
  if (remove_object && maybe_there) {
    co_await write_back_.let_late_commits_pass(path);
    Status removed = co_await core_.origin.remove(path, Condition::none(), context);
    if (!removed && removed.error().code() != Code::kNotFound) {
      if (inode.staged && inode.staged->record.sealed && inode.staged->durable) {
        write_back_.enqueue(inode.staged, false);
      }
      co_return removed;
    }
  }
  WriteBack::Version version = inode.staged;
  Status told;  // an error when a lost node may bring the version back
  if (remove_object) told = co_await end_left_behind(left_behind(inode), context);
  if (version != nullptr) {
    EndReason reason = remove_object ? EndReason::kGone : EndReason::kReplaced;
    Status ended = co_await write_back_.end_now(version, reason, context);
    if (!ended) told = std::move(ended);
  }
  if (version != nullptr && inode.handles > 0) {
    SHOAL_CO_RETURN_IF_ERROR(co_await make_orphan(version));
  } else if (version != nullptr) {
    drop_content(inode);
    inode.staged = nullptr;
    version->inode = nullptr;
    SHOAL_CO_RETURN_IF_ERROR(co_await write_back_.drop(version));
  } else if (inode.handles == 0) {
    drop_content(inode);
    if (remove_object) {  // else the name is another file's already
      auto freed = co_await core_.store.evict(path, false);
      if (!freed) core_.log.warning("evicting {}: {}", path, freed.error().to_string());
    }
  }
  inode.unlinked = true;
  std::string name = inode.name;
  tree_.detach(inode);
  changed_names(directory, name);
  if (remove_object && core_.options.negative_ttl > Duration(0)) {
    directory.names().absent_until[name] = core_.now() + core_.negative_ttl_here();
  }
  co_return told;
}

Task<Status> FileSystemImpl::unlink(InodeId parent, std::string name, Context context) {
  context = core_.patient(context);
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * directory, directory_of(parent));
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(*directory, context));
  SHOAL_CO_RETURN_IF_ERROR(co_await check_name(*directory, name));
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, co_await resolve(*directory, name, context));
  if (inode->is_directory()) co_return fail(Code::kIsDirectory, name);
  InodeUse keep_inode(tree_, *inode);  // its upload may end meanwhile
  SHOAL_CO_RETURN_IF_ERROR(co_await keep_directory(*directory, context));
  inode = tree_.child(*directory, name);
  if (inode == nullptr) co_return fail(Code::kNotFound, name);
  co_return co_await remove_file(*directory, *inode, true, context);
}

Task<Result<bool>> FileSystemImpl::directory_is_empty(std::string path, Context context) {
  if (write_back_.any_below(path)) co_return false;
  ListOptions below;
  below.prefix = path + "/";
  below.entries_max = 2;
  SHOAL_CO_ASSIGN_OR_RETURN(bool waiting, co_await any_waiting_below(below, context));
  if (waiting) co_return false;
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.origin.list(below, context));
    if (!page.prefixes.empty()) co_return false;
    for (const ObjectInfo& object : page.objects) {
      if (object.name != below.prefix) co_return false;
    }
    if (page.next_marker.empty()) co_return true;
    below.marker = page.next_marker;
  }
}

Task<Status> FileSystemImpl::remove_directory(InodeId parent, std::string name, Context context) {
  context = core_.patient(context);
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * directory, directory_of(parent));
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(*directory, context));
  co_return co_await remove_empty(*directory, std::move(name), context);
}

// Keeps the directory from being moved meanwhile.
Task<Status> FileSystemImpl::remove_empty(Inode& parent, std::string name, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await check_name(parent, name));
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, co_await resolve(parent, name, context));
  if (!inode->is_directory()) co_return fail(Code::kNotDirectory, name);
  InodeUse keep_inode(tree_, *inode);
  std::string path = tree_.path(*inode);
  SHOAL_CO_ASSIGN_OR_RETURN(bool empty, co_await directory_is_empty(path, context));
  if (!empty) co_return fail(Code::kNotEmpty, path);
  SHOAL_CO_RETURN_IF_ERROR(co_await keep_directory(parent, context));
  Status removed = co_await core_.origin.remove(path, Condition::none(), context);
  if (!removed && removed.error().code() != Code::kNotFound) co_return removed;
  inode->unlinked = true;
  if (inode->attached()) tree_.detach(*inode);
  changed_names(parent, name);
  co_return Status();
}

}  // namespace shoal
