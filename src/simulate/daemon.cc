#include "simulate/daemon.h"

namespace shoal::simulate {

Daemon::Daemon(World& world, const Log& log, DaemonOptions options)
    : world_(world), log_(log), options_(std::move(options)), gate_(world.executor) {
  OriginConfig config;
  config.location = kBlobOrigin;
  config.retry = options_.retry;
  auto origin = make_origin(std::move(config), world_, registry_, log_);
  SHOAL_ASSERT(origin.has_value());
  origin_ = std::move(*origin);
}

Task<Status> Daemon::open_all() {
  StoreOptions store = options_.store;
  store.identity = origin_->identity();
  SHOAL_CO_ASSIGN_OR_RETURN(store_, co_await Store::open(world_, registry_, log_, store));
  id_ = store_->node_id();
  if (options_.clustered) SHOAL_CO_RETURN_IF_ERROR(co_await open_cluster());
  NodeOptions node = options_.node;
  node.name = options_.name;
  SHOAL_CO_ASSIGN_OR_RETURN(node_, co_await Node::start(world_, *origin_, *store_, registry_, log_,
                                                        std::move(node), cluster_.get()));
  kernel_ = std::make_unique<Kernel>(node_->file_system(), world_.executor);
  co_return Status();
}

Task<Status> Daemon::open_cluster() {
  map_store_ = make_origin_map_store(*origin_, world_, options_.cluster.name);
  ClusterOptions cluster = options_.cluster;
  cluster.self.id = id_;
  cluster.self.incarnation = store_->generation();
  cluster.self.name = options_.name;
  cluster.self.zone = options_.zone;
  if (options_.two_addresses) {
    SHOAL_CO_ASSIGN_OR_RETURN(auto interfaces, world_.network.interfaces());
    const std::string& own = interfaces.back().address;
    cluster.listen = {"0.0.0.0:7070", "0.0.0.0:7071"};
    cluster.advertise = {own + ":7070", own + ":7071"};
  }
  SHOAL_CO_ASSIGN_OR_RETURN(cluster_, co_await Cluster::start(world_, *origin_, *map_store_,
                                                              registry_, log_, std::move(cluster)));
  co_return Status();
}

Task<Status> Daemon::close_all() {
  Status first;
  auto keep = [&first](Status status) {
    if (first && !status) first = std::move(status);
  };
  if (node_ != nullptr) keep(co_await node_->stop());
  if (kernel_ != nullptr) co_await kernel_->close();
  if (cluster_ != nullptr) {
    co_await cluster_->stop_serving();
    co_await cluster_->stop();
  }
  if (store_ != nullptr) keep(co_await store_->close());
  kernel_.reset();
  node_.reset();
  cluster_.reset();
  map_store_.reset();
  store_.reset();
  co_return first;
}

Task<Status> Daemon::start() {
  SHOAL_ASSERT(node_ == nullptr && store_ == nullptr, "it runs already");
  Status opened = co_await open_all();
  if (!opened) {
    Status closed = co_await close_all();
    static_cast<void>(closed);  // why it did not start matters more
  }
  co_return opened;
}

Task<Status> Daemon::stop() {
  SHOAL_ASSERT(up(), "it does not run");
  stopping_ = true;
  co_return co_await close_all();
}

}  // namespace shoal::simulate
