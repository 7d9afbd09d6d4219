// Scrubber: compares what the origin holds with the checksums that were recorded when it was
// written: those in each object's metadata, and those in the manifests of published directories.
// It reads the origin itself, never a cache.
//
// Owned by the node; shard's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "node/node_core.h"
#include "replication/manifest.h"

namespace shoal {

struct ScrubOptions {
  uint64_t bytes_per_second = 0;  // 0: as fast as it goes
  bool all = false;               // findings about objects that are as they should be, too
};

struct ScrubProgress {
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  uint64_t files_done = 0;
  uint64_t files_total = 0;
  uint64_t mismatched = 0;
  uint64_t missing = 0;
  uint64_t unrecorded = 0;            // nothing to compare them with
  std::vector<std::string> findings;  // one line each; at most kFindingsMax
};

class Scrubber {
 public:
  static constexpr size_t kFindingsMax = 10'000;

  explicit Scrubber(NodeCore& core) : core_(core) {}

  // `path`: an object, a directory, or "" for all. kNotFound if there is neither; kCorrupt when
  // something did not match or was missing (the findings name it).
  Task<Status> scrub(std::string path, ScrubOptions options,
                     std::function<void(const ScrubProgress&)> progress, Context context);

 private:
  struct Run;
  Task<Status> each_object(Run& run, std::string path, bool look_only);
  Task<Status> take(Run& run, std::vector<ObjectInfo> batch, bool look_only);
  Task<Status> check_manifest(Run& run, std::string directory, ObjectInfo info);
  Task<Status> check_object(Run& run, ObjectInfo object);
  Task<Status> check_block(Run& run, const ObjectInfo& object, uint64_t begin, uint64_t length,
                           uint32_t expected, uint64_t* first_bad);
  Task<Result<uint32_t>> crc_of(Run& run, const ObjectInfo& object, uint64_t begin,
                                uint64_t length);

  NodeCore& core_;
};

}  // namespace shoal
