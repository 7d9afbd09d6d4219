#include "node/cluster_lookups.h"

#include <algorithm>

#include "base/object_name.h"
#include "node/messages.h"
#include "origin/forwarding_origin.h"

namespace shoal {

namespace {

constexpr auto kTellLimit = std::chrono::seconds(2);
constexpr auto kPingLimit = std::chrono::milliseconds(500);
constexpr size_t kChangedMax = 100'000;

// What the origin or the owner decided; asking somebody else would not change it.
bool is_answer(const Error& error) {
  return error.code() == Code::kNotFound || error.code() == Code::kPermissionDenied ||
         error.code() == Code::kUnauthenticated || error.code() == Code::kCancelled ||
         error.code() == Code::kInvalidArgument;
}

}  // namespace

ClusterLookups::ClusterLookups(World& world, Origin& origin, AttributeCache& cache, RpcPool& pool,
                               ClusterView& view, Gate& gate, LookupLimits limits)
    : world_(world),
      origin_(origin),
      cache_(cache),
      pool_(pool),
      view_(view),
      gate_(gate),
      limits_(limits),
      all_changed_(world.executor.now() - std::chrono::hours(1)) {}

std::vector<Member> ClusterLookups::candidates(uint32_t slot) const {
  std::vector<Member> result;
  std::shared_ptr<const SlotMap> map = view_.map();
  if (map == nullptr) return result;
  for (uint16_t owner : map->owners_of(slot)) {
    if (owner == kNoMember) break;
    Member member = map->members[owner];
    bool self = member.id == view_.self();
    if (self) member.address.clear();
    if (self || view_.usable(member.id)) result.push_back(std::move(member));
    if (self) break;
  }
  return result;
}

Duration ClusterLookups::age_max(const std::string& name, Duration ttl) const {
  SteadyTime now = world_.executor.now();
  Duration limit = std::min(ttl, now - all_changed_);
  auto found = changed_.find(name);
  if (found != changed_.end()) limit = std::min(limit, now - found->second);
  // Equal means asked in the very moment of the change: too old.
  return std::max(Duration(0), limit - std::chrono::milliseconds(1));
}

Task<Result<ObjectInfo>> ClusterLookups::head_at(Member member, std::string object,
                                                 Context context) {
  wire::HeadRequest request;
  request.set_object(object);
  Duration age = age_max(object, limits_.attr_ttl);
  Duration negative_age = age_max(object, limits_.negative_ttl);
  if (member.address.empty()) {
    SHOAL_CO_ASSIGN_OR_RETURN(AttributeCache::Head head,
                              co_await cache_.head(object, age, negative_age, context));
    if (!head.object) co_return fail(Code::kNotFound, object + " does not exist");
    head.object->age = world_.executor.now() - head.asked;
    co_return std::move(*head.object);
  }
  // Rounded down: never accept what is older.
  request.set_age_ms_max(to_milliseconds(age - std::chrono::nanoseconds(999'999)));
  request.set_negative_age_ms_max(
      to_milliseconds(negative_age - std::chrono::nanoseconds(999'999)));
  auto answer = co_await pool_.call(member.address, member.id, Method::kHead,
                                    request.SerializeAsString(), nullptr, 0, context);
  if (!answer) co_return fail(std::move(answer).error());
  view_.report(member.id, true);
  SHOAL_CO_ASSIGN_OR_RETURN(auto reply, parse_message<wire::HeadReply>(*answer, "a look-up"));
  if (!reply.found()) co_return fail(Code::kNotFound, object + " does not exist");
  SHOAL_CO_ASSIGN_OR_RETURN(ObjectInfo info, from_wire(reply.object()));
  info.age = std::chrono::milliseconds(reply.age_ms());
  co_return info;
}

// That we hear from it proves little: what it sends may arrive while nothing gets there.
Task<bool> ClusterLookups::is_silent(Member member, Error error, Context context) {
  if (error.code() == Code::kUnavailable) co_return true;
  if (error.code() != Code::kDeadlineExceeded) co_return false;
  if (!pool_.heard_from(member.address, limits_.peer_timeout)) co_return true;
  wire::PingRequest ping;
  ping.set_id_high(member.id.high);
  ping.set_id_low(member.id.low);
  auto answer =
      co_await pool_.call(member.address, member.id, Method::kPing, ping.SerializeAsString(),
                          nullptr, 0, context.tightened(world_.executor, kPingLimit));
  co_return !answer;
}

Task<Result<ObjectInfo>> ClusterLookups::head(std::string object, Context context) {
  {  // With a TTL of nothing too: the owner knows what the origin does not have yet.
    for (Member& member : candidates(slot_of_object(object))) {
      bool self = member.address.empty();
      NodeId id = member.id;
      Context limit = self ? context : context.tightened(world_.executor, limits_.peer_timeout);
      auto info = co_await head_at(member, object, limit);
      if (info || is_answer(info.error()) || self) co_return info;
      SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
      if (co_await is_silent(member, info.error(), context)) view_.report(id, false);
    }
  }
  co_return co_await origin_.head(std::move(object), context);
}

Task<Result<ListPage>> ClusterLookups::list_at(Member member, ListOptions options,
                                               Context context) {
  Duration age = age_max(options.prefix, limits_.attr_ttl);
  if (member.address.empty()) co_return co_await cache_.list(std::move(options), age, context);
  wire::ListRequest request;
  request.set_prefix(options.prefix);
  request.set_recursive(options.recursive);
  request.set_marker(options.marker);
  request.set_entries_max(options.entries_max);
  request.set_waiting_only(options.waiting_only);
  request.set_waiting_names(options.waiting_names);
  request.set_age_ms_max(to_milliseconds(age - std::chrono::nanoseconds(999'999)));
  auto answer = co_await pool_.call(member.address, member.id, Method::kList,
                                    request.SerializeAsString(), nullptr, 0, context);
  if (!answer) co_return fail(std::move(answer).error());
  view_.report(member.id, true);
  SHOAL_CO_ASSIGN_OR_RETURN(auto reply, parse_message<wire::ListReply>(*answer, "a listing"));
  ListPage page;
  for (const wire::ObjectBody& body : reply.objects()) {
    SHOAL_CO_ASSIGN_OR_RETURN(ObjectInfo info, from_wire(body));
    if (!info.name.starts_with(options.prefix)) {
      co_return fail(Code::kCorrupt, member.name + " listed what was not asked for");
    }
    page.objects.push_back(std::move(info));
  }
  for (const std::string& prefix : reply.prefixes()) {
    if (!prefix.starts_with(options.prefix) || prefix.size() <= options.prefix.size()) {
      co_return fail(Code::kCorrupt, member.name + " listed what was not asked for");
    }
    page.prefixes.push_back(prefix);
  }
  page.next_marker = reply.next_marker();
  page.age = std::chrono::milliseconds(reply.age_ms());
  co_return page;
}

Task<Result<ListPage>> ClusterLookups::list(ListOptions options, Context context) {
  {
    for (Member& member : candidates(slot_of_object(options.prefix))) {
      bool self = member.address.empty();
      NodeId id = member.id;
      Context limit = self ? context : context.tightened(world_.executor, limits_.peer_timeout);
      auto page = co_await list_at(member, options, limit);
      if (page || is_answer(page.error()) || self) co_return page;
      bool silent = co_await is_silent(member, page.error(), context);
      if (!silent && page.error().code() == Code::kDeadlineExceeded) {
        // A page of a slow origin takes its time; the member still asks for it.
        limit = context.tightened(world_.executor, 10 * limits_.peer_timeout);
        page = co_await list_at(member, options, limit);
        if (page || is_answer(page.error())) co_return page;
        silent = co_await is_silent(member, page.error(), context);
      }
      SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
      if (silent) view_.report(id, false);
    }
  }
  co_return co_await list_at_origin(origin_, std::move(options), context);
}

void ClusterLookups::remember(const std::string& name) {
  SteadyTime now = world_.executor.now();
  Duration ttl = std::max(limits_.attr_ttl, limits_.negative_ttl);
  if (now - swept_ > ttl) {
    std::erase_if(changed_, [&](const auto& entry) { return now - entry.second > ttl; });
    swept_ = now;
  }
  if (changed_.size() >= kChangedMax) {
    changed_.clear();
    all_changed_ = now;
  }
  changed_[name] = now;
}

Task<void> ClusterLookups::tell(Member member, std::string object) {
  wire::ForgetRequest request;
  request.add_objects(std::move(object));
  auto told =
      co_await pool_.call(member.address, member.id, Method::kForget, request.SerializeAsString(),
                          nullptr, 0, Context::within(world_.executor, kTellLimit));
  // Others then see the change when their TTL has passed, as they would without us.
  static_cast<void>(told);
}

void ClusterLookups::changed(const std::string& object, bool tree) {
  std::string directory(parent_of(object));
  std::string prefix = directory.empty() ? "" : directory + "/";
  remember(object);
  remember(prefix);
  if (tree) all_changed_ = world_.executor.now();
  cache_.forget(object);
  for (uint32_t slot : {slot_of_object(object), slot_of_object(prefix)}) {
    for (Member& member : candidates(slot)) {
      if (!member.address.empty()) gate_.spawn(tell(std::move(member), object));
      break;  // only the first is asked by anybody
    }
  }
}

namespace {

class TellingOrigin final : public ForwardingOrigin {
 public:
  TellingOrigin(Origin& origin, Lookups& lookups) : ForwardingOrigin(origin), lookups_(lookups) {}

  // Changes. A failed one may have happened all the same, so it is told of too.
  Task<Result<ObjectInfo>> put(std::string object, ConstByteSpan bytes, PutOptions options,
                               Context context) override {
    auto info = co_await origin_.put(object, bytes, std::move(options), context);
    lookups_.changed(object, false);
    co_return info;
  }
  Task<Result<ObjectInfo>> commit_blocks(std::string object, std::vector<BlockInfo> blocks,
                                         PutOptions options, Context context) override {
    auto info =
        co_await origin_.commit_blocks(object, std::move(blocks), std::move(options), context);
    lookups_.changed(object, false);
    co_return info;
  }
  Task<Status> remove(std::string object, Condition condition, Context context) override {
    Status status = co_await origin_.remove(object, std::move(condition), context);
    lookups_.changed(object, false);
    co_return status;
  }
  Task<Result<ObjectInfo>> copy(std::string from, std::string source_etag, std::string to,
                                PutOptions options, Context context) override {
    auto info = co_await origin_.copy(std::move(from), std::move(source_etag), to,
                                      std::move(options), context);
    lookups_.changed(to, false);
    co_return info;
  }
  Task<Result<ObjectInfo>> set_metadata(std::string object, Metadata metadata, Condition condition,
                                        Context context) override {
    auto info =
        co_await origin_.set_metadata(object, std::move(metadata), std::move(condition), context);
    lookups_.changed(object, false);
    co_return info;
  }
  Task<Status> rename(std::string from, std::string to, Context context) override {
    Status status = co_await origin_.rename(from, to, context);
    lookups_.changed(from, true);
    lookups_.changed(to, true);
    co_return status;
  }

 private:
  Lookups& lookups_;
};

}  // namespace

std::unique_ptr<Origin> make_telling_origin(Origin& origin, Lookups& lookups) {
  return std::make_unique<TellingOrigin>(origin, lookups);
}

}  // namespace shoal
