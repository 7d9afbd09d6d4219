// Client: reads objects through a cluster, without a mount and without being a member: from the
// nodes that hold the chunks, in parallel, straight into the caller's memory; from the origin only
// what no node can serve.
//
// Shard's thread.
#pragma once

#include <memory>
#include <string>

#include "client/observer.h"
#include "client/peer_reader.h"
#include "origin/origin.h"
#include "rpc/rpc.h"
#include "rpc/tls.h"

namespace shoal {

struct ClientOptions {
  std::string cluster;
  RpcPoolOptions pool;
  PeerReadOptions reader;
  uint32_t chunks_parallel = 16;  // of one read
  Duration attr_ttl = std::chrono::seconds(5);
  bool tls = false;  // as its nodes were started
};

class Client {
 public:
  // Loads map and key. kNotFound: no such cluster; kPermissionDenied: its key may not be read.
  // Everything given outlives it.
  static Task<Result<std::unique_ptr<Client>>> connect(World& world, Origin& origin,
                                                       MapStore& store, Registry& registry,
                                                       const Log& log, ClientOptions options);
  ~Client();

  // What the object's slot owner knows of it, at most attr_ttl old; from the origin if no owner
  // answers.
  Task<Result<ObjectInfo>> head(std::string object, Context context);
  // Fills `into` with the bytes at `offset` of that version; the range must lie inside the object.
  // kStale: the version is gone. Nothing writes to `into` after the return.
  Task<Status> read(const ObjectInfo& object, uint64_t offset, ByteSpan into, Context context);

  PeerReader& reader() { return *reader_; }
  RpcPool& pool() { return *pool_; }
  std::shared_ptr<const SlotMap> map() const { return observer_.map(); }
  // Before destruction.
  Task<void> close();

 private:
  Client(World& world, Origin& origin, Registry& registry, const Log& log, ClientOptions options);
  Task<Status> begin(MapStore& store);
  Task<Status> read_part(const ObjectInfo& object, uint64_t offset, ByteSpan into, Context context);
  Task<Status> read_pieces(const ObjectInfo& object, uint64_t offset, ByteSpan into,
                           Context context);

  World& world_;
  Origin& origin_;
  const Log& log_;
  const ClientOptions options_;
  RpcMetrics rpc_metrics_;
  PeerMetrics peer_metrics_;
  Observer observer_;
  std::unique_ptr<TlsContext> tls_;  // null: without
  std::unique_ptr<RpcContext> rpc_;
  std::unique_ptr<RpcPool> pool_;
  std::unique_ptr<PeerReader> reader_;
};

}  // namespace shoal
