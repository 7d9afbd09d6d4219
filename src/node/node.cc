#include "node/node.h"

#include <algorithm>

#include "base/object_name.h"
#include "node/cluster.h"
#include "node/file_system_impl.h"
#include "node/messages.h"

namespace shoal {

namespace {

constexpr size_t kWarmObjectsParallel = 16;
constexpr size_t kWarmBatch = 1000;
constexpr size_t kYieldEvery = 1000;
constexpr Duration kSyncLook = std::chrono::milliseconds(500);
constexpr Duration kSyncLookEach = std::chrono::microseconds(2);

class NodeImpl final : public Node {
 public:
  NodeImpl(World& world, Origin& origin, Store& store, Registry& registry, const Log& log,
           NodeOptions options, Cluster* cluster)
      : core_(world, origin, store, registry, log, std::move(options), cluster),
        file_system_(core_),
        publisher_(core_, file_system_),
        scrubber_(core_),
        // Of other nodes' versions too: it must not leave with the only replica.
        jobs_(core_, [this] {
          uint64_t held = core_.replication ? core_.replication->replicas().bytes() : 0;
          return file_system_.write_back().bytes() + held;
        }) {}

  Task<Status> begin();
  FileSystem& file_system() override { return file_system_; }
  Task<Status> stop() override;
  NodeStatus status() const override;
  Task<Status> sync(std::string path, AckLevel level,
                    std::function<void(const SyncProgress&)> progress, Context context) override;
  Task<Status> publish(std::string directory, PublishOptions options,
                       std::function<void(const PublishProgress&)> progress,
                       Context context) override {
    return publisher_.publish(std::move(directory), std::move(options), std::move(progress),
                              context);
  }
  Task<Status> scrub(std::string path, ScrubOptions options,
                     std::function<void(const ScrubProgress&)> progress, Context context) override {
    return scrubber_.scrub(std::move(path), options, std::move(progress), context);
  }
  Task<Status> warm(std::string path, bool everywhere,
                    std::function<void(const WarmProgress&)> progress, Context context) override;
  Task<Status> drain(std::string member, std::function<void(const DrainProgress&)> progress,
                     Context context) override;
  Task<Status> set_pin(std::string path, bool pinned, Context context) override;
  Task<Result<uint64_t>> evict(std::string path, Context context) override;

 private:
  Task<Status> warm_one(ObjectInfo info, bool everywhere, WarmProgress* totals,
                        const std::function<void(const WarmProgress&)>* progress, Context context);
  Result<Member> find_member(const std::string& name) const;
  Task<Result<DrainProgress>> ask_drain(Member member, Context context);

