#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "async/gate.h"
#include "async/single_flight.h"
#include "async/sync.h"
#include "rpc/internal/client_connection.h"
#include "rpc/rpc.h"

namespace shoal {

namespace {

// Shared by the pool's table and the calls on it, because either may let go first.
using ConnectionPointer = std::shared_ptr<ClientConnection>;

constexpr Duration kSweepPeriodMax = std::chrono::seconds(5);
// Without a frame for so long, a connection may lead to somebody who is gone.
constexpr Duration kQuiet = std::chrono::seconds(1);
// A further address of a peer that failed is left alone for so long.
constexpr Duration kAsideFor = std::chrono::seconds(30);
// Calls at a further address without a byte from there for one to two of these: it is pinged. No
// byte then either: the way there is gone, whatever TCP still hopes for.
constexpr Duration kFurtherSilence = std::chrono::milliseconds(200);
constexpr Duration kFurtherPing = std::chrono::milliseconds(500);
// Addresses without a connection are remembered for so long, for heard_from().
constexpr Duration kForgetAfter = std::chrono::minutes(10);

// Whether a request may reach the peer twice. Those that change what a peer keeps of a version are
// for their callers to repeat.
bool may_repeat(Method method) { return method < Method::kLedgerPut; }

class Pool final : public RpcPool {
 public:
  Pool(RpcContext& context, RpcPoolOptions options)
      : context_(context),
        options_(options),
        executor_(context.world.executor),
        notes_(context.log),
        gate_(executor_),
        flights_(executor_, gate_),
        left_(executor_) {
    SHOAL_ASSERT(options_.lanes >= 1 && options_.lanes <= 64 && options_.connections_max >= 1);
  }
  ~Pool() override { SHOAL_ASSERT(closed_ && calls_ == 0, "close() was not awaited"); }

  Task<Result<std::string>> call(std::string address, Hash128 expected, Method method,
                                 std::string body, RpcSink* sink, uint64_t lane_hint,
                                 Context context) override;
  bool heard_from(const std::string& address, Duration within) const override;
  uint64_t connections() const override { return connections_; }
  Task<void> close() override;

 private:
  struct Peer {
    std::vector<ConnectionPointer> lanes;  // 0: small calls
    SteadyTime heard{};                    // on connections that are gone
    SteadyTime used{};
    uint64_t calls = 0;  // under way
    uint64_t payload_calls = 0;
    Hash128 node;                      // who answered last
    std::vector<std::string> further;  // its other addresses, as it said
    uint64_t turn = 0;                 // of payload calls, where there are further addresses
    // Of an address that is somebody's further one.
    bool usable = false;
    bool trying = false;
    bool watched = false;
    bool told = false;  // in the log, that it cannot be used
    SteadyTime next_try{};
  };

  struct Lane {
    ConnectionPointer connection;
    bool fresh = false;  // made for this call
  };

  Task<Result<Lane>> lane_to(Peer& peer, size_t lane, std::string address, Hash128 expected,
                             Context context);
  Task<Result<std::string>> call_on(Peer& peer, size_t lane, std::string address, Hash128 expected,
                                    Method method, std::string body, RpcSink* sink,
                                    Context context);

  // Further addresses.
  struct Way {
    std::string further = {};  // empty: the main address
    size_t lane = 0;
  };
  Way choose_way(Peer& peer, Hash128 expected, uint64_t lane_hint);
  bool is_further_usable(const std::string& address, const Hash128& node);
  // Nothing: the address is to blame, and the main one may be asked.
  Task<std::optional<Result<std::string>>> call_further(Way way, Hash128 node, Method method,
                                                        std::string body, RpcSink* sink,
                                                        Context context);
  Task<std::optional<Result<std::string>>> ask_further(Peer& there, Way way, Hash128 node,
                                                       Method method, std::string body,
                                                       RpcSink* sink, Context context);
  Task<void> try_further(std::string address, Hash128 node);
  Task<void> watch_further(std::string address);
  Task<bool> is_silent(ConnectionPointer connection, SteadyTime since);
  void set_aside(const std::string& address, const Error& why);

