// Getting into the map, staying in it, and letting others in.
#include <fmt/format.h>

#include <algorithm>

#include "membership/internal/map_body.h"
#include "membership/internal/membership_impl.h"
#include "wire/peer_address.h"

namespace shoal {
namespace {

constexpr Duration kJoinLimit = std::chrono::seconds(60);
constexpr Duration kStorePatience = std::chrono::seconds(15);  // with a store that is away
constexpr Duration kAskLimit = std::chrono::seconds(10);       // of one member: it batches
constexpr Duration kDialLimit = std::chrono::seconds(3);
// A member that could not reach this node is not believed at once: on a machine where a hundred
// nodes start together an answer can take seconds.
constexpr int kReachTries = 3;
constexpr Duration kBatchWindow = std::chrono::milliseconds(200);
constexpr size_t kAskedMax = 3;
constexpr int kDuplicateChecks = 3;  // a process that is just ending may still answer
constexpr Duration kDuplicatePause = std::chrono::milliseconds(500);
constexpr Duration kRestoreQuiet = std::chrono::minutes(5);

bool owns_slots(const SlotMap& map, const NodeId& id) {
  uint16_t index = map.index_of(id);
  return index != kNoMember && std::ranges::find(map.owners, index) != map.owners.end();
}

// A member that comes back keeps its slots; one that was drained, or has another weight now, gets
// what is due to it; in another zone it begins anew.
SlotMap let_back_in(const SlotMap& map, const Member& old, const Member& member,
                    std::vector<Member>& fresh) {
  if (old.zone != member.zone) {
    if (map.members.size() == 1) {
      return placement::first_map(map.cluster, map.cluster_id, map.origin, map.copies, member);
    }
    fresh.push_back(member);
    return placement::leave(map, member.id);
  }
  Member updated = member;
  updated.state = MemberState::kUp;
  SlotMap next = placement::update_member(map, updated);
  if (member.state == MemberState::kDraining) return placement::drain(next, member.id);
  bool moves = member.weight != old.weight || !owns_slots(map, member.id);
  return moves ? placement::set_weight(next, member.id, member.weight) : next;
}

// The map with these members in it; nothing if all are in it already. Who has an incarnation that
// is not newer than the map's is left alone.
std::optional<SlotMap> let_in(const SlotMap& map, const std::vector<Member>& members) {
  SlotMap next = map;
  std::vector<Member> fresh;
  bool changed = false;
  for (const Member& member : members) {
    const Member* found = next.find(member.id);
    if (found == nullptr) {
      auto same = [&member](const Member& each) { return each.id == member.id; };
      if (std::ranges::any_of(fresh, same)) continue;
      if (next.members.size() + fresh.size() >= kMembersMax) continue;
      fresh.push_back(member);
    } else if (found->incarnation < member.incarnation) {
      Member old = *found;
      next = let_back_in(next, old, member, fresh);
    } else {
      continue;
    }
    changed = true;
  }
  if (!changed) return std::nullopt;
  if (!fresh.empty()) next = placement::join(next, std::move(fresh));
  return next;
}

}  // namespace

Status MembershipImpl::check_identity(const SlotMap& map) const {
  if (map.cluster != options_.cluster) {
    return fail(Code::kConflict, fmt::format("{} holds the map of cluster {}, not of {}",
                                             store_.display_name(), map.cluster, options_.cluster));
  }
  if (map.origin != options_.origin) {
    return fail(Code::kConflict,
                fmt::format("cluster {} caches {}, this node was started for {}; give it another "
                            "--cluster name, or the same origin",
                            options_.cluster, map.origin, options_.origin));
  }
  return {};
}

// ---- joining ----

Task<Status> MembershipImpl::join(RpcPool& pool, Context context) {
  SHOAL_ASSERT(!joined_ && pool_ == nullptr, "join() was called before");
  pool_ = &pool;
  context = context.tightened(world_.executor, kJoinLimit);
  SteadyTime patience = now() + kStorePatience;
  Backoff backoff(world_.random, std::chrono::milliseconds(50), std::chrono::seconds(1));
  int tries = 0;
  while (true) {
    Status status = co_await join_once(context);
    if (status) break;
    Code code = status.error().code();
    bool store_is_away = !store_reachable_;
    bool again = code == Code::kBusy || (store_is_away && now() < patience);
    if (code == Code::kUnavailable && !store_is_away) again = ++tries < kReachTries;
    if (again) again = (co_await sleep_for(world_.executor, backoff.next(), context)).has_value();
    if (!again) {
      pool_ = nullptr;
      co_return fail(std::move(status).error().with_context(
          fmt::format("joining cluster {}", options_.cluster)));
    }
  }
  begin();
  co_return Status();
}

void MembershipImpl::begin() {
  SHOAL_ASSERT(map_ != nullptr && find(self()) != nullptr);
  joined_ = true;
  log_.info("member of cluster {} with {} nodes, map version {}, from {}", options_.cluster,
            map_->members.size(), map_->version, store_.display_name());
  choose_watched();
  gate_.spawn(watch_peers());
  gate_.spawn(push_maps());
  if (!store_.is_fixed()) {
    gate_.spawn(look_now_and_then());
    gate_.spawn(follow_store());
  }
  follow_self();  // marked down since it was entered
}

Task<Status> MembershipImpl::join_once(Context context) {
  Result<std::optional<StoredMap>> stored =
      co_await look(context.tightened(world_.executor, kStorePatience));
  if (!stored) co_return fail(std::move(stored).error());
  if (!*stored && map_ == nullptr) co_return co_await found_cluster(context);
  if (store_.is_fixed()) co_return join_fixed();
  SHOAL_CO_RETURN_IF_ERROR(co_await check_duplicate(context));
  co_return co_await enter(context);
}

Task<Status> MembershipImpl::found_cluster(Context context) {
  Member member = options_.self;
  member.incarnation = incarnation_ + 1;
  SlotMap first = placement::first_map(options_.cluster, world_.random.id128(), options_.origin,
                                       options_.copies, member);
  Result<std::string> token = co_await store_.compare_and_swap(first, "", context);
  note_writable(token ? Status() : Status(fail(token.error())));
  if (!token) {
    // Somebody else founded it at the same moment.
    if (token.error().code() == Code::kConflict) co_return fail(Code::kBusy, "founded by another");
    note_reachable(fail(token.error()));
    co_return fail(std::move(token).error());
  }
  publishes_.add();
  token_ = std::move(*token);
  token_version_ = first.version;
  incarnation_ = member.incarnation;
  log_.info("founded cluster {} in {}", options_.cluster, store_.display_name());
  co_return adopt(std::move(first));
}

Status MembershipImpl::join_fixed() {
  const Member* me = find(self());
  if (me == nullptr) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} has no member with the id of this node ({}); add a line for it, or "
                            "say with --name which of the list it is",
                            store_.display_name(), self().to_hex()));
  }
  if (me->address != options_.self.address) {
    log_.warning("{} says that this node is at {}, not at {}; the others will look for it there",
                 store_.display_name(), me->address, options_.self.address);
    options_.self.address = me->address;
  }
  incarnation_ = me->incarnation;
  return {};
}

