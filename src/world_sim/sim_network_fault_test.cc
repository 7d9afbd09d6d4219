#include <gtest/gtest.h>

#include <cerrno>
#include <set>

#include "world_sim/sim_fabric.h"
#include "world_sim/sim_network_test_support.h"

namespace shoal {
namespace {

using net_contract::Pair;
using net_contract::Probe;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(SimNetworkFaults, loss_delays_and_corruption_changes) {
  Net net(2, 3);
  SimLink bad;
  bad.loss = 0.2;
  net.network().set_link(net.host(1), net.host(0), bad);
  Pair pair = net.pair(0, 1);
  SteadyTime begin = net.sim.now();
  Outcome sent;
  Outcome received;
  net.spawn(1, send_bytes(net.world(1), pair.client, 8 * kMiB, sent));
  net.spawn(0, receive_bytes(net.world(0), pair.server, 8 * kMiB, received));
  ASSERT_TRUE(net.run());
  EXPECT_GT(received.at - begin, milliseconds(200));
  EXPECT_GT(received.result, 0);
  bad.loss = 0;
  bad.corrupt = 1;
  net.network().set_link(net.host(1), net.host(0), bad);
  std::string text(1000, '\0');
  Probe receive(net.world(0), NetOp::Kind::kReceive);
  net_contract::fill(receive, pair.server, std::as_writable_bytes(std::span(text)), text.size());
  receive.go();
  Outcome corrupted;
  net.spawn(1, send_bytes(net.world(1), pair.client, text.size(), corrupted));
  ASSERT_TRUE(net.sim.run_until([&] { return receive.done(); }, seconds(1)));
  int different = 0;
  for (char c : text) different += c != 'x' ? 1 : 0;
  EXPECT_EQ(different, 1);
  bad.corrupt = 0;
  bad.reset = 1;
  net.network().set_link(net.host(1), net.host(0), bad);
  Outcome reset;
  Outcome ended;
  net.spawn(1, send_bytes(net.world(1), pair.client, 8 * kMiB, reset));
  net.spawn(0, receive_bytes(net.world(0), pair.server, 8 * kMiB, ended));
  ASSERT_TRUE(net.run());
  EXPECT_EQ(reset.result, -ECONNRESET);
  EXPECT_EQ(ended.result, -ECONNRESET);
}

TEST(SimNetworkFaults, a_short_partition_delays_and_a_long_one_breaks) {
  for (SimCut cut : {SimCut::kBothWays, SimCut::kOneWay}) {
    for (bool forward : {true, false}) {
      for (Duration length : {Duration(seconds(3)), Duration(seconds(60))}) {
        Net net(3);
        Pair pair = net.pair(0, 1);
        Pair aside = net.pair(0, 2);
        net.network().set_nic(net.host(1), kGigabyte, kGigabyte);
        Outcome sent;
        Outcome received;
        net.spawn(1, send_bytes(net.world(1), pair.client, kGigabyte / 10, sent));
        Gate& reading =
            net.spawn(0, receive_bytes(net.world(0), pair.server, kGigabyte / 10, received));
        uint64_t number = 0;
        net.sim.at(milliseconds(20), [&] {
          std::vector<SimHostId> a = {net.host(1)};
          std::vector<SimHostId> b = {net.host(0)};
          number =
              forward ? net.network().partition(a, b, cut) : net.network().partition(b, a, cut);
        });
        net.sim.at(milliseconds(20) + length, [&] { net.network().heal(number); });
        Outcome other_sent;
        Outcome other;
        net.sim.run_for(milliseconds(100));
        EXPECT_FALSE(received.done);
        net.spawn(2, send_bytes(net.world(2), aside.client, kMiB, other_sent));
        net.spawn(0, receive_bytes(net.world(0), aside.server, kMiB, other));
        if (length < seconds(10)) {
          ASSERT_TRUE(net.run(seconds(20)));
          EXPECT_GT(received.result, 0);
          EXPECT_GE(received.at.time_since_epoch(), seconds(3));
          EXPECT_LE(received.at.time_since_epoch(), seconds(8));
        } else {
          // The sender gives up; the receiver hears of it, if at all, when it speaks.
          ASSERT_TRUE(net.sim.run_until([&] { return sent.done; }, seconds(21)));
          EXPECT_EQ(sent.result, -ETIMEDOUT);
          EXPECT_GE(sent.at.time_since_epoch(), seconds(10));
          net.sim.run_for(seconds(60));
          EXPECT_FALSE(received.done);
          Outcome answer;
          net.spawn(0, send_bytes(net.world(0), pair.server, 10, answer));
          ASSERT_TRUE(net.sim.run_until([&] { return reading.count() == 0; }, seconds(1)));
          EXPECT_EQ(received.result, -ECONNRESET);
          ASSERT_TRUE(net.run());
        }
        EXPECT_GT(other.result, 0);
        EXPECT_LT(other.at.time_since_epoch(), milliseconds(200));
      }
    }
  }
}

Task<void> connect_to(World& world, std::string address, SteadyTime deadline, Outcome& outcome) {
  Probe connect(world, NetOp::Kind::kConnect);
  connect.address = address;
  connect.deadline = deadline;
  outcome.result = co_await connect.go();
  outcome.at = world.executor.now();
  outcome.done = true;
  if (outcome.result >= 0) world.network.close(static_cast<SocketId>(outcome.result));
}

TEST(SimNetworkFaults, connecting_fails_as_the_peer_s_state_says) {
  Net net(2);
  std::string address = net.pair(0, 1).address;
  auto attempt = [&](std::string to, Duration limit) {
    Outcome outcome;
    SteadyTime begin = net.sim.now();
    net.spawn(1, connect_to(net.world(1), to, begin + limit, outcome));
    EXPECT_TRUE(net.run());
    return std::pair(outcome.result, outcome.at - begin);
  };
  EXPECT_GE(attempt(address, seconds(5)).first, 0);
  EXPECT_GE(attempt("m0" + address.substr(address.rfind(':')), seconds(5)).first, 0);
  EXPECT_EQ(attempt("10.0.0.1:1", seconds(5)).first, -ECONNREFUSED);
  EXPECT_EQ(attempt("nobody:1", seconds(5)).first, -ENOENT);
  uint64_t cut = net.network().isolate(net.host(0));
  EXPECT_EQ(attempt(address, seconds(5)), std::pair(int64_t{-ETIMEDOUT}, Duration(seconds(5))));
  // A partition that ends meanwhile: the next SYN gets through.
  net.sim.at(milliseconds(2500), [&] { net.network().heal(cut); });
  auto [result, took] = attempt(address, seconds(5));
  EXPECT_GE(result, 0);
  EXPECT_GE(took, seconds(3));
  net.machines[0]->crash(CrashKind::kProcess);
  auto [dead, soon] = attempt(address, seconds(5));
  EXPECT_EQ(dead, -ECONNREFUSED);
  EXPECT_LT(soon, milliseconds(1));
  net.gates.clear();
  net.machines[0]->boot();
  net.machines[0]->crash(CrashKind::kPowerLoss);
  EXPECT_EQ(attempt(address, kNever - net.sim.now()).first, -ETIMEDOUT);
  net.machines[0]->boot();
  EXPECT_EQ(attempt(address, seconds(5)).first, -ECONNREFUSED);
}

TEST(SimNetworkFaults, a_crashed_process_is_heard_of_and_a_dead_machine_is_not) {
  std::set<int64_t> seen;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    for (CrashKind kind : {CrashKind::kProcess, CrashKind::kPowerLoss}) {
      Net net(2, seed);
      Pair pair = net.pair(0, 1);
      Pair idle = net.pair(0, 1);
      auto& waits = net.machines[0]->own(std::make_unique<Outcome>());
      net.spawn(0, receive_bytes(net.world(0), pair.server, kGigabyte, waits));
      net.gates.clear();
      Outcome sent;
      Outcome received;
      Outcome listens;
      net.spawn(1, send_bytes(net.world(1), pair.client, kGigabyte / 10, sent));
      net.spawn(1, receive_bytes(net.world(1), pair.client, 10, received));
      net.spawn(1, receive_bytes(net.world(1), idle.client, 10, listens));
      net.network().set_nic(net.host(1), kGigabyte, kGigabyte);
      net.sim.run_for(milliseconds(5 + seed));
      SteadyTime death = net.sim.now();
      net.machines[0]->crash(kind);
      if (kind == CrashKind::kProcess) {
        ASSERT_TRUE(net.run(milliseconds(10)));
        seen.insert(listens.result);
        EXPECT_LE(listens.result, 0);
        EXPECT_EQ(sent.result, -ECONNRESET);
        net.machines[0]->boot();
      } else {
        ASSERT_TRUE(net.sim.run_until([&] { return sent.done && received.done; }, seconds(21)));
        EXPECT_EQ(sent.result, -ETIMEDOUT);
        EXPECT_EQ(received.result, -ETIMEDOUT);
        EXPECT_GE(sent.at - death, seconds(10));
        net.sim.run_for(seconds(100));
        EXPECT_FALSE(listens.done) << "an idle stream learned of a power loss";
        net.machines[0]->boot();
        Outcome knock;
        net.spawn(1, send_bytes(net.world(1), idle.client, 10, knock));
        ASSERT_TRUE(net.run(seconds(5)));
        EXPECT_EQ(listens.result, -ECONNRESET);
      }
      net.world(1).network.close(pair.client);
      net.world(1).network.close(idle.client);
      net.sim.run_for(seconds(30));
      EXPECT_EQ(net.network().streams(), 0u);
      EXPECT_EQ(net.network().buffered_bytes(), 0u);
    }
  }
  EXPECT_EQ(seen, (std::set<int64_t>{0, -ECONNRESET}));
}

// A restart within the time-outs: who sends to the old process is told at once.
TEST(SimNetworkFaults, a_rebooted_machine_resets_old_streams) {
  Net net(2);
  Pair pair = net.pair(0, 1);
  net.network().set_nic(net.host(1), kGigabyte, kGigabyte);
  Outcome sent;
  net.gates.clear();
  net.spawn(1, send_bytes(net.world(1), pair.client, kGigabyte, sent));
  net.sim.run_for(milliseconds(10));
  net.machines[0]->crash(CrashKind::kPowerLoss);
  net.sim.run_for(seconds(2));
  EXPECT_FALSE(sent.done);
  net.machines[0]->boot();
  ASSERT_TRUE(net.run(seconds(5)));
  EXPECT_EQ(sent.result, -ECONNRESET);
  EXPECT_EQ(net.machines[0]->address(), "10.0.0.1");
}

// Many machines, every fault, twice: equal seeds give equal runs.
struct Chaos {
  uint64_t hash = 0;
  uint64_t steps = 0;
  bool operator==(const Chaos&) const = default;
};
Task<void> serve(World& world, std::string at) {
  Probe listen(world, NetOp::Kind::kListen);
  listen.address = at;
  SocketId listener = static_cast<SocketId>(co_await listen.go());
  EXPECT_GE(listen.result, 0);
  for (;;) {
    Probe accept(world, NetOp::Kind::kAccept);
    accept.socket = listener;
    if (co_await accept.go() < 0) co_return;
    auto socket = static_cast<SocketId>(accept.result);
    Outcome outcome;
    co_await receive_bytes(world, socket, kMiB, outcome);
    if (outcome.result > 0) co_await send_bytes(world, socket, 1000, outcome);
    world.network.close(socket);
  }
}
Task<void> visit(World& world, std::vector<std::string> peers, uint64_t rounds) {
  for (uint64_t i = 0; i < rounds; ++i) {
    Probe connect(world, NetOp::Kind::kConnect);
    connect.address = peers[world.random.below(peers.size())];
    connect.deadline = world.executor.now() + seconds(2);
    if (co_await connect.go() < 0) continue;
    auto socket = static_cast<SocketId>(connect.result);
    Outcome outcome;
    co_await send_bytes(world, socket, kMiB, outcome);
    if (outcome.result > 0) {
      std::string text(1000, '\0');
      Probe receive(world, NetOp::Kind::kReceive);
      net_contract::fill(receive, socket, std::as_writable_bytes(std::span(text)), 1000);
      receive.go();
      SteadyTime limit = world.executor.now() + seconds(30);
      while (!receive.done() && world.executor.now() < limit) {
        SHOAL_ASSERT((co_await sleep_for(world.executor, milliseconds(50), {})).has_value());
      }
      world.network.cancel(receive);
      co_await receive;
    }
    world.network.close(socket);
  }
}

Chaos chaos(uint64_t seed) {
  constexpr size_t kMachines = 12;
  Net net(kMachines, seed);
  SimNetworkOptions options = net.network().options();
  options.link.loss = 0.001;
  options.link.corrupt = 0.01;
  options.link.reset = 0.001;
  net.network().set_options(options);
  std::vector<std::string> peers;
  for (size_t i = 0; i < kMachines; ++i) peers.push_back(net.machines[i]->address() + ":7070");
  auto begin = [&](size_t i) {
    Gate& gate = net.machines[i]->own(std::make_unique<Gate>(net.world(i).executor));
    gate.spawn(serve(net.world(i), "0.0.0.0:7070"));
    for (int k = 0; k < 3; ++k) gate.spawn(visit(net.world(i), peers, 12));
  };
  for (size_t i = 0; i < kMachines; ++i) {
    net.network().set_nic(net.host(i), kGigabyte / 8, kGigabyte / 8);
    begin(i);
  }
  SeededRandom& random = net.sim.random();
  for (int round = 0; round < 12; ++round) {
    net.sim.run_for(Duration(static_cast<int64_t>(random.below(2'000'000'000))));
    size_t i = random.below(kMachines);
    switch (random.below(5)) {
      case 0:
        net.network().partition({net.host(i)}, {net.host(random.below(kMachines))},
                                random.below(2) == 0 ? SimCut::kOneWay : SimCut::kBothWays);
        break;
      case 1:
        net.network().heal_all();
        break;
      case 2:
        net.machines[i]->crash(random.below(2) == 0 ? CrashKind::kProcess : CrashKind::kPowerLoss);
        net.sim.run_for(milliseconds(random.below(5000)));
        net.machines[i]->boot();
        begin(i);
        break;
      case 3:
        net.network().reset_streams(net.host(i), net.host(random.below(kMachines)));
        break;
      default:
        net.network().set_slow(net.host(i), milliseconds(random.below(20)));
    }
  }
  net.network().heal_all();
  net.sim.run_for(seconds(60));
  for (SimMachine* machine : net.machines) machine->crash(CrashKind::kProcess);
  net.sim.run_for(seconds(30));
  EXPECT_EQ(net.network().streams(), 0u);
  EXPECT_EQ(net.network().buffered_bytes(), 0u);
  return {net.sim.trace_hash(), net.sim.scheduler().steps()};
}

TEST(SimNetworkFaults, equal_seeds_give_equal_runs) {
  std::set<uint64_t> hashes;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    Chaos first = chaos(seed);
    EXPECT_EQ(first, chaos(seed)) << seed;
    hashes.insert(first.hash);
  }
  EXPECT_EQ(hashes.size(), 4u);
}

}  // namespace
}  // namespace shoal
