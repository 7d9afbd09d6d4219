// A cluster that lives through what happens to clusters.
#include <gtest/gtest.h>

#include <algorithm>
#include <ranges>

#include "membership/cluster_test_support.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr auto kUp = MemberState::kUp;
constexpr auto kDown = MemberState::kDown;

// Virtual time until every node that runs sees `id` down; nothing: not within the limit.
std::optional<Duration> time_to_down(TestCluster& cluster, size_t nodes, uint64_t id,
                                     Duration limit) {
  SteadyTime begun = cluster.sim.now();
  bool seen = cluster.await(limit, [&] {
    for (size_t i = 0; i < nodes; ++i) {
      if (cluster.runs(i) && cluster.state(i, id) != kDown) return false;
    }
    return true;
  });
  if (!seen) return std::nullopt;
  return cluster.sim.now() - begun;
}

void expect_down_within(size_t nodes, CrashKind kind, Duration limit, uint64_t seeds) {
  Duration worst{0};
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    TestCluster cluster(seed, milliseconds(20));
    cluster.start_all(nodes);
    cluster.sim.run_for(seconds(3) + milliseconds(137 * static_cast<int64_t>(seed)));
    cluster.crash(seed % nodes, kind);
    auto took = time_to_down(cluster, nodes, seed % nodes + 1, seconds(30));
    ASSERT_TRUE(took) << nodes << " nodes, seed " << seed;
    EXPECT_LE(*took, limit) << nodes << " nodes, seed " << seed;
    worst = std::max(worst, *took);
    EXPECT_EQ(cluster.count_lines(" is down"), nodes - 1) << "nobody else was marked";
  }
  std::printf("%zu nodes, %s: known to all after at most %.2f s\n", nodes,
              kind == CrashKind::kProcess ? "kill -9" : "power loss", to_seconds(worst));
}

TEST(Detection, a_killed_process_is_down_within_five_seconds) {
  expect_down_within(2, CrashKind::kProcess, seconds(5), 20);
  expect_down_within(3, CrashKind::kProcess, seconds(5), 20);
  expect_down_within(8, CrashKind::kProcess, seconds(5), 10);
}

TEST(Detection, a_silent_machine_too) {
  expect_down_within(2, CrashKind::kPowerLoss, seconds(5), 20);
  expect_down_within(3, CrashKind::kPowerLoss, seconds(5), 20);
  expect_down_within(8, CrashKind::kPowerLoss, seconds(5), 10);
}

TEST(Detection, with_a_hundred_nodes) {
  expect_down_within(100, CrashKind::kProcess, seconds(5), 1);
}

TEST(Detection, many_at_once) {
  TestCluster cluster(5);
  cluster.start_all(12);
  cluster.sim.run_for(seconds(3));
  for (size_t i = 0; i < 12; i += 2) cluster.crash(i, CrashKind::kPowerLoss);
  SteadyTime begun = cluster.sim.now();
  EXPECT_TRUE(cluster.await(seconds(60), [&] { return cluster.agree(12, 6); }));
  std::printf("6 of 12: known to all after %.1f s\n", to_seconds(cluster.sim.now() - begun));
}

TEST(Detection, the_last_survivor_notices) {
  TestCluster cluster(5);
  cluster.start_all(5);
  cluster.sim.run_for(seconds(3));
  for (size_t i = 1; i < 5; ++i) cluster.crash(i, CrashKind::kPowerLoss);
  EXPECT_TRUE(cluster.await(minutes(2), [&] { return cluster.agree(5, 1); }));
}

TEST(Detection, a_slow_node_is_no_dead_node) {
  // What the node sends and receives takes so much longer each way.
  for (Duration slow : {milliseconds(100), milliseconds(300), milliseconds(600)}) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      TestCluster cluster(seed);
      cluster.start_all(4);
      cluster.sim.run_for(seconds(5));
      cluster.sim.network().set_slow(cluster.host(1), slow);
      cluster.sim.run_for(minutes(3));
      EXPECT_EQ(cluster.count_lines(" is down"), 0u) << to_seconds(slow) << " s, seed " << seed;
    }
  }
}

