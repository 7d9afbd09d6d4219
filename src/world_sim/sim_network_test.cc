#include "world_sim/sim_network.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>

#include "async/gate.h"
#include "async/net_contract_test_support.h"
#include "world_sim/sim_world.h"

namespace shoal {
namespace {

using net_contract::Pair;
using net_contract::Probe;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kGigabyte = 1'000'000'000;

// Machines whose tasks run until all have ended.
class Net {
 public:
  explicit Net(size_t count, uint64_t seed = 1) : sim({.seed = seed}) {
    for (size_t i = 0; i < count; ++i) {
      machines.push_back(&sim.add_machine("m" + std::to_string(i), {}));
      machines.back()->boot();
    }
  }
  World& world(size_t i) { return machines[i]->world(); }
  SimFabric& network() { return sim.network(); }
  SimHostId host(size_t i) { return machines[i]->host(); }
  Gate& spawn(size_t i, Task<void> task) {
    Gate& gate = machines[i]->own(std::make_unique<Gate>(world(i).executor));
    gate.spawn(std::move(task));
    gates.push_back(&gate);
    return gate;
  }
  // False: not all ended within the time.
  bool run(Duration limit = std::chrono::hours(1)) {
    return sim.run_until(
        [&] {
          for (Gate* gate : gates) {
            if (gate->count() > 0) return false;
          }
          return true;
        },
        limit);
  }
  double seconds_passed() const { return to_seconds(sim.now().time_since_epoch()); }
  Pair pair(size_t server, size_t client);

  Simulation sim;
  std::vector<SimMachine*> machines;
  std::vector<Gate*> gates;
};

Task<void> keep_pair(World& server, World& client, std::string at, Pair& pair) {
  pair = co_await net_contract::make_pair(server, client, at);
}
Pair Net::pair(size_t server, size_t client) {
  auto* made = new Pair;  // owned by the machine: a crash may leave it behind
  machines[server]->own(std::unique_ptr<Pair>(made));
  spawn(server, keep_pair(world(server), world(client), machines[server]->address() + ":0", *made));
  EXPECT_TRUE(run());
  return *made;
}

struct Outcome {
  int64_t result = 1;
  SteadyTime at{};
  bool done = false;
};

// Sends `bytes` of one pattern and waits until the socket has them.
Task<void> send_bytes(World& world, SocketId socket, uint64_t bytes, Outcome& outcome) {
  Buffer block(std::min<uint64_t>(bytes, kMiB));
  std::memset(block.data(), 'x', block.size());
  for (uint64_t done = 0; done < bytes && outcome.result >= 0;) {
    std::vector<ConstByteSpan> parts = {
        block.part(0, std::min<uint64_t>(block.size(), bytes - done))};
    Probe send(world, NetOp::Kind::kSend);
    send.socket = socket;
    send.parts = parts;
    outcome.result = co_await send.go();
    done += parts[0].size();
  }
  outcome.at = world.executor.now();
  outcome.done = true;
}

Task<void> receive_bytes(World& world, SocketId socket, uint64_t bytes, Outcome& outcome) {
  Buffer block(std::min<uint64_t>(bytes, kMiB));
  for (uint64_t done = 0; done < bytes && outcome.result > 0;) {
    uint64_t want = std::min<uint64_t>(block.size(), bytes - done);
    Probe receive(world, NetOp::Kind::kReceive);
    net_contract::fill(receive, socket, block.part(0, want), want);
    outcome.result = co_await receive.go();
    if (outcome.result > 0) done += static_cast<uint64_t>(outcome.result);
  }
  outcome.at = world.executor.now();
  outcome.done = true;
}

TEST(SimNetwork, keeps_the_contract) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    for (bool limited : {false, true}) {
      for (size_t client : {size_t{1}, size_t{0}}) {
        Net net(2, seed);
        if (limited) {
          for (size_t i : {0u, 1u}) net.network().set_nic(net.host(i), kGigabyte, 2 * kGigabyte);
        }
        World& a = net.world(0);
        World& b = net.world(client);
        net.spawn(0, net_contract::check_opening(a, b, "10.0.0.1:0"));
        net.spawn(0, net_contract::check_bytes(a, b, "m0:0"));
        net.spawn(0, net_contract::check_back_pressure_and_cancel(a, b, "10.0.0.1:0"));
        net.spawn(0, net_contract::check_send_file(a, b, "10.0.0.1:0", "file"));
        ASSERT_TRUE(net.run(seconds(60)));
        net.sim.run_for(seconds(30));
        EXPECT_EQ(net.network().streams(), 0u);
        EXPECT_EQ(net.network().buffered_bytes(), 0u);
        for (SimMachine* machine : net.machines) machine->shut_down();
      }
    }
  }
}

