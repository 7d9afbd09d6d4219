// Getting into a cluster, and what stands in the way.
#include <gtest/gtest.h>

#include "base/checksum.h"
#include "membership/cluster_test_support.h"
#include "membership/internal/map_body.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

Task<Status> answer_of(Membership& member, RpcRequest request) {
  auto answer = co_await member.handle(request, {});
  if (!answer) co_return fail(std::move(answer).error());
  co_return Status();
}

TEST(Joining, one_node_is_a_cluster) {
  TestCluster cluster(1);
  cluster.start_all(1);
  auto map = cluster.member(0).map();
  ASSERT_NE(map, nullptr);
  EXPECT_EQ(map->version, 1u);
  EXPECT_EQ(map->members.size(), 1u);
  EXPECT_EQ(map->cluster, "test");
  EXPECT_TRUE(cluster.member(0).usable({1, 1}));
  EXPECT_FALSE(cluster.member(0).usable({2, 2})) << "nobody";
}

TEST(Joining, all_agree_on_one_map) {
  for (size_t count : {2, 3, 20}) {
    for (uint64_t seed = 1; seed <= (count == 20 ? 2 : 10); ++seed) {
      TestCluster cluster(seed);
      cluster.start_all(count);
      EXPECT_TRUE(cluster.await(seconds(5), [&] { return cluster.agree(count, count); }))
          << count << " nodes, seed " << seed;
      EXPECT_EQ(cluster.count_lines("founded cluster"), 1u);
    }
  }
}

TEST(Joining, a_hundred_at_once) {
  TestCluster cluster(7, milliseconds(20));
  Duration took = cluster.start_all(100);
  EXPECT_TRUE(cluster.await(seconds(10), [&] { return cluster.agree(100, 100); }));
  auto map = cluster.member(0).map();
  std::printf("100 nodes joined in %.2f s (virtual), %llu versions\n", to_seconds(took),
              static_cast<unsigned long long>(map->version));
  EXPECT_LT(took, seconds(20));
  EXPECT_LT(map->version, 40u) << "joins share a change of the map";
}

TEST(Joining, equal_seeds_are_equal_runs) {
  auto run = [](uint64_t seed) {
    TestCluster cluster(seed);
    cluster.start_all(5);
    cluster.crash(2);
    cluster.sim.run_for(seconds(20));
    return cluster.sim.trace_hash();
  };
  EXPECT_EQ(run(3), run(3));
  EXPECT_NE(run(3), run(4));
}

TEST(Joining, through_others_without_permission_to_write) {
  TestCluster cluster(1);
  cluster.start_all(2);
  NodeProcess& third = cluster.start(2);
  third.store().read_only = true;
  EXPECT_TRUE(cluster.await(seconds(10), [&] { return third.joined.has_value(); }));
  EXPECT_TRUE(*third.joined) << third.joined->error().to_string();
  EXPECT_TRUE(cluster.await(seconds(5), [&] { return cluster.agree(3, 3); }));
}

TEST(Joining, by_itself_when_all_others_are_gone) {
  TestCluster cluster(1);
  cluster.start_all(2);
  cluster.crash(0);
  cluster.crash(1);
  NodeProcess& third = cluster.start(2);
  ASSERT_TRUE(cluster.await(seconds(30), [&] { return third.joined.has_value(); }));
  EXPECT_TRUE(*third.joined) << third.joined->error().to_string();
  EXPECT_EQ(cluster.member(2).map()->members.size(), 3u);
}

TEST(Joining, an_unreachable_address_is_refused) {
  TestCluster cluster(1);
  cluster.start_all(2);
  NodeSettings settings{.id = 3};
  settings.advertise = "10.0.0.1:9999";  // the first machine: nobody listens there
  NodeProcess& node = cluster.start(2, settings);
  ASSERT_TRUE(cluster.await(seconds(60), [&] { return node.joined.has_value(); }));
  ASSERT_FALSE(*node.joined);
  const Error& error = node.joined->error();
  EXPECT_EQ(error.code(), Code::kUnavailable);
  for (std::string_view part : {"node-3 cannot be reached at 10.0.0.1:9999", "--advertise"}) {
    EXPECT_NE(error.message().find(part), std::string::npos) << error.message();
  }
  EXPECT_EQ(cluster.member(0).map()->members.size(), 2u);
}