TEST(Detection, one_way_partition_of_two_marks_nobody) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    TestCluster cluster(seed);
    cluster.start_all(4);
    cluster.sim.run_for(seconds(3));
    uint64_t cut =
        cluster.sim.network().partition({cluster.host(0)}, {cluster.host(1)}, SimCut::kOneWay);
    cluster.sim.run_for(minutes(2));
    EXPECT_EQ(cluster.count_lines(" is down"), 0u) << "seed " << seed;
    std::vector<NodeId> suspected = cluster.member(0).status().suspected;
    EXPECT_EQ(suspected, std::vector<NodeId>({{2, 2}}));
    EXPECT_FALSE(cluster.member(0).usable({2, 2})) << "the data path goes around it";
    cluster.sim.network().heal(cut);
    EXPECT_TRUE(cluster.await(seconds(60), [&] {
      return cluster.member(0).status().suspected.empty() && cluster.member(0).usable({2, 2});
    }));
  }
}

void expect_same_owners(const SlotMap& before, const SlotMap& after) {
  EXPECT_EQ(before.owners, after.owners);
  EXPECT_EQ(before.previous, after.previous);
}

TEST(Partition, a_minority_goes_on_and_comes_back) {
  TestCluster cluster(11);
  cluster.start_all(6);
  cluster.sim.run_for(seconds(3));
  auto before = cluster.member(0).map();
  std::vector<SimHostId> minority = {cluster.host(4), cluster.host(5)};
  std::vector<SimHostId> majority;
  for (size_t i = 0; i < 4; ++i) majority.push_back(cluster.host(i));
  uint64_t cut = cluster.sim.network().partition(minority, majority, SimCut::kBothWays);
  for (size_t i : {4, 5}) cluster.machine(i).process().http.set_partitioned(true);
  EXPECT_TRUE(cluster.await(
      seconds(20), [&] { return cluster.state(0, 5) == kDown && cluster.state(0, 6) == kDown; }));
  cluster.sim.run_for(seconds(40));
  // The minority could not write: it has its last map, says so, and nobody is marked in it.
  EXPECT_EQ(cluster.member(4).map()->version, before->version);
  EXPECT_FALSE(cluster.member(4).status().store_reachable);
  EXPECT_TRUE(cluster.member(4).usable({6, 6}));
  EXPECT_FALSE(cluster.member(4).usable({1, 1})) << "it does not answer";
  cluster.sim.network().heal(cut);
  for (size_t i : {4, 5}) cluster.machine(i).process().http.set_partitioned(false);
  EXPECT_TRUE(cluster.await(minutes(2), [&] { return cluster.agree(6, 6); }));
  expect_same_owners(*before, *cluster.member(0).map());
  EXPECT_TRUE(cluster.member(4).status().store_reachable);
}

TEST(Partition, a_minority_that_reaches_the_store_does_not_bring_the_others_down) {
  TestCluster cluster(12);
  cluster.start_all(7);
  cluster.sim.run_for(seconds(3));
  std::vector<SimHostId> others;
  for (size_t i = 1; i < 7; ++i) others.push_back(cluster.host(i));
  cluster.sim.network().partition({cluster.host(0)}, others, SimCut::kBothWays);
  cluster.sim.run_for(minutes(2));
  for (uint64_t id = 2; id <= 7; ++id) EXPECT_EQ(cluster.state(1, id), kUp) << id;
  cluster.sim.network().heal_all();
  EXPECT_TRUE(cluster.await(minutes(3), [&] { return cluster.agree(7, 7); }));
}

TEST(Partition, of_two_that_both_reach_the_store_flaps_slowly) {
  TestCluster cluster(13);
  cluster.start_all(2);
  cluster.sim.run_for(seconds(3));
  auto before = cluster.member(0).map();
  cluster.sim.network().isolate(cluster.host(0));
  cluster.sim.run_for(minutes(10));
  uint64_t changes = cluster.member(0).map()->version - before->version;
  std::printf("%llu changes in ten minutes\n", static_cast<unsigned long long>(changes));
  EXPECT_LE(changes, 40u);
  cluster.sim.network().heal_all();
  EXPECT_TRUE(cluster.await(minutes(3), [&] { return cluster.agree(2, 2); }));
  expect_same_owners(*before, *cluster.member(0).map());
}

TEST(Restart, within_the_grace_time_moves_nothing) {
  for (CrashKind kind : {CrashKind::kProcess, CrashKind::kPowerLoss}) {
    TestCluster cluster(3);
    cluster.start_all(5);
    cluster.sim.run_for(seconds(3));
    auto before = cluster.member(0).map();
    cluster.crash(2, kind);
    ASSERT_TRUE(time_to_down(cluster, 5, 3, seconds(10)));
    cluster.sim.run_for(seconds(60));
    expect_same_owners(*before, *cluster.member(0).map());
    NodeProcess& back = cluster.start(2);
    ASSERT_TRUE(cluster.await(seconds(20), [&] { return back.joined.has_value(); }));
    ASSERT_TRUE(*back.joined) << back.joined->error().to_string();
    EXPECT_TRUE(cluster.await(seconds(5), [&] { return cluster.agree(5, 5); }));
    cluster.sim.run_for(minutes(5));
    auto after = cluster.member(0).map();
    expect_same_owners(*before, *after);
    EXPECT_GT(after->find({3, 3})->incarnation, before->find({3, 3})->incarnation);
    EXPECT_TRUE(cluster.member(0).usable({3, 3}));
  }
}

