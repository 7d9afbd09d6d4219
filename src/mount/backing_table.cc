#include "mount/backing_table.h"

#include <sys/ioctl.h>

#include <cerrno>

#include "base/assert.h"
#include "mount/fuse_abi.h"

namespace shoal::fuse {

BackingTable::~BackingTable() {
  for (const auto& [inode, backing] : backings_) close(backing.id);
}

Result<int32_t> BackingTable::acquire(InodeId inode, int descriptor) {
  if (auto existing = acquire_existing(inode)) return *existing;
  BackingMap map{descriptor, 0, 0};
  int id = ::ioctl(fuse_descriptor_, kIoctlBackingOpen, &map);
  if (id < 0) return fail(error_from_errno(errno, "registering a file for passthrough"));
  SHOAL_ASSERT(id != 0, "the kernel counts backings from 1");
  backings_.emplace(inode, Backing{id, 1});
  return id;
}

std::optional<int32_t> BackingTable::acquire_existing(InodeId inode) {
  auto at = backings_.find(inode);
  if (at == backings_.end()) return std::nullopt;
  SHOAL_ASSERT(at->second.opens > 0);
  ++at->second.opens;
  return at->second.id;
}

void BackingTable::release(InodeId inode) {
  auto at = backings_.find(inode);
  SHOAL_ASSERT(at != backings_.end() && at->second.opens > 0);
  if (--at->second.opens > 0) return;
  close(at->second.id);
  backings_.erase(at);
}

void BackingTable::close(int32_t id) {
  auto number = static_cast<uint32_t>(id);
  // Fails only when the connection is gone, and then the kernel has let go of all of them.
  (void)::ioctl(fuse_descriptor_, kIoctlBackingClose, &number);
}

}  // namespace shoal::fuse
