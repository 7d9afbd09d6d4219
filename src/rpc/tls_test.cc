// Connections with TLS over a network in memory: what can be read on the wire, other keys, peers
// without TLS, records that are none. That all else works as without: memory_test, linux_test,
// sim_test.
#include <gtest/gtest.h>
#include <malloc.h>

#include "async/net_io.h"
#include "rpc/internal/tls_session.h"
#include "rpc/scenarios_test_support.h"

namespace shoal {
namespace {

using scenarios::Pair;
using std::chrono::seconds;

bool has_line(const TestNode& node, std::string_view part) {
  return std::ranges::any_of(
      node.lines, [part](const std::string& line) { return line.find(part) != std::string::npos; });
}

// Everything that crosses the network.
void record(MemoryBed& bed, std::string& wire) {
  bed.network().tamper = [&wire](bool /*to_server*/, std::string& bytes) { wire += bytes; };
}

Task<void> hides_what_passes(MemoryBed& bed) {
  std::string secret = "a name that nobody else is to read";
  std::string payload = make_payload(kMiB, 3);
  // Without TLS the same search finds all of it.
  for (bool tls : {false, true}) {
    bed.tls = tls;
    std::string wire;
    record(bed, wire);
    Pair pair(bed);
    co_await pair.start();
    auto answer = co_await pair.call(Method::kHead, secret, pair.soon());
    EXPECT_OK(answer);
    EXPECT_OK(
        co_await read_and_check(*pair.pool, pair.rpc_server->address(), kMiB, 3, 0, pair.soon()));
    EXPECT_GT(wire.size(), kMiB);
    for (std::string_view text :
         {std::string_view(secret), std::string_view("blue"), std::string_view("file:///data"),
          std::string_view("SHOL"), std::string_view(payload).substr(1000, 16),
          std::string_view(payload).substr(700'000, 16)}) {
      EXPECT_EQ(wire.find(text) == std::string::npos, tls) << text;
    }
    co_await pair.stop();
  }
}

Task<void> refuses_another_key(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  co_await pair.start();
  TestNode stranger(bed.caller(), 5);
  stranger.context.identity.key = std::string(32, 'x');
  stranger.use_tls();
  // Who knows half of it: the key for TLS, not for the proof.
  TestNode half(bed.caller(), 6);
  half.use_tls();
  half.context.identity.key = std::string(32, 'x');
  for (TestNode* node : {&stranger, &half}) {
    auto pool = RpcPool::create(node->context, {});
    auto answer = co_await pool->call(pair.rpc_server->address(), {}, Method::kHead, "", nullptr, 0,
                                      pair.soon());
    EXPECT_CODE(answer, Code::kUnauthenticated);
    co_await pool->close();
  }
  EXPECT_EQ(pair.server.handler.running_max, 0u);
  EXPECT_EQ(pair.server.metrics.refused.value(), 2u);
  EXPECT_TRUE(has_line(pair.server, "it has another key"));
  EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
  co_await pair.stop();
}

// Either way round: both sides are told what to do.
Task<void> tls_and_plain_refuse_each_other(MemoryBed& bed) {
  for (bool server_speaks_it : {false, true}) {
    bed.tls = server_speaks_it;
    Pair pair(bed);
    co_await pair.start();
    TestNode other(bed.caller(), 5);
    if (!server_speaks_it) other.use_tls();
    auto pool = RpcPool::create(other.context, {});
    auto answer = co_await pool->call(pair.rpc_server->address(), {}, Method::kHead, "", nullptr, 0,
                                      pair.soon());
    EXPECT_CODE(answer, Code::kUnauthenticated);
    std::string said = answer ? "" : answer.error().message();
    EXPECT_NE(said.find("refused this node"), std::string::npos) << said;
    EXPECT_NE(said.find("TLS"), std::string::npos) << said;
    EXPECT_NE(said.find("--tls"), std::string::npos) << said;
    EXPECT_TRUE(has_line(pair.server, "--tls"));
    EXPECT_EQ(pair.server.metrics.refused.value(), 1u);
    co_await pool->close();
    EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
    co_await pair.stop();
  }
}

// One bit of any record, in either direction: the connection ends, no wrong byte gets through, and
// the next connection works.
Task<void> notices_changed_records(MemoryBed& bed) {
  bed.tls = true;
  for (bool to_server : {false, true}) {
    Pair pair(bed);
    co_await pair.start();
    std::string address = pair.rpc_server->address();
    EXPECT_OK(co_await read_and_check(*pair.pool, address, 1000, 1, 0, pair.soon()));
    uint64_t passed = 0;
    bool changed = false;
    bed.network().tamper = [&](bool there, std::string& bytes) {
      if (there != to_server || changed) return;
      passed += bytes.size();
      if (!to_server && passed < 300'000) return;
      bytes[bytes.size() / 2] ^= 0x10;
      changed = true;
    };
    Status status = co_await read_and_check(*pair.pool, address, kMiB, 2, 0, pair.soon());
    EXPECT_TRUE(changed);
    EXPECT_FALSE(status.has_value());
    if (!status) EXPECT_NE(status.error().message(), "wrong bytes");
    EXPECT_EQ((to_server ? pair.server : pair.caller).metrics.corrupt.value(), 1u);
    bed.network().tamper = nullptr;
    EXPECT_OK(co_await read_and_check(*pair.pool, address, kMiB, 2, 0, pair.soon()));
    co_await pair.stop();
  }
}

// A stream that ends in the middle of a record, and one that ends between two.
Task<void> notices_a_cut(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  co_await pair.start();
  std::string address = pair.rpc_server->address();
  EXPECT_OK(co_await read_and_check(*pair.pool, address, 1000, 1, 0, pair.soon()));
  MemoryNetwork& network = bed.network();
  network.to_callers_max = network.to_callers + 500'000;
  Buffer into(kMiB);
  RpcSink sink{into.span()};
  auto result = co_await pair.pool->call(address, {}, Method::kRead, read_request(kMiB, 3), &sink,
                                         0, Context::within(bed.executor(), seconds(1)));
  EXPECT_CODE(result, Code::kDeadlineExceeded);
  EXPECT_LE(sink.arrived, 500'000u);
  EXPECT_GE(sink.arrived, 256 * kKiB);
  std::string right = make_payload(kMiB, 3);
  EXPECT_TRUE(as_text(into.part(0, sink.arrived)) == right.substr(0, sink.arrived));
  network.to_callers_max = UINT64_MAX;
  network.resume();
  EXPECT_OK(co_await read_and_check(*pair.pool, address, kMiB, 2, 0, pair.soon()));
  co_await pair.stop();
}

// What a server says to bytes that come instead of a handshake; it must go on.
Task<void> hangs_up_on_garbage(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  co_await pair.start();
  World& world = bed.caller();
  std::vector<std::string> all = {
      "GET / HTTP/1.1\r\n\r\n",
      std::string(5000, '\0'),
      std::string("\x16\x03\x01\xff\xff", 5) + std::string(100, 'x'),  // a record of 64 KiB
      std::string("\x16\x03\x01\x00\x05hello", 10),
      std::string("\x16", 1),
      std::string("\x17\x03\x03\x00\x10", 5) + std::string(16, 'x'),
      "S",
  };
  for (const std::string& bytes : all) {
    auto socket = co_await net_io::connect(world.network, world.executor,
                                           pair.rpc_server->address(), pair.soon());
    EXPECT_OK(socket);
    std::array<ConstByteSpan, 1> parts = {as_bytes(bytes)};
    EXPECT_OK(
        co_await net_io::send(world.network, world.executor, *socket, parts, false, pair.soon()));
    SteadyTime began = bed.executor().now();
    Buffer into(4096);
    while (co_await net_io::receive(world.network, world.executor, *socket, into.span(), 1,
                                    pair.soon())) {
    }
    EXPECT_LE(bed.executor().now() - began, seconds(6)) << "not hung up on";
    world.network.close(*socket);
  }
  EXPECT_EQ(pair.server.handler.running_max, 0u);
  EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
  co_await pair.stop();
}

// The other way: a server that is none.
Task<void> gives_up_on_a_server_that_is_none(MemoryBed& bed) {
  TestNode node(bed.caller(), 1);
  node.use_tls();
  World& world = bed.server();
  auto listener = co_await net_io::listen(world.network, world.executor, bed.listen());
  EXPECT_OK(listener);
  for (const std::string& answer :
       {std::string("SSH-2.0-OpenSSH_9.2\r\n"), std::string("HTTP/1.1 400 Bad Request\r\n\r\n"),
        std::string("SHOL") + std::string(44, 'x'), std::string("SHOL"), std::string()}) {
    auto pool = RpcPool::create(node.context, {});
    Gate gate(bed.executor());
    Result<std::string> result = fail(Code::kInternal, "not asked");
    auto ask = [](RpcPool& from, std::string address, Context context,
                  Result<std::string>& into) -> Task<void> {
      into = co_await from.call(std::move(address), {}, Method::kHead, "", nullptr, 0, context);
    };
    gate.spawn(ask(*pool, listener->address, scenarios::seconds(world, 20), result));
    auto accepted = co_await net_io::accept(world.network, world.executor, listener->socket, {});
    EXPECT_OK(accepted);
    std::array<ConstByteSpan, 1> parts = {as_bytes(answer)};
    if (!answer.empty()) {
      EXPECT_OK(
          co_await net_io::send(world.network, world.executor, accepted->socket, parts, false, {}));
    }
    world.network.close(accepted->socket);
    co_await gate.close();
    EXPECT_FALSE(result.has_value());
    EXPECT_NE(result.error().code(), Code::kInternal) << result.error().to_string();
    co_await pool->close();
  }
  world.network.close(listener->socket);
}

// Long connections change their keys, in the middle of payload.
Task<void> changes_keys_on_the_way(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  pair.server.tls->key_records_max = 6;
  pair.caller.tls->key_records_max = 1;
  co_await pair.start();
  for (uint64_t i = 0; i < 8; ++i) {
    EXPECT_OK(co_await read_and_check(*pair.pool, pair.rpc_server->address(), 3 * kMiB + i, i, 0,
                                      pair.soon()));
  }
  EXPECT_EQ(pair.caller.metrics.connects.value(), 1u);
  EXPECT_GE(pair.server.tls->key_changes, 8 * 3u) << "one per MiB at least";
  co_await pair.stop();
}

// What wears a key is records, however small.
Task<void> counts_small_records_too(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  pair.caller.tls->key_records_max = 100;
  co_await pair.start();
  for (int i = 0; i < 1000; ++i) {
    EXPECT_OK(co_await pair.call(Method::kHead, "x", pair.soon()));
  }
  EXPECT_GE(pair.caller.tls->key_changes, 9u);
  EXPECT_LE(pair.caller.tls->key_changes, 11u);
  EXPECT_EQ(pair.caller.metrics.connects.value(), 1u);
  co_await pair.stop();
}

Task<void> shake_one(TlsSession& session, Status& status) { status = co_await session.shake({}); }
Task<void> send_all(TlsSession& session, std::string_view bytes, int64_t& result) {
  std::array<ConstByteSpan, 1> parts = {as_bytes(bytes)};
  result = co_await session.send(parts, {});
}
Task<void> receive_once(TlsSession& session, ByteSpan into, uint64_t minimum, int64_t& result) {
  result = co_await session.receive(into.data(), into.size(), minimum, {});
}

// Also where the last of a payload and the answer behind it came as one.
Task<void> gives_memory_back(MemoryBed& bed) {
  World& world = bed.server();
  TestNode node(world, 1);
  node.use_tls();
  bed.network().inbox_bytes_max = 4 * kMiB;
  auto listener = co_await net_io::listen(world.network, world.executor, bed.listen());
  auto near = co_await net_io::connect(world.network, world.executor, listener->address, {});
  auto far = co_await net_io::accept(world.network, world.executor, listener->socket, {});
  {
    TlsSession caller(*node.tls, world, *near, "caller", Handshake::Role::kCaller);
    TlsSession answerer(*node.tls, world, far->socket, "answerer", Handshake::Role::kAnswerer);
    Gate gate(world.executor);
    Status one;
    Status two;
    int64_t result = 0;
    gate.spawn(shake_one(caller, one));
    gate.spawn(shake_one(answerer, two));
    while (gate.count() > 0) (void)co_await sleep_for(world.executor, seconds(1), {});
    EXPECT_TRUE(one && two);
    std::string bytes = make_payload(kMiB + 100, 1);
    co_await send_all(answerer, bytes, result);
    EXPECT_EQ(result, static_cast<int64_t>(bytes.size()));
    EXPECT_LE(answerer.capacity(), 512 * kKiB);
    Buffer into(kMiB);
    co_await receive_once(caller, into.span(), kMiB, result);
    EXPECT_EQ(result, static_cast<int64_t>(kMiB));
    EXPECT_TRUE(as_text(into.span()) == bytes.substr(0, kMiB));
    EXPECT_GE(caller.capacity(), 256 * kKiB);
    co_await receive_once(caller, into.part(0, 512), 1, result);
    EXPECT_EQ(result, 100);
    gate.spawn(receive_once(caller, into.part(0, 4096), 1, result));
    answerer.release_idle_memory();
    caller.release_idle_memory();
    (void)co_await sleep_for(world.executor, seconds(1), {});
    EXPECT_LE(caller.capacity(), 8 * kKiB);
    EXPECT_LE(answerer.capacity(), 8 * kKiB);
    world.network.close(*near);
    co_await gate.close();
  }
  world.network.close(far->socket);
  world.network.close(listener->socket);
}

// Of the heap; nothing where a sanitizer counts for itself.
size_t heap_bytes() {
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// Hundreds of peers, idle after they carried payload: OpenSSL's own state included, both ends.
Task<void> idle_ones_cost_little(MemoryBed& bed) {
  constexpr size_t kConnections = 16;
  std::array<size_t, 2> each{};
  for (bool tls : {false, true}) {
    bed.tls = tls;
    Pair pair(bed);
    co_await pair.start();
    EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
    size_t before = heap_bytes();
    std::vector<std::unique_ptr<RpcPool>> pools;
    for (size_t i = 0; i < kConnections; ++i) {
      pools.push_back(RpcPool::create(pair.caller.context, {}));
      EXPECT_OK(co_await read_and_check(*pools.back(), pair.rpc_server->address(), kMiB, i, 0,
                                        pair.soon()));
    }
    (void)co_await sleep_for(bed.executor(), seconds(40), {});
    EXPECT_EQ(pair.rpc_server->connections(), kConnections + 1);
    bed.network().release_idle_memory();
    size_t after = heap_bytes();
    each[tls] = after > before ? (after - before) / kConnections : 0;
    for (auto& pool : pools) co_await pool->close();
    co_await pair.stop();
  }
  testing::Test::RecordProperty("idle_bytes_plain", static_cast<int>(each[0]));
  testing::Test::RecordProperty("idle_bytes_tls", static_cast<int>(each[1]));
  EXPECT_LE(each[1], each[0] + 48 * kKiB);
}

struct Case {
  const char* name;
  Task<void> (*run)(MemoryBed&);
};
constexpr Case kCases[] = {
    {"hides_what_passes", hides_what_passes},
    {"refuses_another_key", refuses_another_key},
    {"tls_and_plain_refuse_each_other", tls_and_plain_refuse_each_other},
    {"notices_changed_records", notices_changed_records},
    {"notices_a_cut", notices_a_cut},
    {"hangs_up_on_garbage", hangs_up_on_garbage},
    {"gives_up_on_a_server_that_is_none", gives_up_on_a_server_that_is_none},
    {"changes_keys_on_the_way", changes_keys_on_the_way},
    {"counts_small_records_too", counts_small_records_too},
    {"gives_memory_back", gives_memory_back},
    {"idle_ones_cost_little", idle_ones_cost_little},
};

class Tls : public testing::TestWithParam<Case> {};

TEST_P(Tls, holds) {
  MemoryBed bed;
  bed.run(GetParam().run(bed));
  EXPECT_EQ(bed.network().open_ends(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Rpc, Tls, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(TlsContext, needs_a_key) {
  auto made = TlsContext::make("");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
  EXPECT_NE(made.error().message().find("--cluster-key-file"), std::string::npos);
  auto one = TlsContext::make(std::string(32, 'k'));
  auto same = TlsContext::make(std::string(32, 'k'));
  auto other = TlsContext::make(std::string(31, 'k') + "l");
  ASSERT_TRUE(one && same && other);
  EXPECT_EQ((*one)->psk(), (*same)->psk());
  EXPECT_NE((*one)->psk(), (*other)->psk());
  EXPECT_EQ((*one)->psk().find("kk"), std::string_view::npos);
}

}  // namespace
}  // namespace shoal
