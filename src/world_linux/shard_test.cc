#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <deque>
#include <latch>
#include <set>
#include <thread>

#include "async/disk_io.h"
#include "async/gate.h"
#include "async/sync.h"
#include "world_linux/helper_pool.h"
#include "world_linux/kernel_random.h"
#include "world_linux/test_support.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;

Task<int> answer() { co_return 42; }
Task<void> nothing() { co_return; }
Task<std::string> on_the_shard(Shard& shard) { co_return shard.on_thread() ? "here" : "elsewhere"; }

TEST(Shard, run_blocking_gives_back_the_result) {
  auto shard = start_test_shard();
  EXPECT_EQ(run_blocking(*shard, answer()), 42);
  run_blocking(*shard, nothing());
  EXPECT_EQ(run_blocking(*shard, on_the_shard(*shard)), "here");
  EXPECT_FALSE(shard->on_thread());
  shard->stop();
  shard->stop();
}

TEST(Shard, pins_to_a_cpu_or_says_why_not) {
  ShardOptions options;
  options.cpu = 0;
  EXPECT_NE(start_test_shard(std::move(options)), nullptr);
  ShardOptions impossible;
  impossible.cpu = 1000;
  auto shard = Shard::start(std::move(impossible));
  ASSERT_FALSE(shard);
  EXPECT_EQ(shard.error().code(), Code::kInvalidArgument);
}

class CountingItem final : public Runnable {
 public:
  void run() noexcept override {
    EXPECT_GT(number, *last_of_poster);  // order of posting, per poster
    *last_of_poster = number;
    if (count->fetch_add(1) + 1 == target) done->count_down();
  }
  int number = 0;
  int* last_of_poster = nullptr;  // only touched on the shard
  std::atomic<int>* count = nullptr;
  int target = 0;
  std::latch* done = nullptr;
};

TEST(Shard, takes_100000_items_from_many_threads) {
  constexpr int kThreads = 5;
  constexpr int kItems = 20'000;
  std::atomic<int> count{0};
  std::latch done(1);
  std::vector<std::deque<CountingItem>> items(kThreads);
  std::vector<int> last(kThreads, -1);
  for (size_t t = 0; t < kThreads; ++t) {
    for (int i = 0; i < kItems; ++i) {
      CountingItem& item = items[t].emplace_back();
      item.number = i;
      item.last_of_poster = &last[t];
      item.count = &count;
      item.target = kThreads * kItems;
      item.done = &done;
    }
  }
  auto shard = start_test_shard();
  std::vector<std::thread> threads;
  for (auto& mine : items) {
    threads.emplace_back([&shard, &mine] {
      for (CountingItem& item : mine) shard->post_remote(item);
    });
  }
  for (std::thread& thread : threads) thread.join();
  done.wait();
  shard->stop();  // it counts at the end of a turn
  EXPECT_EQ(count.load(), kThreads * kItems);
  EXPECT_GE(shard->stats().items, static_cast<uint64_t>(kThreads * kItems));
  // Coalesced: a busy shard is not woken for every item.
  EXPECT_LT(shard->stats().wake_ups, static_cast<uint64_t>(kThreads * kItems));
}

TEST(Shard, stop_runs_what_was_posted_before) {
  std::atomic<int> count{0};
  std::latch done(1);
  int last = -1;
  std::deque<CountingItem> items;
  auto shard = start_test_shard();
  for (int i = 0; i < 1000; ++i) {
    CountingItem& item = items.emplace_back();
    item.number = i;
    item.last_of_poster = &last;
    item.count = &count;
    item.target = 1000;
    item.done = &done;
    shard->post_remote(item);
  }
  shard->stop();
  EXPECT_EQ(count.load(), 1000);
}

class NamedTimer final : public Timer {
 public:
  NamedTimer(std::string& log, char name) : log_(log), name_(name) {}
  void run() noexcept override {
    log_.push_back(name_);
    if (stops != nullptr) executor->stop_timer(*stops);
    if (signal != nullptr) signal->notify_all();
  }
  Executor* executor = nullptr;
  Timer* stops = nullptr;
  Signal* signal = nullptr;

 private:
  std::string& log_;
  char name_;
};

