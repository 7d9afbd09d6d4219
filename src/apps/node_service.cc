#include "apps/node_service.h"

#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace shoal {
namespace {

constexpr uint64_t kJobsMax = 32;  // every rank of a machine may wait for its own files
constexpr auto kOthersLimit = std::chrono::seconds(2);
constexpr auto kTrimPause = std::chrono::seconds(5);
constexpr int kTrimAfter = 2;
constexpr auto kWatchPause = std::chrono::milliseconds(200);

uint64_t resident_bytes() {
  unsigned long long size = 0;
  unsigned long long resident = 0;
  FILE* file = fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  int fields = fscanf(file, "%llu %llu", &size, &resident);
  fclose(file);
  return fields == 2 ? resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace

// One job. Shared by the task that works and the one that watches for its cancellation.
struct NodeService::Flow {
  JobRequest request;
  std::shared_ptr<Job> job;  // the asker has it too
  JobProgress done;          // of the paths before the current one
  Cancel cancel;
  bool ended = false;
};

NodeService::NodeService(Shard& shard, Node& node, Cluster* cluster, Registry& registry,
                         const Log& log, NodeReport base)
    : shard_(shard),
      node_(node),
      cluster_(cluster),
      log_(log),
      origin_metrics_(registry),
      node_metrics_(registry),
      mount_metrics_(registry),
      rpc_metrics_(registry),
      peer_metrics_(registry),
      began_(shard.now()),
      base_(std::move(base)),
      gate_(shard) {
  run_blocking(shard_, begin_there());
  if (cluster_ != nullptr) {
    cluster_->set_status_source([this] { return brief_status_json(collect()); });
  }
}

NodeService::~NodeService() { SHOAL_ASSERT(gate_.closed(), "stop() comes first"); }

void NodeService::set_http(std::string address) {
  std::lock_guard lock(mutex_);
  base_.http = std::move(address);
}

void NodeService::set_mount(std::string mountpoint, std::string mode) {
  std::lock_guard lock(mutex_);
  base_.mountpoint = std::move(mountpoint);
  base_.mode = std::move(mode);
}

Task<void> NodeService::begin_there() {
  gate_.spawn(watch_uploads());
  if (cluster_ != nullptr) gate_.spawn(give_back_memory());
  co_return;
}
Task<NodeReport> NodeService::collect_there() { co_return collect(); }
Result<NodeReport> NodeService::report() { return run_blocking(shard_, collect_there()); }

Task<std::vector<std::string>> NodeService::ask_others() {
  return cluster_->ask_statuses(kOthersLimit);
}

std::vector<NodeReport> NodeService::other_reports() {
  std::vector<NodeReport> reports;
  if (cluster_ == nullptr) return reports;
  for (const std::string& text : run_blocking(shard_, ask_others())) {
    if (auto report = parse_status_json(text)) reports.push_back(std::move(*report));
  }
  return reports;
}

void NodeService::add_cluster(NodeReport& report) {
  report.peer = {rpc_metrics_.bytes_sent.value(), rpc_metrics_.bytes_received.value()};
  report.read.hits_peer = peer_metrics_.hits.value();
  MembershipStatus status = cluster_->membership().status();
  const SlotMap& map = *status.map;
  report.map = {map.version, map.members.size()};
  report.cluster.name = map.cluster;
  report.cluster.node_id = cluster_->membership().self().to_hex();
  report.cluster.address = cluster_->address();
  report.cluster.further_addresses = cluster_->further_addresses();
  report.cluster.tls = cluster_->options().tls;
  report.cluster.store = status.store;
  report.cluster.store_reachable = status.store_reachable;
  report.cluster.store_writable = status.store_writable;
  report.cluster.last_error = status.last_error;
  std::vector<uint64_t> slots(map.members.size());
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    uint16_t owner = map.owners_of(slot)[0];
    if (owner != kNoMember) ++slots[owner];
  }
  for (size_t i = 0; i < map.members.size(); ++i) {
    const Member& m = map.members[i];
    bool suspected = std::ranges::find(status.suspected, m.id) != status.suspected.end();
    report.members.push_back({m.name, m.id.to_hex(), m.address, m.http, m.zone,
                              m.state == MemberState::kUp     ? "up"
                              : m.state == MemberState::kDown ? "down"
                                                              : "draining",
                              m.weight, slots[i], suspected});
    if (m.id == cluster_->membership().self()) report.cluster.slots = slots[i];
  }
}

NodeReport NodeService::collect() {
  NodeStatus status = node_.status();
  NodeReport report;
  {
    std::lock_guard lock(mutex_);
    report = base_;
  }
  report.pid = getpid();
  report.uptime_seconds = to_seconds(shard_.now() - began_);
  report.origin_io.reads = origin_metrics_.reads.value();
  report.origin_io.bytes_read = origin_metrics_.bytes_read.value();
  report.origin_io.writes = origin_metrics_.writes.value();
  report.origin_io.bytes_written = origin_metrics_.bytes_written.value();
  report.origin_io.errors = origin_metrics_.errors.value();
  report.origin_io.retries = origin_metrics_.retries.value();
  // The mount's threads answer some reads of cached bytes without asking the node.
  report.read.hits_local = node_metrics_.read_hits.value() + mount_metrics_.fast_reads.value();
  report.read.misses = node_metrics_.read_misses.value();
  report.files = {status.store.files_bytes, status.store.files_capacity};
  report.blocks = {status.store.small_bytes, status.store.small_capacity, status.store.small_count};
  report.replication = {status.replication.records, status.replication.replicas,
                        status.replication.replica_bytes, status.replication.degraded,
                        status.replication.last_error};
  report.dirty = {status.dirty_objects,
                  status.dirty_bytes,
                  status.oldest_dirty_seconds,
                  upload_rate_.objects_per_second(),
                  upload_rate_.bytes_per_second(),
                  upload_rate_.seconds_for(status.dirty_objects, status.dirty_bytes).value_or(-1)};
  report.memory.rss_bytes = resident_bytes();
  if (cluster_ != nullptr) add_cluster(report);
  for (BacklogItem& item : status.backlog) {
    report.backlog.push_back({std::move(item.object), item.size, item.uploaded,
                              std::move(item.state), std::move(item.last_error)});
  }
  if (status.store.corrupt_pieces > 0) {
    report.warnings.push_back(
        fmt::format("{} cached pieces did not match their checksum and were "
                    "fetched again; look at the disk's health",
                    status.store.corrupt_pieces));
  }
  return report;
}

Result<std::shared_ptr<Job>> NodeService::start(JobRequest request) {
  auto flow = std::make_shared<Flow>();
  flow->request = std::move(request);
  flow->job = std::make_shared<Job>();
  auto job = flow->job;
  if (!run_blocking(shard_, begin(std::move(flow)))) {
    return fail(Code::kBusy,
                fmt::format("{} jobs run already, or the node is stopping; try later", kJobsMax));
  }
  return job;
}

Task<bool> NodeService::begin(std::shared_ptr<Flow> flow) {
  if (stopping_ || running_ >= kJobsMax) co_return false;
  if (!gate_.spawn(run(*this, flow))) co_return false;
  ++running_;
  gate_.spawn(watch(*this, flow));
  co_return true;
}

// The asker lives on another thread: its wish to stop is looked for here.
Task<void> NodeService::watch(NodeService& self, std::shared_ptr<Flow> flow) {
  while (!flow->ended) {
    if (self.stopping_ || flow->job->cancelled()) flow->cancel.request();
    (void)co_await sleep_for(self.shard_, kWatchPause, Context());
  }
}

Task<void> NodeService::run(NodeService& self, std::shared_ptr<Flow> flow) {
  Context context;
  context.cancel = &flow->cancel;
  if (flow->request.timeout) {
    context = context.tightened(self.shard_, *flow->request.timeout);
  }
  Status outcome = co_await self.work(flow, context);
  flow->ended = true;
  // Nobody else hears of a job in the background.
  std::string_view name = job_name(flow->request.kind);
  const std::string& path = flow->request.paths.front();
  if (outcome) {
    self.log_.info("{} of \"{}\" is done", name, path);
  } else if (outcome.error().code() != Code::kCancelled) {
    self.log_.warning("{} of \"{}\" failed: {}", name, path, outcome.error().message());
  }
  --self.running_;
  flow->job->finish(std::move(outcome));
}

Task<Status> NodeService::work(std::shared_ptr<Flow> flow, Context context) {
  for (const std::string& path : flow->request.paths) {
    switch (flow->request.kind) {
      case JobKind::kSync:
        SHOAL_CO_RETURN_IF_ERROR(co_await sync(flow, path, context));
        break;
      case JobKind::kWarm:
        SHOAL_CO_RETURN_IF_ERROR(co_await warm(flow, path, context));
        break;
      case JobKind::kDrain:
        SHOAL_CO_RETURN_IF_ERROR(co_await drain(flow, path, context));
        break;
      case JobKind::kPublish:
        SHOAL_CO_RETURN_IF_ERROR(co_await publish(flow, path, context));
        break;
      case JobKind::kScrub:
        SHOAL_CO_RETURN_IF_ERROR(co_await scrub(flow, path, context));
        break;
      case JobKind::kPin:
      case JobKind::kUnpin: {
        bool pinned = flow->request.kind == JobKind::kPin;
        SHOAL_CO_RETURN_IF_ERROR(co_await node_.set_pin(path, pinned, context));
        break;
      }
      case JobKind::kEvict: {
        SHOAL_CO_ASSIGN_OR_RETURN(uint64_t freed, co_await node_.evict(path, context));
        flow->done.bytes_done += freed;
        flow->job->report(flow->done);
        break;
      }
    }
  }
  co_return Status{};
}

Task<Status> NodeService::sync(std::shared_ptr<Flow> flow, std::string path, Context context) {
  AckLevel level = flow->request.level == "replicated" ? AckLevel::kReplicated : AckLevel::kDurable;
  uint64_t bytes_first = 0;
  uint64_t objects_first = 0;
  uint64_t retries_first = origin_metrics_.retries.value();
  auto progress = [this, flow, &bytes_first, &objects_first,
                   retries_first](const SyncProgress& left) {
    bytes_first = std::max(bytes_first, left.bytes_left);
    objects_first = std::max(objects_first, left.objects_left);
    JobProgress now = flow->done;
    now.bytes_total += bytes_first;
    now.bytes_done += bytes_first - left.bytes_left;
    now.objects_total += objects_first;
    now.objects_done += objects_first - left.objects_left;
    now.last_error = left.last_error;
    // A request is tried for a minute before its upload knows that it failed.
    uint64_t retries = origin_metrics_.retries.value() - retries_first;
    if (now.last_error.empty() && left.objects_left > 0 && retries > 0) {
      now.last_error = fmt::format("the origin is unwell: {} requests were tried again", retries);
    }
    now.failures = now.last_error.empty() ? 0 : 1;
    flow->job->report(std::move(now));
  };
  SHOAL_CO_RETURN_IF_ERROR(co_await node_.sync(path, level, progress, context));
  flow->done.bytes_total += bytes_first;
  flow->done.bytes_done += bytes_first;
  flow->done.objects_total += objects_first;
  flow->done.objects_done += objects_first;
  flow->job->report(flow->done);
  co_return Status{};
}

Task<Status> NodeService::warm(std::shared_ptr<Flow> flow, std::string path, Context context) {
  JobProgress last = flow->done;
  auto progress = [flow, &last, &path](const WarmProgress& totals) {
    last = flow->done;
    last.bytes_done += totals.bytes_done;
    last.bytes_total += totals.bytes_total;
    last.objects_done += totals.objects_done;
    last.objects_total += totals.objects_total;
    last.current = path;
    flow->job->report(last);
  };
  SHOAL_CO_RETURN_IF_ERROR(co_await node_.warm(path, flow->request.everywhere, progress, context));
  flow->done = last;
  co_return Status{};
}

Task<Status> NodeService::publish(std::shared_ptr<Flow> flow, std::string directory,
                                  Context context) {
  PublishOptions options;
  options.level = flow->request.level == "replicated" ? AckLevel::kReplicated : AckLevel::kDurable;
  options.pointer = flow->request.pointer;
  options.keep_last = flow->request.keep_last;
  auto progress = [flow](const PublishProgress& now) {
    JobProgress report = flow->done;
    report.bytes_done += now.bytes_done;
    report.bytes_total += now.bytes_total;
    report.objects_done += now.files_done;
    report.objects_total += now.files_total;
    report.current = now.stage;
    report.failures = now.last_error.empty() ? 0 : 1;
    report.last_error = now.last_error;
    flow->job->report(std::move(report));
  };
  co_return co_await node_.publish(std::move(directory), std::move(options), progress, context);
}

Task<Status> NodeService::scrub(std::shared_ptr<Flow> flow, std::string path, Context context) {
  ScrubOptions options{flow->request.rate, flow->request.all};
  JobProgress last = flow->done;
  auto progress = [flow, &last](const ScrubProgress& now) {
    last = flow->done;
    last.bytes_done += now.bytes_done;
    last.bytes_total += now.bytes_total;
    last.objects_done += now.files_done;
    last.objects_total += now.files_total;
    last.failures += now.mismatched + now.missing;
    if (now.unrecorded > 0) last.current = fmt::format("{} without a checksum", now.unrecorded);
    last.findings.insert(last.findings.end(), now.findings.begin(), now.findings.end());
    flow->job->report(last);
  };
  Status status = co_await node_.scrub(std::move(path), options, progress, context);
  flow->done = std::move(last);
  co_return status;
}

Task<Status> NodeService::drain(std::shared_ptr<Flow> flow, std::string member, Context context) {
  auto progress = [flow](const DrainProgress& drained) {
    JobProgress now = flow->done;
    now.bytes_done += drained.bytes_done;
    now.bytes_total += drained.bytes_total;
    if (drained.dirty_bytes > 0) now.current = format_size(drained.dirty_bytes) + " to upload";
    flow->job->report(std::move(now));
  };
  co_return co_await node_.drain(member, progress, context);
}

// Whoever lets many join at once, or tells many of a map, needs some 100 KiB for each of them for a
// moment; the allocator would keep that for ever (measured: 12 MiB after 100 joins).
Task<void> NodeService::give_back_memory() {
  uint64_t before = 0;
  int quiet = 0;  // looks since the map changed; idle connections let their buffers go meanwhile
  while (co_await sleep_for(shard_, kTrimPause, Context{kNever, &ending_})) {
    uint64_t version = cluster_->membership().current();
    quiet = version == before ? quiet + 1 : 0;
    before = version;
    if (quiet == kTrimAfter) malloc_trim(0);
  }
}

Task<void> NodeService::watch_uploads() {
  do {
    upload_rate_.sample(shard_.now(), node_metrics_.uploads.value(),
                        origin_metrics_.bytes_written.value());
  } while (co_await sleep_for(shard_, UploadRate::kPeriod, Context{kNever, &ending_}));
}

Task<void> NodeService::close() {
  stopping_ = true;
  ending_.request();
  if (cluster_ != nullptr) cluster_->set_status_source({});
  co_await gate_.close();
}

void NodeService::stop() { run_blocking(shard_, close()); }

}  // namespace shoal
