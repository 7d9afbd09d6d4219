#include "apps/run_node.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <thread>

#include "apps/admin.h"
#include "apps/commands.h"
#include "apps/daemon.h"
#include "apps/log_sink.h"
#include "apps/node_service.h"
#include "apps/origin_setup.h"
#include "apps/runtime.h"
#include "mount/session.h"
#include "node/cluster.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

constexpr auto kProbeLimit = std::chrono::seconds(20);

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && name[0] != '\0' ? name : "node";
}

// One node and all that belongs to it. start() builds the parts in the order of the members, stop()
// takes them down in reverse; both run on the main thread.
class RunningParts {
 public:
  RunningParts(NodePlan plan, OriginConfig config)
      : plan_(std::move(plan)), options_(plan_.options), config_(std::move(config)) {}
  ~RunningParts() { stop(); }

  Status start();
  // Orderly: no new requests, open files sealed on local disk, unmounted, caches vouched for.
  void stop();
  // What the user reads when all is well.
  std::string welcome() const;
  const Log& log() const { return log_; }
  int end_event() const { return end_event_; }

 private:
  Status start_log();
  Status start_origin();
  Status start_store();
  Status start_cluster();
  Status start_node();
  Status bind_admin();
  Status start_admin();
  Status start_mount();
  Status publish();

  Task<Result<std::unique_ptr<Origin>>> build_origin();
  Task<Status> probe();
  Task<Status> open_store(StoreOptions options);
  Task<Status> open_cluster(ClusterOptions options);
  Result<std::unique_ptr<MapStore>> make_map_store();
  Task<Status> make_map_store_there();
  Task<Status> open_node(NodeOptions options);
  Task<Status> stop_node();
  Task<void> stop_cluster();
  Task<Status> close_store();
  Task<void> release();
  std::string node_name() const { return options_.name.empty() ? host_name() : options_.name; }

  NodePlan plan_;
  Options& options_;
  OriginConfig config_;
  std::string runtime_dir_;
  std::string key_;
  std::string token_;
  std::string cache_dir_;
  std::string log_file_;
  NodeId node_id_;  // in the cluster
  std::string cluster_welcome_;
  uint64_t store_capacity_ = 0;
  int end_event_ = -1;

  Log log_;
  Registry registry_;
  std::unique_ptr<Shard> shard_;
  std::unique_ptr<Origin> origin_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<MapStore> map_store_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<NodeService> service_;
  std::unique_ptr<AdminServer> admin_;
  std::unique_ptr<FuseSession> session_;
  bool published_ = false;
};

Status RunningParts::start() {
  end_event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (end_event_ < 0) return fail(error_from_errno(errno, "cannot make an event"));
  SHOAL_ASSIGN_OR_RETURN(runtime_dir_, runtime_dir());
  SHOAL_ASSIGN_OR_RETURN(token_, random_token());
  SHOAL_ASSIGN_OR_RETURN(shard_, Shard::start({}));
  SHOAL_ASSIGN_OR_RETURN(origin_, run_blocking(*shard_, build_origin()));
  cache_dir_ =
      options_.cache_dir.empty() ? default_cache_dir(origin_->identity()) : options_.cache_dir;
  key_ = runtime_key(plan_.mountpoint.empty() ? cache_dir_ : plan_.mountpoint);
  SHOAL_RETURN_IF_ERROR(start_log());
  SHOAL_RETURN_IF_ERROR(start_origin());
  SHOAL_RETURN_IF_ERROR(start_store());
  SHOAL_RETURN_IF_ERROR(bind_admin());
  bool replicates = options_.ack == "replicated" ||
                    std::ranges::any_of(options_.ack_below, [](const auto& below) {
                      return below.second == "replicated";
                    });
  if (replicates && options_.cluster.empty()) {
    return fail(Code::kInvalidArgument, "--ack replicated needs other nodes; give --cluster NAME");
  }
  if (options_.tls && options_.cluster.empty()) {
    return fail(Code::kInvalidArgument, "--tls is for a cluster; give --cluster NAME");
  }
  if (!options_.cluster.empty()) SHOAL_RETURN_IF_ERROR(start_cluster());
  SHOAL_RETURN_IF_ERROR(start_node());
  SHOAL_RETURN_IF_ERROR(start_admin());
  if (!plan_.mountpoint.empty()) SHOAL_RETURN_IF_ERROR(start_mount());
  return publish();
}

