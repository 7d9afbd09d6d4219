// Requests about names, inodes and directories.
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/assert.h"
#include "mount/dispatcher.h"
#include "mount/reply.h"

namespace shoal::fuse {
namespace {

constexpr uint32_t kPermissionBits = 07777;
constexpr size_t kDirectoryBytesMax = 128 * kKiB;

template <typename T>
ConstByteSpan bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

SetAttributes decode_change(const SetattrIn& in, WallTime now) {
  SetAttributes change;
  if (in.valid & kSetMode) change.mode = in.mode & kPermissionBits;
  if (in.valid & kSetUid) change.uid = in.uid;
  if (in.valid & kSetGid) change.gid = in.gid;
  if (in.valid & kSetSize) change.size = in.size;
  if (in.valid & kSetAtimeNow) {
    change.accessed = now;
  } else if (in.valid & kSetAtime) {
    change.accessed = decode_time(in.atime, in.atime_ns);
  }
  if (in.valid & kSetMtimeNow) {
    change.modified = now;
  } else if (in.valid & kSetMtime) {
    change.modified = decode_time(in.mtime, in.mtime_ns);
  }
  return change;
}

}  // namespace

Task<void> Dispatcher::serve_tree(Message& message) {
  switch (message.request.opcode) {
    case Opcode::kLookup:
      return lookup(message);
    case Opcode::kGetattr:
      return get_attributes(message);
    case Opcode::kSetattr:
      return set_attributes(message);
    case Opcode::kReadlink:
      return read_link(message);
    case Opcode::kMkdir:
    case Opcode::kSymlink:
      return make(message);
    case Opcode::kMknod:
      return make_node(message);
    case Opcode::kUnlink:
    case Opcode::kRmdir:
      return remove(message);
    case Opcode::kRename:
    case Opcode::kRename2:
      return rename(message);
    case Opcode::kSetxattr:
      return set_xattr(message);
    case Opcode::kGetxattr:
      return get_xattr(message);
    case Opcode::kListxattr:
      return list_xattrs(message);
    case Opcode::kRemovexattr:
      return remove_xattr(message);
    case Opcode::kOpendir:
      return open_directory(message);
    case Opcode::kReaddir:
    case Opcode::kReaddirplus:
      return read_directory(message);
    case Opcode::kReleasedir:
      return release_directory(message);
    default:
      SHOAL_ASSERT(message.request.opcode == Opcode::kStatfs, "refused() let something through");
      return stat_file_system(message);
  }
}

Task<void> Dispatcher::lookup(Message& message) {
  auto entry = co_await file_system_.lookup(InodeId{message.request.node},
                                            std::string(message.request.name), context_of(message));
  Duration ttl = file_system_.negative_ttl();
  if (!entry && entry.error().code() == Code::kNotFound && ttl > Duration(0)) {
    EntryOut absence = encode_absence(ttl);
    reply(message, bytes_of(absence));
    co_return;
  }
  reply_entry(message, entry);
}

Task<void> Dispatcher::get_attributes(Message& message) {
  auto entry = co_await file_system_.attributes(InodeId{message.request.node}, context_of(message));
  if (!entry) {
    reply_error(message, entry.error());
    co_return;
  }
  AttrOut out = encode_attributes(*entry);
  reply(message, bytes_of(out));
}

Task<void> Dispatcher::set_attributes(Message& message) {
  InodeId inode{message.request.node};
  const SetattrIn& in = message.request.setattr;
  Context context = context_of(message);
  SetAttributes change = decode_change(in, executor_.wall_now());
  if (in.valid & kSetHandle) {
    auto file = handles_.find(in.handle);
    if (!file) {
      reply_errno(message, EBADF);
      co_return;
    }
    change.handle = file->handle;
  }
  if ((in.valid & kSetKillSuidGid) && !change.mode) {
    Status dropped = co_await drop_privileges(inode, context);
    if (!dropped) {
      reply_error(message, dropped.error());
      co_return;
    }
  }
  auto entry = co_await file_system_.set_attributes(inode, change, caller_of(message), context);
  if (!entry) {
    reply_error(message, entry.error());
    co_return;
  }
  if (in.valid & kSetMode) handles_.keep_privileges(inode);
  AttrOut out = encode_attributes(*entry);
  reply(message, bytes_of(out));
}

Task<void> Dispatcher::read_link(Message& message) {
  auto target =
      co_await file_system_.read_symlink(InodeId{message.request.node}, context_of(message));
  if (!target) {
    reply_error(message, target.error());
  } else if (target->empty() || target->size() >= 4096) {
    reply_errno(message, EIO);
  } else {
    reply(message, as_bytes(*target));
  }
}

Task<void> Dispatcher::make(Message& message) {
  const Request& request = message.request;
  InodeId parent{request.node};
  std::string name(request.name);
  if (request.opcode == Opcode::kMkdir) {
    auto entry = co_await file_system_.make_directory(parent, std::move(name),
                                                      request.mode & kPermissionBits,
                                                      caller_of(message), context_of(message));
    reply_entry(message, entry);
  } else {
    auto entry =
        co_await file_system_.make_symlink(parent, std::move(name), std::string(request.name2),
                                           caller_of(message), context_of(message));
    reply_entry(message, entry);
  }
}

// A plain file: made, and closed at once.
Task<void> Dispatcher::make_node(Message& message) {
  const Request& request = message.request;
  auto created = co_await file_system_.create(InodeId{request.node}, std::string(request.name),
                                              request.mode & kPermissionBits, O_WRONLY | O_EXCL,
                                              caller_of(message), context_of(message));
  if (!created) {
    reply_error(message, created.error());
    co_return;
  }
  Status flushed = co_await file_system_.flush(created->open.handle, context_of(message));
  co_await file_system_.release(created->open.handle);
  if (!flushed) {
    file_system_.forget(created->entry.attributes.inode, 1);
    reply_error(message, flushed.error());
    co_return;
  }
  Result<Entry> entry = created->entry;
  reply_entry(message, entry);
}

Task<void> Dispatcher::remove(Message& message) {
  InodeId parent{message.request.node};
  std::string name(message.request.name);
  Context context = context_of(message);
  Status status;
  if (message.request.opcode == Opcode::kUnlink) {
    status = co_await file_system_.unlink(parent, std::move(name), context);
  } else {
    status = co_await file_system_.remove_directory(parent, std::move(name), context);
  }
  reply_status(message, status);
}

Task<void> Dispatcher::rename(Message& message) {
  const Request& request = message.request;
  Status status = co_await file_system_.rename(
      InodeId{request.node}, std::string(request.name), InodeId{request.new_parent},
      std::string(request.name2), request.flags, context_of(message));
  // rename(2) says EINVAL for flags that a file system does not know.
  if (!status && status.error().code() == Code::kNotSupported) {
    reply_errno(message, EINVAL);
  } else {
    reply_status(message, status);
  }
}

Task<void> Dispatcher::set_xattr(Message& message) {
  const Request& request = message.request;
  Status status = co_await file_system_.set_xattr(InodeId{request.node}, std::string(request.name),
                                                  std::string(as_text(request.payload)),
                                                  request.flags, context_of(message));
  reply_status(message, status);
}

Task<void> Dispatcher::get_xattr(Message& message) {
  auto value = co_await file_system_.get_xattr(
      InodeId{message.request.node}, std::string(message.request.name), context_of(message));
  if (value) {
    reply_value(message, *value);
  } else {
    reply_error(message, value.error());
  }
}

Task<void> Dispatcher::list_xattrs(Message& message) {
  auto names =
      co_await file_system_.list_xattrs(InodeId{message.request.node}, context_of(message));
  if (names) {
    reply_value(message, join_names(*names));
  } else {
    reply_error(message, names.error());
  }
}

Task<void> Dispatcher::remove_xattr(Message& message) {
  Status status = co_await file_system_.remove_xattr(
      InodeId{message.request.node}, std::string(message.request.name), context_of(message));
  reply_status(message, status);
}

Task<void> Dispatcher::stat_file_system(Message& message) {
  auto stat = co_await file_system_.stat_file_system(context_of(message));
  if (!stat) {
    reply_error(message, stat.error());
    co_return;
  }
  StatfsOut out = encode_statfs(*stat);
  reply(message, bytes_of(out));
}

Task<void> Dispatcher::open_directory(Message& message) {
  InodeId inode{message.request.node};
  auto opened = co_await file_system_.open_directory(inode, context_of(message));
  if (!opened) {
    reply_error(message, opened.error());
    co_return;
  }
  OpenFile file;
  file.handle = *opened;
  file.inode = inode;
  file.directory = true;
  OpenOut out{};
  out.handle = handles_.add(std::move(file));
  if (reply(message, bytes_of(out))) co_return;
  handles_.remove(out.handle);
  co_await file_system_.release_directory(*opened);
}

Task<void> Dispatcher::read_directory(Message& message) {
  auto file = file_of(message);
  if (!file) co_return;
  const Request& request = message.request;
  bool plus = request.opcode == Opcode::kReaddirplus;
  DirectoryPacker packer(std::min<size_t>(request.size, kDirectoryBytesMax), plus);
  auto add = [&packer](const DirectoryItem& item) { return packer.add(item); };
  Status status = co_await file_system_.read_directory(file->handle, request.offset, plus, add,
                                                       context_of(message));
  if (status && reply(message, packer.bytes())) co_return;
  for (InodeId inode : packer.counted()) file_system_.forget(inode, 1);
  if (!status) reply_error(message, status.error());
}

Task<void> Dispatcher::release_directory(Message& message) {
  auto file = handles_.remove(message.request.handle);
  if (!file) {
    reply_errno(message, EBADF);
    co_return;
  }
  SHOAL_ASSERT(file->directory);
  co_await file_system_.release_directory(file->handle);
  reply(message);
}

}  // namespace shoal::fuse
