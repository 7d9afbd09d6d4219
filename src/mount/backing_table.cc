#include "mount/backing_table.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>

#include <cerrno>

#include "base/assert.h"
#include "mount/fuse_abi.h"

namespace shoal::fuse {

BackingTable::~BackingTable() {
  for (const auto& [inode, backing] : backings_) close(backing.id);
}

bool used_elsewhere(int descriptor) {
  // Whoever opens the file in between waits for the lease to be given up, and we would be told by
  // SIGIO, which kills; so by one that is ignored.
  ::fcntl(descriptor, F_SETSIG, SIGURG);
  if (::fcntl(descriptor, F_SETLEASE, F_WRLCK) != 0) return errno == EAGAIN;
  ::fcntl(descriptor, F_SETLEASE, F_UNLCK);
  return false;
}

Result<int32_t> BackingTable::acquire(InodeId inode, int descriptor, bool was_mapped) {
  if (auto existing = acquire_existing(inode)) return *existing;
  Backing backing;
  backing.file = Descriptor(::fcntl(descriptor, F_DUPFD_CLOEXEC, 3));
  if (!backing.file.valid()) return fail(error_from_errno(errno, "keeping a file open"));
  // An owner that has it open twice can never be told from a mapping: then we do not wait for one.
  backing.watchable = was_mapped || !used_elsewhere(backing.file.get());
  BackingMap map{descriptor, 0, 0};
  backing.id = ::ioctl(fuse_descriptor_, kIoctlBackingOpen, &map);
  if (backing.id < 0) return fail(error_from_errno(errno, "registering a file for passthrough"));
  SHOAL_ASSERT(backing.id != 0, "the kernel counts backings from 1");
  backing.opens = 1;
  int32_t id = backing.id;
  backings_.emplace(inode, std::move(backing));
  return id;
}

std::optional<int32_t> BackingTable::acquire_existing(InodeId inode) {
  auto at = backings_.find(inode);
  if (at == backings_.end()) return std::nullopt;
  SHOAL_ASSERT(at->second.opens > 0);
  ++at->second.opens;
  return at->second.id;
}

std::optional<Descriptor> BackingTable::release(InodeId inode) {
  auto at = backings_.find(inode);
  SHOAL_ASSERT(at != backings_.end() && at->second.opens > 0);
  if (--at->second.opens > 0) return std::nullopt;
  Backing backing = std::move(at->second);
  backings_.erase(at);
  close(backing.id);
  if (!backing.watchable || !used_elsewhere(backing.file.get())) return std::nullopt;
  return std::move(backing.file);
}

void BackingTable::close(int32_t id) {
  auto number = static_cast<uint32_t>(id);
  // Fails only when the connection is gone, and then the kernel has let go of all of them.
  (void)::ioctl(fuse_descriptor_, kIoctlBackingClose, &number);
}

}  // namespace shoal::fuse
