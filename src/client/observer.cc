#include "client/observer.h"

#include <algorithm>

#include "wire/messages.pb.h"

namespace shoal {

namespace {
constexpr uint32_t kFailuresMax = 2;
constexpr auto kPauseFirst = std::chrono::seconds(1);
constexpr auto kPauseMax = std::chrono::seconds(10);
constexpr auto kFetchLimit = std::chrono::seconds(5);
}  // namespace

Task<Status> Observer::load(MapStore& store, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<StoredMap> stored, co_await store.load(context));
  if (!stored) {
    co_return fail(Code::kNotFound,
                   store.display_name() + " holds no map: no node of the cluster has run yet");
  }
  map_ = std::make_shared<const SlotMap>(std::move(stored->map));
  co_return Status();
}

void Observer::seen(const Hash128& peer, uint64_t version) {
  if (version <= current() || pool_ == nullptr || fetching_ || map_ == nullptr) return;
  const Member* member = map_->find(peer);
  if (member == nullptr) return;
  fetching_ = gate_.spawn(fetch(*member));
}

Task<void> Observer::fetch(Member from) {
  Context context = Context::within(world_.executor, kFetchLimit);
  context.cancel = &stopping_;
  auto answer =
      co_await pool_->call(from.address, from.id, Method::kGetMap,
                           wire::GetMapRequest().SerializeAsString(), nullptr, 0, context);
  fetching_ = false;
  if (!answer) co_return;
  auto map = map_from_reply(*answer);
  if (!map) {
    log_.warning("the map that {} gave: {}", from.name, map.error().message());
    co_return;
  }
  bool same = map->cluster_id == map_->cluster_id;
  if (same && map->version > current()) map_ = std::make_shared<const SlotMap>(std::move(*map));
}

bool Observer::usable(const NodeId& member) const {
  const Member* known = map_ == nullptr ? nullptr : map_->find(member);
  if (known == nullptr || known->state == MemberState::kDown) return false;
  auto found = troubles_.find(member);
  return found == troubles_.end() || found->second.failures < kFailuresMax ||
         found->second.until <= world_.executor.now();
}

void Observer::report(const NodeId& member, bool reached) {
  if (reached) {
    troubles_.erase(member);
    return;
  }
  Trouble& trouble = troubles_[member];
  ++trouble.failures;
  if (trouble.failures < kFailuresMax) return;
  Duration pause = kPauseFirst * (1 << std::min(trouble.failures - kFailuresMax, 4u));
  trouble.until = world_.executor.now() + std::min<Duration>(pause, kPauseMax);
}

Task<void> Observer::close() {
  stopping_.request();
  return gate_.close();
}

}  // namespace shoal