Task<Result<std::unique_ptr<Origin>>> RunningParts::build_origin() {
  co_return make_origin(config_, shard_->world(), registry_, log_);
}

Status RunningParts::start_log() {
  log_file_ = options_.log_file;
  if (log_file_.empty() && !options_.foreground) log_file_ = default_log_file(key_);
  SHOAL_ASSIGN_OR_RETURN(log_, open_log(options_.log_level, options_.log_format, log_file_));
  log_.info("shoal {} starts: {}{}{}, cache {}", kVersion, origin_->display_name(),
            plan_.mountpoint.empty() ? "" : " on ", plan_.mountpoint, cache_dir_);
  for (const std::string& warning : plan_.warnings) log_.warning("{}", warning);
  return {};
}

Task<Status> RunningParts::probe() {
  Status status =
      co_await origin_->probe(!options_.read_only, Context::within(*shard_, kProbeLimit));
  if (!status && status.error().code() == Code::kPermissionDenied && !options_.read_only) {
    co_return fail(Code::kPermissionDenied,
                   status.error().message() + "; or mount with --read-only");
  }
  co_return status;
}

// A cache that knows this origin already may hold what must be uploaded, and can serve reads while
// the origin is away; a new one would only hide a typing error.
Status RunningParts::start_origin() {
  Status status = run_blocking(*shard_, probe());
  if (status) return {};
  std::error_code error;
  bool known = fs::exists(cache_dir_, error) && !fs::is_empty(cache_dir_, error) && !error;
  bool away = status.error().retryable() || status.error().code() == Code::kDeadlineExceeded;
  if (!known || !away) return status;
  log_.warning("the origin does not answer, going on with what is cached: {}",
               status.error().message());
  return {};
}

Task<Status> RunningParts::open_store(StoreOptions options) {
  SHOAL_CO_ASSIGN_OR_RETURN(
      store_, co_await Store::open(shard_->world(), registry_, log_, std::move(options)));
  co_return Status{};
}

Status RunningParts::start_store() {
  std::error_code error;
  fs::path parent = fs::path(cache_dir_).parent_path();
  fs::create_directories(parent, error);
  if (error) {
    return fail(Code::kPermissionDenied,
                fmt::format("cannot make the directory {}: {}; choose another --cache-dir",
                            parent.string(), error.message()));
  }
  StoreOptions store;
  store.directory = cache_dir_;
  store.identity = origin_->identity();
  store.memory = options_.memory.value_or(default_memory()) / 2;
  if (options_.cache_size) {
    store.capacity = *options_.cache_size;
  } else {
    SHOAL_ASSIGN_OR_RETURN(store.capacity, default_cache_size(cache_dir_));
  }
  store_capacity_ = store.capacity;
  return run_blocking(*shard_, open_store(std::move(store)));
}

Result<std::unique_ptr<MapStore>> RunningParts::make_map_store() {
  const std::string& where = options_.map_store;
  if (where.starts_with("etcd://")) {
    return make_etcd_map_store(where.substr(7), shard_->world(), log_, options_.cluster);
  }
  if (where.starts_with("static:")) {
    std::string path = where.substr(7);
    SHOAL_ASSIGN_OR_RETURN(std::string text, read_small_file(path));
    // The list says who is who; the id in the cache directory does not count then.
    SHOAL_ASSIGN_OR_RETURN(node_id_, static_member_id(text, node_name(), options_.cluster));
    std::string key;
    if (!options_.cluster_key_file.empty()) {
      SHOAL_ASSIGN_OR_RETURN(key, read_small_file(options_.cluster_key_file));
      while (!key.empty() && key.back() == '\n') key.pop_back();
    }
    return make_static_map_store(text, path, options_.cluster, origin_->identity(), 3,
                                 std::move(key));
  }
  return ::shoal::make_origin_map_store(*origin_, shard_->world(), options_.cluster);
}

