// Answers to the kernel, put together. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "mount/fuse_abi.h"
#include "node/file_system.h"

namespace shoal::fuse {

Attr encode_attr(const Attributes& attributes);
EntryOut encode_entry(const Entry& entry);
AttrOut encode_attributes(const Entry& entry);
// "No such name", to be remembered for `ttl`.
EntryOut encode_absence(Duration ttl);
StatfsOut encode_statfs(const FileSystemStat& stat);

// The kernel's seconds and nanoseconds as a point in time, clamped to what WallTime can say.
WallTime decode_time(uint64_t seconds, uint32_t nanoseconds);

// Packs the answer of READDIR or READDIRPLUS into at most `size` bytes.
class DirectoryPacker {
 public:
  DirectoryPacker(size_t size, bool plus) : size_max_(size), plus_(plus) {}
  // False: no room for this item.
  bool add(const DirectoryItem& item);
  ConstByteSpan bytes() const { return std::as_bytes(std::span(bytes_)); }
  // Inodes whose look-up count went up by the items added.
  const std::vector<InodeId>& counted() const { return counted_; }

 private:
  size_t size_max_;
  bool plus_;
  std::string bytes_;
  std::vector<InodeId> counted_;
};

// The names joined by NUL, as listxattr(2) gives them.
std::string join_names(const std::vector<std::string>& names);

}  // namespace shoal::fuse