// Asks whoever answers at the recorded address for his name. This process itself answers with an
// incarnation of 0 as long as it has not joined, and it alone can be at its own address.
Task<Status> MembershipImpl::check_duplicate(Context context) {
  const Member* me = find(self());
  if (me == nullptr || me->address == options_.self.address) co_return Status();
  std::string address = me->address;
  for (int check = 0; check < kDuplicateChecks; ++check) {
    if (check > 0) {
      SHOAL_CO_RETURN_IF_ERROR(co_await sleep_for(world_.executor, kDuplicatePause, context));
    }
    wire::PingRequest request;
    request.set_id_high(self().high);
    request.set_id_low(self().low);
    Result<std::string> answer =
        co_await pool_->call(address, Hash128{}, Method::kPing, request.SerializeAsString(),
                             nullptr, 0, context.tightened(world_.executor, options_.ping_timeout));
    wire::PingReply reply;
    bool is_other = answer && reply.ParseFromString(*answer) &&
                    NodeId{reply.id_high(), reply.id_low()} == self() && reply.incarnation() != 0;
    if (!is_other) co_return Status();
  }
  co_return fail(
      Code::kConflict,
      fmt::format("duplicate node id: another node with the id {} lives at {}; if the "
                  "cache directory of this node is a copy, remove the file node-id in it",
                  self().to_hex(), address));
}