TEST(Joining, each_further_address_is_dialled_too) {
  TestCluster cluster(1);
  cluster.start_all(2);
  std::string ip = cluster.machine(2).address();
  NodeSettings settings{.id = 3};
  settings.listen_also = {ip + ":7071", ip + ":7072"};
  settings.further = {ip + ":7071", ip + ":7073"};  // the second is wrong
  NodeProcess& node = cluster.start(2, settings);
  ASSERT_TRUE(cluster.await(seconds(60), [&] { return node.joined.has_value(); }));
  ASSERT_FALSE(*node.joined);
  EXPECT_EQ(node.joined->error().code(), Code::kUnavailable);
  std::string said = node.joined->error().message();
  EXPECT_NE(said.find("node-3 cannot be reached at " + ip + ":7073 from"), std::string::npos)
      << said;
  EXPECT_NE(said.find("--advertise"), std::string::npos) << said;
  EXPECT_EQ(cluster.member(0).map()->members.size(), 2u);

  cluster.stop(2);
  settings.further = settings.listen_also;
  NodeProcess& right = cluster.start(2, settings);
  ASSERT_TRUE(cluster.await(seconds(60), [&] { return right.joined.has_value(); }));
  EXPECT_TRUE(*right.joined) << right.joined->error().to_string();
  EXPECT_EQ(cluster.member(2).map()->find({3, 3})->address, cluster.address(2));
}

TEST(Joining, a_request_with_wrong_further_addresses_is_refused) {
  TestCluster cluster(1);
  cluster.start_all(2);
  for (std::string_view wrong : {"10.0.0.1", "x y:1", ""}) {
    wire::JoinRequest join;
    put_member(*cluster.member(1).map()->find({2, 2}), *join.mutable_member());
    join.mutable_member()->set_id_low(9);
    join.add_further(std::string(wrong));
    RpcRequest request;
    request.method = Method::kJoin;
    request.body = join.SerializeAsString();
    Status status = cluster.run(0, answer_of(cluster.member(0), std::move(request)));
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code(), Code::kInvalidArgument) << status.error().to_string();
  }
}

TEST(Joining, a_living_node_keeps_its_id) {
  TestCluster cluster(1);
  cluster.start_all(3);
  NodeProcess& copy = cluster.start(3, {.id = 2});  // a copied cache directory
  ASSERT_TRUE(cluster.await(seconds(30), [&] { return copy.joined.has_value(); }));
  ASSERT_FALSE(*copy.joined);
  EXPECT_EQ(copy.joined->error().code(), Code::kConflict);
  EXPECT_NE(copy.joined->error().message().find("node-id"), std::string::npos)
      << copy.joined->error().message();
  EXPECT_EQ(cluster.member(0).map()->find({2, 2})->address, cluster.address(1));
  // Once the first one is gone the id is free: a node that moved to another machine.
  cluster.stop(3);
  cluster.crash(1);
  NodeProcess& moved = cluster.start(3, {.id = 2});
  ASSERT_TRUE(cluster.await(seconds(30), [&] { return moved.joined.has_value(); }));
  EXPECT_TRUE(*moved.joined) << moved.joined->error().to_string();
  EXPECT_TRUE(cluster.await(seconds(10), [&] {
    return cluster.member(0).map()->find({2, 2})->address == cluster.address(3);
  }));
}

TEST(Joining, another_origin_is_another_cluster) {
  TestCluster cluster(1);
  cluster.start_all(1);
  NodeSettings settings{.id = 2};
  settings.origin = "az:other";
  NodeProcess& node = cluster.start(1, settings);
  ASSERT_TRUE(cluster.await(seconds(30), [&] { return node.joined.has_value(); }));
  ASSERT_FALSE(*node.joined);
  EXPECT_EQ(node.joined->error().code(), Code::kConflict);
  for (std::string_view part : {"az:other", "az:test", "--cluster"}) {
    EXPECT_NE(node.joined->error().message().find(part), std::string::npos)
        << node.joined->error().message();
  }
}

TEST(Joining, clusters_share_a_container) {
  TestCluster cluster(1);
  NodeSettings one{.id = 1};
  NodeSettings two{.id = 2};
  two.cluster = "other";
  cluster.start(0, one);
  cluster.start(1, two);
  ASSERT_TRUE(
      cluster.await(seconds(30), [&] { return cluster.node(0).joined && cluster.node(1).joined; }));
  EXPECT_TRUE(*cluster.node(0).joined && *cluster.node(1).joined);
  EXPECT_EQ(cluster.member(0).map()->members.size(), 1u);
  EXPECT_EQ(cluster.member(1).map()->members.size(), 1u);
}

