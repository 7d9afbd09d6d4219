// FileSystem: what a mount (or the simulator's workload) asks of the node. Inode-level calls with
// POSIX meaning; errors are Error codes, the mount turns them into errno.
//
// An inode is one file as the kernel knows it. Names are looked up against the origin no more often
// than attr_ttl; an object that changed in the origin gets a new inode, so an open file keeps the
// version that it was opened with. open() of a file for writing while the kernel has the old bytes
// open for passthrough answers kStale once: the kernel looks the name up again, gets a new inode,
// and comes back.
//
// Shard's thread only. Tasks take a Context; spans are borrowed until the task ends.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "base/bytes.h"
#include "store/store.h"
#include "world/time.h"

namespace shoal {

enum class InodeId : uint64_t { kNone = 0, kRoot = 1 };
enum class HandleId : uint64_t { kNone = 0 };

struct Caller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t pid = 0;
  uint32_t umask = 0;
};

struct Attributes {
  InodeId inode = InodeId::kNone;  // what the kernel calls nodeid
  uint64_t number = 0;             // st_ino: stable for a path while it exists
  uint64_t size = 0;
  uint64_t allocated = 0;  // bytes, for st_blocks
  uint32_t mode = 0;       // type and permission bits
  uint32_t links = 1;
  uint32_t uid = 0;
  uint32_t gid = 0;
  WallTime accessed{};
  WallTime modified{};
  WallTime changed{};
};

struct Entry {
  Attributes attributes;
  Duration entry_ttl{0};  // how long the kernel may trust the name
  Duration attribute_ttl{0};
};

struct SetAttributes {
  std::optional<uint32_t> mode;
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::optional<uint64_t> size;
  std::optional<WallTime> accessed;
  std::optional<WallTime> modified;
  HandleId handle = HandleId::kNone;  // of an open file, when the kernel names one
};

struct OpenResult {
  HandleId handle = HandleId::kNone;
  enum class Mode {
    kDirect,       // every read and write comes to us (FOPEN_DIRECT_IO)
    kCached,       // the kernel may cache pages; keep_cache says whether old ones are still good
    kPassthrough,  // the kernel reads backing_descriptor itself
  };
  Mode mode = Mode::kDirect;
  bool keep_cache = false;
  int backing_descriptor = -1;
  // Not null: threads of the mount may read covered ranges themselves (ReadView's protocol).
  std::shared_ptr<ReadView> view;
};

struct DirectoryItem {
  std::string name;
  uint64_t cookie = 0;  // where to go on after this item
  Entry entry;          // entry.attributes.inode is kNone for "." and ".." and without `plus`
};

struct FileSystemStat {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
};

// What a read answers where that saves copying: parts in order, some in the reader's own memory,
// some in memory that is lent and stays as it is as long as `keep` does.
class Lent {
 public:
  struct Part {
    ConstByteSpan bytes;
    std::shared_ptr<const void> keep;
  };
  void add(ConstByteSpan bytes, std::shared_ptr<const void> keep) {
    parts_.push_back({bytes, std::move(keep)});
  }
  const std::vector<Part>& parts() const { return parts_; }

 private:
  std::vector<Part> parts_;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // kNotFound carries no entry; the mount may cache the absence for negative_ttl().
  virtual Task<Result<Entry>> lookup(InodeId parent, std::string name, Context context) = 0;
  virtual Duration negative_ttl() const = 0;
  // Every Entry given out counts one look-up; the kernel gives them back here. Never waits.
  virtual void forget(InodeId inode, uint64_t lookups) = 0;

  virtual Task<Result<Entry>> attributes(InodeId inode, Context context) = 0;
  virtual Task<Result<Entry>> set_attributes(InodeId inode, SetAttributes change, Caller caller,
                                             Context context) = 0;

  // flags are open(2)'s; O_TRUNC is honoured. `can_passthrough`: the mount is able to.
  virtual Task<Result<OpenResult>> open(InodeId inode, uint32_t flags, bool can_passthrough,
                                        Context context) = 0;
  struct Created {
    Entry entry;
    OpenResult open;
  };
  virtual Task<Result<Created>> create(InodeId parent, std::string name, uint32_t mode,
                                       uint32_t flags, Caller caller, Context context) = 0;
  // Bytes read; less than into.size() only at the end of the file. A handle is valid until release.
  virtual Task<Result<size_t>> read(HandleId handle, uint64_t offset, ByteSpan into,
                                    Context context) = 0;
  // The same; if `lent` has parts afterwards, the bytes are there, else in `into`.
  virtual Task<Result<size_t>> read_or_lend(HandleId handle, uint64_t offset, ByteSpan into,
                                            Lent& lent, Context context) {
    (void)lent;
    return read(handle, offset, into, context);
  }
  // With O_APPEND in the open flags the offset is ignored. `accepted`, if not empty, may be called
  // once before the end, when the write can be answered: all of it counts as written. What fails
  // after that, the next change, sync() or flush() of the file tells.
  virtual Task<Result<size_t>> write(HandleId handle, uint64_t offset, ConstByteSpan bytes,
                                     std::function<void()> accepted, Context context) = 0;
  // close(2): returns when the acknowledgement level is reached.
  virtual Task<Status> flush(HandleId handle, Context context) = 0;
  virtual Task<Status> sync(HandleId handle, bool data_only, Context context) = 0;
  // The last reference is gone. Never fails; runs to its end whatever the caller does.
  virtual Task<void> release(HandleId handle) = 0;
  virtual Task<Status> allocate(HandleId handle, uint32_t mode, Range range, Context context) = 0;
  virtual Task<Result<uint64_t>> seek(HandleId handle, uint64_t offset, bool data,
                                      Context context) = 0;

  virtual Task<Result<HandleId>> open_directory(InodeId inode, Context context) = 0;
  // Calls add() for items after `cookie` (0: from the start) until it answers false (that item is
  // not consumed) or the directory ends. With `plus` each consumed item counts one look-up.
  virtual Task<Status> read_directory(HandleId handle, uint64_t cookie, bool plus,
                                      std::function<bool(const DirectoryItem&)> add,
                                      Context context) = 0;
  virtual Task<void> release_directory(HandleId handle) = 0;

  virtual Task<Result<Entry>> make_directory(InodeId parent, std::string name, uint32_t mode,
                                             Caller caller, Context context) = 0;
  virtual Task<Result<Entry>> make_symlink(InodeId parent, std::string name, std::string target,
                                           Caller caller, Context context) = 0;
  virtual Task<Result<std::string>> read_symlink(InodeId inode, Context context) = 0;
  virtual Task<Status> unlink(InodeId parent, std::string name, Context context) = 0;
  virtual Task<Status> remove_directory(InodeId parent, std::string name, Context context) = 0;
  // flags: RENAME_NOREPLACE is honoured, RENAME_EXCHANGE is kNotSupported.
  virtual Task<Status> rename(InodeId from_parent, std::string from, InodeId to_parent,
                              std::string to, uint32_t flags, Context context) = 0;

  virtual Task<Result<std::string>> get_xattr(InodeId inode, std::string name, Context context) = 0;
  // flags are setxattr(2)'s XATTR_CREATE and XATTR_REPLACE.
  virtual Task<Status> set_xattr(InodeId inode, std::string name, std::string value, uint32_t flags,
                                 Context context) = 0;
  virtual Task<Result<std::vector<std::string>>> list_xattrs(InodeId inode, Context context) = 0;
  virtual Task<Status> remove_xattr(InodeId inode, std::string name, Context context) = 0;

  virtual Task<Result<FileSystemStat>> stat_file_system(Context context) = 0;
};

}  // namespace shoal
