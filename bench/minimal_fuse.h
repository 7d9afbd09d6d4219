// The least that can serve a file through FUSE: the ceiling of the mount without passthrough.
//
// One directory with one file, "file", whose bytes come from a file of the disk; blocking threads,
// each with its own descriptor of the connection; READ is pread and writev, everything else is
// constant. No cache, no checksum, no version, no writing: what the mount costs more is the price
// of those.
#pragma once

#include <string>

namespace shoal::bench {

struct MinimalFuseOptions {
  std::string mountpoint;
  std::string file;
  unsigned threads = 0;  // 0: one per core
  int ready = -1;        // one byte is written here when reads are served
};

// Mounts (as root), serves until somebody unmounts, answers an exit status. Blocks; for a process
// of its own.
int serve_minimal_fuse(const MinimalFuseOptions& options);

}  // namespace shoal::bench