bool MembershipImpl::is_entered(const Member& member) const {
  const Member* found = find(member.id);
  return found != nullptr && found->incarnation == member.incarnation &&
         found->address == member.address && found->state != MemberState::kDown;
}

Task<Status> MembershipImpl::enter(Context context) {
  Member member = options_.self;
  const Member* recorded = find(self());
  member.incarnation = std::max(incarnation_, recorded ? recorded->incarnation : 0) + 1;
  SHOAL_CO_ASSIGN_OR_RETURN(bool asked, co_await ask_to_join(member, context));
  if (!asked) {
    SHOAL_CO_RETURN_IF_ERROR(co_await change(
        "joining", [member](const SlotMap& map) { return let_in(map, {member}); }, context));
  }
  // Another process with this id may have been quicker: the next round finds it.
  if (!is_entered(member)) co_return fail(Code::kBusy, "the map has another entry for this id");
  incarnation_ = member.incarnation;
  co_return Status();
}

// True: somebody put us into the map. False: nobody could be asked.
Task<Result<bool>> MembershipImpl::ask_to_join(Member member, Context context) {
  std::vector<Member> others;
  for (const Member& each : map_->members) {
    if (each.id != self() && each.state == MemberState::kUp) others.push_back(each);
  }
  for (size_t i = 0; i < std::min(kAskedMax, others.size()); ++i) {
    std::swap(others[i], others[i + world_.random.below(others.size() - i)]);
  }
  others.resize(std::min(kAskedMax, others.size()));
  wire::JoinRequest request;
  put_member(member, *request.mutable_member());
  for (const std::string& address : options_.further) request.add_further(address);
  std::string unreachable;
  std::optional<Error> stranger;
  for (const Member& other : others) {
    Result<std::string> answer =
        co_await pool_->call(other.address, other.id, Method::kJoin, request.SerializeAsString(),
                             nullptr, 0, context.tightened(world_.executor, kAskLimit));
    SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
    if (!answer) {
      log_.debug("{} did not let this node in: {}", other.name, answer.error().message());
      if (answer.error().code() == Code::kUnauthenticated) stranger = std::move(answer).error();
      continue;
    }
    wire::JoinReply reply;
    if (!reply.ParseFromString(*answer)) continue;
    if (!reply.unreachable().empty()) {
      unreachable = reply.unreachable();
      continue;
    }
    Result<SlotMap> map = take_map(reply.map());
    if (!map) continue;
    SHOAL_CO_RETURN_IF_ERROR(adopt_told(std::move(*map), reply.token()));
    if (is_entered(member)) co_return true;
  }
  if (!unreachable.empty()) co_return fail(Code::kUnavailable, std::move(unreachable));
  // Whom the members do not trust must not write himself into their map.
  if (stranger) co_return fail(std::move(*stranger));
  co_return false;
}

// ---- letting others in ----

Task<Result<std::string>> MembershipImpl::answer_join(std::string body, Context context) {
  if (!joined_) co_return fail(Code::kUnavailable, "this node has not joined yet itself");
  if (store_.is_fixed()) co_return fail(Code::kReadOnly, "the list of members is fixed");
  wire::JoinRequest request;
  if (!request.ParseFromString(body)) {
    co_return fail(Code::kInvalidArgument, "a request to join that is no message");
  }
  SHOAL_CO_ASSIGN_OR_RETURN(Member member, take_member(request.member()));
  if (member.id == self()) {
    co_return fail(Code::kConflict, fmt::format("duplicate node id: {} is the id of the node at {}",
                                                member.id.to_hex(), options_.self.address));
  }
  member.state = MemberState::kUp;
  std::vector<std::string> further(request.further().begin(), request.further().end());
  if (Status status = check_further_addresses(further); !status) {
    co_return fail(Code::kInvalidArgument, status.error().message());
  }
  std::vector<Task<Status>> calls;
  calls.push_back(dial_back(member.address, member, context));
  for (std::string& address : further) {
    calls.push_back(dial_back(std::move(address), member, context));
  }
  Status reached = co_await run_all(world_.executor, std::move(calls), 1 + kFurtherAddressesMax);
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  wire::JoinReply reply;
  if (!reached) {
    reply.set_unreachable(reached.error().message());
    co_return reply.SerializeAsString();
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await join_batched(std::move(member), context));
  put_map(*map_, *reply.mutable_map());
  reply.set_token(token_of_map());
  co_return reply.SerializeAsString();
}

