// PeerService: answers what other nodes and clients ask of this one.
//
// Nothing in a request is trusted: names, sizes and ranges are checked before anything is done with
// them. Shard's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "async/sync.h"
#include "node/attribute_cache.h"
#include "node/hot_chunks.h"
#include "node/node_core.h"
#include "rpc/rpc.h"

namespace shoal {

class Membership;
class ClusterJobs;

class PeerService final : public RpcHandler {
 public:
  PeerService(World& world, Membership& membership, AttributeCache& attributes);
  ~PeerService() override;

  // Before it, and after detach(), only membership is answered; the rest is kBusy.
  void attach(NodeCore& core, ClusterJobs& jobs);
  void detach();
  void set_status_source(std::function<std::string()> source) { status_ = std::move(source); }

  Task<Result<std::string>> handle(RpcRequest request, RpcResponder& responder,
                                   Context context) override;

 private:
  // The core is passed on: it outlives every handler, but core_ is empty once detach() was called.
  Task<Result<std::string>> read(NodeCore& core, RpcRequest request, RpcResponder& responder,
                                 Context context);
  Task<Result<std::string>> head(RpcRequest request, Context context);
  Task<Result<std::string>> list(RpcRequest request, Context context);
  Task<Result<std::string>> forget(RpcRequest request, Context context);
  Task<Result<std::string>> warm(NodeCore& core, RpcRequest request, Context context);
  std::string drain();
  Status check_attached() const;
  // A caller with a newer map knows better who owned what before: waits a moment for that map,
  // which membership fetches.
  Task<void> await_map(uint64_t version, Context context);

  World& world_;
  Membership& membership_;
  AttributeCache& attributes_;
  NodeCore* core_ = nullptr;
  ClusterJobs* jobs_ = nullptr;
  HotChunks hot_chunks_;
  Signal map_changed_;
  std::function<std::string()> status_;
};

}  // namespace shoal