// Starts out of order, stops one before it is due and one when it is due already.
Task<std::string> order_timers(Executor& executor) {
  std::string log;
  Signal done(executor);
  NamedTimer a(log, 'a');
  NamedTimer b(log, 'b');
  NamedTimer c(log, 'c');
  NamedTimer d(log, 'd');
  NamedTimer e(log, 'e');
  SteadyTime now = executor.now();
  executor.start_timer(e, now + milliseconds(8));
  executor.start_timer(c, now + milliseconds(4));
  executor.start_timer(a, now - milliseconds(1));  // due at once
  executor.start_timer(b, now + milliseconds(2));
  executor.start_timer(d, now + milliseconds(4));  // due together with c, which stops it
  c.executor = &executor;
  c.stops = &d;
  e.signal = &done;
  NamedTimer never(log, 'n');
  executor.start_timer(never, now + milliseconds(1));
  executor.stop_timer(never);
  executor.stop_timer(never);
  EXPECT_TRUE(e.armed());
  EXPECT_FALSE(never.armed());
  SHOAL_ASSERT((co_await done.wait({})).has_value());
  EXPECT_GE(executor.now(), now + milliseconds(8));
  EXPECT_FALSE(d.armed());
  co_return log;
}

TEST(Shard, timers_run_in_order_and_stop) {
  auto shard = start_test_shard();
  EXPECT_EQ(run_blocking(*shard, order_timers(shard->world().executor)), "abce");
}

Task<void> keep_yielding(Executor& executor, bool& stop) {
  while (!stop) co_await Yield(executor);
}
Task<void> sleep_then_stop(Executor& executor, bool& stop) {
  SHOAL_ASSERT((co_await sleep_for(executor, milliseconds(5), {})).has_value());
  stop = true;
}
Task<bool> timers_against_a_busy_queue(Executor& executor) {
  Gate gate(executor);
  bool stop = false;
  for (int i = 0; i < 1000; ++i) gate.spawn(keep_yielding(executor, stop));
  gate.spawn(sleep_then_stop(executor, stop));
  co_await gate.close();
  co_return stop;
}

TEST(Shard, a_full_queue_does_not_hold_up_timers) {
  auto shard = start_test_shard();
  EXPECT_TRUE(run_blocking(*shard, timers_against_a_busy_queue(shard->world().executor)));
}

Task<bool> clocks_move(Executor& executor) {
  SteadyTime steady = executor.now();
  WallTime wall = executor.wall_now();
  SHOAL_ASSERT((co_await sleep_for(executor, milliseconds(3), {})).has_value());
  co_return executor.now() - steady >= milliseconds(3) && executor.wall_now() > wall;
}

TEST(Shard, clocks_move_on) {
  auto shard = start_test_shard();
  EXPECT_TRUE(run_blocking(*shard, clocks_move(shard->world().executor)));
}

Task<void> rest(Executor& executor) {
  SHOAL_ASSERT((co_await sleep_for(executor, milliseconds(200), {})).has_value());
}

TEST(Shard, an_idle_shard_uses_no_cpu) {
  auto shard = start_test_shard();
  run_blocking(*shard, nothing());
  uint64_t turns = shard->stats().turns;
  run_blocking(*shard, rest(shard->world().executor));
  // One for the start, one for the timer, and a few to spare.
  EXPECT_LT(shard->stats().turns - turns, 20u);
}

TEST(Shard, shards_share_helpers) {
  HelperPool helpers;
  TemporaryDirectory directory;
  std::vector<std::unique_ptr<Shard>> shards;
  for (int i = 0; i < 3; ++i) {
    ShardOptions options;
    options.helpers = &helpers;
    shards.push_back(start_test_shard(std::move(options)));
  }
  for (int round = 0; round < 20; ++round) {
    for (auto& shard : shards) {
      EXPECT_TRUE(run_blocking(*shard, disk_io::list(shard->world().disk, directory.path())));
    }
  }
}

TEST(KernelRandom, does_not_repeat) {
  KernelRandom random;
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(random.next());
  EXPECT_EQ(seen.size(), 1000u);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_LT(random.below(7), 7u);
    EXPECT_LT(random.unit(), 1.0);
  }
  EXPECT_NE(random.id128(), random.id128());
}

}  // namespace
}  // namespace shoal
