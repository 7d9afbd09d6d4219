// Files that the kernel reads by itself (FUSE passthrough). The kernel wants the same backing for
// all opens of an inode while one of them is open, so opens of an inode share one registration.
//
// A mapping of such a file is one of the backing file itself: it lives on when the file is closed,
// and nobody tells us when it ends. So release() looks, and whoever has the bytes in keeping must
// go on keeping them while used_elsewhere() says so.
//
// Shard's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "mount/descriptor.h"
#include "node/file_system.h"

namespace shoal::fuse {

// Whether anybody but the owner of this descriptor has the file open or mapped. Works when the
// owner has it open just once (the kernel grants a write lease only to a file's sole opener).
bool used_elsewhere(int descriptor);

class BackingTable {
 public:
  // Registers with the connection behind this descriptor of /dev/fuse (borrowed).
  explicit BackingTable(int fuse_descriptor) : fuse_descriptor_(fuse_descriptor) {}
  ~BackingTable();
  BackingTable(const BackingTable&) = delete;
  BackingTable& operator=(const BackingTable&) = delete;

  // One more open of the inode; the registration made before is used if there is one. The kernel
  // keeps its own reference to the file behind `descriptor`. `was_mapped`: a mapping of an earlier
  // open may be left.
  Result<int32_t> acquire(InodeId inode, int descriptor, bool was_mapped);
  // The same, but only if the inode is registered already.
  std::optional<int32_t> acquire_existing(InodeId inode);
  // After the last open: the file, if it is still mapped; ask used_elsewhere() for how long.
  std::optional<Descriptor> release(InodeId inode);
  size_t size() const { return backings_.size(); }

 private:
  struct Backing {
    int32_t id = 0;
    uint64_t opens = 0;
    Descriptor file;
    bool watchable = false;  // used_elsewhere() was false before the kernel opened it
  };
  void close(int32_t id);

  const int fuse_descriptor_;
  std::unordered_map<InodeId, Backing> backings_;
};

}  // namespace shoal::fuse
