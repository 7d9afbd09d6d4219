// NodeService: the NodeControl of a real node. The admin server's threads call it; it works on the
// shard.
#pragma once

#include <memory>

#include "apps/node_control.h"
#include "apps/upload_rate.h"
#include "async/gate.h"
#include "mount/channel.h"
#include "node/cluster.h"
#include "node/node.h"
#include "origin/origin.h"
#include "world_linux/shard.h"

namespace shoal {

class NodeService final : public NodeControl {
 public:
  // What does not change while the node runs. `base` carries names, addresses and the like.
  // Everything outlives the service.
  // `cluster` is null for a node by itself.
  NodeService(Shard& shard, Node& node, Cluster* cluster, Registry& registry, const Log& log,
              NodeReport base);
  ~NodeService() override;

  Result<NodeReport> report() override;
  std::vector<NodeReport> other_reports() override;
  Result<std::shared_ptr<Job>> start(JobRequest request) override;

  // Known only after the service has begun.
  void set_http(std::string address);
  void set_mount(std::string mountpoint, std::string mode);
  // Cancels the jobs and waits for them. The admin server must be gone. Call once.
  void stop();

 private:
  struct Flow;

  // On the shard.
  NodeReport collect();
  Task<NodeReport> collect_there();
  void add_cluster(NodeReport& report);
  Task<std::vector<std::string>> ask_others();
  Task<bool> begin(std::shared_ptr<Flow> flow);
  static Task<void> run(NodeService& self, std::shared_ptr<Flow> flow);
  static Task<void> watch(NodeService& self, std::shared_ptr<Flow> flow);
  Task<Status> work(std::shared_ptr<Flow> flow, Context context);
  Task<Status> sync(std::shared_ptr<Flow> flow, std::string path, Context context);
  Task<Status> warm(std::shared_ptr<Flow> flow, std::string path, Context context);
  Task<Status> publish(std::shared_ptr<Flow> flow, std::string directory, Context context);
  Task<Status> scrub(std::shared_ptr<Flow> flow, std::string path, Context context);
  Task<Status> drain(std::shared_ptr<Flow> flow, std::string member, Context context);
  Task<void> begin_there();
  Task<void> give_back_memory();
  Task<void> watch_uploads();
  Task<void> close();

  Shard& shard_;
  Node& node_;
  Cluster* cluster_;
  const Log& log_;
  OriginMetrics origin_metrics_;
  NodeMetrics node_metrics_;
  fuse::Metrics mount_metrics_;
  RpcMetrics rpc_metrics_;
  PeerMetrics peer_metrics_;
  const SteadyTime began_;

  std::mutex mutex_;  // of base_
  NodeReport base_;

  // Shard's thread.
  Gate gate_;
  UploadRate upload_rate_;
  uint64_t running_ = 0;
  bool stopping_ = false;
  Cancel ending_;
};

}  // namespace shoal
