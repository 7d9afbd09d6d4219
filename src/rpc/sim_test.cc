// The scenarios between simulated machines, and calls under faults: lossy and slow links, streams
// that are reset, bits that change, machines that are cut off. Each seed runs twice.
#include <gtest/gtest.h>

#include "rpc/scenarios_test_support.h"
#include "world_sim/sim_world.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class SimBed final : public Bed {
 public:
  explicit SimBed(uint64_t seed) : sim_({.seed = seed}) {
    for (const char* name : {"caller", "server"}) {
      machines_.push_back(&sim_.add_machine(name, {}));
      machines_.back()->boot();
    }
  }
  World& caller() override { return machines_[0]->world(); }
  World& server() override { return machines_[1]->world(); }
  std::string listen() const override { return machines_[1]->address() + ":7070"; }
  std::string listen_further() const override { return machines_[1]->address() + ":7071"; }
  void run(Task<void> scenario) override {
    Gate gate(caller().executor);
    gate.spawn(std::move(scenario));
    bool ended = sim_.run_until([&gate] { return gate.count() == 0; }, std::chrono::hours(1));
    SHOAL_ASSERT(ended, "the scenario waits for ever");
  }
  Simulation& sim() { return sim_; }
  SimHostId host(size_t i) { return machines_[i]->host(); }

 private:
  Simulation sim_;
  std::vector<SimMachine*> machines_;
};

class InSimulation : public testing::TestWithParam<scenarios::Scenario> {};

TEST_P(InSimulation, holds) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    SimBed bed(seed);
    bed.run(GetParam().run(bed));
    bed.sim().run_for(seconds(60));
    EXPECT_EQ(bed.sim().network().streams(), 0u);
  }
}

