// Attributes and extended attributes.
#include <sys/xattr.h>

#include <algorithm>

#include "base/object_name.h"
#include "node/fetcher.h"
#include "node/file_system_impl.h"

namespace shoal {

namespace {

constexpr std::string_view kState = "user.shoal.state";
constexpr std::string_view kVersion = "user.shoal.version";

Status check_xattr_name(std::string_view name, bool write) {
  if (!name.starts_with("user.")) {
    return fail(Code::kNotSupported, "only user.* attributes are kept");
  }
  if (write && name.starts_with("user.shoal.") && name != kAckName) {
    return fail(Code::kPermissionDenied, "user.shoal.* attributes are read-only");
  }
  return {};
}

}  // namespace

Task<Result<Entry>> FileSystemImpl::attributes(InodeId id, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
  co_return entry_of(*inode);
}

Task<Status> FileSystemImpl::set_size(Inode& inode, uint64_t size, Context context) {
  if (inode.is_directory()) co_return fail(Code::kIsDirectory, "a directory has no size");
  if (inode.passthroughs > 0 && inode.attached()) {
    replace_inode(inode);
    co_return fail(Code::kStale, "truncated while read through the kernel");
  }
  Status status = co_await resize_locked(inode, size, context);
  if (status && inode.writers > 0) co_return Status();
  if (status) status = co_await seal(inode, true, context);
  if (!status) {
    resume(inode);
    co_return status;
  }
  if (inode.staged && !inode.staged->dropped) write_back_.enqueue(inode.staged, false);
  if (inode.handles == 0) drop_content(inode);
  co_return Status();
}

// Keeps new attributes where the object lives: in the staged record, or in the origin's metadata.
// Holds the inode's lock.
Task<Status> FileSystemImpl::store_attributes(Inode& inode, FileAttributes attributes,
                                              Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Metadata metadata, encode_attributes(attributes));
  inode.changed = core_.world.executor.wall_now();
  if (inode.id == InodeId::kRoot || inode.unlinked) {
    inode.attributes = std::move(attributes);
    co_return Status();
  }
  if (!inode.attached()) co_return fail(Code::kStale, "the file was replaced meanwhile");
  if (WriteBack::Version version = inode.staged) {
    if (!version->record.sealed || !version->durable) {
      inode.attributes = std::move(attributes);
      version->modified = true;
      co_return Status();
    }
    UploadHold hold(write_back_, version);
    co_await write_back_.halt(version);
    if (inode.staged == version) {
      FileAttributes before = std::exchange(inode.attributes, std::move(attributes));
      ++version->generation;
      Status saved = co_await save_record(inode);
      if (!saved) inode.attributes = std::move(before);
      if (inode.writers == 0) write_back_.enqueue(version, version->forced);
      co_return saved;
    }
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await await_origin(inode, context));
  std::string path = tree_.path(inode);
  if (inode.is_directory()) {
    Result<ObjectInfo> info = fail(Code::kNotFound, path);
    if (inode.marker) {
      info = co_await core_.origin.set_metadata(path, metadata, Condition::none(), context);
    }
    if (!info && info.error().code() == Code::kNotFound) {
      info = co_await core_.origin.put(path, {}, {Condition::none(), metadata}, context);
    }
    if (!info) co_return fail(std::move(info).error());
    inode.marker = true;
    inode.etag = info->etag;
    inode.attributes = std::move(attributes);
    co_return Status();
  }
  core_.sign(metadata);
  auto info = co_await core_.origin.set_metadata(path, std::move(metadata),
                                                 Condition::match(inode.etag), context);
  if (!info && info.error().code() == Code::kConflict) {
    inode.fresh_until = SteadyTime{};
    co_return fail(Code::kStale, "the object was changed in the origin meanwhile");
  }
  if (!info) co_return fail(std::move(info).error());
  std::string old_etag = std::exchange(inode.etag, info->etag);
  inode.attributes = std::move(attributes);
  if (inode.content.fetcher) inode.content.fetcher->renamed(path, inode.etag);
  invalidate_listing(parent_of(path));
  heads_.forget(path);
  co_await rekey(path, old_etag, path, inode.etag);
  co_return Status();
}

