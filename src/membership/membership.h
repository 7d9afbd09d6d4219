// Membership: this node's part in the cluster. Joins, watches a few peers, tells others of new
// maps, marks who is gone, and leaves. Owns the current slot map; everybody else borrows snapshots
// of it.
//
// Shard's thread. Failure detection: each node pings the kWatched members that follow it in the
// order of ids, once a second, over the connections that carry data. Who does not answer is
// suspected; a second witness that cannot reach it either lets the suspecting node publish it as
// down.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "membership/map_store.h"
#include "observe/metrics.h"
#include "rpc/rpc.h"

namespace shoal {

struct MembershipOptions {
  Member self;  // id, name, advertised address, http, weight, zone
  // Further addresses of this node: not in the map, but who lets it in tries them too.
  std::vector<std::string> further = {};
  std::string cluster;
  std::string origin;  // identity
  uint32_t copies = 3;
  Duration ping_period = std::chrono::seconds(1);
  Duration ping_timeout = std::chrono::seconds(2);  // longer than `suspect_after` gains nothing
  Duration suspect_after = std::chrono::milliseconds(2500);  // without an answer
  Duration grace = std::chrono::seconds(120);                // down for so long: its slots move
  Duration store_period = std::chrono::seconds(30);  // look at the map store without being told
  // Payload that this node sent and received since it started, for who waits for it; may be empty.
  std::function<uint64_t()> moved_bytes = {};
};

struct MembershipStatus {
  std::shared_ptr<const SlotMap> map;
  std::string store;  // its display name
  bool store_reachable = true;
  bool store_writable = true;
  std::string last_error;
  std::vector<NodeId> suspected;  // by this node, now
};

// What the data path needs to know of the cluster. Members have it from their Membership, clients
// that are no members from an Observer (observer.h).
class ClusterView {
 public:
  virtual ~ClusterView() = default;
  // Changes by replacement only: keep the pointer while you use it. Null while there is no map yet.
  virtual std::shared_ptr<const SlotMap> map() const = 0;
  // Zero: not a member.
  virtual const NodeId& self() const = 0;
  // Whether it makes sense to ask this member now. Not when it is down in the map, or failed so
  // often lately that it is only tried again now and then.
  virtual bool usable(const NodeId& member) const = 0;
  virtual void report(const NodeId& member, bool reached) = 0;
};

class Membership : public MapVersions, public ClusterView {
 public:
  // Makes the parts; no I/O. `pool` and `store` outlive it. The map is empty until join().
  static std::unique_ptr<Membership> create(World& world, MapStore& store, Registry& registry,
                                            const Log& log, MembershipOptions options);

  // The addresses that others reach this node and its web page at; before join(), if they were not
  // in the options. `http`: empty when others cannot. `further`: as in the options.
  virtual void set_address(std::string address, std::vector<std::string> further,
                           std::string http) = 0;
  // Loads or makes the map, with this node in it, and starts watching. The server that answers
  // handle() must be listening. kConflict: the cluster belongs to another origin, or another living
  // node has this id; kUnavailable: the map store cannot be reached, or peers cannot reach an
  // advertised address (the message says which, and from where).
  virtual Task<Status> join(RpcPool& pool, Context context) = 0;
  // Stops watching; the node stays a member (a restart within the grace time moves nothing).
  virtual Task<void> stop() = 0;
  // Gives this node's slots away but stays a member that serves (drain), or takes it out of the
  // map.
  virtual Task<Status> drain(NodeId member, Context context) = 0;
  virtual Task<Status> leave(NodeId member, Context context) = 0;

  // Called after each new map, on the shard. At most a few listeners, for the life of the object.
  virtual void on_change(std::function<void(const SlotMap&)> listener) = 0;

  // Methods kPing, kProbe, kGetMap, kPushMap, kJoin.
  virtual Task<Result<std::string>> handle(const RpcRequest& request, Context context) = 0;
  virtual MembershipStatus status() const = 0;
};

}  // namespace shoal
