// Scenarios that hold in every world: memory, Linux, simulation. Each runs as one coroutine.
#pragma once

#include "rpc/rpc_test_support.h"

namespace shoal::scenarios {

inline Context seconds(World& world, int count) {
  return Context::within(world.executor, std::chrono::seconds(count));
}

// Server on one side, pool on the other; `body` runs between.
struct Pair {
  explicit Pair(Bed& where) : bed(where), server(where.server(), 2), caller(where.caller(), 1) {
    if (!bed.tls) return;
    server.use_tls();
    caller.use_tls();
  }
  Task<void> start(RpcServerOptions options = {}, RpcPoolOptions pool_options = {}) {
    co_await start_server(options);
    pool = RpcPool::create(caller.context, pool_options);
  }
  // The server listens at both addresses of its machine and says so.
  Task<void> start_at_both(RpcServerOptions options = {}, RpcPoolOptions pool_options = {}) {
    options.listen_also = {bed.listen_further()};
    co_await start(options, pool_options);
    server.context.identity.further = {rpc_server->addresses().at(1)};
  }
  Task<void> start_server(RpcServerOptions options) {
    options.listen = bed.listen();
    co_await Hop(bed.server());
    auto started = co_await RpcServer::start(server.context, server.handler, options);
    SHOAL_ASSERT(started.has_value(), "the server did not start");
    rpc_server = std::move(*started);
    co_await Hop(bed.caller());
  }
  Task<void> stop() {
    co_await pool->close();
    co_await stop_server();
    EXPECT_EQ(rpc_server->connections(), 0u);
    EXPECT_EQ(pool->connections(), 0u);
    EXPECT_EQ(server.handler.running, 0u);
  }
  Task<void> stop_server() {
    co_await Hop(bed.server());
    co_await rpc_server->stop();
    co_await Hop(bed.caller());
  }
  Task<Result<std::string>> call(Method method, std::string body, Context context) {
    return pool->call(rpc_server->address(), {}, method, std::move(body), nullptr, 0, context);
  }
  Context soon() { return seconds(bed.caller(), 20); }

