// Files that the kernel reads by itself (FUSE passthrough). The kernel wants the same backing for
// all opens of an inode while one of them is open, so opens of an inode share one registration.
// Shard's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "node/file_system.h"

namespace shoal::fuse {

class BackingTable {
 public:
  // Registers with the connection behind this descriptor of /dev/fuse (borrowed).
  explicit BackingTable(int fuse_descriptor) : fuse_descriptor_(fuse_descriptor) {}
  ~BackingTable();
  BackingTable(const BackingTable&) = delete;
  BackingTable& operator=(const BackingTable&) = delete;

  // One more open of the inode; the registration made before is used if there is one. The kernel
  // keeps its own reference to the file behind `descriptor`.
  Result<int32_t> acquire(InodeId inode, int descriptor);
  // The same, but only if the inode is registered already.
  std::optional<int32_t> acquire_existing(InodeId inode);
  void release(InodeId inode);
  size_t size() const { return backings_.size(); }

 private:
  struct Backing {
    int32_t id = 0;
    uint64_t opens = 0;
  };
  void close(int32_t id);

  const int fuse_descriptor_;
  std::unordered_map<InodeId, Backing> backings_;
};

}  // namespace shoal::fuse
