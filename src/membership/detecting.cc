// Who is alive. Every living member is watched by the three living ones before it in the order of
// ids.
//
// Two kinds of evidence: a ping that is refused (nothing listens there: the process is gone) counts
// after three in a row, half a second; silence counts after `suspect_after`, since a machine that
// is busy is silent too. Either makes a suspect; witnesses then decide.
#include <fmt/format.h>

#include <algorithm>

#include "membership/internal/map_body.h"
#include "membership/internal/membership_impl.h"

namespace shoal {
namespace {

constexpr size_t kWatched = 3;
constexpr size_t kWitnesses = 4;
constexpr uint32_t kRefusalsToSuspect = 3;
constexpr Duration kRefusedPause = std::chrono::milliseconds(250);
constexpr Duration kTurnMax = std::chrono::seconds(1);
constexpr Duration kTurnMin = std::chrono::milliseconds(20);
// If this node itself was held up for so long, others are not to blame for what it did not hear.
constexpr Duration kHeldUp = std::chrono::milliseconds(300);
constexpr Duration kProbeLimit = std::chrono::milliseconds(1000);
constexpr Duration kInquiryLimit = std::chrono::milliseconds(1500);
constexpr Duration kInquiryPauseMax = std::chrono::seconds(5);
constexpr Duration kSilentWitness = std::chrono::seconds(30);
constexpr Duration kAloneAfter = std::chrono::seconds(10);
constexpr Duration kAccusedFor = std::chrono::seconds(60);
constexpr Duration kRankDelay = std::chrono::seconds(2);  // between watchers, when grace ends
constexpr Duration kPublishLimit = std::chrono::seconds(10);

// Evidence that nobody, or somebody else, is there; a busy member gives other errors.
bool is_refusal(Code code) {
  return code == Code::kUnavailable || code == Code::kConflict || code == Code::kUnauthenticated;
}

// Ids of members that are not down, in order.
std::vector<NodeId> living(const SlotMap& map) {
  std::vector<NodeId> ids;
  for (const Member& member : map.members) {
    if (member.state != MemberState::kDown) ids.push_back(member.id);
  }
  std::ranges::sort(ids);
  return ids;
}

}  // namespace

void MembershipImpl::choose_watched() {
  std::vector<NodeId> ids = living(*map_);
  auto after = std::ranges::upper_bound(ids, self());
  std::vector<NodeId> chosen;
  for (size_t i = 0; i < ids.size() && chosen.size() < kWatched; ++i, ++after) {
    if (after == ids.end()) after = ids.begin();
    if (*after != self()) chosen.push_back(*after);
  }
  watched_.clear();
  down_.clear();
  for (auto& [id, peer] : peers_) {
    bool watched = find(self()) != nullptr && std::ranges::find(chosen, id) != chosen.end();
    if (watched && !peer.watched) {
      peer.answered = now();
      peer.next_ping = now() + between(Duration(0), options_.ping_period);
      peer.refusals = 0;
    }
    if (!watched) peer.suspected = false;
    peer.watched = watched;
    if (watched) watched_.push_back(id);
    if (peer.down_since) down_.push_back(id);
  }
}

Task<void> MembershipImpl::watch_peers() {
  SteadyTime due = now();
  while (!cancel_.requested()) {
    Status woken = co_await detector_wake_.wait(Context{due, &cancel_});
    if (!woken && woken.error().code() == Code::kCancelled) co_return;
    Duration late = now() - due;
    if (late > kHeldUp) {
      for (auto& [id, peer] : peers_) peer.answered += late;
    }
    due = now() + kTurnMax;
    due = std::min(due, ping_due_peers());
    due = std::min(due, suspect_peers());
    due = std::min(due, expire_down());
    due = std::max(due, now() + kTurnMin);
  }
}

SteadyTime MembershipImpl::ping_due_peers() {
  SteadyTime next = kNever;
  for (const NodeId& id : watched_) {
    PeerState& peer = peers_.at(id);
    if (peer.next_ping <= now() && !peer.pinging) {
      const std::string& address = find(id)->address;
      peer.next_ping =
          now() + between(options_.ping_period * 9 / 10, options_.ping_period * 11 / 10);
      // What carries data need not be asked. The window is shorter than the period, so that an
      // answered ping does not count twice.
      if (heard_from(id, options_.ping_period / 2)) {
        sign_of_life(id);
      } else {
        peer.pinging = gate_.spawn(ping_peer(id, address));
      }
    }
    if (!peer.pinging) next = std::min(next, peer.next_ping);
  }
  return next;
}

// Frames tell an address, not who sits there: of a node that came back without its id, its old id
// must not live on.
bool MembershipImpl::heard_from(const NodeId& id, Duration within) const {
  const Member* member = find(id);
  if (member == nullptr || !pool_->heard_from(member->address, within)) return false;
  return std::ranges::none_of(map_->members, [&](const Member& other) {
    return other.id != id && other.address == member->address && other.state != MemberState::kDown;
  });
}

Task<Status> MembershipImpl::ping(std::string address, NodeId id, Context context) {
  wire::PingRequest request;
  request.set_id_high(id.high);
  request.set_id_low(id.low);
  Result<std::string> answer = co_await pool_->call(
      std::move(address), id, Method::kPing, request.SerializeAsString(), nullptr, 0, context);
  if (!answer) co_return fail(std::move(answer).error());
  wire::PingReply reply;
  if (!reply.ParseFromString(*answer)) co_return fail(Code::kCorrupt, "an answer that is none");
  if (NodeId{reply.id_high(), reply.id_low()} != id) {
    co_return fail(Code::kConflict, fmt::format("another node answers there, with the id {}",
                                                NodeId{reply.id_high(), reply.id_low()}.to_hex()));
  }
  co_return Status();
}

Task<void> MembershipImpl::ping_peer(NodeId id, std::string address) {
  Status answered = co_await ping(std::move(address), id, own_context(options_.ping_timeout));
  auto found = peers_.find(id);
  if (found == peers_.end()) co_return;
  PeerState& peer = found->second;
  peer.pinging = false;
  if (answered) {
    sign_of_life(id);
  } else if (answered.error().code() != Code::kCancelled) {
    health_.report(id, false);
    if (is_refusal(answered.error().code())) {
      ++peer.refusals;
      peer.next_ping = std::min(peer.next_ping, now() + kRefusedPause);
    } else {
      peer.refusals = 0;
    }
  }
  detector_wake_.notify_all();
}

void MembershipImpl::sign_of_life(const NodeId& id) {
  PeerState& peer = peers_.at(id);
  peer.answered = now();
  peer.refusals = 0;
  peer.silent_until = SteadyTime{};
  health_.report(id, true);
  if (!peer.suspected) return;
  peer.suspected = false;
  log_.info("member {} answers again", find(id)->name);
}

SteadyTime MembershipImpl::suspect_peers() {
  SteadyTime next = kNever;
  for (const NodeId& id : watched_) {
    PeerState& peer = peers_.at(id);
    if (!peer.suspected) {
      bool silent = now() - peer.answered >= options_.suspect_after;
      // An answer that came too late for its ping is a sign of life all the same.
      if (silent && heard_from(id, options_.suspect_after / 2)) {
        peer.answered = now() - options_.suspect_after / 2;
        silent = false;
      }
      if (!silent && peer.refusals < kRefusalsToSuspect) {
        next = std::min(next, peer.answered + options_.suspect_after);
        continue;
      }
      peer.suspected = true;
      peer.suspected_at = now();
      peer.next_inquiry = now();
      peer.inquiries = 0;
      suspicions_.add();
      log_.info("member {} at {} {}; asking others", find(id)->name, find(id)->address,
                silent ? "does not answer" : "refuses connections");
    }
    if (peer.inquiring) continue;
    if (peer.next_inquiry <= now()) {
      peer.inquiring = gate_.spawn(inquire(id));
    } else {
      next = std::min(next, peer.next_inquiry);
    }
  }
  return next;
}

// ---- witnesses ----

bool MembershipImpl::was_accused_lately() const {
  return accused_at_ && now() - *accused_at_ < kAccusedFor;
}

// A few at random, not the suspect nor other suspects. Who did not answer as a witness lately is
// left out, so that the loss of many is noticed by those that are left. A node that was itself
// marked down must not pick its witnesses so: perhaps it is the one that is cut off.
std::vector<NodeId> MembershipImpl::choose_witnesses(const NodeId& suspect) {
  std::vector<NodeId> ids;
  for (const NodeId& id : living(*map_)) {
    if (id == self() || id == suspect) continue;
    const PeerState& peer = peers_.at(id);
    if (peer.suspected) continue;
    if (peer.silent_until > now() && !was_accused_lately()) continue;
    ids.push_back(id);
  }
  for (size_t i = 0; i < std::min(kWitnesses, ids.size()); ++i) {
    std::swap(ids[i], ids[i + world_.random.below(ids.size() - i)]);
  }
  ids.resize(std::min(kWitnesses, ids.size()));
  return ids;
}

Task<void> MembershipImpl::inquire(NodeId id) {
  const Member* member = find(id);
  if (member == nullptr) co_return;
  uint64_t incarnation = member->incarnation;
  auto inquiry = std::make_shared<Inquiry>(world_.executor);
  std::vector<NodeId> witnesses = choose_witnesses(id);
  inquiry->asked = static_cast<uint32_t>(witnesses.size());
  for (const NodeId& witness : witnesses) {
    if (!gate_.spawn(ask_witness(witness, id, inquiry))) co_return;
  }
  Context limit = own_context(kInquiryLimit + std::chrono::milliseconds(100));
  while (inquiry->finished < inquiry->asked && inquiry->reached == 0) {
    if (inquiry->gone >= 2 && is_convicted(id, *inquiry)) break;
    if (!co_await inquiry->heard.wait(limit)) break;
  }
  if (cancel_.requested()) co_return;
  auto found = peers_.find(id);
  if (found == peers_.end()) co_return;
  bool convicted = found->second.suspected && is_convicted(id, *inquiry);
  if (convicted) co_await mark_down(id, incarnation);
  found = peers_.find(id);
  if (found == peers_.end()) co_return;
  PeerState& peer = found->second;
  peer.inquiring = false;
  Duration pause = std::chrono::milliseconds(500) * (1 << std::min(peer.inquiries, 4u));
  ++peer.inquiries;
  peer.next_inquiry = now() + std::min(pause, kInquiryPauseMax);
  detector_wake_.notify_all();
}

Task<void> MembershipImpl::ask_witness(NodeId witness, NodeId suspect,
                                       std::shared_ptr<Inquiry> inquiry) {
  wire::ProbeRequest request;
  request.set_id_high(suspect.high);
  request.set_id_low(suspect.low);
  request.set_timeout_ms(static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(kProbeLimit).count()));
  const Member* member = find(witness);
  Result<std::string> answer = fail(Code::kNotFound, "no member any more");
  if (member != nullptr) {
    answer =
        co_await pool_->call(member->address, witness, Method::kProbe, request.SerializeAsString(),
                             nullptr, 0, own_context(kInquiryLimit));
  }
  ++inquiry->finished;
  wire::ProbeReply reply;
  if (answer && reply.ParseFromString(*answer)) {
    ++(reply.reached() ? inquiry->reached : inquiry->gone);
  } else if (!answer && answer.error().code() != Code::kCancelled) {
    if (auto peer = peers_.find(witness); peer != peers_.end()) {
      peer->second.silent_until = now() + kSilentWitness;
    }
  }
  inquiry->heard.notify_all();
}

