// Local files, asynchronously. An operation is a plain struct that the caller owns; the disk sets
// `result` and posts it to the executor when done. Rooms use the awaitable forms in
// async/disk_io.h.
//
// Durability is the POSIX contract, and the simulator enforces it: written bytes survive a power
// loss only after kSync or kSyncData of the file, and a created, renamed or removed name only after
// kSyncDirectory of its directory. After a mere process crash everything written is still there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "world/executor.h"

namespace shoal {

// An open file. Belongs to the Disk that gave it; closed by kClose.
enum class FileId : int32_t { kNone = -1 };

struct DirectoryEntry {
  std::string name;
  bool is_directory = false;
  bool is_other = false;  // neither a directory nor a plain file: link, device, socket
};

struct FileStat {
  uint64_t size = 0;       // bytes
  uint64_t allocated = 0;  // bytes of disk space in use
  bool is_directory = false;
  bool is_other = false;  // neither a directory nor a plain file: link, device, socket
  // What changes when the file changes; 0 where unknown. In simulation from the virtual clock.
  uint64_t inode = 0;
  uint64_t mtime_ns = 0;
  uint64_t ctime_ns = 0;
};

struct DiskSpace {
  uint64_t total = 0;  // bytes
  uint64_t free = 0;   // bytes that this process may still use
};

struct DiskOp : Runnable {
  enum class Kind {
    kOpen,            // path, flags -> result: FileId
    kClose,           // file
    kRead,            // file, offset, data, length -> bytes read (short only at the end of file)
    kWrite,           // file, offset, data, length -> bytes written (all of them, or an error)
    kSync,            // file: data and all metadata
    kSyncData,        // file: data and what is needed to read it (fdatasync)
    kStartWriteback,  // file, offset, length: begin writing out dirty pages; promises nothing
    kSetSize,         // file, offset = new size
    kAllocate,        // file, offset, length: reserve space, size grows if needed
    kPunch,           // file, offset, length: make a hole, size stays
    kCopyRange,       // file, offset -> file2, offset2, length: bytes copied (all, or an error)
    kStat,            // path -> stat
    kStatFile,        // file -> stat
    kRename,          // path -> path2, replacing it
    kRemove,          // path of a file or empty directory
    kMakeDirectory,   // path, mode 0700; fine if it exists
    kList,            // path -> entries, without . and ..
    kSyncDirectory,   // path
    kSpace,           // path -> space
    kLock,            // path: create if absent and lock exclusively -> FileId, -EAGAIN if held
  };
  static constexpr uint32_t kOpenWrite = 1;      // else read only
  static constexpr uint32_t kOpenCreate = 2;     // mode 0600
  static constexpr uint32_t kOpenExclusive = 4;  // with kOpenCreate: fail if it exists
  static constexpr uint32_t kOpenTruncate = 8;
  static constexpr uint32_t kOpenDirect = 16;  // O_DIRECT: offset, address, length 4 KiB aligned
  // kOpen: fail on a symbolic link (-ELOOP); kStat: tell about the link, not its target.
  static constexpr uint32_t kNoFollow = 32;
  // New files and directories are for others too: 0666 and 0777 less the umask, not 0600 and 0700.
  static constexpr uint32_t kShared = 64;
  // kWrite: takes only the CPU that nothing else wants, and as long as that takes.
  static constexpr uint32_t kBackground = 128;

  Kind kind{};
  uint32_t flags = 0;
  FileId file = FileId::kNone;
  FileId file2 = FileId::kNone;
  uint64_t offset = 0;
  uint64_t offset2 = 0;
  std::byte* data = nullptr;  // read into, or written from (then not changed)
  uint64_t length = 0;
  std::string path;
  std::string path2;

  int64_t result = 0;  // >= 0, or -errno
  FileStat stat;
  DiskSpace space;
  std::vector<DirectoryEntry> entries;

 protected:
  ~DiskOp() = default;
};

class Disk {
 public:
  virtual ~Disk() = default;
  // Starts the operation. It always ends: `op` is posted to the executor exactly once.
  virtual void submit(DiskOp& op) = 0;
  // The kernel's descriptor of an open file, for the mount's fast path; -1 in simulation.
  virtual int native_descriptor(FileId file) const = 0;
};

}  // namespace shoal
