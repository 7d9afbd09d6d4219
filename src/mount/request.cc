#include "mount/request.h"

#include <cerrno>
#include <cstring>

namespace shoal::fuse {
namespace {

// Reads a message's body from front to back; once anything was missing it stays failed.
class Cursor {
 public:
  explicit Cursor(ConstByteSpan bytes) : rest_(bytes) {}

  template <typename T>
  T take() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    if (!ok_ || rest_.size() < sizeof(T)) {
      ok_ = false;
      return value;
    }
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }

  // A string that ends with NUL inside the message. Empty strings are never sent as names.
  std::string_view take_name() {
    if (!ok_) return {};
    std::string_view text = as_text(rest_);
    size_t end = text.find('\0');
    if (end == std::string_view::npos || end == 0) {
      ok_ = false;
      return {};
    }
    rest_ = rest_.subspan(end + 1);
    return text.substr(0, end);
  }

  ConstByteSpan take_bytes(uint64_t size) {
    if (!ok_ || rest_.size() < size) {
      ok_ = false;
      return {};
    }
    ConstByteSpan bytes = rest_.first(size);
    rest_ = rest_.subspan(size);
    return bytes;
  }

  uint64_t left() const { return rest_.size(); }
  bool ok() const { return ok_; }
  void fail() { ok_ = false; }

 private:
  ConstByteSpan rest_;
  bool ok_ = true;
};

void take_forgets(Cursor& cursor, Request& request) {
  auto in = cursor.take<BatchForgetIn>();
  if (!cursor.ok() || in.count > cursor.left() / sizeof(ForgetOne)) {
    cursor.fail();
    return;
  }
  request.forgets.reserve(in.count);
  for (uint32_t i = 0; i < in.count; ++i) request.forgets.push_back(cursor.take<ForgetOne>());
}

void take_write(Cursor& cursor, Request& request) {
  auto in = cursor.take<WriteIn>();
  request.handle = in.handle;
  request.offset = in.offset;
  request.size = in.size;
  request.flags = in.write_flags;
  request.payload = cursor.take_bytes(in.size);
}

// Opcodes that name a file in a directory.
void take_names(Cursor& cursor, Request& request) {
  switch (request.opcode) {
    case Opcode::kMknod: {
      auto in = cursor.take<MknodIn>();
      request.mode = in.mode;
      request.umask = in.umask;
      break;
    }
    case Opcode::kMkdir: {
      auto in = cursor.take<MkdirIn>();
      request.mode = in.mode;
      request.umask = in.umask;
      break;
    }
    case Opcode::kCreate: {
      auto in = cursor.take<CreateIn>();
      request.flags = in.flags;
      request.mode = in.mode;
      request.umask = in.umask;
      break;
    }
    case Opcode::kRename:
      request.new_parent = cursor.take<RenameIn>().new_parent;
      break;
    case Opcode::kRename2: {
      auto in = cursor.take<Rename2In>();
      request.new_parent = in.new_parent;
      request.flags = in.flags;
      break;
    }
    default:
      break;
  }
  request.name = cursor.take_name();
  if (request.opcode == Opcode::kRename || request.opcode == Opcode::kRename2 ||
      request.opcode == Opcode::kSymlink) {
    request.name2 = cursor.take_name();
  }
}

void take_xattr(Cursor& cursor, Request& request) {
  switch (request.opcode) {
    case Opcode::kSetxattr: {
      auto in = cursor.take<SetxattrIn>();
      request.flags = in.flags;
      request.name = cursor.take_name();
      request.payload = cursor.take_bytes(in.size);
      break;
    }
    case Opcode::kGetxattr:
      request.size = cursor.take<GetxattrIn>().size;
      request.name = cursor.take_name();
      break;
    case Opcode::kListxattr:
      request.size = cursor.take<GetxattrIn>().size;
      break;
    default:
      request.name = cursor.take_name();
      break;
  }
}

// Opcodes that name an open file.
void take_handle(Cursor& cursor, Request& request) {
  switch (request.opcode) {
    case Opcode::kRead:
    case Opcode::kReaddir:
    case Opcode::kReaddirplus: {
      auto in = cursor.take<ReadIn>();
      request.handle = in.handle;
      request.offset = in.offset;
      request.size = in.size;
      break;
    }
    case Opcode::kRelease:
    case Opcode::kReleasedir:
      request.handle = cursor.take<ReleaseIn>().handle;
      break;
    case Opcode::kFlush:
      request.handle = cursor.take<FlushIn>().handle;
      break;
    case Opcode::kFsync:
    case Opcode::kFsyncdir: {
      auto in = cursor.take<FsyncIn>();
      request.handle = in.handle;
      request.flags = in.fsync_flags;
      break;
    }
    case Opcode::kFallocate: {
      auto in = cursor.take<FallocateIn>();
      request.handle = in.handle;
      request.offset = in.offset;
      request.length = in.length;
      request.mode = in.mode;
      if (in.length > UINT64_MAX - in.offset) cursor.fail();
      break;
    }
    case Opcode::kLseek: {
      auto in = cursor.take<LseekIn>();
      request.handle = in.handle;
      request.offset = in.offset;
      request.mode = in.whence;
      break;
    }
    default:
      break;
  }
}

void take_body(Cursor& cursor, Request& request) {
  switch (request.opcode) {
    case Opcode::kLookup:
    case Opcode::kUnlink:
    case Opcode::kRmdir:
    case Opcode::kSymlink:
    case Opcode::kMknod:
    case Opcode::kMkdir:
    case Opcode::kCreate:
    case Opcode::kRename:
    case Opcode::kRename2:
      take_names(cursor, request);
      break;
    case Opcode::kSetxattr:
    case Opcode::kGetxattr:
    case Opcode::kListxattr:
    case Opcode::kRemovexattr:
      take_xattr(cursor, request);
      break;
    case Opcode::kRead:
    case Opcode::kReaddir:
    case Opcode::kReaddirplus:
    case Opcode::kRelease:
    case Opcode::kReleasedir:
    case Opcode::kFlush:
    case Opcode::kFsync:
    case Opcode::kFsyncdir:
    case Opcode::kFallocate:
    case Opcode::kLseek:
      take_handle(cursor, request);
      break;
    case Opcode::kWrite:
      take_write(cursor, request);
      break;
    case Opcode::kOpen:
    case Opcode::kOpendir:
      request.flags = cursor.take<OpenIn>().flags;
      break;
    case Opcode::kSetattr:
      request.setattr = cursor.take<SetattrIn>();
      break;
    case Opcode::kForget:
      request.lookups = cursor.take<ForgetIn>().lookups;
      break;
    case Opcode::kBatchForget:
      take_forgets(cursor, request);
      break;
    case Opcode::kInterrupt:
      request.target = cursor.take<InterruptIn>().unique;
      break;
    default:
      break;  // nothing of the body is needed
  }
}

}  // namespace

