// Node: one machine's cache over one origin. Built by main from its parts, which outlive it.
//
// Shard's thread; other threads post tasks to the shard.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "node/cluster_jobs.h"
#include "node/file_system.h"
#include "node/node_core.h"
#include "node/publisher.h"
#include "node/scrubber.h"
#include "node/write_back.h"

namespace shoal {

struct NodeStatus {
  StoreStats store;
  uint64_t dirty_objects = 0;
  uint64_t dirty_bytes = 0;
  double oldest_dirty_seconds = 0;
  uint64_t inodes = 0;
  Replication::Stats replication;
  std::vector<BacklogItem> backlog;  // at most 100
};

struct WarmProgress {
  uint64_t objects_done = 0;
  uint64_t objects_total = 0;  // found so far
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  bool listing = true;  // totals still grow
};

class Node {
 public:
  // Recovers what was staged and starts its upload. The origin has been probed by the caller.
  // `cluster`: joined already; the node serves its peers until stop(). Null: a node by itself.
  static Task<Result<std::unique_ptr<Node>>> start(World& world, Origin& origin, Store& store,
                                                   Registry& registry, const Log& log,
                                                   NodeOptions options, Cluster* cluster = nullptr);
  virtual ~Node() = default;

  virtual FileSystem& file_system() = 0;
  // Seals open files, stops uploads (what is staged stays staged for the next start) and waits for
  // every flow. Must be called before destruction; the mount must have ended before.
  virtual Task<Status> stop() = 0;
  virtual NodeStatus status() const = 0;

  // Paths are object names relative to the origin; "" is everything.
  // Returns when everything staged at or below the path has reached the level: replicated (on as
  // many nodes as the options say; kInvalidArgument without a cluster) or durable (in the origin).
  virtual Task<Status> sync(std::string path, AckLevel level,
                            std::function<void(const SyncProgress&)> progress, Context context) = 0;
  // Makes the directory visible as one (publisher.h). At kReplicated the durable half goes on in
  // the background.
  virtual Task<Status> publish(std::string directory, PublishOptions options,
                               std::function<void(const PublishProgress&)> progress,
                               Context context) = 0;
  // Compares what the origin holds at or below the path with what was written (scrubber.h).
  virtual Task<Status> scrub(std::string path, ScrubOptions options,
                             std::function<void(const ScrubProgress&)> progress,
                             Context context) = 0;
  // Brings the object, or everything below the directory, into the cache: in a cluster each chunk
  // into its owner's, or with `everywhere` into every member's. kNotFound if neither.
  virtual Task<Status> warm(std::string path, bool everywhere,
                            std::function<void(const WarmProgress&)> progress, Context context) = 0;
  // Gives this node's (zero: or another member's) slots and chunks away and takes it out of the
  // cluster. Returns when that is done; it goes on if the context ends before. kNotFound: no such
  // member, by id, name or address; kInvalidArgument: there is no cluster, or nobody else in it.
  virtual Task<Status> drain(std::string member, std::function<void(const DrainProgress&)> progress,
                             Context context) = 0;
  virtual Task<Status> set_pin(std::string path, bool pinned, Context context) = 0;
  // Bytes freed. kBusy while the object is staged.
  virtual Task<Result<uint64_t>> evict(std::string path, Context context) = 0;
};

}  // namespace shoal
