// Fetcher: brings missing pieces of one clean version (or of a staged version's base) into its
// cached file: from the origin, or in a cluster from the members that have them. One fetch per
// range is in flight however many readers, here and on other nodes, want it, and all get bytes as
// they arrive. Sequential readers get a growing window of prefetch.
//
// Owned by the Content of an inode (shared with running fetches); shard's thread.
#pragma once

#include <algorithm>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "async/gate.h"
#include "async/sync.h"
#include "node/file_system.h"
#include "node/node_core.h"
#include "rpc/rpc.h"
#include "store/store.h"

namespace shoal {

// A reader's position, one per handle: what it read last decides what is prefetched.
struct ReadPattern {
  uint64_t next = 0;     // where a sequential reader would go on
  uint64_t window = 0;   // bytes to keep in flight ahead; 0 while random
  uint64_t ahead = 0;    // end of what was already asked for
  uint64_t grow_at = 0;  // reading beyond it doubles the window
  uint64_t from = 0;     // where the present window began, and when
  SteadyTime since{};

  // Whether a sequential reader would be at the range by now. The kernel splits a large read into
  // parallel requests that arrive out of order, so there are a few requests of slack around the
  // expected place. And the mount reads what is there already without asking here: whoever skips
  // just that goes on as well.
  template <typename IsHere>
  bool goes_on(Range asked, IsHere is_here) const {
    uint64_t slack = 4 * asked.length;
    if (asked.offset == 0 || asked.offset + slack < next) return false;
    if (asked.offset <= std::max(next + slack, ahead)) return true;
    return window > 0 && is_here(Range{next, asked.offset - next});
  }
  // The first window, or the next: twice as many bytes, but no more than are read in kAhead. Behind
  // a slow link more would only wait in queues, until those who serve are taken for dead.
  void grow(Range asked, uint64_t most, SteadyTime now);
};

// For whom bytes are fetched: decides where from, and which memory pays. Memory is divided so that
// nodes which wait for each other never wait in a circle: owners wait for the origin only.
enum class FetchRole {
  kReader,  // a program here: from the chunk's owner, or the origin when that is this node
  kOwner,   // another node that believes this one to be the owner: from the origin
  kRelay,   // another node that the owner sent here: like a reader, but never waits for memory
};

// What a peer asked for.
struct ServeRequest {
  Range range;  // piece-aligned, in one chunk
  FetchRole role = FetchRole::kOwner;
  bool bulk = false;
  bool only_cached = false;
  uint64_t map_version = 0;  // the asker's
};

class Fetcher : public std::enable_shared_from_this<Fetcher> {
 public:
  // The fetcher of a cached file: the one that is still at work, else a new one. `object` and
  // `etag` name the origin's version that missing pieces come from.
  static std::shared_ptr<Fetcher> of(NodeCore& core, FileRef file, std::string object,
                                     std::string etag);
  Fetcher(NodeCore& core, FileRef file, std::string object, std::string etag);  // use of()
  ~Fetcher();

  // Reads bytes that lie inside the file's size, from cache, peers or origin. With `lent`, what
  // lies in the memory of a fetch is lent from there, and everything is put in order there.
  Task<Status> read(uint64_t offset, ByteSpan into, ReadPattern* pattern, Lent* lent,
                    Context context);
  // Brings every missing piece of the range into the cache. `progress` hears bytes as they are
  // done.
  Task<Status> complete(Range range, FetchRole role, std::function<void(uint64_t)> progress,
                        Context context);
  // Sends a range to a peer as it becomes available (cut-through): from the cache file by sendfile,
  // from a running fetch's buffer as bytes arrive, and by fetching what is neither. kNotFound:
  // something is missing and `only_cached`; kBusy: no memory to relay; kConflict: the asker's map
  // is older than ours and this node waits for the asker.
  Task<Status> serve(ServeRequest request, RpcResponder& responder, Context context);

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
  std::shared_ptr<Fetch> start(Range range, FetchRole role, bool bulk, Permit memory);
  // Starts fetches for the missing parts of the range that nobody fetches yet, waiting for memory.
  Task<Status> demand(Range range, FetchRole role, bool bulk, Context context);
  void prefetch(Range asked, ReadPattern& pattern);
  // The end of the fetch that begins at `open.offset`, at most open.end(): one chunk has one owner.
  uint64_t unit_end(Range open, uint64_t unit) const;
  // The part of its chunk around `offset`, which is missing and unclaimed, that is so too.
  Range hole_around(uint64_t offset);
  bool is_own(uint64_t offset) const;
  Semaphore& memory_of(FetchRole role) const;

  static Task<void> run(std::shared_ptr<Fetcher> self, std::shared_ptr<Fetch> fetch);
  static Task<Status> fetch_bytes(Fetcher& self, Fetch& fetch, Context context);
  static Task<Status> fetch_from_peers(Fetcher& self, Fetch& fetch, bool own, Context context);
  static Task<void> keep(Fetcher& self, Fetch& fetch, Context context);
  std::vector<Range> unclaimed(Range range);

  // Serving.
  Task<Status> serve_present(Range part, uint64_t base, RpcResponder& responder);
  Task<Status> serve_arriving(std::shared_ptr<Fetch> fetch, uint64_t* at,
                              const ServeRequest& request, RpcResponder& responder,
                              Context context);

  NodeCore& core_;
  FileRef file_;
  std::string object_;
  std::string etag_;
  std::list<std::shared_ptr<Fetch>> fetches_;  // shared with readers that copy from their buffers
  Signal idle_;
};

}  // namespace shoal
