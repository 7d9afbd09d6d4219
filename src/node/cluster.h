// Cluster: what a node needs to be one of many: the server that other nodes ask, connections to
// them, membership, and the readers built on these. Made before the Node, which is then attached.
//
// Shard's thread. Owned by main; everything it is given outlives it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/peer_reader.h"
#include "membership/membership.h"
#include "node/attribute_cache.h"
#include "node/peer_service.h"
#include "rpc/rpc.h"
#include "rpc/tls.h"

namespace shoal {

struct ClusterOptions {
  std::string name;                                    // of the cluster
  std::vector<std::string> listen = {"0.0.0.0:7070"};  // of the data port
  // HOST or HOST:PORT each; none: made from `listen` and `interfaces`. The first is the node's
  // address in the map; the others are told to whoever connects, for payload.
  std::vector<std::string> advertise = {};
  // Whose addresses to advertise; none: of the first that is not loopback.
  std::vector<std::string> interfaces = {};
  // id, name, http (as it listens: told to others if they can reach it), weight, zone; the address
  // is filled in here.
  Member self;
  bool tls = false;  // encrypt what passes between nodes; all of the cluster, or none
  uint32_t copies = 3;
  Duration grace = std::chrono::seconds(120);
  Duration attr_ttl = std::chrono::seconds(5);
  Duration negative_ttl = std::chrono::seconds(2);
  uint64_t attribute_bytes = 64 * kMiB;  // for answers of the origin that this node keeps for all
  RpcPoolOptions pool;
  PeerReadOptions reader;
  Duration join_timeout = std::chrono::seconds(60);
};

class Cluster {
 public:
  // Listens, joins and watches. Errors name what is wrong and the next step: kBusy (port in use),
  // kConflict (another origin, a duplicate id), kUnavailable (the map store or the peers).
  static Task<Result<std::unique_ptr<Cluster>>> start(World& world, Origin& origin, MapStore& store,
                                                      Registry& registry, const Log& log,
                                                      ClusterOptions options);
  ~Cluster();

  Membership& membership() { return *membership_; }
  PeerReader& reader() { return *reader_; }
  RpcPool& pool() { return *pool_; }
  AttributeCache& attributes() { return *attributes_; }
  const ClusterOptions& options() const { return options_; }
  const std::string& address() const { return options_.self.address; }
  const std::vector<std::string>& further_addresses() const { return rpc_->identity.further; }

  // From then on peers are served. The core outlives stop_serving().
  void attach(NodeCore& core, ClusterJobs& jobs);
  // What kStatus answers; for others to show. May be called from any request.
  void set_status_source(std::function<std::string()> source);
  // The status of every other member that answers within `limit`, as it told it.
  Task<std::vector<std::string>> ask_statuses(Duration limit);

  // No further request of peers; waits for those that run.
  Task<void> stop_serving();
  // Ends everything; after stop_serving(). The node stays a member.
  Task<void> stop();

 private:
  Cluster(World& world, Origin& origin, Registry& registry, const Log& log, ClusterOptions options);
  Task<Status> begin(MapStore& store, Registry& registry);
  Result<std::vector<std::string>> hosts_of_interfaces();
  Status choose_addresses(const std::vector<std::string>& bound);
  Task<void> ask_status(Member member, Duration limit, std::vector<std::string>* into);

  World& world_;
  Origin& origin_;
  const Log& log_;
  ClusterOptions options_;
  RpcMetrics rpc_metrics_;
  PeerMetrics peer_metrics_;
  std::unique_ptr<Membership> membership_;
  std::unique_ptr<TlsContext> tls_;  // null: without
  std::unique_ptr<RpcContext> rpc_;
  std::unique_ptr<RpcPool> pool_;
  std::unique_ptr<AttributeCache> attributes_;
  std::unique_ptr<PeerReader> reader_;
  std::unique_ptr<PeerService> service_;
  std::unique_ptr<RpcServer> server_;
};

}  // namespace shoal
