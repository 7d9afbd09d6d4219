// What every part of the node shares: the world, the origin, the store, options, counters, limits.
// Owned by Node; shard's thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "async/buffer_pool.h"
#include "async/gate.h"
#include "async/rate_limit.h"
#include "async/sync.h"
#include "node/attributes.h"
#include "node/copies.h"
#include "node/lookups.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "origin/origin.h"
#include "replication/replication.h"
#include "store/store.h"
#include "world/world.h"

namespace shoal {

struct NodeOptions {
  std::string name = "node";  // shown in status and in conflict names
  Duration attr_ttl = std::chrono::seconds(5);
  Duration negative_ttl = std::chrono::seconds(2);
  // While the origin is away: unknown names in directories that this node writes to are absent.
  bool create_during_outage = false;
  AckLevel ack = AckLevel::kLocal;
  // Of files below a directory (object name); the longest that fits counts.
  std::map<std::string, AckLevel> ack_below;
  bool read_only = false;
  Duration upload_delay = std::chrono::milliseconds(500);  // after close, so that a rename is cheap
  uint64_t memory = kGiB;                   // bytes for buffers in flight (fetches and uploads)
  uint64_t prefetch_bytes_max = 64 * kMiB;  // window of one sequential reader
  uint32_t uploads_max = 4;                 // objects uploaded at the same time
  // Files that wait for their upload; memory is taken for each. Then writers wait for uploads.
  uint64_t waiting_files_max = 2'000'000;
  // A writer for whom there is no room waits so long for an upload to end, then gets kNoSpace.
  Duration space_timeout = std::chrono::seconds(10);
  uint32_t upload_blocks_max = 16;  // blocks in flight over all uploads
  uint64_t upload_rate = 0;         // bytes per second to the origin; 0: no limit
  ReplicationOptions replication;   // in a cluster
  Duration origin_timeout = std::chrono::seconds(60);  // one background request, retries included
  // Bytes per second that a hand-over may bring in; reads by programs and peers come first.
  uint64_t hand_over_rate = 512 * kMiB;
  uint32_t uid = 0;  // of objects that carry none
  uint32_t gid = 0;
  uint32_t file_mode = 0644;
  uint32_t directory_mode = 0755;
};

struct NodeMetrics {
  explicit NodeMetrics(Registry& registry);
  Counter& read_hits;      // reads served without the origin
  Counter& read_misses;    // reads that waited for the origin
  Counter& uploads;        // versions committed
  Counter& upload_errors;  // failed attempts
  Counter& conflicts;
  Counter& hidden_names;      // objects whose names no path can show
  Counter& stale_served;      // look-ups answered from old attributes while the origin was away
  Counter& served_bytes;      // sent to other nodes
  Counter& read_bytes;        // by programs here
  Histogram& origin_read_us;  // time to the whole fetched range
};

class ChunkFiller;
class Cluster;
class Fetcher;
class PeerReader;

struct NodeCore {
  // `cluster_in` may be null: a node by itself.
  NodeCore(World& world_in, Origin& origin_in, Store& store_in, Registry& registry,
           const Log& log_in, NodeOptions options_in, Cluster* cluster_in);
  ~NodeCore();

  World& world;
  const NodeOptions options;
  Gate gate;                         // fetches, listings, background checks
  RateLimit upload_rate;             // of bytes to the origin
  Cancel stopping;                   // requested when the node stops: ends what runs in the gate
  std::unique_ptr<Lookups> lookups;  // for what may be as old as the TTL
  std::unique_ptr<Origin> telling_origin;    // in a cluster: tells the others of changes
  std::unique_ptr<Replication> replication;  // in a cluster
  std::unique_ptr<Origin> origin_and_nodes;  // in a cluster: also reads what only nodes have
  Origin& origin;                            // for what is written, and what must be known for sure
  Store& store;
  const Log& log;
  NodeMetrics metrics;
  Cluster* cluster;         // null: a node by itself
  PeerReader* peers;        // the cluster's; null: a node by itself
  BufferPool buffers;       // for what these permits allow
  Semaphore fetch_memory;   // bytes of fetch buffers for readers here
  Copies copies;            // of fetch buffers, waiting for the disk
  Semaphore serve_memory;   // of those for other nodes, as owner
  Semaphore relay_memory;   // of those for other nodes, as relay
  Semaphore upload_memory;  // bytes of upload buffers
  // Every live fetcher by its file, so that a file closed and opened again joins what is in flight.
  std::unordered_map<const CachedFile*, Fetcher*> fetchers;
  std::unique_ptr<ChunkFiller> filler;

  Executor& executor() { return world.executor; }
  SteadyTime now() const { return world.executor.now(); }
  // Of the slot map that this node knows; 0 without a cluster.
  uint64_t map_version() const;
  // Absence is trusted by the owner of a name and by who asked it: half of the time each.
  Duration negative_ttl_here() const {
    return cluster == nullptr ? options.negative_ttl : options.negative_ttl / 2;
  }
  // In a cluster: this node puts, or has put, the object with this metadata where it is.
  void sign(Metadata& metadata) const;
  bool has_signed(const Metadata& metadata) const;
  Context background() const { return Context::within(world.executor, options.origin_timeout); }
  // For a caller that waits for single requests: not longer than the origin may take.
  Context patient(Context context) const {
    return context.tightened(world.executor, options.origin_timeout);
  }
};

}  // namespace shoal