  Task<Result<ConnectionPointer>> connect(std::string address, size_t lane);
  Status make_room();
  void put_away(Peer& peer, size_t lane);
  Task<void> retire(ConnectionPointer connection);
  Task<void> sweep();
  void sweep_peer(Peer& peer);

  RpcContext& context_;
  const RpcPoolOptions options_;
  Executor& executor_;
  PeerNotes notes_;
  // A peer stays where it is while it has calls: they hold references to it across waits.
  std::unordered_map<std::string, Peer> peers_;
  uint64_t connections_ = 0;
  uint64_t calls_ = 0;
  bool sweeping_ = false;
  bool closed_ = false;
  Cancel closing_;
  Gate gate_;
  SingleFlight<std::string, ConnectionPointer> flights_;
  Signal left_;
};

Task<Result<std::string>> Pool::call(std::string address, Hash128 expected, Method method,
                                     std::string body, RpcSink* sink, uint64_t lane_hint,
                                     Context context) {
  if (closing_.requested()) co_return fail(Code::kUnavailable, "this node is shutting down");
  if (!sweeping_) {
    sweeping_ = true;
    gate_.spawn(sweep());
  }
  ++calls_;
  Peer& peer = peers_[address];
  if (peer.lanes.empty()) peer.lanes.resize(1 + options_.lanes);
  peer.used = executor_.now();
  ++peer.calls;
  std::optional<Result<std::string>> result;
  Way way;
  if (sink != nullptr) {
    sink->ask_again = false;
    way = choose_way(peer, expected, lane_hint);
    if (!way.further.empty()) {
      result = co_await call_further(way, peer.node, method, body, sink, context);
    }
  }
  if (!result.has_value()) {
    uint64_t with_payload = sink != nullptr ? 1 : 0;
    peer.payload_calls += with_payload;
    result.emplace(co_await call_on(peer, way.lane, std::move(address), expected, method,
                                    std::move(body), sink, context));
    peer.payload_calls -= with_payload;
  }
  --peer.calls;
  if (--calls_ == 0) left_.notify_all();
  co_return std::move(*result);
}

// A request on a connection that the other end gave up long ago, of which nothing could tell us (it
// ended during a partition), meets a reset at once. That says nothing about the peer: the request
// goes out once more, on a fresh connection.
Task<Result<std::string>> Pool::call_on(Peer& peer, size_t lane, std::string address,
                                        Hash128 expected, Method method, std::string body,
                                        RpcSink* sink, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Lane first, co_await lane_to(peer, lane, address, expected, context));
  if (first.fresh || !may_repeat(method)) {
    co_return co_await first.connection->call(method, std::move(body), sink, context);
  }
  SteadyTime began = executor_.now();
  auto result = co_await first.connection->call(method, body, sink, context);
  bool unheard = !result && result.error().code() == Code::kUnavailable &&
                 first.connection->is_broken() && first.connection->last_received() < began;
  if (!unheard || closing_.requested()) co_return result;
  SHOAL_CO_ASSIGN_OR_RETURN(Lane second, co_await lane_to(peer, lane, address, expected, context));
  co_return co_await second.connection->call(method, std::move(body), sink, context);
}

Task<Result<Pool::Lane>> Pool::lane_to(Peer& peer, size_t lane, std::string address,
                                       Hash128 expected, Context context) {
  ConnectionPointer connection = peer.lanes[lane];
  bool fresh = false;
  // After a power loss nobody tells us that the one at the other end is gone, and another may sit
  // there by now: before its answer counts, a quiet connection is made anew.
  bool other = connection != nullptr && !expected.is_zero() &&
               connection->peer().node != expected && connection->idle() &&
               executor_.now() - connection->last_received() > kQuiet;
  if (connection == nullptr || !connection->usable() || other) {
    put_away(peer, lane);
    connection = nullptr;
    fresh = true;
    // One attempt for all who want this lane; each waits only as long as it likes.
    auto made = co_await flights_.run(
        fmt::format("{}#{}", address, lane),
        [this, address, lane] { return connect(address, lane); }, context);
    if (!made) {
      Error error = std::move(made).error();
      bool ours = context.cancel != nullptr && context.cancel->requested();
      if (error.code() == Code::kCancelled && !ours) {
        error = Error(Code::kUnavailable, fmt::format("{}: {}", address, error.message()));
      }
      co_return fail(std::move(error));
    }
    connection = std::move(*made);
  }
  const Hash128& answers = connection->peer().node;
  if (!expected.is_zero() && answers != expected) {
    co_return fail(Code::kConflict, fmt::format("{} is node {} now, not {}", address,
                                                answers.to_hex(), expected.to_hex()));
  }
  co_return Lane{std::move(connection), fresh};
}

Task<Result<ConnectionPointer>> Pool::connect(std::string address, size_t lane) {
  SHOAL_CO_RETURN_IF_ERROR(make_room());
  Context limits = Context::within(executor_, options_.connect_timeout);
  limits.cancel = &closing_;
  auto opened = co_await ClientConnection::open(context_, notes_, address, limits);
  if (!opened) {
    Error error = std::move(opened).error();
    // Our own limit, not the caller's deadline: another peer may do.
    if (error.code() == Code::kDeadlineExceeded) {
      error = Error(Code::kUnavailable,
                    fmt::format("{}: no connection within {} ms", address,
                                options_.connect_timeout / std::chrono::milliseconds(1)));
    }
    co_return fail(std::move(error));
  }
  ConnectionPointer connection = std::move(*opened);
  if (closing_.requested()) {
    co_await connection->close();
    co_return fail(Code::kUnavailable, "this node is shutting down");
  }
  ++connections_;
  Peer& peer = peers_[address];
  if (peer.lanes.empty()) peer.lanes.resize(1 + options_.lanes);
  put_away(peer, lane);
  peer.lanes[lane] = connection;
  peer.node = connection->peer().node;
  peer.further = connection->peer().further;
  std::erase(peer.further, address);
  co_return connection;
}

// The address with the fewest payload calls under way; among equals each in turn.
Pool::Way Pool::choose_way(Peer& peer, Hash128 expected, uint64_t lane_hint) {
  bool other = !expected.is_zero() && expected != peer.node;
  if (peer.further.empty() || other) return {.lane = 1 + lane_hint % options_.lanes};
  uint64_t turn = peer.turn++;
  size_t addresses = 1 + peer.further.size();
  Way best{.lane = 1 + turn / addresses % options_.lanes};
  uint64_t fewest = UINT64_MAX;
  for (size_t i = 0; i < addresses; ++i) {
    size_t index = (turn + i) % addresses;
    std::string further = index == 0 ? std::string() : peer.further[index - 1];
    if (index > 0 && !is_further_usable(further, peer.node)) continue;
    uint64_t calls = index == 0 ? peer.payload_calls : peers_[further].payload_calls;
    if (calls >= fewest) continue;
    fewest = calls;
    best.further = std::move(further);
  }
  return best;
}

// Calls do not wait for the first connection there, nor for one after a failure.
bool Pool::is_further_usable(const std::string& address, const Hash128& node) {
  Peer& there = peers_[address];
  if (there.lanes.empty()) there.lanes.resize(1 + options_.lanes);
  there.used = executor_.now();
  if (there.usable && there.node == node) return true;
  if (!there.trying && executor_.now() >= there.next_try) {
    there.trying = gate_.spawn(try_further(address, node));
  }
  return false;
}

Task<void> Pool::try_further(std::string address, Hash128 node) {
  Peer& there = peers_[address];
  auto lane = co_await lane_to(there, 1, address, node, {kNever, &closing_});
  there.trying = false;
  if (closing_.requested()) co_return;
  if (!lane) {
    set_aside(address, lane.error());
    co_return;
  }
  there.usable = true;
  if (there.told) context_.log.info("peer {}: its address {} works", node.to_hex(), address);
  there.told = false;
}

void Pool::set_aside(const std::string& address, const Error& why) {
  Peer& there = peers_[address];
  there.usable = false;
  there.next_try = executor_.now() + kAsideFor;
  context_.metrics.detours.add();
  if (there.told) return;
  there.told = true;
  context_.log.warning(
      "peer {}: its further address {} cannot be used, its main one carries all; tried again every "
      "{} s: {}",
      there.node.to_hex(), address, kAsideFor / std::chrono::seconds(1), why.to_string());
}

Task<std::optional<Result<std::string>>> Pool::call_further(Way way, Hash128 node, Method method,
                                                            std::string body, RpcSink* sink,
                                                            Context context) {
  Peer& there = peers_[way.further];
  ++there.calls;
  ++there.payload_calls;
  if (!there.watched) there.watched = gate_.spawn(watch_further(way.further));
  auto result =
      co_await ask_further(there, std::move(way), node, method, std::move(body), sink, context);
  --there.payload_calls;
  --there.calls;
  co_return result;
}

Task<std::optional<Result<std::string>>> Pool::ask_further(Peer& there, Way way, Hash128 node,
                                                           Method method, std::string body,
                                                           RpcSink* sink, Context context) {
  size_t crcs_before = sink->crcs != nullptr ? sink->crcs->size() : 0;
  SteadyTime began = executor_.now();
  auto lane = co_await lane_to(there, way.lane, way.further, node, context);
  if (!lane) {
    if (closing_.requested() || !context.check(executor_)) co_return fail(std::move(lane).error());
    if (there.usable) set_aside(way.further, lane.error());
    co_return std::nullopt;
  }
  const ClientConnection& connection = *lane->connection;
  auto result = co_await lane->connection->call(method, std::move(body), sink, context);
  bool lost = !result && result.error().code() == Code::kUnavailable && connection.is_broken();
  if (!lost || closing_.requested()) co_return result;
  if (there.usable && !lane->fresh && connection.last_received() < began) {
    // Given up by the other end long ago, which says nothing about the way there.
    there.usable = false;
    there.next_try = executor_.now();
  } else if (there.usable) {
    set_aside(way.further, result.error());
  }
  if (!may_repeat(method)) co_return result;
  if (sink->arrived > 0 && sink->progress) {
    sink->ask_again = true;
    co_return result;
  }
  if (sink->crcs != nullptr) sink->crcs->resize(crcs_before);
  co_return std::nullopt;
}

// While calls with payload are under way at a further address: TCP would wait for minutes for a way
// that is gone, and the peer itself answers at its main address.
Task<void> Pool::watch_further(std::string address) {
  struct Seen {
    ConnectionPointer connection = nullptr;
    SteadyTime received{};
  };
  Peer& there = peers_[address];
  std::vector<Seen> seen(there.lanes.size());
  while (there.payload_calls > 0) {
    if (!co_await sleep_for(executor_, kFurtherSilence, {kNever, &closing_})) break;
    bool gone = false;
    for (size_t lane = 0; lane < seen.size() && !gone; ++lane) {
      ConnectionPointer one = there.lanes[lane];
      if (one == nullptr || one->idle() || one->is_broken()) {
        seen[lane] = {};
        continue;
      }
      SteadyTime received = one->last_received();
      bool quiet = seen[lane].connection == one && seen[lane].received == received;
      if (quiet) gone = co_await is_silent(one, received);
      if (!gone) seen[lane] = {one, one->last_received()};
    }
    if (closing_.requested()) break;
    if (!gone) continue;
    Error error(Code::kUnavailable, address + ": nothing comes from there any more");
    if (there.usable) set_aside(address, error);
    for (const Seen& one : seen) {
      if (one.connection == nullptr || one.connection->last_received() != one.received) continue;
      one.connection->break_off(error);
    }
  }
  there.watched = false;
}

Task<bool> Pool::is_silent(ConnectionPointer connection, SteadyTime since) {
  Context limit = Context::within(executor_, kFurtherPing);
  limit.cancel = &closing_;
  (void)co_await connection->call(Method::kPing, "", nullptr, limit);
  co_return connection->last_received() == since;
}

// A place for one more connection, at the cost of the one that has been idle for longest.
Status Pool::make_room() {
  if (connections_ < options_.connections_max) return {};
  Peer* oldest = nullptr;
  size_t oldest_lane = 0;
  for (auto& [address, peer] : peers_) {
    for (size_t lane = 0; lane < peer.lanes.size(); ++lane) {
      const ConnectionPointer& one = peer.lanes[lane];
      if (one == nullptr || !one->idle()) continue;
      if (oldest == nullptr || one->last_used() < oldest->lanes[oldest_lane]->last_used()) {
        oldest = &peer;
        oldest_lane = lane;
      }
    }
  }
  if (oldest == nullptr) {
    return fail(Code::kBusy,
                fmt::format("all {} connections to peers are in use", options_.connections_max));
  }
  put_away(*oldest, oldest_lane);
  return {};
}

void Pool::put_away(Peer& peer, size_t lane) {
  ConnectionPointer connection = std::move(peer.lanes[lane]);
  peer.lanes[lane] = nullptr;
  if (connection == nullptr) return;
  peer.heard = std::max(peer.heard, connection->last_received());
  bool spawned = gate_.spawn(retire(std::move(connection)));
  SHOAL_ASSERT(spawned, "close() puts all connections away first");
}

Task<void> Pool::retire(ConnectionPointer connection) {
  co_await connection->close();
  SHOAL_ASSERT(connections_ > 0);
  --connections_;
}

bool Pool::heard_from(const std::string& address, Duration within) const {
  auto found = peers_.find(address);
  if (found == peers_.end()) return false;
  SteadyTime last = found->second.heard;
  for (const ConnectionPointer& connection : found->second.lanes) {
    if (connection != nullptr) last = std::max(last, connection->last_received());
  }
  return last != SteadyTime{} && executor_.now() - last <= within;
}

Task<void> Pool::sweep() {
  Duration period =
      std::clamp<Duration>(options_.idle_close / 4, std::chrono::milliseconds(10), kSweepPeriodMax);
  while (co_await sleep_for(executor_, period, {kNever, &closing_})) {
    for (auto at = peers_.begin(); at != peers_.end();) {
      Peer& peer = at->second;
      sweep_peer(peer);
      bool connected = std::any_of(peer.lanes.begin(), peer.lanes.end(),
                                   [](const ConnectionPointer& one) { return one != nullptr; });
      bool held = peer.calls > 0 || peer.trying || peer.watched;
      bool forget = !connected && !held && executor_.now() - peer.used > kForgetAfter;
      at = forget ? peers_.erase(at) : std::next(at);
    }
  }
}

void Pool::sweep_peer(Peer& peer) {
  for (size_t lane = 0; lane < peer.lanes.size(); ++lane) {
    const ConnectionPointer& connection = peer.lanes[lane];
    if (connection == nullptr) continue;
    Duration unused = executor_.now() - connection->last_used();
    bool over = connection->idle() && unused >= options_.idle_close;
    if (over || !connection->usable()) {
      put_away(peer, lane);
    } else if (connection->idle()) {
      connection->release_idle_memory();
    }
  }
}

Task<void> Pool::close() {
  closed_ = true;
  if (!closing_.requested()) closing_.request();
  for (auto& [address, peer] : peers_) {
    for (const ConnectionPointer& connection : peer.lanes) {
      if (connection == nullptr) continue;
      connection->break_off(Error(Code::kUnavailable, "this node is shutting down"));
    }
  }
  while (calls_ > 0) {
    Status status = co_await left_.wait({});
    SHOAL_ASSERT(status.has_value());
  }
  for (auto& [address, peer] : peers_) {
    for (size_t lane = 0; lane < peer.lanes.size(); ++lane) put_away(peer, lane);
  }
  co_await gate_.close();
}

}  // namespace

std::unique_ptr<RpcPool> RpcPool::create(RpcContext& context, RpcPoolOptions options) {
  return std::make_unique<Pool>(context, options);
}

}  // namespace shoal