bool parse_header(ConstByteSpan message, InHeader& header) {
  if (message.size() < sizeof(InHeader)) return false;
  std::memcpy(&header, message.data(), sizeof(InHeader));
  return header.length == message.size();
}

std::expected<Request, int> parse_request(ConstByteSpan message) {
  InHeader header;
  if (!parse_header(message, header)) return std::unexpected(EIO);
  ConstByteSpan body = message.subspan(sizeof(InHeader));
  uint64_t extension = uint64_t{header.extension_words} * 8;
  if (extension > body.size()) return std::unexpected(EIO);
  Request request;
  request.opcode = static_cast<Opcode>(header.opcode);
  request.unique = header.unique;
  request.node = header.node;
  request.uid = header.uid;
  request.gid = header.gid;
  request.pid = header.pid;
  Cursor cursor(body.first(body.size() - extension));
  take_body(cursor, request);
  if (!cursor.ok()) return std::unexpected(EIO);
  return request;
}

bool parse_init(ConstByteSpan message, InitIn& init) {
  InHeader header;
  if (!parse_header(message, header)) return false;
  if (header.opcode != static_cast<uint32_t>(Opcode::kInit)) return false;
  ConstByteSpan body = message.subspan(sizeof(InHeader));
  if (body.size() < kInitInShort) return false;
  init = {};
  std::memcpy(&init, body.data(), std::min(body.size(), sizeof(InitIn)));
  return true;
}

int refused(const Request& request) {
  switch (request.opcode) {
    case Opcode::kLink:
      return EPERM;
    case Opcode::kIoctl:
      return ENOTTY;
    case Opcode::kGetxattr:
    case Opcode::kSetxattr:
    case Opcode::kRemovexattr:
      // Asked for on every write and exec; never stored by us.
      if (request.name.starts_with("system.posix_acl_")) return EOPNOTSUPP;
      if (request.name.starts_with("security.")) {
        return request.opcode == Opcode::kGetxattr ? ENODATA : EOPNOTSUPP;
      }
      return 0;
    case Opcode::kMknod:
      return (request.mode & 0170000) == 0100000 ? 0 : EPERM;
    case Opcode::kLookup:
    case Opcode::kForget:
    case Opcode::kGetattr:
    case Opcode::kSetattr:
    case Opcode::kReadlink:
    case Opcode::kSymlink:
    case Opcode::kMkdir:
    case Opcode::kUnlink:
    case Opcode::kRmdir:
    case Opcode::kRename:
    case Opcode::kOpen:
    case Opcode::kRead:
    case Opcode::kWrite:
    case Opcode::kStatfs:
    case Opcode::kRelease:
    case Opcode::kFsync:
    case Opcode::kListxattr:
    case Opcode::kFlush:
    case Opcode::kOpendir:
    case Opcode::kReaddir:
    case Opcode::kReleasedir:
    case Opcode::kFsyncdir:
    case Opcode::kCreate:
    case Opcode::kInterrupt:
    case Opcode::kDestroy:
    case Opcode::kNotifyReply:
    case Opcode::kBatchForget:
    case Opcode::kFallocate:
    case Opcode::kReaddirplus:
    case Opcode::kRename2:
    case Opcode::kLseek:
      return 0;
    // ACCESS: default_permissions lets the kernel decide. Locks stay in the kernel. The kernel
    // copies ranges itself, and does without the others.
    default:
      return ENOSYS;
  }
}

}  // namespace shoal::fuse