// Nobody reached it, somebody tried, and at least half of those we asked are there: otherwise we
// are more likely to be cut off than all of them to be gone. Alone a node decides only when there
// is nobody to ask, after a while or when they were just two.
bool MembershipImpl::is_convicted(const NodeId& suspect, const Inquiry& inquiry) const {
  if (inquiry.reached > 0) return false;
  if (inquiry.asked > 0) return inquiry.gone >= 1 && inquiry.gone * 2 >= inquiry.asked;
  if (was_accused_lately()) return false;
  size_t others = 0;
  for (const Member& member : map_->members) {
    bool counts = member.state != MemberState::kDown && member.id != self() && member.id != suspect;
    others += counts ? 1 : 0;
  }
  auto peer = peers_.find(suspect);
  return others == 0 || (peer != peers_.end() && now() - peer->second.suspected_at >= kAloneAfter);
}

Task<Result<std::string>> MembershipImpl::answer_probe(std::string body, Context context) {
  wire::ProbeRequest request;
  if (!request.ParseFromString(body)) {
    co_return fail(Code::kInvalidArgument, "a request to probe that is no message");
  }
  NodeId id{request.id_high(), request.id_low()};
  const Member* member = find(id);
  if (!joined_ || member == nullptr) {
    co_return fail(Code::kNotFound, fmt::format("{} is no member here", id.to_hex()));
  }
  wire::ProbeReply reply;
  std::string address = member->address;
  Duration limit = std::min<Duration>(std::chrono::milliseconds(request.timeout_ms()), kProbeLimit);
  bool reached = heard_from(id, options_.ping_period / 2);
  if (!reached) {
    Status answered = co_await ping(address, id, context.tightened(world_.executor, limit));
    SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
    reached =
        answered.has_value() || heard_from(id, limit) || answered.error().code() == Code::kBusy;
  }
  reply.set_reached(reached);
  co_return reply.SerializeAsString();
}