Task<Status> MembershipImpl::dial_back(std::string address, const Member& member, Context context) {
  Status reached =
      co_await ping(address, member.id, context.tightened(world_.executor, kDialLimit));
  if (reached) co_return Status();
  co_return fail(
      Code::kUnavailable,
      fmt::format("{} cannot be reached at {} from {} ({}): {}; check --advertise", member.name,
                  address, options_.self.name, options_.self.address, reached.error().message()));
}

Task<Status> MembershipImpl::join_batched(Member member, Context context) {
  if (batch_ == nullptr) {
    auto batch = std::make_shared<JoinBatch>(world_.executor);
    if (!gate_.spawn(run_batch(batch))) co_return fail(Code::kUnavailable, "shutting down");
    batch_ = std::move(batch);
  }
  auto batch = batch_;
  batch->members.push_back(std::move(member));
  while (!batch->result) {
    Status waited = co_await batch->done.wait(context);
    if (!waited && !batch->result) co_return waited;
  }
  co_return *batch->result;
}

Task<void> MembershipImpl::run_batch(std::shared_ptr<JoinBatch> batch) {
  Status slept = co_await sleep_for(world_.executor, kBatchWindow, own_context(kJoinLimit));
  SHOAL_ASSERT(batch_ == batch);
  batch_ = nullptr;  // who comes now begins the next one
  if (slept) {
    slept = co_await change(
        fmt::format("letting in {}", batch->members.size()),
        [batch](const SlotMap& map) { return let_in(map, batch->members); },
        own_context(kAskLimit));
  }
  batch->result = std::move(slept);
  batch->done.notify_all();
}

// ---- staying in ----

// This node is marked down, or has been taken out, and lives. The first time it says so at once;
// when that happens again and again there is a reason, and each answer waits longer.
void MembershipImpl::tend_self() {
  if (restoring_self_ || store_.is_fixed()) return;
  if (find(self()) == nullptr && was_draining_) {
    log_.info("this node was drained and has been taken out of the cluster");
    left_ = true;
    return;
  }
  Duration delay{0};
  if (restored_at_ && now() - *restored_at_ < kRestoreQuiet) {
    delay = restore_backoff_.next();
  } else {
    restore_backoff_.reset();
  }
  log_.warning("this node {}, but it lives; correcting that in {:.1f} s",
               find(self()) ? "was marked down" : "was taken out of the map", to_seconds(delay));
  restoring_self_ = gate_.spawn(restore_self(delay));
}

Task<void> MembershipImpl::restore_self(Duration delay) {
  Status done = co_await sleep_for(world_.executor, delay, own_context(kNever - now()));
  if (done) {
    auto come_back = [this](const SlotMap& map) -> std::optional<SlotMap> {
      const Member* me = map.find(self());
      if (me != nullptr && me->state != MemberState::kDown) return std::nullopt;
      Member member = options_.self;
      member.incarnation = std::max(incarnation_, me != nullptr ? me->incarnation : 0) + 1;
      if (me != nullptr && was_draining_) member.state = MemberState::kDraining;
      return let_in(map, {member});
    };
    done = co_await change("coming back", come_back, own_context(kJoinLimit));
  }
  restored_at_ = now();
  restoring_self_ = false;
  if (cancel_.requested()) co_return;
  const Member* me = find(self());
  if (done && me != nullptr) incarnation_ = me->incarnation;
  if (me == nullptr || me->state == MemberState::kDown) tend_self();
}

}  // namespace shoal