  NodeCore core_;
  // Mutable access from const status(): the write-back answers const questions only.
  FileSystemImpl file_system_;
  Publisher publisher_;
  Scrubber scrubber_;
  ClusterJobs jobs_;
};

Task<Status> NodeImpl::begin() {
  if (core_.replication != nullptr) {
    SHOAL_CO_RETURN_IF_ERROR(co_await core_.replication->start(file_system_.write_back()));
  }
  co_await file_system_.write_back().start();
  if (core_.cluster == nullptr) co_return Status();
  Membership& membership = core_.cluster->membership();
  auto classify = [this](const SlotMap& map) {
    // Who is drained owns nothing any more, but what it owned is what it has to hand over.
    const Member* self = map.find(core_.cluster->membership().self());
    if (self == nullptr || self->state == MemberState::kDraining) return;
    core_.store.classify([&](const std::string& object, uint64_t chunk) {
      auto owners = map.owners_of(slot_of_chunk(object, chunk));
      return owners[0] != map.index_of(core_.cluster->membership().self());
    });
  };
  classify(*membership.map());
  // The cluster's listeners live as long as it; after stop() there is nothing to classify.
  membership.on_change([this, classify](const SlotMap& map) {
    if (!core_.gate.closed()) classify(map);
  });
  core_.cluster->attributes().set_replication(core_.replication.get());
  core_.cluster->attach(core_, jobs_);
  co_return Status();
}

Task<Status> NodeImpl::stop() {
  co_await file_system_.shut_down();
  co_await file_system_.write_back().stop();
  core_.stopping.request();
  if (core_.cluster != nullptr) {
    co_await core_.cluster->stop_serving();
    co_await core_.replication->stop();
    core_.cluster->attributes().set_replication(nullptr);
  }
  co_await core_.filler->close();
  co_await core_.gate.close();
  co_return Status();
}

NodeStatus NodeImpl::status() const {
  WriteBack& write_back = const_cast<FileSystemImpl&>(file_system_).write_back();
  NodeStatus status;
  status.store = core_.store.stats();
  status.dirty_objects = write_back.objects();
  status.dirty_bytes = write_back.bytes();
  status.oldest_dirty_seconds = write_back.oldest_seconds();
  status.backlog = write_back.backlog(100);
  if (core_.replication != nullptr) status.replication = core_.replication->stats();
  return status;
}

Task<Status> NodeImpl::sync(std::string path, AckLevel level,
                            std::function<void(const SyncProgress&)> progress, Context context) {
  WriteBack& write_back = file_system_.write_back();
  SHOAL_CO_RETURN_IF_ERROR(co_await file_system_.expect_there(path, context));
  if (level == AckLevel::kReplicated) {
    if (core_.cluster == nullptr) {
      co_return fail(Code::kInvalidArgument, "a node by itself has nobody to replicate to");
    }
    co_return co_await file_system_.replicate_below(path, progress, context);
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await file_system_.seal_below(path, context));
  std::vector<WriteBack::Version> versions = write_back.below(path);
  for (size_t i = 0; i < versions.size(); ++i) {
    const auto& version = versions[i];
    if (version->record.sealed && version->durable) write_back.enqueue(version, true);
    if (i % kYieldEvery == 0) co_await Yield(core_.executor());
  }
  while (true) {
    std::erase_if(versions,
                  [](const auto& version) { return version->committed || version->dropped; });
    SyncProgress now;
    now.objects_left = versions.size();
    for (const auto& version : versions) {
      now.bytes_left += version->size() - std::min(version->size(), version->uploaded_bytes);
      if (!version->last_error.empty()) now.last_error = version->last_error;
    }
    if (progress) progress(now);
    if (versions.empty()) co_return Status();
    // All are gone through only now and then.
    SteadyTime until = core_.now() + kSyncLook + kSyncLookEach * versions.size();
    for (const auto& version : versions) {
      Context step = context.tightened(core_.executor(), until - core_.now());
      Status waited = co_await write_back.wait_committed(version, step);
      Status overall = context.check(core_.executor());
      if (!waited && !overall) {
        co_return overall.error().code() == Code::kCancelled ? overall : waited;
      }
      if (core_.now() >= until) break;
    }
  }
}

Task<Status> NodeImpl::warm_one(ObjectInfo info, bool everywhere, WarmProgress* totals,
                                const std::function<void(const WarmProgress&)>* progress,
                                Context context) {
  auto add = [totals, progress](uint64_t bytes) {
    totals->bytes_done += bytes;
    if (*progress) (*progress)(*totals);
  };
  std::string name = info.name;
  Status status = core_.cluster == nullptr ? co_await file_system_.warm_object(info, add, context)
                                           : co_await jobs_.warm({info.name, info.etag, info.size},
                                                                 everywhere, add, context);
  if (!status && status.error().code() == Code::kStale) status = Status();  // changed meanwhile
  if (!status) co_return fail(std::move(status).error().with_context("warming " + name));
  ++totals->objects_done;
  if (*progress) (*progress)(*totals);
  co_return Status();
}

Task<Status> NodeImpl::warm(std::string path, bool everywhere,
                            std::function<void(const WarmProgress&)> progress, Context context) {
  uint64_t copies = everywhere && core_.cluster != nullptr ? jobs_.members() : 1;
  WarmProgress totals;
  std::vector<ObjectInfo> batch;
  if (!path.empty()) {
    auto info = co_await core_.origin.head(path, context);
    if (!info && info.error().code() != Code::kNotFound) co_return fail(std::move(info).error());
    if (info && decode_attributes(info->metadata).kind != FileKind::kDirectory) {
      batch.push_back(std::move(*info));
    }
  }
  bool single = !batch.empty();
  ListOptions options;
  options.prefix = path.empty() ? "" : path + "/";
  options.recursive = true;
  bool any = single;
  while (true) {
    if (!single) {
      SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.origin.list(options, context));
      for (ObjectInfo& object : page.objects) {
        any = true;
        if (object.size > 0 && is_representable(object.name)) batch.push_back(std::move(object));
      }
      options.marker = page.next_marker;
    }
    bool last = single || options.marker.empty();
    if (!last && batch.size() < kWarmBatch) continue;
    totals.listing = !last;
    totals.objects_total += batch.size();
    std::vector<Task<Status>> tasks;
    for (ObjectInfo& info : batch) {
      totals.bytes_total += info.size * copies;
      tasks.push_back(warm_one(std::move(info), everywhere, &totals, &progress, context));
    }
    batch.clear();
    if (progress) progress(totals);
    SHOAL_CO_RETURN_IF_ERROR(
        co_await run_all(core_.executor(), std::move(tasks), kWarmObjectsParallel));
    if (last) break;
  }
  if (!any && !path.empty())
    co_return fail(Code::kNotFound, path + ": no such object or directory");
  co_return Status();
}

Result<Member> NodeImpl::find_member(const std::string& name) const {
  if (core_.cluster == nullptr) {
    return fail(Code::kInvalidArgument,
                "this node is not in a cluster; it was started without "
                "--cluster");
  }
  std::shared_ptr<const SlotMap> map = core_.cluster->membership().map();
  std::string known;
  const Member* found = nullptr;
  for (const Member& member : map->members) {
    known += (known.empty() ? "" : ", ") + member.name;
    bool self = name.empty() && member.id == core_.cluster->membership().self();
    if (!self && member.name != name && member.address != name && member.id.to_hex() != name) {
      continue;
    }
    if (found != nullptr) {
      return fail(Code::kConflict, "several members are called " + name + "; give an id");
    }
    found = &member;
  }
  if (found == nullptr) {
    return fail(Code::kNotFound, (name.empty() ? "this node" : name) +
                                     " is no member of the cluster; members are " + known);
  }
  if (jobs_.members() < 2) {
    return fail(Code::kInvalidArgument, "nobody else is up to take over what it holds");
  }
  return *found;
}

Task<Result<DrainProgress>> NodeImpl::ask_drain(Member member, Context context) {
  if (member.id == core_.cluster->membership().self()) co_return jobs_.drain();
  auto answer = co_await core_.cluster->pool().call(
      member.address, member.id, Method::kDrain, wire::DrainRequest().SerializeAsString(), nullptr,
      0, context.tightened(core_.executor(), std::chrono::seconds(10)));
  if (!answer) co_return fail(std::move(answer).error());
  SHOAL_CO_ASSIGN_OR_RETURN(auto reply, parse_message<wire::DrainReply>(*answer, "an answer"));
  co_return DrainProgress{reply.done(), reply.bytes_done(), reply.bytes_total(),
                          reply.dirty_bytes(), reply.error()};
}

Task<Status> NodeImpl::drain(std::string name, std::function<void(const DrainProgress&)> progress,
                             Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Member member, find_member(name));
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(DrainProgress now, co_await ask_drain(member, context));
    if (progress) progress(now);
    if (now.done) co_return Status();
    if (!now.error.empty()) co_return fail(Code::kUnavailable, member.name + ": " + now.error);
    SHOAL_CO_RETURN_IF_ERROR(
        co_await sleep_for(core_.executor(), std::chrono::milliseconds(200), context));
  }
}