TEST(Restart, after_the_grace_time_the_slots_have_moved_and_it_joins_again) {
  TestCluster cluster(4);
  cluster.start_all(5);
  cluster.crash(1);
  ASSERT_TRUE(time_to_down(cluster, 5, 2, seconds(10)));
  SteadyTime down = cluster.sim.now();
  ASSERT_TRUE(cluster.await(minutes(5), [&] { return cluster.agree(4, 4); }));
  Duration took = cluster.sim.now() - down;
  EXPECT_GE(took, seconds(119));
  EXPECT_LE(took, seconds(130));
  auto map = cluster.member(0).map();
  EXPECT_EQ(map->find({2, 2}), nullptr);
  EXPECT_EQ(std::ranges::count(map->owners, kNoMember), 0);
  NodeProcess& back = cluster.start(1);
  ASSERT_TRUE(cluster.await(seconds(20), [&] { return back.joined.has_value(); }));
  EXPECT_TRUE(*back.joined);
  EXPECT_TRUE(cluster.await(seconds(5), [&] { return cluster.agree(5, 5); }));
}

TEST(Restart, all_at_once) {
  TestCluster cluster(9, milliseconds(20));
  cluster.start_all(10);
  auto before = cluster.member(0).map();
  for (size_t i = 0; i < 10; ++i) cluster.crash(i);
  Duration took = cluster.start_all(10);
  EXPECT_LT(took, seconds(20));
  EXPECT_TRUE(cluster.await(seconds(30), [&] { return cluster.agree(10, 10); }));
  expect_same_owners(*before, *cluster.member(0).map());
}

// Does to the map what another node could do, through that node's store.
Task<Status> edit(MapStore& store, std::function<SlotMap(const SlotMap&)> change) {
  auto stored = co_await store.load({});
  SHOAL_ASSERT(stored && *stored);
  auto token = co_await store.compare_and_swap(change((*stored)->map), (*stored)->token, {});
  co_return token ? Status() : Status(fail(token.error()));
}
SlotMap with_down(const SlotMap& map, uint64_t id) {
  Member member = *map.find({id, id});
  member.state = kDown;
  return placement::update_member(map, member);
}

TEST(Refutation, a_living_node_says_so) {
  TestCluster cluster(6);
  cluster.start_all(3);
  auto before = cluster.member(0).map();
  ASSERT_TRUE(cluster.run(
      0, edit(cluster.node(0).store(), [](const SlotMap& map) { return with_down(map, 2); })));
  // It learns of it by its next look at the store, or from whoever looked before.
  EXPECT_TRUE(cluster.await(seconds(40), [&] {
    auto map = cluster.member(0).map();
    return map->version >= before->version + 2 && cluster.agree(3, 3);
  }));
  auto after = cluster.member(0).map();
  EXPECT_GT(after->find({2, 2})->incarnation, before->find({2, 2})->incarnation);
  expect_same_owners(*before, *after);
}

TEST(Refutation, is_damped) {
  TestCluster cluster(6);
  cluster.start_all(3);
  // Somebody insists: each time it is up again it is marked down at once.
  uint64_t marks = 0;
  SteadyTime end = cluster.sim.now() + minutes(5);
  while (cluster.sim.now() < end) {
    ASSERT_TRUE(cluster.await(minutes(3), [&] { return cluster.state(0, 2) == kUp; }));
    (void)cluster.run(
        0, edit(cluster.node(0).store(), [](const SlotMap& map) { return with_down(map, 2); }));
    (void)cluster.await(minutes(3), [&] { return cluster.state(0, 2) == kDown; });
    ++marks;
  }
  EXPECT_LT(marks, 25u);
  EXPECT_GT(marks, 4u);
}

TEST(Refutation, who_is_taken_out_while_it_lives_joins_again) {
  TestCluster cluster(6);
  cluster.start_all(3);
  ASSERT_TRUE(cluster.run(0, cluster.member(0).leave({2, 2}, {})));
  EXPECT_TRUE(cluster.await(seconds(60),
                            [&] { return cluster.state(0, 2) == kUp && cluster.agree(3, 3); }));
}

