#include "client/peer_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "async/gate.h"
#include "async/linked_cancel.h"
#include "async/sync.h"
#include "wire/messages.pb.h"

namespace shoal {

namespace {

struct Watch {
  Executor& executor;
  RpcPool& pool;
  const PeerReadOptions& options;
  PingTimes& ping_times;
  const RpcSink& sink;
  LinkedCancel& guard;
  Cancel over;  // the call has ended
  bool alive = false;
  std::optional<uint64_t> moved_bytes = {};  // the member's, when it was asked last
  SteadyTime moving{};                       // it moved payload of others, or ours
};

Task<void> look_after(Watch& watch, Member member) {
  wire::PingRequest ping;
  ping.set_id_high(member.id.high);
  ping.set_id_low(member.id.low);
  SteadyTime begun = watch.executor.now();
  Duration most = std::clamp(watch.ping_times.limit(), watch.options.ping_timeout,
                             watch.options.ping_timeout_max);
  Context limit = Context::within(watch.executor, most);
  limit.cancel = &watch.over;
  auto answer = co_await watch.pool.call(member.address, member.id, Method::kPing,
                                         ping.SerializeAsString(), nullptr, 0, limit);
  // Behind a full link a ping may be late, while answers to other requests still come.
  watch.alive = answer || watch.pool.heard_from(member.address, most);
  if (answer) watch.ping_times.took(watch.executor.now() - begun);
  wire::PingReply reply;
  if (!answer || !reply.ParseFromString(*answer)) co_return;
  if (watch.moved_bytes && reply.moved_bytes() != *watch.moved_bytes) {
    watch.moving = watch.executor.now();
  }
  watch.moved_bytes = reply.moved_bytes();
}

// Ends the call when no byte comes and the member does not even answer a ping, or when it lives but
// has kept us waiting for too long.
Task<void> watch_progress(Watch& watch, Member member) {
  uint64_t seen = watch.sink.arrived;
  SteadyTime moved = watch.moving = watch.executor.now();
  while (true) {
    Context context{kNever, &watch.over};
    Status slept = co_await sleep_for(watch.executor, watch.options.stall, context);
    if (!slept || watch.over.requested()) co_return;
    if (watch.sink.arrived != seen) {
      seen = watch.sink.arrived;
      moved = watch.moving = watch.executor.now();
      continue;
    }
    co_await look_after(watch, member);
    if (watch.over.requested()) co_return;
    if (watch.sink.arrived != seen) continue;
    SteadyTime now = watch.executor.now();
    bool patient = now - watch.moving < watch.options.slow && now - moved < watch.options.slow_max;
    if (watch.alive && patient) continue;
    watch.guard.given_up = true;
    watch.guard.inner.request();
    co_return;
  }
}

// A member with several addresses is asked again when one of them fails in the middle of an answer.
constexpr int kAsksMax = 4;

bool is_final(const Error& error) {
  return error.code() == Code::kCancelled || error.code() == Code::kStale ||
         error.code() == Code::kInvalidArgument || error.code() == Code::kPermissionDenied;
}

}  // namespace

PeerMetrics::PeerMetrics(Registry& registry)
    : hits(registry.counter("shoal_read_hits_peer_total", "Ranges that other nodes served.")),
      redirects(registry.counter("shoal_peer_redirects_total",
                                 "Reads that a busy owner sent to another holder.")),
      failovers(registry.counter("shoal_peer_failovers_total",
                                 "Members given up while reading from them.")) {}

PeerReader::PeerReader(World& world, RpcPool& pool, ClusterView& view, PeerMetrics& metrics,
                       const Log& log, PeerReadOptions options)
    : world_(world), pool_(pool), view_(view), metrics_(metrics), log_(log), options_(options) {}

bool PeerReader::is_own(const std::string& object, uint64_t offset) const {
  std::shared_ptr<const SlotMap> map = view_.map();
  if (map == nullptr) return true;
  uint32_t slot = slot_of_chunk(object, offset / options_.chunk_bytes);
  for (uint16_t owner : map->owners_of(slot)) {
    if (owner == kNoMember) break;
    const Member& member = map->members[owner];
    if (member.id == view_.self()) return true;
    if (view_.usable(member.id)) return false;
  }
  return true;  // nobody else: the origin is the next resort, and this node as good as any
}

Task<Result<NodeId>> PeerReader::ask(Member member, Manner manner, ChunkRange& range,
                                     uint64_t map_version, Context context) {
  for (int asks = 1;; ++asks) {
    bool again = false;
    auto answer = co_await ask_once(member, manner, range, map_version, context, again);
    if (!again || asks == kAsksMax) co_return answer;
  }
}

Task<Result<NodeId>> PeerReader::ask_once(Member member, Manner manner, ChunkRange& range,
                                          uint64_t map_version, Context context, bool& again) {
  // What did arrive before stays; whole pieces only, so that checksums go on where they ended.
  uint64_t done = range.arrived / kPieceBytes * kPieceBytes;
  range.crcs.resize(done / kPieceBytes);
  range.arrived = done;
  wire::ReadRequest request;
  request.set_object(range.object);
  request.set_etag(range.etag);
  request.set_size(range.size);
  request.set_offset(range.offset + done);
  request.set_length(static_cast<uint32_t>(range.into.size() - done));
  request.set_bulk(range.bulk);
  request.set_only_cached(manner.only_cached);
  request.set_no_redirect(manner.no_redirect);
  request.set_as_owner(manner.as_owner);
  request.set_relay(manner.relay);
  request.set_map_version(map_version);
  std::vector<uint32_t> crcs;
  RpcSink sink;
  sink.into = range.into.subspan(done);
  sink.crcs = &crcs;
  sink.progress = [&](uint64_t bytes) {
    range.crcs.insert(range.crcs.end(),
                      crcs.begin() + static_cast<ptrdiff_t>(range.crcs.size() - done / kPieceBytes),
                      crcs.end());
    range.arrived = done + bytes;
    if (range.progress) range.progress(range.arrived, range.crcs);
  };
  LinkedCancel guard(context.cancel);
  Gate gate(world_.executor);
  Watch watch{world_.executor, pool_, options_, ping_times_, sink, guard, {}};
  gate.spawn(watch_progress(watch, member));
  uint64_t lane = slot_of_chunk(range.object, range.offset / options_.chunk_bytes);
  auto answer =
      co_await pool_.call(member.address, member.id, Method::kRead, request.SerializeAsString(),
                          &sink, lane, {context.deadline, &guard.inner});
  watch.over.request();
  co_await gate.close();
  bool ours = guard.given_up && !(context.cancel != nullptr && context.cancel->requested());
  if (!answer && ours) {
    view_.report(member.id, false);
    co_return fail(Code::kUnavailable,
                   fmt::format("{} {}", member.name,
                               watch.alive ? "sends nothing for too long" : "does not answer"));
  }
  if (!answer) {
    again = sink.ask_again;
    if (answer.error().code() == Code::kUnavailable && !again) view_.report(member.id, false);
    co_return fail(std::move(answer).error());
  }
  view_.report(member.id, true);
  wire::ReadReply reply;
  if (!reply.ParseFromString(*answer)) {
    co_return fail(Code::kCorrupt, member.name + " gave an answer that cannot be read");
  }
  NodeId redirect{reply.redirect_high(), reply.redirect_low()};
  if (redirect.is_zero() && range.arrived < range.into.size()) {
    co_return fail(Code::kUnavailable, member.name + " ended its answer early");
  }
  co_return redirect;
}

Task<Status> PeerReader::ask_and_follow(Member member, Manner manner, ChunkRange& range,
                                        Context context) {
  std::shared_ptr<const SlotMap> map = view_.map();
  auto answer = co_await ask(member, manner, range, map->version, context);
  if (!answer) co_return fail(std::move(answer).error());
  if (answer->is_zero()) co_return Status();
  const Member* holder = map->find(*answer);
  if (holder != nullptr && holder->id != view_.self() && holder->id != member.id &&
      view_.usable(holder->id)) {
    metrics_.redirects.add();
    Manner there{.relay = true, .no_redirect = true};
    auto followed = co_await ask(*holder, there, range, map->version, context);
    if (followed && followed->is_zero()) co_return Status();
    if (!followed && is_final(followed.error())) co_return fail(std::move(followed).error());
  }
  // It led nowhere: whoever sent us there serves us itself.
  manner.no_redirect = true;
  auto again = co_await ask(member, manner, range, map->version, context);
  if (!again) co_return fail(std::move(again).error());
  if (again->is_zero()) co_return Status();
  co_return fail(Code::kUnavailable, member.name + " redirects in circles");
}

Task<Status> PeerReader::read(ChunkRange& range, Context context) {
#ifdef SHOAL_CANARY  // the canary plants its bug here: some chunks that everybody fetches
  if (slot_of_chunk(range.object, range.offset / options_.chunk_bytes) % 16 == 0) {
    co_return fail(Code::kNotFound, "nobody was asked");
  }
#endif
  uint64_t tried_version = 0;
  // A second round only if the map has changed meanwhile: somebody knew better who owns the chunk.
  for (int round = 0; round < 3; ++round) {
    std::shared_ptr<const SlotMap> map = view_.map();
    if (map == nullptr || map->version == tried_version) break;
    tried_version = map->version;
    uint32_t slot = slot_of_chunk(range.object, range.offset / options_.chunk_bytes);
    bool first = true;
    for (uint16_t owner : map->owners_of(slot)) {
      if (owner == kNoMember) break;
      Member member = map->members[owner];
      if (member.id == view_.self()) co_return fail(Code::kNotFound, "this node is next");
      if (!view_.usable(member.id)) {
        first = false;
        continue;
      }
      Manner manner{.as_owner = !first};
      Status status = co_await ask_and_follow(member, manner, range, context);
      if (status) {
        metrics_.hits.add();
        co_return Status();
      }
      if (is_final(status.error())) co_return status;
      SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
      log_.debug("reading {} from {}: {}", range.object, member.name, status.error().to_string());
      metrics_.failovers.add();
      first = false;
    }
    if (view_.map()->version == tried_version) break;
  }
  co_return fail(Code::kNotFound, "no member of the cluster can serve it");
}

Task<Status> PeerReader::read_ahead_of(ChunkRange& range, Context context) {
  std::shared_ptr<const SlotMap> map = view_.map();
  if (map == nullptr) co_return fail(Code::kNotFound, "no map");
  uint32_t slot = slot_of_chunk(range.object, range.offset / options_.chunk_bytes);
  for (uint16_t owner : map->owners_of(slot)) {
    if (owner == kNoMember || map->members[owner].id == view_.self()) break;
    Member member = map->members[owner];
    if (!view_.usable(member.id)) continue;
    // Never redirected: whom it would name may be who waits for us.
    Manner manner{.no_redirect = true};
    auto answer = co_await ask(member, manner, range, map->version, context);
    if (answer && answer->is_zero()) {
      metrics_.hits.add();
      co_return Status();
    }
    if (!answer && is_final(answer.error())) co_return fail(std::move(answer).error());
    SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  }
  co_return fail(Code::kNotFound, "the owners before this one cannot be asked");
}

Task<Status> PeerReader::read_previous(ChunkRange& range, Context context) {
  std::shared_ptr<const SlotMap> map = view_.map();
  if (map == nullptr) co_return fail(Code::kNotFound, "no map");
  uint16_t before = map->previous[slot_of_chunk(range.object, range.offset / options_.chunk_bytes)];
  if (before == kNoMember) co_return fail(Code::kNotFound, "nobody owned it before");
  Member member = map->members[before];
  if (member.id == view_.self() || !view_.usable(member.id)) {
    co_return fail(Code::kNotFound, "the owner before cannot be asked");
  }
  Manner manner{.only_cached = true, .no_redirect = true};
  auto answer = co_await ask(member, manner, range, map->version, context);
  if (!answer) {
    if (is_final(answer.error())) co_return fail(std::move(answer).error());
    co_return fail(Code::kNotFound, answer.error().message());
  }
  metrics_.hits.add();
  co_return Status();
}

}  // namespace shoal