Task<Status> NodeImpl::set_pin(std::string path, bool pinned, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
  std::vector<std::string> pins = core_.store.pins();
  auto found = std::find(pins.begin(), pins.end(), path);
  if (pinned == (found != pins.end())) co_return Status();
  if (pinned) {
    pins.push_back(std::move(path));
  } else {
    pins.erase(found);
  }
  co_return co_await core_.store.set_pins(std::move(pins));
}

Task<Result<uint64_t>> NodeImpl::evict(std::string path, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
  uint64_t freed = 0;
  if (!path.empty()) {
    SHOAL_CO_ASSIGN_OR_RETURN(freed, co_await core_.store.evict(path, false));
  }
  SHOAL_CO_ASSIGN_OR_RETURN(uint64_t below, co_await core_.store.evict(path, true));
  co_return freed + below;
}

}  // namespace

Task<Result<std::unique_ptr<Node>>> Node::start(World& world, Origin& origin, Store& store,
                                                Registry& registry, const Log& log,
                                                NodeOptions options, Cluster* cluster) {
  auto node =
      std::make_unique<NodeImpl>(world, origin, store, registry, log, std::move(options), cluster);
  Status begun = co_await node->begin();
  if (!begun) {
    Status stopped = co_await node->stop();
    static_cast<void>(stopped);  // why it could not start is what matters
    co_return fail(std::move(begun).error());
  }
  co_return std::unique_ptr<Node>(std::move(node));
}

}  // namespace shoal