TEST(Joining, a_fixed_list_needs_no_store) {
  TestCluster cluster(1);
  std::string list;
  for (size_t i = 0; i < 3; ++i) {
    list += fmt::format("n{} {} id={}\n", i, cluster.address(i), NodeId{i + 1, i + 1}.to_hex());
  }
  for (size_t i = 0; i < 3; ++i) {
    NodeSettings settings{.id = i + 1};
    settings.list = list;
    cluster.start(i, settings);
  }
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(cluster.await(seconds(10), [&] { return cluster.node(i).joined.has_value(); }));
    EXPECT_TRUE(*cluster.node(i).joined) << cluster.node(i).joined->error().to_string();
  }
  EXPECT_TRUE(cluster.agree(3, 3));
  // Nobody is marked in a fixed list; the data path goes around who is gone.
  cluster.crash(2);
  EXPECT_TRUE(cluster.await(seconds(10), [&] {
    return !cluster.member(0).usable({3, 3}) && !cluster.member(1).usable({3, 3});
  }));
  EXPECT_TRUE(cluster.agree(3, 3));
  EXPECT_EQ(cluster.drain(0, 2).error().code(), Code::kReadOnly);
  NodeSettings stranger{.id = 9};
  stranger.list = list;
  NodeProcess& node = cluster.start(3, stranger);
  ASSERT_TRUE(cluster.await(seconds(10), [&] { return node.joined.has_value(); }));
  ASSERT_FALSE(*node.joined);
  EXPECT_EQ(node.joined->error().code(), Code::kInvalidArgument);
  EXPECT_NE(node.joined->error().message().find("--name"), std::string::npos);
}

Task<void> write_map(Origin& origin, std::string bytes, bool& done) {
  auto put = co_await origin.put(".shoal/test/map", as_bytes(bytes), {}, {});
  SHOAL_ASSERT(put.has_value());
  done = true;
}
// What a node says that finds these bytes in place of the map.
Error error_with_map(std::string bytes) {
  TestCluster cluster(1);
  cluster.start_all(1);
  bool done = false;
  cluster.node(0).gate().spawn(write_map(cluster.node(0).origin(), std::move(bytes), done));
  SHOAL_ASSERT(cluster.await(seconds(10), [&] { return done; }));
  NodeProcess& node = cluster.start(1);
  SHOAL_ASSERT(cluster.await(minutes(2), [&] { return node.joined.has_value(); }));
  SHOAL_ASSERT(!*node.joined);
  return node.joined->error();
}

TEST(Joining, says_what_is_wrong_with_the_map) {
  Error corrupt = error_with_map("no map at all, but as long as one: ..........................");
  EXPECT_EQ(corrupt.code(), Code::kCorrupt);
  EXPECT_NE(corrupt.message().find(".shoal/test/map"), std::string::npos) << corrupt.message();
  Member member;
  member.id = {9, 9};
  member.address = "h:1";
  std::string newer = encode_map(placement::first_map("test", {1, 1}, "az:test", 3, member));
  newer[8] = 9;
  uint32_t crc = crc32c(as_bytes(std::string_view(newer).substr(0, 20)));
  for (size_t i = 0; i < 4; ++i) newer[20 + i] = static_cast<char>(crc >> (8 * i) & 0xFF);
  Error error = error_with_map(newer);
  EXPECT_EQ(error.code(), Code::kNotSupported);
  EXPECT_NE(error.message().find("format 9"), std::string::npos) << error.message();
}

TEST(Joining, waits_for_a_store_that_is_away_and_then_gives_up) {
  TestCluster cluster(1);
  NodeProcess& node = cluster.start(0);
  node.store().away = true;
  ASSERT_TRUE(cluster.await(minutes(2), [&] { return node.joined.has_value(); }));
  ASSERT_FALSE(*node.joined);
  EXPECT_EQ(node.joined->error().code(), Code::kUnavailable);
  EXPECT_LT(node.joined_at.time_since_epoch(), seconds(30));
  NodeProcess& second = cluster.start(1);
  second.store().away = true;
  cluster.sim.run_for(seconds(5));
  EXPECT_FALSE(second.joined);
  second.store().away = false;
  EXPECT_TRUE(cluster.await(seconds(5), [&] { return second.joined.has_value(); }));
  EXPECT_TRUE(*second.joined);
}

}  // namespace
}  // namespace shoal