TEST(Leaving, drained_nodes_own_nothing_and_stay_away) {
  TestCluster cluster(8);
  cluster.start_all(4);
  ASSERT_TRUE(cluster.drain(0, 3));
  EXPECT_TRUE(cluster.await(seconds(10), [&] {
    return cluster.state(2, 3) == MemberState::kDraining && cluster.agree(4, 3);
  }));
  auto map = cluster.member(0).map();
  EXPECT_EQ(std::ranges::count(map->owners, map->index_of({3, 3})), 0);
  ASSERT_TRUE(cluster.run(2, cluster.member(2).leave({3, 3}, {})));
  cluster.sim.run_for(seconds(60));
  EXPECT_TRUE(cluster.agree(3, 3)) << "it does not come back by itself";
  // Another node may take it out too.
  ASSERT_TRUE(cluster.drain(0, 2));
  cluster.sim.run_for(seconds(5));
  ASSERT_TRUE(cluster.run(0, cluster.member(0).leave({2, 2}, {})));
  cluster.sim.run_for(seconds(60));
  EXPECT_EQ(cluster.member(0).map()->members.size(), 2u);
}

TEST(Leaving, who_drained_and_starts_again_gets_slots) {
  TestCluster cluster(8);
  cluster.start_all(3);
  ASSERT_TRUE(cluster.drain(0, 3));
  cluster.sim.run_for(seconds(5));
  cluster.stop(2);
  NodeProcess& back = cluster.start(2);
  ASSERT_TRUE(cluster.await(seconds(20), [&] { return back.joined.has_value(); }));
  ASSERT_TRUE(*back.joined);
  EXPECT_TRUE(cluster.await(seconds(5), [&] { return cluster.agree(3, 3); }));
  auto map = cluster.member(0).map();
  EXPECT_GT(std::ranges::count(map->owners, map->index_of({3, 3})), 1000);
}

TEST(Store, an_outage_is_told_and_outlived) {
  TestCluster cluster(2);
  cluster.start_all(4);
  cluster.sim.run_for(seconds(3));
  auto before = cluster.member(0).map();
  for (size_t i = 0; i < 4; ++i) cluster.node(i).store().away = true;
  cluster.sim.run_for(minutes(2));
  for (size_t i = 0; i < 4; ++i) {
    MembershipStatus status = cluster.member(i).status();
    EXPECT_FALSE(status.store_reachable) << i;
    EXPECT_NE(status.last_error.find("away"), std::string::npos) << status.last_error;
    EXPECT_EQ(*status.map, *before);
  }
  EXPECT_EQ(cluster.count_lines("cannot be reached; going on"), 4u) << "once per change of state";
  // A node dies meanwhile: the others go around it, and the map follows when it can.
  cluster.crash(3);
  EXPECT_TRUE(cluster.await(seconds(10), [&] {
    return !cluster.member(0).usable({4, 4}) || !cluster.member(1).usable({4, 4});
  }));
  for (size_t i = 0; i < 3; ++i) cluster.node(i).store().away = false;
  EXPECT_TRUE(cluster.await(seconds(40), [&] { return cluster.agree(4, 3); }));
  EXPECT_TRUE(cluster.await(seconds(60), [&] {
    return cluster.member(0).status().store_reachable && cluster.member(1).status().store_reachable;
  }));
}

TEST(Store, lost_permission_to_write_is_told_and_others_do_it) {
  TestCluster cluster(2);
  cluster.start_all(5);
  cluster.sim.run_for(seconds(3));
  for (size_t i = 0; i < 4; ++i) cluster.node(i).store().read_only = true;
  cluster.crash(0);
  // Only one node may write: sooner or later it is among the watchers of who is gone.
  cluster.sim.run_for(seconds(30));
  size_t told = 0;
  for (size_t i = 1; i < 4; ++i) told += cluster.member(i).status().store_writable ? 0 : 1;
  EXPECT_GE(told, 1u);
  EXPECT_EQ(cluster.count_lines("may not be written by this node"), told) << "once each";
  for (size_t i = 1; i < 4; ++i) cluster.node(i).store().read_only = false;
  EXPECT_TRUE(cluster.await(seconds(30), [&] { return cluster.agree(5, 4); }));
  // Who was refused finds out by itself, although others made the change.
  EXPECT_TRUE(cluster.await(seconds(60), [&] {
    return std::ranges::all_of(std::views::iota(size_t{1}, size_t{5}),
                               [&](size_t i) { return cluster.member(i).status().store_writable; });
  }));
  EXPECT_EQ(cluster.count_lines("may be written again"), told);
}

