// Changing the map in its store, and telling it around.
#include <fmt/format.h>

#include <algorithm>

#include "membership/internal/map_body.h"
#include "membership/internal/membership_impl.h"

namespace shoal {
namespace {

constexpr Duration kChangeLimit = std::chrono::seconds(30);  // where the caller sets none
constexpr Duration kLoadLimit = std::chrono::seconds(10);
constexpr Duration kPushLimit = std::chrono::seconds(2);
constexpr size_t kPushesMax = 16;
constexpr Duration kFetchLimit = std::chrono::seconds(5);
constexpr int kFetchAttempts = 4;
// A peer that is still behind after this cannot fetch from us by itself: it is told.
constexpr Duration kBehindFor = std::chrono::seconds(3);

bool is_outage(Code code) {
  return code == Code::kUnavailable || code == Code::kThrottled || code == Code::kBusy ||
         code == Code::kDeadlineExceeded || code == Code::kNotFound;
}

}  // namespace

// ---- the store ----

void MembershipImpl::note_reachable(const Status& status) {
  if (!status && status.error().code() == Code::kCancelled) return;
  bool reachable = status || !is_outage(status.error().code());
  if (!status) last_error_ = status.error().message();
  if (reachable == store_reachable_) return;
  store_reachable_ = reachable;
  if (reachable) {
    log_.info("{} can be reached again", store_.display_name());
    last_error_.clear();
  } else {
    log_.warning("{} cannot be reached; going on with the map as it is: {}", store_.display_name(),
                 last_error_);
  }
}

void MembershipImpl::note_writable(const Status& status) {
  bool refused = !status && (status.error().code() == Code::kPermissionDenied ||
                             status.error().code() == Code::kReadOnly ||
                             status.error().code() == Code::kUnauthenticated);
  if (!status && !refused) return;  // says nothing about permissions
  if (refused) last_error_ = status.error().message();
  if (store_writable_ == !refused) return;
  store_writable_ = !refused;
  if (refused) {
    log_.warning("{} may not be written by this node; going on with the map as it is: {}",
                 store_.display_name(), last_error_);
  } else {
    log_.info("{} may be written again", store_.display_name());
    last_error_.clear();
  }
}

Task<Result<std::optional<StoredMap>>> MembershipImpl::look(Context context) {
  Result<std::optional<StoredMap>> stored = co_await store_.load(context);
  note_reachable(stored ? Status() : Status(fail(stored.error())));
  if (!stored) co_return fail(std::move(stored).error());
  if (!*stored) {
    token_version_ = 0;
    co_return std::move(stored);
  }
  const StoredMap& found = **stored;
  Status adopted = adopt(found.map);
  if (!adopted) {
    if (last_error_ != adopted.error().message()) log_.error("{}", adopted.error().message());
    last_error_ = adopted.error().message();
    co_return fail(std::move(adopted).error());
  }
  token_ = found.token;
  token_version_ = found.map.version;
  co_return std::move(stored);
}

// A question of some bytes where loading the map would be tens of KiB, from each node.
Task<bool> MembershipImpl::is_store_unchanged() {
  if (!store_reachable_ || token_of_map().empty()) co_return false;
  uint64_t version = current();
  Result<bool> same = co_await store_.is_unchanged(token_, own_context(kLoadLimit));
  co_return same && *same&& version == current();
}

// The newest map that is known, and what names the state of the store. A store that lost the map,
// or has an old one, gets ours.
Task<Result<MembershipImpl::Base>> MembershipImpl::base_for_change(bool fresh, Context context) {
  if (!fresh && map_ != nullptr && token_version_ == map_->version) co_return Base{map_, token_};
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<StoredMap> stored, co_await look(context));
  SHOAL_ASSERT(map_ != nullptr || !stored);
  if (map_ == nullptr) co_return fail(Code::kUnavailable, "there is no slot map yet");
  co_return Base{map_, stored ? std::move(stored->token) : ""};
}

