// Observer: the view of a client that reads from a cluster without being a member of it. Loads the
// map once and follows it as nodes tell of newer ones.
//
// Shard's thread.
#pragma once

#include <map>
#include <memory>

#include "async/gate.h"
#include "membership/map_store.h"
#include "membership/membership.h"
#include "rpc/rpc.h"

namespace shoal {

class Observer final : public MapVersions, public ClusterView {
 public:
  Observer(World& world, const Log& log) : world_(world), log_(log), gate_(world.executor) {}

  // kNotFound when the cluster has no map yet: no node has ever run.
  Task<Status> load(MapStore& store, Context context);
  // From then on newer maps are fetched from the nodes that know them.
  void follow(RpcPool& pool) { pool_ = &pool; }
  Task<void> close();

  uint64_t current() const override { return map_ == nullptr ? 0 : map_->version; }
  void seen(const Hash128& peer, uint64_t version) override;
  std::shared_ptr<const SlotMap> map() const override { return map_; }
  const NodeId& self() const override { return nobody_; }
  bool usable(const NodeId& member) const override;
  void report(const NodeId& member, bool reached) override;

 private:
  struct Trouble {
    uint32_t failures = 0;
    SteadyTime until{};  // not asked before
  };
  Task<void> fetch(Member from);

  World& world_;
  const Log& log_;
  RpcPool* pool_ = nullptr;
  const NodeId nobody_{};
  std::shared_ptr<const SlotMap> map_;  // shared with running reads
  std::map<NodeId, Trouble> troubles_;
  bool fetching_ = false;
  Cancel stopping_;
  Gate gate_;
};

}  // namespace shoal
