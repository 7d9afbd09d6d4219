#include "membership/membership.h"

#include <fmt/format.h>

#include "membership/internal/map_body.h"
#include "membership/internal/membership_impl.h"

namespace shoal {

namespace {

constexpr Duration kRestoreFirst = std::chrono::seconds(1);
constexpr Duration kRestoreMax = std::chrono::seconds(60);

}  // namespace

std::unique_ptr<Membership> Membership::create(World& world, MapStore& store, Registry& registry,
                                               const Log& log, MembershipOptions options) {
  return std::make_unique<MembershipImpl>(world, store, registry, log, std::move(options));
}

MembershipImpl::MembershipImpl(World& world, MapStore& store, Registry& registry, const Log& log,
                               MembershipOptions options)
    : world_(world),
      store_(store),
      log_(log),
      options_(std::move(options)),
      suspicions_(registry.counter("shoal_suspicions_total", "Members that this node suspected")),
      publishes_(registry.counter("shoal_map_publishes_total", "Slot maps that this node wrote")),
      conflicts_(registry.counter("shoal_map_conflicts_total",
                                  "Slot maps not written since somebody else was first")),
      gauges_(std::make_shared<MembershipGauges>()),
      gate_(world.executor),
      health_(world.executor),
      detector_wake_(world.executor),
      restore_backoff_(world.random, kRestoreFirst, kRestoreMax),
      publish_turn_(world.executor, 1),
      push_wanted_(world.executor) {
  SHOAL_ASSERT(!options_.self.id.is_zero());
  SHOAL_ASSERT(options_.self.weight > 0 && options_.copies > 0);
  SHOAL_ASSERT(options_.ping_period > Duration(0) && options_.ping_timeout > Duration(0));
  options_.self.state = MemberState::kUp;
  auto gauge = [&registry, this](std::string name, std::string help,
                                 std::atomic<uint64_t> MembershipGauges::* field) {
    registry.gauge(std::move(name), std::move(help), [gauges = gauges_, field] {
      return static_cast<double>((gauges.get()->*field).load(std::memory_order_relaxed));
    });
  };
  gauge("shoal_map_version", "Version of the slot map in use", &MembershipGauges::version);
  gauge("shoal_members", "Members of the cluster", &MembershipGauges::members);
  gauge("shoal_members_up", "Members that are up", &MembershipGauges::up);
  gauge("shoal_members_down", "Members that do not answer", &MembershipGauges::down);
  gauge("shoal_members_draining", "Members that leave", &MembershipGauges::draining);
}

MembershipImpl::~MembershipImpl() { SHOAL_ASSERT(gate_.count() == 0, "stop() was not awaited"); }

Duration MembershipImpl::between(Duration low, Duration high) {
  SHOAL_ASSERT(low <= high);
  return low + Duration(static_cast<int64_t>(static_cast<double>((high - low).count()) *
                                             world_.random.unit()));
}

Task<void> MembershipImpl::stop() {
  joined_ = false;
  cancel_.request();
  co_await gate_.close();
  SHOAL_ASSERT(batch_ == nullptr, "somebody still waits to be let in");
}

void MembershipImpl::on_change(std::function<void(const SlotMap&)> listener) {
  SHOAL_ASSERT(listener != nullptr);
  listeners_.push_back(std::move(listener));
}

// ---- the current map ----

Status MembershipImpl::adopt(SlotMap next) {
  SHOAL_RETURN_IF_ERROR(check_identity(next));
  if (map_ != nullptr) {
    if (next.cluster_id != map_->cluster_id) {
      return fail(
          Code::kConflict,
          fmt::format("a second cluster called {} was made while this one runs (its map was "
                      "deleted, or nodes have different lists); stop the nodes of one of "
                      "the two",
                      options_.cluster));
    }
    if (next.version <= map_->version) return {};
  }
  map_ = std::make_shared<const SlotMap>(std::move(next));
  follow_map();
  auto snapshot = map_;  // a listener may cause the next one
  for (const auto& listener : listeners_) listener(*snapshot);
  return {};
}

Status MembershipImpl::adopt_told(SlotMap next, std::string token) {
  uint64_t version = next.version;
  bool newer = version > current();
  SHOAL_RETURN_IF_ERROR(adopt(std::move(next)));
  if (newer && !token.empty()) {
    token_ = std::move(token);
    token_version_ = version;
  }
  return {};
}

// Brings everything that is kept per member in line with the new map.
void MembershipImpl::follow_map() {
  std::erase_if(peers_, [this](const auto& entry) { return find(entry.first) == nullptr; });
  health_.keep_members_of(*map_);
  uint64_t counts[4] = {};
  for (const Member& member : map_->members) {
    ++counts[static_cast<size_t>(member.state)];
    if (member.id == self()) continue;
    PeerState& peer = peers_[member.id];
    if (member.state != MemberState::kDown) {
      // It came back: the data path may try it at once.
      if (peer.down_since) health_.report(member.id, true);
      peer.down_since.reset();
      continue;
    }
    if (peer.down_since) continue;
    peer.down_since = now();
    peer.expiry_jitter = between(Duration(0), std::chrono::seconds(1));
    peer.watched = false;
    peer.suspected = false;
    log_.warning("member {} at {} is down", member.name, member.address);
  }
  auto set = [](std::atomic<uint64_t>& to, uint64_t value) {
    to.store(value, std::memory_order_relaxed);
  };
  set(gauges_->version, map_->version);
  set(gauges_->members, map_->members.size());
  set(gauges_->up, counts[static_cast<size_t>(MemberState::kUp)]);
  set(gauges_->down, counts[static_cast<size_t>(MemberState::kDown)]);
  set(gauges_->draining, counts[static_cast<size_t>(MemberState::kDraining)]);
  choose_watched();
  follow_self();
  detector_wake_.notify_all();
}

// What others wrote about this node, and what to do about it.
void MembershipImpl::follow_self() {
  const Member* me = find(self());
  if (me == nullptr || !joined_) {
    if (joined_ && !left_) tend_self();
    return;
  }
  if (me->state == MemberState::kDraining) was_draining_ = true;
  if (me->state == MemberState::kUp) was_draining_ = false;
  if (me->state == MemberState::kDown) {
    accused_at_ = now();
    tend_self();
  } else if (!restoring_self_ &&
             (me->incarnation > incarnation_ || me->address != options_.self.address)) {
    std::string error = fmt::format(
        "duplicate node id: the node at {} has taken the place of this one ({}); a copied cache "
        "directory? remove its file node-id on one of the two and restart that node",
        me->address, options_.self.address);
    if (last_error_ != error) log_.error("{}", error);
    last_error_ = std::move(error);
  }
}

bool MembershipImpl::usable(const NodeId& member) const {
  if (member == self()) return true;
  const Member* found = find(member);
  if (found == nullptr || found->state == MemberState::kDown) return false;
  return health_.usable(member);
}

void MembershipImpl::report(const NodeId& member, bool reached) {
  health_.report(member, reached);
  auto peer = peers_.find(member);
  if (reached || peer == peers_.end() || !peer->second.watched) return;
  // The data path saw it fail: look at once, not at the next turn.
  if (peer->second.next_ping > now() + std::chrono::milliseconds(100)) {
    peer->second.next_ping = now() + std::chrono::milliseconds(100);
    detector_wake_.notify_all();
  }
}

MembershipStatus MembershipImpl::status() const {
  MembershipStatus status;
  status.map = map_;
  status.store = store_.display_name();
  status.store_reachable = store_reachable_;
  status.store_writable = store_writable_;
  status.last_error = last_error_;
  for (const auto& [id, peer] : peers_) {
    if (peer.suspected) status.suspected.push_back(id);
  }
  return status;
}

Task<Status> MembershipImpl::drain(NodeId member, Context context) {
  co_return co_await change(
      fmt::format("draining {}", member.to_hex()),
      [member](const SlotMap& map) -> std::optional<SlotMap> {
        const Member* found = map.find(member);
        if (found == nullptr || found->state == MemberState::kDraining) return std::nullopt;
        return placement::drain(map, member);
      },
      context);
}

Task<Status> MembershipImpl::leave(NodeId member, Context context) {
  if (member == self()) left_ = true;
  Status left = co_await change(
      fmt::format("taking {} out", member.to_hex()),
      [member](const SlotMap& map) -> std::optional<SlotMap> {
        if (map.find(member) == nullptr) return std::nullopt;
        return placement::leave(map, member);
      },
      context);
  if (!left && member == self()) left_ = false;
  co_return left;
}

// ---- answering ----

Task<Result<std::string>> MembershipImpl::handle(const RpcRequest& request, Context context) {
  switch (request.method) {
    case Method::kPing:
      co_return co_await answer_ping();
    case Method::kProbe:
      co_return co_await answer_probe(request.body, context);
    case Method::kGetMap:
      co_return answer_map();
    case Method::kPushMap:
      co_return co_await answer_push(request.body);
    case Method::kJoin:
      co_return co_await answer_join(request.body, context);
    default:
      break;
  }
  co_return fail(Code::kNotSupported, fmt::format("method {} is not about membership",
                                                  static_cast<uint32_t>(request.method)));
}

Task<Result<std::string>> MembershipImpl::answer_ping() {
  wire::PingReply reply;
  reply.set_id_high(self().high);
  reply.set_id_low(self().low);
  reply.set_incarnation(incarnation_);
  if (options_.moved_bytes) reply.set_moved_bytes(options_.moved_bytes());
  co_return reply.SerializeAsString();
}

Result<std::string> MembershipImpl::answer_map() const {
  if (map_ == nullptr) return fail(Code::kUnavailable, "this node has no slot map yet");
  wire::GetMapReply reply;
  put_map(*map_, *reply.mutable_map());
  reply.set_token(token_of_map());
  return reply.SerializeAsString();
}

Task<Result<std::string>> MembershipImpl::answer_push(std::string body) {
  wire::PushMapRequest request;
  if (!request.ParseFromString(body)) {
    co_return fail(Code::kInvalidArgument, "a pushed map that is no message");
  }
  // Before it has joined a node takes the map from the store only.
  if (map_ != nullptr) {
    SHOAL_CO_ASSIGN_OR_RETURN(SlotMap map, take_map(request.map()));
    SHOAL_CO_RETURN_IF_ERROR(adopt_told(std::move(map), request.token()));
  }
  co_return wire::PushMapReply().SerializeAsString();
}

}  // namespace shoal
