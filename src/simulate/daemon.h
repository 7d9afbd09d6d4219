// Daemon: what main puts together for one node, in simulation: store, origin, map store, cluster,
// node, and the kernel that stands for a mount.
//
// Owned by its SimMachine; runs on the machine's executor and dies with it.
#pragma once

#include <memory>
#include <string>

#include "async/gate.h"
#include "membership/map_store.h"
#include "node/cluster.h"
#include "node/node.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "origin/make_origin.h"
#include "simulate/kernel.h"
#include "store/store.h"
#include "world/world.h"

namespace shoal::simulate {

inline constexpr const char* kBlobHost = "127.0.0.1:10000";
inline constexpr const char* kBlobOrigin = "http://127.0.0.1:10000/devstoreaccount1/data";

struct DaemonOptions {
  std::string name;
  std::string zone;
  bool clustered = true;  // false: a node by itself
  StoreOptions store;
  ClusterOptions cluster;      // self's id, name and zone are filled in here
  bool two_addresses = false;  // payload comes by a second port too
  NodeOptions node;
  RetryOptions retry;  // of the origin
};

class Daemon {
 public:
  Daemon(World& world, const Log& log, DaemonOptions options);

  // Once. On failure all is closed again; a supervisor would make another Daemon.
  Task<Status> start();
  // In the order of main. Everything that was given out is back when it returns.
  Task<Status> stop();
  // What a coroutine of somebody else needs to run here, and die here.
  Gate& gate() { return gate_; }

  bool up() const { return node_ != nullptr && !stopping_; }
  const std::string& name() const { return options_.name; }
  World& world() { return world_; }
  Node& node() { return *node_; }
  Store& store() { return *store_; }
  Cluster& cluster() { return *cluster_; }
  Kernel& kernel() { return *kernel_; }
  Registry& registry() { return registry_; }
  const NodeId& id() const { return id_; }
  // Null while it is not a member.
  std::shared_ptr<const SlotMap> map() const {
    return cluster_ == nullptr ? nullptr : cluster_->membership().map();
  }

 private:
  Task<Status> open_all();
  Task<Status> open_cluster();
  Task<Status> close_all();

  World& world_;
  const Log& log_;
  const DaemonOptions options_;
  Registry registry_;
  std::unique_ptr<Origin> origin_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<MapStore> map_store_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<Kernel> kernel_;
  NodeId id_;
  bool stopping_ = false;
  Gate gate_;
};

}  // namespace shoal::simulate