  Bed& bed;
  TestNode server;
  TestNode caller;
  std::unique_ptr<RpcServer> rpc_server;
  std::unique_ptr<RpcPool> pool;
};

#define EXPECT_OK(expression)                                       \
  do {                                                              \
    auto&& expect_ok = (expression);                                \
    EXPECT_TRUE(expect_ok.has_value());                             \
    if (!expect_ok) ADD_FAILURE() << expect_ok.error().to_string(); \
  } while (false)
#define EXPECT_CODE(expression, expected)                                                 \
  do {                                                                                    \
    auto&& expect_code = (expression);                                                    \
    EXPECT_FALSE(expect_code.has_value());                                                \
    if (!expect_code) {                                                                   \
      EXPECT_EQ(expect_code.error().code(), expected) << expect_code.error().to_string(); \
    }                                                                                     \
  } while (false)

inline Task<void> echo_one(Pair& pair, std::string text, uint64_t& right) {
  auto answer = co_await pair.call(Method::kHead, text, pair.soon());
  if (answer && *answer == text) ++right;
}

inline Task<void> echoes(Bed& bed) {
  Pair pair(bed);
  co_await pair.start();
  pair.server.versions.version = 9;
  auto answer = co_await pair.call(Method::kHead, "hello", pair.soon());
  EXPECT_OK(answer);
  if (answer) EXPECT_EQ(*answer, "hello");
  EXPECT_EQ(pair.server.handler.last_peer, (Hash128{1, 1}));
  EXPECT_EQ(pair.server.versions.last_seen, 7u);
  EXPECT_EQ(pair.caller.versions.last_seen, 9u);
  EXPECT_EQ(pair.caller.versions.last_peer, (Hash128{1, 2}));
  EXPECT_CODE(co_await pair.call(Method::kWarm, "", pair.soon()), Code::kNotSupported);
  EXPECT_CODE(co_await pair.call(Method::kList, "", pair.soon()), Code::kTooLarge);
  std::string long_body(kBodyBytesMax, 'b');
  answer = co_await pair.call(Method::kHead, long_body, pair.soon());
  EXPECT_OK(answer);
  if (answer) EXPECT_TRUE(*answer == long_body);
  EXPECT_TRUE(pair.pool->heard_from(pair.rpc_server->address(), std::chrono::seconds(10)));
  EXPECT_FALSE(pair.pool->heard_from("10.9.9.9:1", std::chrono::seconds(10)));
  co_await pair.stop();
}

inline Task<void> pipelines(Bed& bed) {
  Pair pair(bed);
  co_await pair.start();
  Gate gate(bed.caller().executor);
  uint64_t right = 0;
  for (int i = 0; i < 2000; ++i) gate.spawn(echo_one(pair, "text " + std::to_string(i), right));
  co_await gate.close();
  EXPECT_EQ(right, 2000u);
  // All of them waited for one connection, which was made once.
  EXPECT_EQ(pair.caller.metrics.connects.value(), 1u);
  EXPECT_EQ(pair.server.metrics.requests_served.value(), 2000u);
  co_await pair.stop();
}

inline Task<void> read_into(Pair& pair, uint64_t length, uint64_t seed, uint64_t& right) {
  Status status = co_await read_and_check(*pair.pool, pair.rpc_server->address(), length, seed,
                                          seed, pair.soon());
  EXPECT_OK(status);
  if (status) ++right;
}

inline Task<void> carries_payload(Bed& bed) {
  Pair pair(bed);
  co_await pair.start();
  Gate gate(bed.caller().executor);
  uint64_t right = 0;
  uint64_t total = 0;
  std::vector<uint64_t> lengths = {1,    kPieceBytes - 1, kPieceBytes,  kPieceBytes + 1,
                                   kMiB, kMiB + 1,        3 * kMiB - 5, 4 * kMiB};
  for (size_t i = 0; i < lengths.size(); ++i) {
    gate.spawn(read_into(pair, lengths[i], i, right));
    total += lengths[i];
  }
  co_await gate.close();
  EXPECT_EQ(right, lengths.size());
  EXPECT_EQ(pair.server.metrics.bytes_sent.value(), total);
  EXPECT_EQ(pair.caller.metrics.bytes_received.value(), total);
  co_await pair.stop();
}

inline Task<void> cancel_when_running(Pair& pair, Cancel& cancel) {
  while (pair.server.handler.running == 0) {
    (void)co_await sleep_for(pair.bed.caller().executor, std::chrono::milliseconds(1), {});
  }
  cancel.request();
}
inline Task<void> wait_for_cancelled(Pair& pair, uint32_t count) {
  while (pair.server.handler.cancelled < count) {
    (void)co_await sleep_for(pair.bed.caller().executor, std::chrono::milliseconds(1), {});
  }
}

inline Task<void> cancels(Bed& bed) {
  Pair pair(bed);
  co_await pair.start();
  Cancel cancel;
  Gate gate(bed.caller().executor);
  gate.spawn(cancel_when_running(pair, cancel));
  Context context = pair.soon();
  context.cancel = &cancel;
  EXPECT_CODE(co_await pair.call(Method::kPing, "", context), Code::kCancelled);
  co_await gate.close();
  co_await wait_for_cancelled(pair, 1);
  // The connection is as good as before.
  EXPECT_OK(co_await pair.call(Method::kHead, "x", pair.soon()));
  EXPECT_EQ(pair.caller.metrics.connects.value(), 1u);
  co_await pair.stop();
}

inline Task<void> carries_deadlines(Bed& bed) {
  Pair pair(bed);
  co_await pair.start();
  Executor& executor = bed.caller().executor;
  SteadyTime began = executor.now();
  Context context = Context::within(executor, std::chrono::milliseconds(300));
  EXPECT_CODE(co_await pair.call(Method::kPing, "", context), Code::kDeadlineExceeded);
  EXPECT_GE(executor.now() - began, std::chrono::milliseconds(300));
  EXPECT_LT(executor.now() - began, std::chrono::seconds(3));
  Duration told = pair.server.handler.last_deadline - began;
  EXPECT_LT(told, std::chrono::seconds(3));
  EXPECT_GT(told, std::chrono::milliseconds(200));
  EXPECT_OK(co_await pair.call(Method::kHead, "x", {}));
  EXPECT_EQ(pair.server.handler.last_deadline, kNever);
  co_await pair.stop();
}

inline Task<void> ping_one(Pair& pair, uint64_t& right) {
  auto answer = co_await pair.call(Method::kPing, "", pair.soon());
  if (answer) ++right;
}
inline Task<void> release_when_full(Pair& pair, uint32_t limit) {
  while (pair.server.handler.running < limit) {
    (void)co_await sleep_for(pair.bed.caller().executor, std::chrono::milliseconds(1), {});
  }
  (void)co_await sleep_for(pair.bed.caller().executor, std::chrono::milliseconds(20), {});
  EXPECT_EQ(pair.server.handler.running, limit);
  co_await Hop(pair.bed.server());
  pair.server.handler.release();
  co_await Hop(pair.bed.caller());
}

inline Task<void> keeps_to_the_limit_in_flight(Bed& bed) {
  Pair pair(bed);
  RpcServerOptions options;
  options.requests_max = 16;
  co_await pair.start(options);
  Gate gate(bed.caller().executor);
  uint64_t right = 0;
  for (int i = 0; i < 100; ++i) gate.spawn(ping_one(pair, right));
  gate.spawn(release_when_full(pair, 16));
  co_await gate.close();
  EXPECT_EQ(right, 100u);
  EXPECT_EQ(pair.server.handler.running_max, 16u);
  co_await pair.stop();
}

inline Task<void> refuses_strangers(Bed& bed) {
  Pair pair(bed);
  co_await pair.start();
  std::string address = pair.rpc_server->address();
  struct Case {
    std::string cluster, origin, key;
    Code code;
    std::string_view text;
  };
  std::string key(32, 'k');
  std::vector<Case> cases = {
      {"red", "file:///data", key, Code::kConflict, "this is cluster 'blue'"},
      {"blue", "az://x/y", key, Code::kConflict, "over file:///data here"},
      {"blue", "file:///data", std::string(32, 'x'), Code::kUnauthenticated, "different keys"},
      {"blue", "file:///data", "", Code::kUnauthenticated, "no key"},
  };
  for (const Case& one : cases) {
    TestNode stranger(bed.caller(), 5);
    stranger.context.identity.cluster = one.cluster;
    stranger.context.identity.origin = one.origin;
    stranger.context.identity.key = one.key;
    if (bed.tls && one.code == Code::kUnauthenticated) continue;  // tls_test
    if (bed.tls) stranger.use_tls();
    auto pool = RpcPool::create(stranger.context, {});
    auto answer = co_await pool->call(address, {}, Method::kHead, "", nullptr, 0, pair.soon());
    EXPECT_CODE(answer, one.code);
    if (!answer) {
      EXPECT_NE(answer.error().message().find(one.text), std::string::npos)
          << answer.error().to_string();
    }
    co_await pool->close();
  }
  EXPECT_EQ(pair.server.handler.running_max, 0u);
  EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
  auto other =
      co_await pair.pool->call(address, {4, 4}, Method::kHead, "", nullptr, 0, pair.soon());
  EXPECT_CODE(other, Code::kConflict);
  co_await pair.stop();
}

inline Task<void> reports_corrupt_payload(Bed& bed) {
  Pair pair(bed);
  co_await pair.start();
  pair.server.handler.wrong_crc = true;
  std::string address = pair.rpc_server->address();
  EXPECT_CODE(co_await read_and_check(*pair.pool, address, 3 * kMiB, 1, 0, pair.soon()),
              Code::kCorrupt);
  EXPECT_EQ(pair.caller.metrics.corrupt.value(), 1u);
  pair.server.handler.wrong_crc = false;
  EXPECT_OK(co_await read_and_check(*pair.pool, address, 3 * kMiB, 1, 0, pair.soon()));
  EXPECT_EQ(pair.caller.metrics.connects.value(), 2u);
  co_await pair.stop();
}

inline Task<void> server_stops_with_requests_under_way(Bed& bed) {
  Pair pair(bed);
  co_await pair.start();
  Gate gate(bed.caller().executor);
  uint64_t right = 0;
  gate.spawn(ping_one(pair, right));
  Cancel never;
  co_await cancel_when_running(pair, never);
  co_await pair.stop_server();
  EXPECT_EQ(pair.server.handler.running, 0u);
  co_await gate.close();
  EXPECT_EQ(right, 0u);
  EXPECT_CODE(co_await pair.call(Method::kHead, "", pair.soon()), Code::kUnavailable);
  co_await pair.stop();
}

inline Task<void> closes_idle_connections(Bed& bed) {
  Pair pair(bed);
  RpcPoolOptions options;
  options.idle_close = std::chrono::milliseconds(100);
  co_await pair.start({}, options);
  EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
  EXPECT_EQ(pair.pool->connections(), 1u);
  while (pair.pool->connections() > 0 || pair.rpc_server->connections() > 0) {
    (void)co_await sleep_for(bed.caller().executor, std::chrono::milliseconds(5), {});
  }
  EXPECT_TRUE(pair.pool->heard_from(pair.rpc_server->address(), std::chrono::seconds(10)));
  EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
  co_await pair.stop();
}

inline Task<void> spreads_over_addresses(Bed& bed) {
  Pair pair(bed);
  co_await pair.start_at_both({}, {.lanes = 2});
  uint64_t right = 0;
  co_await read_into(pair, 1, 1, right);  // learns of the second address
  co_await read_into(pair, 1, 2, right);  // has it tried
  while (pair.pool->connections() < 2) {
    (void)co_await sleep_for(bed.caller().executor, std::chrono::milliseconds(1), {});
  }
  for (int round = 0; round < 4; ++round) {
    Gate gate(bed.caller().executor);
    for (uint64_t i = 0; i < 8; ++i) gate.spawn(read_into(pair, kMiB + i, i, right));
    co_await gate.close();
  }
  EXPECT_EQ(right, 34u);
  // Two lanes to each; no call was without payload.
  EXPECT_EQ(pair.pool->connections(), 4u);
  EXPECT_EQ(pair.caller.metrics.detours.value(), 0u);
  co_await pair.stop();
}

struct Scenario {
  const char* name;
  Task<void> (*run)(Bed&);
};
inline constexpr Scenario kAll[] = {
    {"echoes", echoes},
    {"pipelines", pipelines},
    {"carries_payload", carries_payload},
    {"cancels", cancels},
    {"carries_deadlines", carries_deadlines},
    {"keeps_to_the_limit_in_flight", keeps_to_the_limit_in_flight},
    {"refuses_strangers", refuses_strangers},
    {"reports_corrupt_payload", reports_corrupt_payload},
    {"server_stops_with_requests_under_way", server_stops_with_requests_under_way},
    {"closes_idle_connections", closes_idle_connections},
    {"spreads_over_addresses", spreads_over_addresses},
};

}  // namespace shoal::scenarios
