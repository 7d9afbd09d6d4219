// Attaching to a directory and letting go of it: by mount(2) where we may, else with the
// set-user-id helper fusermount3. Errors name the directory, the reason and the next step.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "mount/descriptor.h"
#include "observe/log.h"

namespace shoal::fuse {

inline constexpr std::string_view kTypeName = "fuse.shoal";

// One line of /proc/self/mountinfo.
struct MountEntry {
  uint32_t major = 0;
  uint32_t minor = 0;
  std::string point;
  std::string type;
};
// Lines that do not look like mounts are left out. Later mounts come later.
std::vector<MountEntry> parse_mountinfo(std::string_view text);

struct AttachOptions {
  std::string mountpoint;
  std::string source;  // shown by mount(8) and df(1); no secrets
  bool read_only = false;
  bool allow_other = false;  // other users may use it, as far as permission bits let them
  bool nonempty = false;     // cover a directory that has entries
};

struct Attached {
  Descriptor device;       // of /dev/fuse, close on exec
  std::string mountpoint;  // absolute, without links
  bool by_helper = false;
};

// A dead mount of ours at the same place is detached first. Waits for no file system.
Result<Attached> attach(const AttachOptions& options, const Log& log);

// Only mounts of ours. kNotFound: none there; kBusy: files are open (lazy: detach anyway, the last
// user ends it).
Status detach(const std::string& mountpoint, bool lazy);

// The uppermost mount of ours at this absolute path, if there is one.
Result<MountEntry> find_mount(const std::string& mountpoint);

}  // namespace shoal::fuse