// OpenSSL's own randomness: what is sent differs from run to run, its lengths do not.
TEST_P(InSimulation, holds_with_tls) {
  SimBed bed(1);
  bed.tls = true;
  bed.run(GetParam().run(bed));
  bed.sim().run_for(seconds(60));
  EXPECT_EQ(bed.sim().network().streams(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Rpc, InSimulation, testing::ValuesIn(scenarios::kAll),
                         [](const auto& info) { return std::string(info.param.name); });

struct Tally {
  uint64_t right = 0;
  uint64_t failed = 0;
  uint64_t late = 0;   // ended later than its deadline and the grace
  uint64_t wrong = 0;  // bytes: the one thing that must never be
  bool calm = false;   // no faults any more
};

// One caller's life: reads and look-ups, each with a deadline, until told to end.
Task<void> live(scenarios::Pair& pair, uint64_t number, const bool& over, Tally& tally) {
  World& world = pair.bed.caller();
  uint64_t i = 0;
  while (!over) {
    ++i;
    Duration limit = tally.calm ? seconds(10) : milliseconds(300 + world.random.below(2000));
    SteadyTime began = world.executor.now();
    Context context = Context::within(world.executor, limit);
    Status status;
    if (i % 3 == 0) {
      std::string text = std::to_string(number) + "/" + std::to_string(i);
      auto answer = co_await pair.call(Method::kHead, text, context);
      if (!answer) status = fail(answer.error());
      if (answer && *answer != text) ++tally.wrong;
    } else {
      uint64_t length = 1 + world.random.below(400 * kKiB);
      status =
          co_await read_and_check(*pair.pool, pair.rpc_server->address(), length, i, i, context);
      if (!status && status.error().message() == "wrong bytes") ++tally.wrong;
    }
    ++(status ? tally.right : tally.failed);
    if (world.executor.now() - began > limit + milliseconds(300)) ++tally.late;
    if (!status) (void)co_await sleep_for(world.executor, milliseconds(20), {});
  }
}

// Faults of every kind, some at once, each for a while.
Task<void> trouble(SimBed& bed) {
  SimFabric& network = bed.sim().network();
  SeededRandom& chance = bed.sim().random();
  Executor& executor = bed.caller().executor;
  for (int round = 0; round < 12; ++round) {
    SimLink link;
    link.latency = milliseconds(chance.below(20));
    link.jitter = milliseconds(chance.below(30));
    if (chance.below(2) == 0) link.loss = 0.02;
    if (chance.below(3) == 0) link.reset = 0.005;
    if (chance.below(3) == 0) link.corrupt = 0.01;
    if (chance.below(3) == 0) link.stream_bytes_per_second = 2 * kMiB;
    network.set_link(bed.host(0), bed.host(1), link);
    network.set_link(bed.host(1), bed.host(0), link);
    uint64_t cut = 0;
    if (chance.below(3) == 0) {
      SimCut kind = chance.below(2) == 0 ? SimCut::kBothWays : SimCut::kOneWay;
      size_t from = chance.below(2);
      cut = network.partition({bed.host(from)}, {bed.host(1 - from)}, kind);
    }
    (void)co_await sleep_for(executor, milliseconds(500 + chance.below(3000)), {});
    if (chance.below(4) == 0) network.reset_streams(bed.host(0), bed.host(1));
    if (cut != 0) network.heal(cut);
  }
  network.clear_links();
  network.heal_all();
}

Task<void> under_faults(SimBed& bed, Tally& tally) {
  for (size_t i = 0; i < 2; ++i) {
    bed.sim().network().set_nic(bed.host(i), 4 * kMiB, 4 * kMiB);
  }
  scenarios::Pair pair(bed);
  co_await pair.start_at_both();
  pair.server.handler.release();  // pings are answered
  bool over = false;
  Gate gate(bed.caller().executor);
  for (uint64_t i = 0; i < 8; ++i) gate.spawn(live(pair, i, over, tally));
  co_await trouble(bed);
  tally.calm = true;
  // What was cut or stalled has been given up by then; from here on everything works.
  (void)co_await sleep_for(bed.caller().executor, seconds(5), {});
  uint64_t failed = tally.failed;
  uint64_t right = tally.right;
  (void)co_await sleep_for(bed.caller().executor, seconds(5), {});
  EXPECT_EQ(tally.failed, failed) << "calls fail though nothing is broken";
  EXPECT_GT(tally.right, right);
  over = true;
  co_await gate.close();
  co_await pair.stop();
}

TEST(Faults, never_a_wrong_byte_nor_a_hang) {
  uint64_t failed = 0;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    uint64_t hash[2];
    for (uint64_t& one : hash) {
      SimBed bed(seed);
      Tally tally;
      bed.run(under_faults(bed, tally));
      EXPECT_EQ(tally.wrong, 0u);
      EXPECT_EQ(tally.late, 0u);
      EXPECT_GT(tally.right, 20u);
      failed += tally.failed;
      bed.sim().run_for(seconds(60));
      EXPECT_EQ(bed.sim().network().streams(), 0u);
      one = bed.sim().trace_hash();
    }
    EXPECT_EQ(hash[0], hash[1]) << "not deterministic";
  }
  EXPECT_GT(failed, 100u) << "the faults did not bite";
}

// The server goes and comes again behind a partition that outlives its end of the stream: nobody
// tells the caller. Its next request must not fail for that.
Task<void> given_up_in_silence(SimBed& bed) {
  scenarios::Pair pair(bed);
  RpcPoolOptions options;
  options.idle_close = std::chrono::hours(1);
  co_await pair.start({}, options);
  EXPECT_OK(co_await pair.call(Method::kHead, "before", pair.soon()));
  for (Method method : {Method::kHead, Method::kLedgerPut}) {
    uint64_t connects = pair.caller.metrics.connects.value();
    uint64_t cut = bed.sim().network().partition({bed.host(1)}, {bed.host(0)}, SimCut::kBothWays);
    co_await pair.stop_server();
    (void)co_await sleep_for(bed.caller().executor, seconds(60), {});
    bed.sim().network().heal(cut);
    co_await pair.start_server({});
    auto answer = co_await pair.call(method, "after", pair.soon());
    if (method == Method::kHead) {
      EXPECT_OK(answer);
      EXPECT_EQ(pair.caller.metrics.connects.value(), connects + 1);
    } else {
      EXPECT_EQ(answer.error().code(), Code::kUnavailable) << "such requests are not repeated";
    }
  }
  co_await pair.stop();
}

TEST(Faults, a_connection_that_was_given_up_in_silence_is_replaced) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    SimBed bed(seed);
    bed.run(given_up_in_silence(bed));
  }
}

}  // namespace
}  // namespace shoal