Task<Status> RunningParts::make_map_store_there() {
  SHOAL_CO_ASSIGN_OR_RETURN(map_store_, make_map_store());
  co_return Status{};
}

Task<Status> RunningParts::open_cluster(ClusterOptions options) {
  auto cluster =
      co_await Cluster::start(shard_->world(), *origin_, *map_store_, registry_, log_, options);
  // Two nodes on one machine: the second takes a free port, unless it was told which.
  if (!cluster && cluster.error().code() == Code::kBusy && !options_.listen_explicit) {
    options.listen = {"0.0.0.0:0"};
    cluster = co_await Cluster::start(shard_->world(), *origin_, *map_store_, registry_, log_,
                                      std::move(options));
  }
  if (!cluster) co_return fail(std::move(cluster).error());
  cluster_ = std::move(*cluster);
  cluster_welcome_ = fmt::format("; {}, one of {} nodes in cluster {}", cluster_->address(),
                                 cluster_->membership().map()->members.size(), options_.cluster);
  co_return Status{};
}

Status RunningParts::start_cluster() {
  node_id_ = store_->node_id();
  SHOAL_RETURN_IF_ERROR(run_blocking(*shard_, make_map_store_there()));
  ClusterOptions cluster;
  cluster.name = options_.cluster;
  cluster.listen = options_.listen;
  cluster.advertise = options_.advertise;
  cluster.interfaces = options_.interfaces;
  cluster.tls = options_.tls;
  cluster.grace = options_.grace;
  cluster.copies = std::max(cluster.copies, options_.replicas + 1);
  cluster.attr_ttl = options_.attr_ttl;
  cluster.negative_ttl = options_.negative_ttl;
  cluster.attribute_bytes = options_.memory.value_or(default_memory()) / 16;
  cluster.self.id = node_id_;
  cluster.self.name = node_name();
  cluster.self.zone = options_.zone;
  cluster.self.http = admin_->http_address();
  cluster.self.incarnation = store_->generation();
  uint64_t gib = (store_capacity_ + kGiB - 1) / kGiB;
  cluster.self.weight = options_.weight != 0
                            ? options_.weight
                            : static_cast<uint32_t>(std::min<uint64_t>(gib, 1u << 20));
  return run_blocking(*shard_, open_cluster(std::move(cluster)));
}

Task<Status> RunningParts::open_node(NodeOptions options) {
  SHOAL_CO_ASSIGN_OR_RETURN(
      node_, co_await Node::start(shard_->world(), *origin_, *store_, registry_, log_,
                                  std::move(options), cluster_.get()));
  co_return Status{};
}

Status RunningParts::start_node() {
  NodeOptions node;
  node.name = node_name();
  node.hand_over_rate = options_.hand_over_rate.value_or(node.hand_over_rate);
  node.attr_ttl = options_.attr_ttl;
  node.negative_ttl = options_.negative_ttl;
  node.create_during_outage = options_.create_during_outage;
  node.ack = *parse_ack(options_.ack);
  for (const auto& [directory, level] : options_.ack_below) {
    node.ack_below[directory] = *parse_ack(level);
  }
  node.upload_rate = options_.upload_rate;
  node.replication.replicas = options_.replicas;
  node.replication.ack_degraded = options_.ack_degraded;
  node.replication.ack_timeout = options_.ack_timeout;
  node.read_only = options_.read_only;
  node.upload_delay = options_.upload_delay;
  node.space_timeout = options_.space_timeout;
  node.waiting_files_max = options_.waiting_files;
  node.memory = options_.memory.value_or(default_memory()) / 2;
  node.replication.memory = node.memory / 4;
  node.origin_timeout = options_.origin_timeout;
  node.uid = options_.uid.value_or(geteuid());
  node.gid = options_.gid.value_or(getegid());
  uint32_t umask = options_.umask.value_or(0);
  node.file_mode = options_.file_mode & ~umask;
  node.directory_mode = options_.dir_mode & ~umask;
  return run_blocking(*shard_, open_node(std::move(node)));
}