TEST(SimNetwork, two_equal_cards_cost_the_time_of_one) {
  for (auto [out, in] : {std::pair(1, 1), {1, 4}, {4, 1}, {1, 0}, {0, 1}}) {
    Net net(2);
    Pair pair = net.pair(0, 1);
    net.network().set_nic(net.host(1), out * kGigabyte, 0);
    net.network().set_nic(net.host(0), 0, in * kGigabyte);
    SteadyTime begin = net.sim.now();
    Outcome sent;
    Outcome received;
    net.spawn(1, send_bytes(net.world(1), pair.client, kGigabyte / 4, sent));
    net.spawn(0, receive_bytes(net.world(0), pair.server, kGigabyte / 4, received));
    ASSERT_TRUE(net.run());
    EXPECT_NEAR(to_seconds(received.at - begin), 0.25, 0.0025) << out << " " << in;
    EXPECT_LE(sent.at, received.at);
    EXPECT_EQ(net.network().traffic(net.host(1)).bytes_sent, kGigabyte / 4);
    EXPECT_EQ(net.network().traffic(net.host(0)).bytes_received, kGigabyte / 4);
  }
}

// Eight streams into or out of one card end together, in eight times the time of one.
TEST(SimNetwork, streams_share_a_card) {
  constexpr size_t kOthers = 8;
  constexpr uint64_t kBytes = kGigabyte / 16;
  for (bool into : {true, false}) {
    Net net(kOthers + 1);
    std::vector<Outcome> sent(kOthers);
    std::vector<Outcome> received(kOthers);
    std::vector<Pair> pairs;
    for (size_t i = 0; i < kOthers; ++i) pairs.push_back(net.pair(0, i + 1));
    for (size_t i = 0; i <= kOthers; ++i) {
      net.network().set_nic(net.host(i), kGigabyte, kGigabyte);
    }
    SteadyTime begin = net.sim.now();
    for (size_t i = 0; i < kOthers; ++i) {
      World& hub = net.world(0);
      World& other = net.world(i + 1);
      if (into) {
        net.spawn(0, receive_bytes(hub, pairs[i].server, kBytes, received[i]));
        net.spawn(i + 1, send_bytes(other, pairs[i].client, kBytes, sent[i]));
      } else {
        net.spawn(i + 1, receive_bytes(other, pairs[i].client, kBytes, received[i]));
        net.spawn(0, send_bytes(hub, pairs[i].server, kBytes, sent[i]));
      }
    }
    // Half-way all have about the same.
    ASSERT_TRUE(net.run());
    for (const Outcome& outcome : received) {
      EXPECT_NEAR(to_seconds(outcome.at - begin), 0.5, 0.025);
    }
    EXPECT_NEAR(to_seconds(net.sim.now() - begin), 0.5, 0.01);
  }
}