// ---- verdicts ----

Task<void> MembershipImpl::mark_down(NodeId id, uint64_t incarnation) {
  if (store_.is_fixed()) co_return;  // the data path goes around it, the list stays
  auto change_to_down = [id, incarnation](const SlotMap& map) -> std::optional<SlotMap> {
    const Member* found = map.find(id);
    bool same = found != nullptr && found->incarnation == incarnation;
    if (!same || found->state == MemberState::kDown) return std::nullopt;
    Member next = *found;
    next.state = MemberState::kDown;
    return placement::update_member(map, next);
  };
  Status done = co_await change(fmt::format("marking {} down", id.to_hex()), change_to_down,
                                own_context(kPublishLimit));
  if (!done && !cancel_.requested()) {
    log_.debug("could not mark {} down: {}", id.to_hex(), done.error().message());
  }
}

// Members whose grace is over: their slots go to others. The watchers of each do it, the nearest
// one first; time is counted from when this node saw it down.
SteadyTime MembershipImpl::expire_down() {
  SteadyTime next = kNever;
  const Member* me = find(self());
  // Who is marked down itself has that to put right first.
  bool away = me == nullptr || me->state == MemberState::kDown;
  if (down_.empty() || removing_ || away || store_.is_fixed()) return next;
  std::vector<NodeId> ids = living(*map_);
  SHOAL_ASSERT(!ids.empty(), "this node itself is among the living");
  std::vector<NodeId> expired;
  for (const NodeId& id : down_) {
    const PeerState& peer = peers_.at(id);
    // Steps back from the member to this node, past others that live.
    auto place = std::ranges::lower_bound(ids, id);
    auto mine = std::ranges::lower_bound(ids, self());
    auto distance = (place - mine + static_cast<std::ptrdiff_t>(ids.size()) - 1) %
                    static_cast<std::ptrdiff_t>(ids.size());
    if (distance >= static_cast<std::ptrdiff_t>(kWatched)) continue;
    SteadyTime due = *peer.down_since + options_.grace + peer.expiry_jitter + distance * kRankDelay;
    if (due <= now()) {
      expired.push_back(id);
    } else {
      next = std::min(next, due);
    }
  }
  if (!expired.empty()) removing_ = gate_.spawn(remove_expired(std::move(expired)));
  return next;
}

Task<void> MembershipImpl::remove_expired(std::vector<NodeId> ids) {
  auto remove = [&ids](const SlotMap& map) -> std::optional<SlotMap> {
    std::optional<SlotMap> next;
    for (const NodeId& id : ids) {
      const Member* found = (next ? *next : map).find(id);
      if (found == nullptr || found->state != MemberState::kDown) continue;
      next = placement::leave(next ? *next : map, id);
    }
    return next;
  };
  Status done = co_await change(fmt::format("giving away the slots of {}", ids.size()), remove,
                                own_context(kPublishLimit));
  removing_ = false;
  if (cancel_.requested()) co_return;
  for (const NodeId& id : ids) {
    auto peer = peers_.find(id);
    if (!done && peer != peers_.end()) peer->second.expiry_jitter += std::chrono::seconds(5);
  }
  if (done) log_.info("{} members were down for too long; others have their slots", ids.size());
  detector_wake_.notify_all();
}

}  // namespace shoal
