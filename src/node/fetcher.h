// Fetcher: brings missing pieces of one clean version (or of a staged version's base) from the
// origin into its cached file. One fetch per range is in flight however many readers want it, and
// readers get bytes as they arrive. Sequential readers get a growing window of prefetch.
//
// Owned by the Content of an inode (shared with running fetches); shard's thread.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "async/gate.h"
#include "async/sync.h"
#include "node/node_core.h"
#include "store/store.h"

namespace shoal {

// A reader's position, one per handle: what it read last decides what is prefetched.
struct ReadPattern {
  uint64_t next = 0;     // where a sequential reader would go on
  uint64_t window = 0;   // bytes to keep in flight ahead; 0 while random
  uint64_t ahead = 0;    // end of what was already asked for
  uint64_t grow_at = 0;  // reading beyond it doubles the window
};

class Fetcher : public std::enable_shared_from_this<Fetcher> {
 public:
  // The fetcher of a cached file: the one that is still at work, else a new one. `object` and
  // `etag` name the origin's version that missing pieces come from.
  static std::shared_ptr<Fetcher> of(NodeCore& core, FileRef file, std::string object,
                                     std::string etag);
  Fetcher(NodeCore& core, FileRef file, std::string object, std::string etag);  // use of()
  ~Fetcher();

  // Reads bytes that lie inside the file's size, from cache or origin.
  Task<Status> read(uint64_t offset, ByteSpan into, ReadPattern* pattern, Context context);
  // Brings every missing piece of the range into the cache. `progress` hears bytes as they are
  // done.
  Task<Status> complete(Range range, std::function<void(uint64_t)> progress, Context context);
  // No fetch is running.
  bool idle() const { return fetches_.empty(); }
  // Waits until no fetch is running.
  Task<void> wait_idle();
  void renamed(std::string object, std::string etag);

  FileRef file() const { return file_; }

 private:
  struct Fetch;
  std::shared_ptr<Fetch> find(uint64_t offset);
  // Some fetch that overlaps the range, or null.
  std::shared_ptr<Fetch> find_in(Range range);
  std::shared_ptr<Fetch> start(Range range, Permit memory);
  // Starts fetches for the missing parts of the range that nobody fetches yet, waiting for memory.
  Task<Status> demand(Range range, Context context);
  void prefetch(Range asked, ReadPattern& pattern);
  static Task<void> run(std::shared_ptr<Fetcher> self, std::shared_ptr<Fetch> fetch);
  std::vector<Range> unclaimed(Range range);

  NodeCore& core_;
  FileRef file_;
  std::string object_;
  std::string etag_;
  std::list<std::shared_ptr<Fetch>> fetches_;  // shared with readers that copy from their buffers
  Signal idle_;
};

}  // namespace shoal