Task<Status> MembershipImpl::change(std::string what, Change change, Context context) {
  if (context.deadline == kNever) context = context.tightened(world_.executor, kChangeLimit);
  SHOAL_CO_ASSIGN_OR_RETURN(Permit turn, co_await publish_turn_.acquire(1, context));
  Backoff backoff(world_.random, std::chrono::milliseconds(20), std::chrono::seconds(1));
  bool fresh = false;
  while (true) {
    Status status;
    Result<Base> base = co_await base_for_change(fresh, context);
    if (base) {
      std::optional<SlotMap> next = change(*base->map);
      if (!next) co_return Status();
      // A change of several steps is one version.
      next->version = base->map->version + 1;
      Result<std::string> token = co_await store_.compare_and_swap(*next, base->token, context);
      if (token) {
        note_writable(Status());
        publishes_.add();
        token_ = std::move(*token);
        token_version_ = next->version;
        log_.info("{}: map version {}, {} members", what, next->version, next->members.size());
        Status adopted = adopt(std::move(*next));
        push_to_all();
        co_return adopted;
      }
      status = fail(std::move(token).error());
      note_writable(status);
    } else {
      status = fail(base.error());
    }
    fresh = true;
    Code code = status.error().code();
    if (code == Code::kConflict && base) conflicts_.add();
    if (base && code != Code::kConflict) note_reachable(status);
    bool again = (code == Code::kConflict && base) || is_outage(code);
    if (again) again = (co_await sleep_for(world_.executor, backoff.next(), context)).has_value();
    if (!again) co_return fail(std::move(status).error().with_context(what));
  }
}

Task<void> MembershipImpl::look_now_and_then() {
  Backoff backoff(world_.random, std::chrono::seconds(1), options_.store_period);
  while (!cancel_.requested()) {
    Duration pause = between(options_.store_period / 2, options_.store_period);
    if (store_reachable_ && store_writable_) {
      backoff.reset();
    } else {
      pause = std::min(pause, backoff.next());
    }
    Context until = {now() + pause + kLoadLimit, &cancel_};
    if (!co_await sleep_for(world_.executor, pause, until)) co_return;
    if (!store_writable_) co_await write_map_again();
    if (co_await is_store_unchanged()) continue;
    Result<std::optional<StoredMap>> stored = co_await look(own_context(kLoadLimit));
    bool lost = stored && (!*stored || (*stored)->map.version < map_->version);
    if (lost) co_await restore_map();
  }
}

// Whether a node that was refused may write again shows only when it writes; until then its status
// would be a false alarm, and perhaps nobody is left who may write. The map stays as it is.
Task<void> MembershipImpl::write_map_again() {
  Result<Permit> turn = co_await publish_turn_.acquire(1, own_context(kLoadLimit));
  if (!turn) co_return;
  Result<Base> base = co_await base_for_change(true, own_context(kLoadLimit));
  if (!base) co_return;
  uint64_t version = base->map->version;
  Result<std::string> token =
      co_await store_.compare_and_swap(*base->map, base->token, own_context(kLoadLimit));
  note_writable(token ? Status() : Status(fail(token.error())));
  if (!token) co_return;
  token_ = std::move(*token);
  token_version_ = version;
}

// Somebody deleted the map, or put an old one back. Looked at twice: between a look and its answer
// another node may have published a newer one and told us.
Task<void> MembershipImpl::restore_map() {
  if (!co_await sleep_for(world_.executor, std::chrono::seconds(1), own_context(kLoadLimit))) {
    co_return;
  }
  Result<std::optional<StoredMap>> stored = co_await look(own_context(kLoadLimit));
  if (!stored || (*stored && (*stored)->map.version >= map_->version)) co_return;
  log_.warning("{} has {}; writing version {} again", store_.display_name(),
               *stored ? "an old map" : "no map any more", map_->version);
  uint64_t version = map_->version;
  Status done = co_await change(
      "writing the lost map again",
      [version](const SlotMap& map) -> std::optional<SlotMap> {
        if (map.version > version) return std::nullopt;
        return map;
      },
      own_context(kLoadLimit));
  if (!done && !cancel_.requested()) log_.warning("{}", done.error().message());
}

Task<void> MembershipImpl::follow_store() {
  Backoff backoff(world_.random, std::chrono::milliseconds(200), std::chrono::seconds(5));
  while (!cancel_.requested()) {
    std::string token = token_version_ != 0 ? token_ : "";
    Status changed = co_await store_.watch(std::move(token), Context{kNever, &cancel_});
    if (cancel_.requested()) co_return;
    if (!changed && changed.error().code() == Code::kNotSupported) co_return;
    if (changed) {
      Result<std::optional<StoredMap>> stored = co_await look(own_context(kLoadLimit));
      if (!stored) changed = fail(std::move(stored).error());
    } else {
      note_reachable(changed);
    }
    if (changed) {
      backoff.reset();
      continue;
    }
    Context until = own_context(kChangeLimit);
    if (!co_await sleep_for(world_.executor, backoff.next(), until)) co_return;
  }
}

// ---- telling it around ----