TEST(Store, a_deleted_map_is_written_again) {
  TestCluster cluster(2);
  cluster.start_all(3);
  auto before = cluster.member(0).map();
  struct Remove {
    static Task<Status> map(Origin& origin) {
      co_return co_await origin.remove(".shoal/test/map", {}, {});
    }
  };
  ASSERT_TRUE(cluster.run(0, Remove::map(cluster.node(0).origin())));
  NodeProcess* late = nullptr;
  cluster.sim.run_for(minutes(1));
  EXPECT_TRUE(cluster.agree(3, 3));
  auto after = cluster.member(0).map();
  EXPECT_EQ(after->cluster_id, before->cluster_id);
  EXPECT_GT(after->version, before->version);
  late = &cluster.start(3);
  ASSERT_TRUE(cluster.await(seconds(10), [&] { return late->joined.has_value(); }));
  EXPECT_TRUE(*late->joined);
  EXPECT_TRUE(cluster.await(seconds(5), [&] { return cluster.agree(4, 4); }));
}

TEST(Clocks, a_wrong_wall_clock_does_not_matter) {
  TestCluster cluster(2);
  cluster.start_all(4);
  cluster.sim.run_for(seconds(5));
  uint64_t version = cluster.member(0).map()->version;
  cluster.machine(1).process().executor.set_wall_offset(std::chrono::hours(24 * 365));
  cluster.machine(2).process().executor.set_wall_offset(-std::chrono::hours(24 * 365));
  cluster.sim.run_for(minutes(10));
  EXPECT_TRUE(cluster.agree(4, 4));
  EXPECT_EQ(cluster.member(0).map()->version, version) << "nothing happened";
  cluster.crash(1);
  EXPECT_TRUE(time_to_down(cluster, 4, 2, seconds(5)));
}

TEST(Maps, listeners_hear_of_each_and_peers_that_missed_one_fetch_it) {
  TestCluster cluster(2);
  cluster.start_all(3);
  cluster.sim.run_for(seconds(2));
  std::vector<uint64_t> heard;
  cluster.member(0).on_change([&](const SlotMap& map) { heard.push_back(map.version); });
  // Written behind everybody's back: one looks at the store, and tells the others by its frames.
  ASSERT_TRUE(cluster.run(
      1, edit(cluster.node(1).store(), [](const SlotMap& map) { return placement::settle(map); })));
  SteadyTime begun = cluster.sim.now();
  ASSERT_TRUE(cluster.await(seconds(31), [&] { return heard.size() == 1; }));
  EXPECT_TRUE(cluster.await(seconds(5), [&] { return cluster.agree(3, 3); }));
  EXPECT_LT(cluster.sim.now() - begun, seconds(31));
}

TEST(Maps, nothing_changes_when_nothing_happens) {
  TestCluster cluster(2);
  cluster.start_all(8);
  ASSERT_TRUE(cluster.await(seconds(5), [&] { return cluster.agree(8, 8); }));
  uint64_t version = cluster.member(0).map()->version;
  cluster.sim.run_for(minutes(10));
  EXPECT_TRUE(cluster.agree(8, 8));
  EXPECT_EQ(cluster.member(0).map()->version, version);
  EXPECT_EQ(cluster.count_lines("asking others"), 0u);
}

TEST(Health, puts_aside_who_fails_and_tries_again) {
  Simulation sim({});
  SimMachine& machine = sim.add_machine("m", {});
  World& world = machine.boot();
  PeerHealth health(world.executor);
  NodeId id{1, 1};
  EXPECT_TRUE(health.usable(id));
  health.report(id, false);
  EXPECT_TRUE(health.usable(id)) << "one failure says little";
  sim.run_for(seconds(2));
  health.report(id, false);
  EXPECT_TRUE(health.usable(id)) << "not within a second";
  health.report(id, false);
  EXPECT_FALSE(health.usable(id));
  for (int pause : {1, 2, 4, 8, 10, 10}) {
    health.report(id, false);  // was under way
    sim.run_for(seconds(pause) - milliseconds(10));
    EXPECT_FALSE(health.usable(id)) << pause;
    sim.run_for(milliseconds(20));
    EXPECT_TRUE(health.usable(id)) << pause;
    health.report(id, false);
  }
  health.report(id, true);
  EXPECT_TRUE(health.usable(id));
  machine.shut_down();
}

}  // namespace
}  // namespace shoal