Status RunningParts::start_admin() {
  NodeReport base;
  base.name = node_name();
  base.version = kVersion;
  base.origin = origin_->display_name();
  base.cache_dir = cache_dir_;
  base.ack = options_.ack;
  base.warnings = plan_.warnings;
  service_ = std::make_unique<NodeService>(*shard_, *node_, cluster_.get(), registry_, log_,
                                           std::move(base));
  service_->set_http(admin_->http_address());
  return admin_->serve(*service_);
}

// Before the cluster is joined, which tells the others this address.
Status RunningParts::bind_admin() {
  AdminOptions admin;
  admin.socket_path = runtime_dir_ + "/" + key_ + ".sock";
  admin.http = options_.http;
  admin.http_explicit = options_.http_explicit;
  admin.token = token_;
  SHOAL_ASSIGN_OR_RETURN(admin_, AdminServer::bind(std::move(admin), registry_));
  return {};
}

Status RunningParts::start_mount() {
  MountOptions mount;
  mount.mountpoint = plan_.mountpoint;
  mount.source = origin_->display_name();
  mount.read_only = options_.read_only;
  mount.allow_other = options_.allow_other;
  mount.nonempty = options_.nonempty;
  mount.passthrough = !options_.no_passthrough;
  mount.threads = options_.threads;
  mount.on_end = [this] {
    uint64_t one = 1;
    [[maybe_unused]] ssize_t written = write(end_event_, &one, sizeof one);
  };
  SHOAL_ASSIGN_OR_RETURN(session_, FuseSession::start(*shard_, node_->file_system(), log_,
                                                      registry_, std::move(mount)));
  service_->set_mount(session_->mountpoint(), session_->describe());
  return {};
}

Status RunningParts::publish() {
  RunningNode node;
  node.pid = getpid();
  node.started = process_start(node.pid).value_or(0);
  node.mountpoint = session_ ? session_->mountpoint() : "";
  node.origin = origin_->display_name();
  node.cache_dir = cache_dir_;
  node.http = admin_->http_address();
  node.socket = runtime_dir_ + "/" + key_ + ".sock";
  node.token = token_;
  node.log_file = log_file_;
  SHOAL_RETURN_IF_ERROR(publish_node(runtime_dir_, key_, node));
  published_ = true;
  return {};
}

std::string RunningParts::welcome() const {
  std::string out = session_ ? fmt::format("{} is mounted on {} ({})", origin_->display_name(),
                                           session_->mountpoint(), session_->mode())
                             : fmt::format("{} is served", origin_->display_name());
  out += cluster_welcome_;
  if (!admin_->http_address().empty()) {
    out += fmt::format("; see http://{}/", admin_->http_address());
    if (admin_->http_address() != options_.http) {
      out += fmt::format(" ({} was in use)", options_.http);
    }
  }
  return out;
}

Task<Status> RunningParts::stop_node() { return node_->stop(); }
Task<void> RunningParts::stop_cluster() {
  co_await cluster_->stop_serving();
  co_await cluster_->stop();
}
Task<Status> RunningParts::close_store() { return store_->close(); }

// What lives on the shard ends on the shard.
Task<void> RunningParts::release() {
  node_.reset();
  cluster_.reset();
  map_store_.reset();
  store_.reset();
  origin_.reset();
  co_return;
}