void MembershipImpl::push_to_all() {
  for (const Member& member : map_->members) {
    if (member.id == self() || member.state == MemberState::kDown) continue;
    PeerState& peer = peers_.at(member.id);
    if (peer.known_version < map_->version) peer.push_due = true;
  }
  push_wanted_.notify_all();
}

Task<void> MembershipImpl::push_maps() {
  while (!cancel_.requested()) {
    std::vector<Task<Status>> pushes;
    for (auto& [id, peer] : peers_) {
      if (!peer.push_due) continue;
      peer.push_due = false;
      pushes.push_back(push_to(id));
    }
    if (!pushes.empty()) {
      Status done = co_await run_all(world_.executor, std::move(pushes), kPushesMax);
      SHOAL_ASSERT(done.has_value(), "pushes do not fail");
      continue;
    }
    std::string().swap(push_body_);  // the next change is perhaps days away
    push_body_version_ = 0;
    Status woken = co_await push_wanted_.wait(Context{kNever, &cancel_});
    if (!woken) co_return;
  }
}

// Always ok: who did not hear of it now asks by himself later.
Task<Status> MembershipImpl::push_to(NodeId id) {
  const Member* member = find(id);
  auto peer = peers_.find(id);
  if (member == nullptr || peer == peers_.end() || cancel_.requested()) co_return Status();
  uint64_t version = map_->version;
  if (peer->second.known_version >= version) co_return Status();
  if (push_body_version_ != version) {
    wire::PushMapRequest request;
    put_map(*map_, *request.mutable_map());
    request.set_token(token_of_map());
    push_body_ = request.SerializeAsString();
    push_body_version_ = version;
  }
  peer->second.pushed_at = now();
  Result<std::string> answer = co_await pool_->call(
      member->address, id, Method::kPushMap, push_body_, nullptr, 0, own_context(kPushLimit));
  peer = peers_.find(id);
  if (answer && peer != peers_.end()) {
    peer->second.known_version = std::max(peer->second.known_version, version);
  }
  co_return Status();
}

void MembershipImpl::seen(const Hash128& peer_id, uint64_t version) {
  if (map_ == nullptr || !joined_ || peer_id == self()) return;
  auto found = peers_.find(peer_id);
  if (version > map_->version) {
    if (found != peers_.end()) found->second.known_version = version;
    newest_seen_ = std::max(newest_seen_, version);
    if (!fetching_ && !peer_id.is_zero()) fetching_ = gate_.spawn(fetch_map(peer_id));
    return;
  }
  if (version == map_->version || version == 0 || found == peers_.end()) return;
  // It sees our version in every frame and fetches; only if that does not help we push.
  PeerState& peer = found->second;
  peer.known_version = version;
  if (now() - peer.behind_at > kBehindFor) peer.behind_since = now();
  peer.behind_at = now();
  if (now() - peer.behind_since < kBehindFor || now() - peer.pushed_at < kBehindFor) return;
  peer.push_due = true;
  push_wanted_.notify_all();
}

// A moment later, for the publisher is probably about to push it.
Task<void> MembershipImpl::fetch_map(NodeId peer) {
  for (int attempt = 0; attempt < kFetchAttempts; ++attempt) {
    Duration pause = between(std::chrono::milliseconds(50), std::chrono::milliseconds(250));
    if (!co_await sleep_for(world_.executor, pause, own_context(kFetchLimit))) break;
    if (map_->version >= newest_seen_) break;
    Status fetched = co_await fetch_from(peer);
    if (!fetched && !cancel_.requested()) {
      log_.debug("fetching the map from {}: {}", peer.to_hex(), fetched.error().message());
    }
  }
  newest_seen_ = map_->version;
  fetching_ = false;
}

// A peer that is not in our map is new: the store has the map with it.
Task<Status> MembershipImpl::fetch_from(NodeId peer) {
  const Member* member = find(peer);
  if (member == nullptr) {
    Result<std::optional<StoredMap>> stored = co_await look(own_context(kLoadLimit));
    if (!stored) co_return fail(std::move(stored).error());
    co_return Status();
  }
  Result<std::string> answer = co_await pool_->call(member->address, peer, Method::kGetMap,
                                                    wire::GetMapRequest().SerializeAsString(),
                                                    nullptr, 0, own_context(kFetchLimit));
  if (!answer) co_return fail(std::move(answer).error());
  wire::GetMapReply reply;
  if (!reply.ParseFromString(*answer)) co_return fail(Code::kCorrupt, "an answer that is none");
  SHOAL_CO_ASSIGN_OR_RETURN(SlotMap map, take_map(reply.map()));
  co_return adopt_told(std::move(map), reply.token());
}

}  // namespace shoal