// A slow reader of one stream does not hold up another stream of the same card.
TEST(SimNetwork, a_stream_that_stands_does_not_block_others) {
  Net net(3);
  net.network().set_nic(net.host(0), kGigabyte, kGigabyte);
  Pair stuck = net.pair(1, 0);
  Pair free = net.pair(2, 0);
  Outcome standing;
  Outcome sent;
  Outcome received;
  net.machines[0]->own(std::make_unique<Gate>(net.world(0).executor));
  Gate* gate = &net.spawn(0, send_bytes(net.world(0), stuck.client, kGigabyte, standing));
  net.gates.pop_back();
  SteadyTime begin = net.sim.now();
  net.spawn(0, send_bytes(net.world(0), free.client, kGigabyte / 4, sent));
  net.spawn(2, receive_bytes(net.world(2), free.server, kGigabyte / 4, received));
  ASSERT_TRUE(net.run());
  EXPECT_LT(to_seconds(received.at - begin), 0.26);
  EXPECT_FALSE(standing.done);
  const SimNetworkOptions& options = net.network().options();
  EXPECT_LE(net.network().buffered_bytes(), options.send_buffer + options.receive_window);
  net.world(0).network.close(stuck.client);
  ASSERT_TRUE(net.sim.run_until([&] { return gate->count() == 0; }, seconds(1)));
  EXPECT_EQ(standing.result, -ECANCELED);
}

TEST(SimNetwork, a_slow_link_limits_each_stream) {
  Net net(2);
  SimLink slow;
  slow.stream_bytes_per_second = kGigabyte / 10;
  net.network().set_link(net.host(1), net.host(0), slow);
  Pair pair = net.pair(0, 1);
  SteadyTime begin = net.sim.now();
  Outcome sent;
  Outcome received;
  net.spawn(1, send_bytes(net.world(1), pair.client, kGigabyte / 40, sent));
  net.spawn(0, receive_bytes(net.world(0), pair.server, kGigabyte / 40, received));
  ASSERT_TRUE(net.run());
  EXPECT_NEAR(to_seconds(received.at - begin), 0.25, 0.01);
}

TEST(SimNetwork, loss_delays_and_corruption_changes) {
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

TEST(SimNetwork, a_short_partition_delays_and_a_long_one_breaks) {
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

TEST(SimNetwork, connecting_fails_as_the_peer_s_state_says) {
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

TEST(SimNetwork, a_crashed_process_is_heard_of_and_a_dead_machine_is_not) {
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
TEST(SimNetwork, a_rebooted_machine_resets_old_streams) {
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

TEST(SimNetwork, blob_traffic_shares_the_card) {
  Net net(2);
  BlobServiceConfig config;
  config.require_auth = false;
  SimBlobAccount& blob = net.sim.add_blob_account("blob:1", std::move(config), {});
  blob.service.add_container("ccc");
  blob.service.add_synthetic("ccc", "x", 64 * kMiB, 3);
  Pair pair = net.pair(0, 1);
  net.network().set_nic(net.host(0), kGigabyte, kGigabyte);
  struct Get final : HttpCall {
    void run() noexcept override { done = true; }
    bool done = false;
  } call;
  Buffer into(64 * kMiB);
  call.request.method = "GET";
  call.request.url = "http://blob:1/devstoreaccount1/ccc/x";
  call.into = into.span();
  call.stall_timeout = seconds(10);
  SteadyTime begin = net.sim.now();
  net.world(0).http.start(call);
  Outcome sent;
  Outcome received;
  net.spawn(1, send_bytes(net.world(1), pair.client, 64 * kMiB, sent));
  net.spawn(0, receive_bytes(net.world(0), pair.server, 64 * kMiB, received));
  ASSERT_TRUE(net.sim.run_until([&] { return call.done && received.done; }, seconds(10)));
  ASSERT_TRUE(call.result) << call.result.error().message();
  EXPECT_EQ(call.result->into_bytes, into.size());
  EXPECT_TRUE(synthetic_equal(3, 0, into.span()));
  double both = 2.0 * 64 * static_cast<double>(kMiB) / kGigabyte;
  EXPECT_NEAR(to_seconds(net.sim.now() - begin), both, both * 0.02);
  EXPECT_GT(to_seconds(received.at - begin), both * 0.9);
  ASSERT_TRUE(net.run());
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
    for (int k = 0; k < 3; ++k) gate.spawn(visit(net.world(i), peers, 30));
  };
  for (size_t i = 0; i < kMachines; ++i) {
    net.network().set_nic(net.host(i), kGigabyte / 8, kGigabyte / 8);
    begin(i);
  }
  SeededRandom& random = net.sim.random();
  for (int round = 0; round < 30; ++round) {
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

TEST(SimNetwork, equal_seeds_give_equal_runs) {
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