void RunningParts::stop() {
  if (!shard_) return;
  log_.info("stopping");
  if (session_) session_->stop();
  session_.reset();
  admin_.reset();
  if (service_) service_->stop();
  service_.reset();
  if (node_) {
    if (Status status = run_blocking(*shard_, stop_node()); !status) {
      log_.error("stopping the node: {}", status.error().message());
    }
  }
  if (cluster_) run_blocking(*shard_, stop_cluster());
  if (store_) {
    if (Status status = run_blocking(*shard_, close_store()); !status) {
      log_.error("closing the cache: {}", status.error().message());
    }
  }
  run_blocking(*shard_, release());
  shard_->stop();
  shard_.reset();
  if (published_) withdraw_node(runtime_dir_, key_);
  if (end_event_ >= 0) close(end_event_);
  end_event_ = -1;
  log_.info("stopped");
}

// While the node starts or stops, a (further) signal means: now. Everything acknowledged is on disk
// already, and the cache's store is made for ends like this one.
class ImpatientWatch {
 public:
  explicit ImpatientWatch(const Log& log) : log_(log), done_(eventfd(0, EFD_CLOEXEC)) {
    thread_ = std::thread([this] {
      if (wait_for_stop(done_, -1) != StopReason::kSignal) return;
      log_.warning("a signal while starting or stopping: leaving at once");
      _exit(kExitFailed);
    });
  }
  ~ImpatientWatch() {
    uint64_t one = 1;
    [[maybe_unused]] ssize_t written = write(done_, &one, sizeof one);
    thread_.join();
    close(done_);
  }

 private:
  const Log& log_;
  int done_;
  std::thread thread_;
};

Status check_mountpoint(const std::string& mountpoint) {
  SHOAL_ASSIGN_OR_RETURN(std::string dir, runtime_dir());
  forget_dead_nodes(dir);
  for (const RunningNode& node : running_nodes(dir)) {
    if (node.mountpoint != mountpoint) continue;
    return fail(Code::kBusy, fmt::format("{} is on {} already (pid {}); first shoal unmount {}",
                                         node.origin, mountpoint, node.pid, mountpoint));
  }
  std::error_code error;
  // A dead mount answers ENOTCONN; the session detaches it.
  if (fs::is_directory(mountpoint, error) || error.value() == ENOTCONN) return {};
  if (error || !fs::exists(mountpoint, error)) {
    return fail(Code::kNotFound, fmt::format("{} does not exist; make it first (mkdir -p {})",
                                             mountpoint, mountpoint));
  }
  return fail(Code::kNotDirectory, fmt::format("{} is not a directory", mountpoint));
}

}  // namespace

int run_node(NodePlan plan) {
  if (!plan.mountpoint.empty()) {
    plan.mountpoint = resolved_path(plan.mountpoint);
    if (Status status = check_mountpoint(plan.mountpoint); !status)
      return fail_with(status.error());
  }
  auto config = origin_config(plan.origin, plan.options);
  if (!config) return fail_with(config.error());
  forbid_core_dumps();
  allow_many_descriptors();
  StartReport report;
  if (!plan.options.foreground) {
    auto daemon = daemonize();
    if (!daemon) return fail_with(daemon.error());
    std::construct_at(&report, std::move(*daemon));
  }
  block_stop_signals();
  RunningParts parts(std::move(plan), std::move(*config));
  Status status;
  {
    ImpatientWatch watch(parts.log());
    status = parts.start();
    if (!status) parts.stop();
  }
  if (!status) {
    report.fail("shoal: " + status.error().message());
    return kExitFailed;
  }
  report.succeed(parts.welcome());
  StopReason reason = wait_for_stop(parts.end_event(), -1);
  parts.log().info(
      "{}", reason == StopReason::kSignal ? "told to stop by a signal" : "the mount has ended");
  {
    ImpatientWatch watch(parts.log());
    parts.stop();
  }
  return kExitDone;
}

}  // namespace shoal