Task<Result<Entry>> FileSystemImpl::set_attributes(InodeId id, SetAttributes change, Caller,
                                                   Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  if (core_.options.read_only) co_return fail(Code::kReadOnly, "mounted read-only");
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change running, co_await moves_.change(*inode, context));
  auto permit = co_await inode->lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  if (change.size) SHOAL_CO_RETURN_IF_ERROR(co_await set_size(*inode, *change.size, context));
  if (change.accessed) inode->accessed = *change.accessed;
  FileAttributes attributes = inode->attributes;
  bool differs = false;
  auto set = [&](auto& target, const auto& value) {
    if (value && target != value) {
      target = value;
      differs = true;
    }
  };
  std::optional<uint32_t> mode = change.mode;
  if (mode) *mode &= 07777;
  set(attributes.mode, mode);
  set(attributes.uid, change.uid);
  set(attributes.gid, change.gid);
  set(attributes.modified, change.modified);
  if (differs) {
    SHOAL_CO_RETURN_IF_ERROR(co_await store_attributes(*inode, std::move(attributes), context));
  }
  co_return entry_of(*inode);
}

Task<Result<std::string>> FileSystemImpl::get_xattr(InodeId id, std::string name, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
  if (name == kState) {
    if (!inode->staged) {
      co_return std::string(is_unuploaded(inode->etag) ? "replicated" : "clean");
    }
    const StagedVersion& version = *inode->staged;
    bool replicated = version.recorded && version.recorded->write() == version.write();
    co_return std::string(!version.record.sealed ? "open"
                          : replicated           ? "replicated"  // uploading or not
                          : version.uploading    ? "uploading"
                                                 : "staged");
  }
  if (name == kVersion) {
    co_return inode->staged ? inode->staged->write_id_text() : inode->etag;
  }
  if (name == kAckName) co_return std::string(ack_name(ack_of(*inode)));
  SHOAL_CO_RETURN_IF_ERROR(check_xattr_name(name, false));
  auto found = inode->attributes.xattrs.find(name);
  if (found == inode->attributes.xattrs.end()) co_return fail(Code::kNoData, name);
  co_return found->second;
}

Task<Status> FileSystemImpl::set_xattr(InodeId id, std::string name, std::string value,
                                       uint32_t flags, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  if (core_.options.read_only) co_return fail(Code::kReadOnly, "mounted read-only");
  SHOAL_CO_RETURN_IF_ERROR(check_xattr_name(name, true));
  if (name == kAckName) {
    auto level = parse_ack(value);
    if (!level || (*level == AckLevel::kReplicated && core_.replication == nullptr)) {
      co_return fail(Code::kInvalidArgument, level ? "a node by itself has nobody to replicate to"
                                                   : "not local, replicated or durable");
    }
  }
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change running, co_await moves_.change(*inode, context));
  auto permit = co_await inode->lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  FileAttributes attributes = inode->attributes;
  bool exists = attributes.xattrs.contains(name);
  if (exists && (flags & XATTR_CREATE)) co_return fail(Code::kAlreadyExists, name);
  if (!exists && (flags & XATTR_REPLACE)) co_return fail(Code::kNoData, name);
  attributes.xattrs[name] = std::move(value);
  Status stored = co_await store_attributes(*inode, std::move(attributes), context);
  if (!stored && stored.error().code() == Code::kTooLarge) {
    co_return fail(Code::kNoSpace, stored.error().message());  // what setxattr(2) says
  }
  co_return stored;
}

Task<Result<std::vector<std::string>>> FileSystemImpl::list_xattrs(InodeId id, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
  std::vector<std::string> names;
  for (const auto& [name, value] : inode->attributes.xattrs) names.push_back(name);
  if (!inode->is_directory()) {
    names.emplace_back(kState);
    names.emplace_back(kVersion);
  }
  co_return names;
}

Task<Status> FileSystemImpl::remove_xattr(InodeId id, std::string name, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * inode, inode_of(id));
  if (core_.options.read_only) co_return fail(Code::kReadOnly, "mounted read-only");
  SHOAL_CO_RETURN_IF_ERROR(check_xattr_name(name, true));
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change running, co_await moves_.change(*inode, context));
  auto permit = co_await inode->lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  FileAttributes attributes = inode->attributes;
  if (attributes.xattrs.erase(name) == 0) co_return fail(Code::kNoData, name);
  co_return co_await store_attributes(*inode, std::move(attributes), context);
}

Task<Result<FileSystemStat>> FileSystemImpl::stat_file_system(Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
  // The origin has no size; say something that no tool takes for full.
  co_return FileSystemStat{1024 * kTiB, 1024 * kTiB};
}

}  // namespace shoal
