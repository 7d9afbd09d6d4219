// Peers with several addresses, over a network in memory: one that nobody answers at, one that
// falls silent, one where somebody else sits.
#include <gtest/gtest.h>

#include "rpc/scenarios_test_support.h"

namespace shoal {
namespace {

using scenarios::Pair;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr const char* kNobody = "10.0.1.9:7070";

struct Reads {
  uint64_t right = 0;
  Duration longest{0};
};

Task<void> read_one(Pair& pair, uint64_t length, uint64_t seed, Reads& reads) {
  SteadyTime began = pair.bed.caller().executor.now();
  Status status =
      co_await read_and_check(*pair.pool, pair.rpc_server->address(), length, seed, 0, pair.soon());
  EXPECT_OK(status);
  if (status) ++reads.right;
  reads.longest = std::max(reads.longest, pair.bed.caller().executor.now() - began);
}

Task<Reads> read_many(Pair& pair, uint64_t count, uint64_t length = kMiB) {
  Reads reads;
  Gate gate(pair.bed.caller().executor);
  for (uint64_t i = 0; i < count; ++i) gate.spawn(read_one(pair, length, i, reads));
  co_await gate.close();
  EXPECT_EQ(reads.right, count);
  co_return reads;
}

Task<void> wait(Pair& pair, Duration time) {
  (void)co_await sleep_for(pair.bed.caller().executor, time, {});
}

// Until the pool has tried what it was told of.
Task<void> get_to_know(Pair& pair) {
  (void)co_await read_many(pair, 1);
  (void)co_await read_many(pair, 1);
  co_await wait(pair, milliseconds(10));
}

// Both addresses are known and used. The further one.
Task<std::string> start_with_both(Pair& pair) {
  co_await pair.start_at_both();
  pair.server.handler.release();
  co_await get_to_know(pair);
  co_return pair.rpc_server->addresses()[1];
}

Task<void> shares_evenly(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start_at_both();
  co_await get_to_know(pair);
  MemoryNetwork& network = bed.network();
  network.bytes_from.clear();
  (void)co_await read_many(pair, 16);
  for (const std::string& address : pair.rpc_server->addresses()) {
    EXPECT_GE(network.bytes_from[address], 8 * kMiB) << address;
    EXPECT_LE(network.bytes_from[address], 8 * kMiB + 64 * kKiB) << address;
  }
  // Small calls, and whether it lives, belong to the main address.
  network.bytes_from.clear();
  EXPECT_OK(co_await pair.call(Method::kHead, "x", pair.soon()));
  EXPECT_EQ(network.bytes_from[pair.rpc_server->addresses()[1]], 0u);
  co_await pair.stop();
}

Task<void> one_that_nobody_answers_at(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  pair.server.context.identity.further = {kNobody};
  MemoryNetwork& network = bed.network();
  for (bool silent : {false, true}) {
    if (silent) network.silent.insert(kNobody);
    co_await get_to_know(pair);
    uint64_t before = network.dialled[kNobody];
    EXPECT_GE(before, 1u);
    Reads reads = co_await read_many(pair, 64);
    EXPECT_EQ(reads.longest, Duration(0)) << "nobody waits for it";
    co_await wait(pair, seconds(25));
    (void)co_await read_many(pair, 8);
    EXPECT_EQ(network.dialled[kNobody], before) << "one attempt, then it is left alone";
    co_await wait(pair, seconds(8));
    (void)co_await read_many(pair, 8);
    EXPECT_EQ(network.dialled[kNobody], before + 1);
    co_await wait(pair, seconds(40));
  }
  EXPECT_EQ(std::ranges::count_if(pair.caller.lines,
                                  [](const std::string& line) {
                                    return line.find("cannot be used") != std::string::npos;
                                  }),
            1)
      << "once in the log, not at each attempt";
  co_await pair.stop();
}

// While reads are under way there.
Task<void> one_that_falls_silent(MemoryBed& bed) {
  Pair pair(bed);
  std::string further = co_await start_with_both(pair);
  MemoryNetwork& network = bed.network();
  network.silent.insert(further);
  Reads reads;
  // Without progress, so that the pool asks again by itself.
  for (int i = 0; i < 4; ++i) {
    Buffer into(kMiB);
    std::vector<uint32_t> crcs;
    RpcSink sink{into.span(), &crcs};
    SteadyTime began = bed.executor().now();
    auto reply = co_await pair.pool->call(pair.rpc_server->address(), {}, Method::kRead,
                                          read_request(kMiB, 5), &sink, 0, pair.soon());
    EXPECT_OK(reply);
    EXPECT_TRUE(as_text(into.span()) == make_payload(kMiB, 5));
    EXPECT_TRUE(crcs == piece_crcs(into.span()));
    reads.longest = std::max(reads.longest, bed.executor().now() - began);
  }
  EXPECT_GT(reads.longest, Duration(0)) << "one of them was on its way there";
  EXPECT_LE(reads.longest, seconds(1));
  reads = co_await read_many(pair, 32);
  EXPECT_EQ(reads.longest, Duration(0));
  EXPECT_EQ(pair.caller.metrics.detours.value(), 1u);
  // It comes back.
  network.silent.clear();
  network.resume();
  co_await wait(pair, seconds(31));
  co_await get_to_know(pair);
  network.bytes_from.clear();
  (void)co_await read_many(pair, 16);
  EXPECT_GE(network.bytes_from[further], 7 * kMiB);
  co_await pair.stop();
}

// The caller has been told of some bytes, so that the pool cannot begin again by itself.
Task<void> in_the_middle_of_an_answer(MemoryBed& bed) {
  Pair pair(bed);
  std::string further = co_await start_with_both(pair);
  MemoryNetwork& network = bed.network();
  int told_of = 0;
  for (int i = 0; i < 4; ++i) {
    Buffer into(4 * kMiB);
    RpcSink sink{into.span()};
    sink.progress = [&](uint64_t bytes) {
      if (bytes >= kMiB && network.bytes_from[further] >= kMiB) network.silent.insert(further);
    };
    network.bytes_from.clear();
    auto reply = co_await pair.pool->call(pair.rpc_server->address(), {}, Method::kRead,
                                          read_request(4 * kMiB, 6), &sink, 0, pair.soon());
    if (reply) {
      EXPECT_FALSE(sink.ask_again);
      continue;
    }
    ++told_of;
    EXPECT_EQ(reply.error().code(), Code::kUnavailable);
    EXPECT_TRUE(sink.ask_again);
    EXPECT_GE(sink.arrived, kMiB);
    EXPECT_LT(sink.arrived, 4 * kMiB);
  }
  EXPECT_EQ(told_of, 1) << "the others go by the main address";
  co_await pair.stop();
}

// The address of a bridge that every machine has, say.
Task<void> where_somebody_else_sits(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  TestNode other(bed.server(), 9);
  RpcServerOptions options;
  options.listen = bed.listen_further();
  auto server = co_await RpcServer::start(other.context, other.handler, options);
  EXPECT_OK(server);
  pair.server.context.identity.further = {(*server)->address()};
  co_await get_to_know(pair);
  (void)co_await read_many(pair, 32);
  EXPECT_EQ(other.handler.running_max, 0u);
  EXPECT_EQ(pair.caller.metrics.detours.value(), 1u);
  co_await (*server)->stop();
  co_await pair.stop();
}

// It was told of once, and is no more: a peer that was started again with one address.
Task<void> one_that_is_no_longer_told_of(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start_at_both({}, {.idle_close = seconds(1)});
  co_await get_to_know(pair);
  std::string further = pair.rpc_server->addresses()[1];
  pair.server.context.identity.further.clear();
  co_await wait(pair, seconds(3));
  (void)co_await read_many(pair, 4);
  (void)co_await read_many(pair, 4);
  bed.network().bytes_from.clear();
  (void)co_await read_many(pair, 8);
  EXPECT_EQ(bed.network().bytes_from[further], 0u);
  co_await pair.stop();
}

struct Case {
  const char* name;
  Task<void> (*run)(MemoryBed&);
};
constexpr Case kCases[] = {
    {"shares_evenly", shares_evenly},
    {"one_that_nobody_answers_at", one_that_nobody_answers_at},
    {"one_that_falls_silent", one_that_falls_silent},
    {"in_the_middle_of_an_answer", in_the_middle_of_an_answer},
    {"where_somebody_else_sits", where_somebody_else_sits},
    {"one_that_is_no_longer_told_of", one_that_is_no_longer_told_of},
};

class FurtherAddresses : public testing::TestWithParam<Case> {};

TEST_P(FurtherAddresses, holds) {
  MemoryBed bed;
  bed.run(GetParam().run(bed));
  EXPECT_EQ(bed.network().open_ends(), 0u);
}

TEST_P(FurtherAddresses, holds_with_tls) {
  MemoryBed bed;
  bed.tls = true;
  bed.run(GetParam().run(bed));
  EXPECT_EQ(bed.network().open_ends(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Rpc, FurtherAddresses, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace shoal
