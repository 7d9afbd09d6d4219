#include "mount/reply.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace shoal::fuse {
namespace {

constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;
constexpr uint64_t kBlockBytes = 4096;
// st_blksize: what tools like cmp(1) and cp(1) read at a time.
constexpr uint32_t kPreferredBytes = 128 * 1024;
constexpr uint64_t kUnknownInode = 0xffffffff;  // readdir hides entries of number 0

// Whole seconds rounded down, and the rest.
std::pair<uint64_t, uint32_t> split(int64_t nanoseconds) {
  int64_t seconds = nanoseconds / kNanosecondsPerSecond;
  int64_t rest = nanoseconds % kNanosecondsPerSecond;
  if (rest < 0) {
    rest += kNanosecondsPerSecond;
    --seconds;
  }
  return {static_cast<uint64_t>(seconds), static_cast<uint32_t>(rest)};
}

std::pair<uint64_t, uint32_t> split_ttl(Duration ttl) {
  return split(std::max<int64_t>(ttl.count(), 0));
}

template <typename T>
void append(std::string& bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

}  // namespace

Attr encode_attr(const Attributes& attributes) {
  Attr attr{};
  attr.ino = attributes.number;
  attr.size = attributes.size;
  attr.blocks = attributes.allocated / 512 + (attributes.allocated % 512 != 0 ? 1 : 0);
  std::tie(attr.atime, attr.atime_ns) = split(attributes.accessed.time_since_epoch().count());
  std::tie(attr.mtime, attr.mtime_ns) = split(attributes.modified.time_since_epoch().count());
  std::tie(attr.ctime, attr.ctime_ns) = split(attributes.changed.time_since_epoch().count());
  attr.mode = attributes.mode;
  attr.links = attributes.links;
  attr.uid = attributes.uid;
  attr.gid = attributes.gid;
  attr.block_size = kPreferredBytes;
  return attr;
}

EntryOut encode_entry(const Entry& entry) {
  EntryOut out{};
  out.node = static_cast<uint64_t>(entry.attributes.inode);
  out.generation = 1;
  std::tie(out.entry_valid, out.entry_valid_ns) = split_ttl(entry.entry_ttl);
  std::tie(out.attr_valid, out.attr_valid_ns) = split_ttl(entry.attribute_ttl);
  out.attr = encode_attr(entry.attributes);
  return out;
}

AttrOut encode_attributes(const Entry& entry) {
  AttrOut out{};
  std::tie(out.valid, out.valid_ns) = split_ttl(entry.attribute_ttl);
  out.attr = encode_attr(entry.attributes);
  return out;
}

EntryOut encode_absence(Duration ttl) {
  EntryOut out{};
  std::tie(out.entry_valid, out.entry_valid_ns) = split_ttl(ttl);
  return out;
}

StatfsOut encode_statfs(const FileSystemStat& stat) {
  StatfsOut out{};
  out.blocks = stat.total_bytes / kBlockBytes;
  out.blocks_free = std::min(stat.free_bytes, stat.total_bytes) / kBlockBytes;
  out.blocks_available = out.blocks_free;
  out.block_size = kBlockBytes;
  out.fragment_size = kBlockBytes;
  out.name_max = 255;
  return out;
}

WallTime decode_time(uint64_t seconds, uint32_t nanoseconds) {
  constexpr int64_t kSecondsMax = INT64_MAX / kNanosecondsPerSecond - 1;
  int64_t clamped = std::clamp(static_cast<int64_t>(seconds), -kSecondsMax, kSecondsMax);
  int64_t rest = std::min<int64_t>(nanoseconds, kNanosecondsPerSecond - 1);
  return WallTime(Duration(clamped * kNanosecondsPerSecond + rest));
}

bool DirectoryPacker::add(const DirectoryItem& item) {
  size_t head = plus_ ? sizeof(DirentPlus) : sizeof(Dirent);
  size_t length = (head + item.name.size() + 7) & ~size_t{7};
  SHOAL_ASSERT(bytes_.size() <= size_max_);
  if (length > size_max_ - bytes_.size()) return false;
  size_t end = bytes_.size() + length;
  if (plus_) {
    append(bytes_, encode_entry(item.entry));
    if (item.entry.attributes.inode != InodeId::kNone) {
      counted_.push_back(item.entry.attributes.inode);
    }
  }
  Dirent dirent{};
  uint64_t number = item.entry.attributes.number;
  dirent.ino = number == 0 ? kUnknownInode : number;
  dirent.offset = item.cookie;
  dirent.name_length = static_cast<uint32_t>(item.name.size());
  dirent.type = (item.entry.attributes.mode & 0170000) >> 12;
  append(bytes_, dirent);
  bytes_ += item.name;
  bytes_.resize(end, '\0');
  return true;
}

std::string join_names(const std::vector<std::string>& names) {
  std::string joined;
  for (const std::string& name : names) {
    joined += name;
    joined += '\0';
  }
  return joined;
}

}  // namespace shoal::fuse
