// PeerReader: reads a range of one chunk from whichever member of the cluster has it or will fetch
// it. Knows the order in which members are asked, follows redirects, and gives up on members that
// are silent or slow, so that a dead owner costs a moment and not a hang.
//
// Not here: the origin. When no member can serve, the caller goes there itself.
// Shard's thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "membership/membership.h"
#include "observe/metrics.h"
#include "placement/slot_map.h"
#include "rpc/rpc.h"

namespace shoal {

struct PeerReadOptions {
  uint64_t chunk_bytes = 8 * kMiB;  // the same for all nodes and clients of a cluster
  // Without a byte for so long, the member is pinged; silent then too, it is given up. Together
  // well below the second in which reads must go on when a node dies.
  Duration stall = std::chrono::milliseconds(400);
  Duration ping_timeout = std::chrono::milliseconds(500);
  // At most, where answered pings take long: behind full links.
  Duration ping_timeout_max = std::chrono::seconds(3);
  // Alive, but without a byte for so long, and moving no payload of others either: the next one is
  // asked.
  Duration slow = std::chrono::seconds(5);
  // The same although it does move payload: it is busy, or waits for others as we do. Giving it up
  // would load others with what it is about to send.
  Duration slow_max = std::chrono::seconds(30);
};

// One range of one chunk.
struct ChunkRange {
  std::string object;
  std::string etag;
  uint64_t size = 0;    // of the object
  uint64_t offset = 0;  // a multiple of 64 KiB
  ByteSpan into;        // whole pieces of 64 KiB, or up to the object's end; within one chunk
  // More of the chunk will be read: its owner may fetch all of it at once.
  bool bulk = false;
  // Told how many leading bytes are there and verified, and the CRC32C of each of their pieces. May
  // be empty.
  std::function<void(uint64_t, const std::vector<uint32_t>&)> progress = {};

  uint64_t arrived = 0;        // leading bytes that are there, also after a failure
  std::vector<uint32_t> crcs;  // of their pieces
};

// How long a ping may take, from how long others took (RFC 6298, section 2).
class PingTimes {
 public:
  void took(Duration time) {
    if (smooth_ == Duration(0)) {
      smooth_ = time;
      deviation_ = time / 2;
      return;
    }
    deviation_ += (std::chrono::abs(smooth_ - time) - deviation_) / 4;
    smooth_ += (time - smooth_) / 8;
  }
  Duration limit() const { return smooth_ + 4 * deviation_; }

 private:
  Duration smooth_{0};
  Duration deviation_{0};
};

struct PeerMetrics {
  explicit PeerMetrics(Registry& registry);
  Counter& hits;       // shoal_read_hits_peer_total: ranges that peers served
  Counter& redirects;  // followed
  Counter& failovers;  // members given up during a read
};

class PeerReader {
 public:
  // All outlive it.
  PeerReader(World& world, RpcPool& pool, ClusterView& view, PeerMetrics& metrics, const Log& log,
             PeerReadOptions options);

  // Whether this node is to fetch the chunk from the origin itself: it owns the chunk's slot, or
  // those before it cannot be reached, or there is nobody else.
  bool is_own(const std::string& object, uint64_t offset) const;

  // Reads the range (from `arrived` on) from the chunk's owners. kNotFound: no member can serve it,
  // ask the origin for the rest. kStale: the owner says that the version is gone. Nothing writes to
  // the range's memory after the return.
  Task<Status> read(ChunkRange& range, Context context);
  // For an owner that others ask because those before it do not answer them: they may live all the
  // same, behind a full link, and one slow fetch from them spares a second one from the origin. The
  // same errors; kNotFound at once for the first owner.
  Task<Status> read_ahead_of(ChunkRange& range, Context context);
  // What the member that owned the chunk before this node has of it, without any fetching; the same
  // errors.
  Task<Status> read_previous(ChunkRange& range, Context context);

  uint64_t chunk_bytes() const { return options_.chunk_bytes; }

 private:
  struct Manner {
    bool only_cached = false;
    bool relay = false;
    bool no_redirect = false;
    bool as_owner = false;
  };
  // One call to one member. The member to ask instead, or zero when the range is complete.
  Task<Result<NodeId>> ask(Member member, Manner manner, ChunkRange& range, uint64_t map_version,
                           Context context);
  // `again`: it failed for a reason that does not count against the member.
  Task<Result<NodeId>> ask_once(Member member, Manner manner, ChunkRange& range,
                                uint64_t map_version, Context context, bool& again);
  // The same, following a redirect and coming back when it led nowhere.
  Task<Status> ask_and_follow(Member member, Manner manner, ChunkRange& range, Context context);

  World& world_;
  RpcPool& pool_;
  ClusterView& view_;
  PeerMetrics& metrics_;
  const Log& log_;
  const PeerReadOptions options_;
  PingTimes ping_times_;
};

}  // namespace shoal
