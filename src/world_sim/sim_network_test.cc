#include "world_sim/sim_network.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "world_sim/sim_network_test_support.h"

namespace shoal {
namespace {

using net_contract::Pair;
using net_contract::Probe;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(SimNetwork, keeps_the_contract) {
  for (uint64_t seed = 1; seed <= 2; ++seed) {
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

TEST(SimNetwork, what_is_not_scaled_passes_cards_at_once) {
  for (uint64_t bytes : {1000u, 1001u}) {
    Net net(2);
    SimNetworkOptions options = net.network().options();
    options.free_bytes = 1001;
    net.network().set_options(options);
    Pair pair = net.pair(0, 1);
    for (size_t i : {0u, 1u}) net.network().set_nic(net.host(i), 1000, 1000);
    SteadyTime begin = net.sim.now();
    Outcome sent;
    Outcome received;
    net.spawn(1, send_bytes(net.world(1), pair.client, bytes, sent));
    net.spawn(0, receive_bytes(net.world(0), pair.server, bytes, received));
    ASSERT_TRUE(net.run());
    EXPECT_NEAR(to_seconds(received.at - begin), bytes < 1001 ? 0 : 1.001, 0.01) << bytes;
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

Task<void> write_file(World& world, std::string path, uint64_t bytes, FileId& file) {
  Buffer content(bytes);
  for (size_t i = 0; i < bytes; ++i) content.data()[i] = static_cast<std::byte>(i / 4096 * 5 + i);
  auto made = co_await disk_io::open(world.disk, path, DiskOp::kOpenWrite | DiskOp::kOpenCreate);
  SHOAL_ASSERT(made.has_value());
  file = *made;
  SHOAL_ASSERT((co_await disk_io::write(world.disk, file, 0, content.span())).has_value());
}

Task<void> send_file(World& world, SocketId socket, FileId file, uint64_t bytes, Outcome& outcome) {
  Probe send(world, NetOp::Kind::kSendFile);
  send.socket = socket;
  send.file = file;
  send.length = bytes;
  outcome.result = co_await send.go();
  outcome.done = true;
}

// Corruption on the way leaves the file alone; a file that ends or changes is sent as it is then.
TEST(SimNetwork, files_are_sent_without_copies_and_stay_as_they_are) {
  constexpr uint64_t kBytes = 3 * kMiB;
  Net net(2);
  SimLink bad;
  bad.corrupt = 1;
  net.network().set_link(net.host(0), net.host(1), bad);
  Pair pair = net.pair(0, 1);
  FileId file = FileId::kNone;
  net.spawn(0, write_file(net.world(0), "f", kBytes, file));
  ASSERT_TRUE(net.run());
  std::string before = net.machines[0]->disk().content("f");
  std::string got(kBytes, '\0');
  Probe receive(net.world(1), NetOp::Kind::kReceive);
  net_contract::fill(receive, pair.client, std::as_writable_bytes(std::span(got)), kBytes);
  receive.go();
  Outcome sent;
  SteadyTime begin = net.sim.now();
  net.spawn(0, send_file(net.world(0), pair.server, file, kBytes, sent));
  ASSERT_TRUE(net.sim.run_until([&] { return receive.done() && sent.done; }, seconds(5)));
  EXPECT_EQ(sent.result, static_cast<int64_t>(kBytes));
  // The disk gives 2 GB/s.
  EXPECT_GT(to_seconds(net.sim.now() - begin), 0.0010);
  EXPECT_EQ(net.machines[0]->disk().content("f"), before);
  uint64_t different = 0;
  for (size_t i = 0; i < kBytes; ++i) different += got[i] != before[i] ? 1 : 0;
  EXPECT_EQ(different, kBytes / net.network().options().chunk_bytes);
  ASSERT_TRUE(net.run());
}

}  // namespace
}  // namespace shoal
