#include <gtest/gtest.h>

#include <deque>
#include <string>

#include "async/backoff.h"
#include "async/gate.h"
#include "async/single_flight.h"
#include "async/sync.h"
#include "async/timer_queue.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;

// The least executor: virtual time, one thread.
class TestExecutor final : public Executor {
 public:
  SteadyTime now() const override { return now_; }
  WallTime wall_now() const override { return WallTime(now_.time_since_epoch()); }
  void post(Runnable& item) override { queue_.push_back(&item); }
  void post_remote(Runnable& item) override { post(item); }
  bool on_thread() const override { return true; }
  void start_timer(Timer& timer, SteadyTime when) override { timers_.add(timer, when); }
  void stop_timer(Timer& timer) override { timers_.remove(timer); }

  void run_until_idle() {
    while (true) {
      if (!queue_.empty()) {
        Runnable* item = queue_.front();
        queue_.pop_front();
        item->run();
      } else if (auto next = timers_.next()) {
        now_ = std::max(now_, *next);
        timers_.take_due(now_)->run();
      } else {
        return;
      }
    }
  }

 private:
  SteadyTime now_{};
  std::deque<Runnable*> queue_;
  TimerQueue timers_;
};

class CountingRandom final : public Random {
 public:
  uint64_t next() override { return state_ += 0x9E3779B97F4A7C15ull; }

 private:
  uint64_t state_ = 0;
};

Task<int> add(int a, int b) { co_return a + b; }
Task<void> store(int& target) { target = co_await add(40, 2); }

TEST(Task, chains_and_runs_lazily) {
  TestExecutor executor;
  Gate gate(executor);
  int value = 0;
  gate.spawn(store(value));
  EXPECT_EQ(value, 0);
  executor.run_until_idle();
  EXPECT_EQ(value, 42);
  EXPECT_EQ(gate.count(), 0u);
}

Task<int> sum_deep(int depth) {
  int total = 0;
  for (int i = 0; i < depth; ++i) total += co_await add(i, 0);
  co_return total;
}
Task<void> keep_sum(int depth, int& target) { target = co_await sum_deep(depth); }

TEST(Task, many_synchronous_awaits_need_constant_stack) {
  TestExecutor executor;
  Gate gate(executor);
  int value = 0;
  gate.spawn(keep_sum(50000, value));
  executor.run_until_idle();
  EXPECT_EQ(value, 1249975000);
}

Task<void> wait_for(Signal& signal, Context context, std::string& log, std::string name) {
  Status status = co_await signal.wait(context);
  log += name + (status                                      ? ":ok "
                 : status.error().code() == Code::kCancelled ? ":cancel "
                                                             : ":late ");
}
Task<void> notify_after(Executor& executor, Signal& signal, Duration delay) {
  SHOAL_ASSERT((co_await sleep_for(executor, delay, {})).has_value());
  signal.notify_all();
}
Task<void> cancel_after(Executor& executor, Cancel& cancel, Duration delay) {
  SHOAL_ASSERT((co_await sleep_for(executor, delay, {})).has_value());
  cancel.request();
}

TEST(Signal, ends_by_notify_deadline_or_cancel) {
  TestExecutor executor;
  Gate gate(executor);
  Signal signal(executor);
  Cancel cancel;
  std::string log;
  gate.spawn(wait_for(signal, Context::within(executor, milliseconds(5)), log, "a"));
  gate.spawn(wait_for(signal, {kNever, &cancel}, log, "b"));
  gate.spawn(wait_for(signal, {}, log, "c"));
  gate.spawn(cancel_after(executor, cancel, milliseconds(7)));
  gate.spawn(notify_after(executor, signal, milliseconds(10)));
  executor.run_until_idle();
  EXPECT_EQ(log, "a:late b:cancel c:ok ");
  EXPECT_EQ(executor.now().time_since_epoch(), milliseconds(10));
}

struct Peak {
  int now = 0;
  int max = 0;
};
Task<void> use_permit(Executor& executor, Semaphore& semaphore, uint64_t amount, Peak& peak) {
  auto permit = co_await semaphore.acquire(amount, {});
  SHOAL_ASSERT(permit.has_value());
  peak.now += static_cast<int>(amount);
  peak.max = std::max(peak.max, peak.now);
  SHOAL_ASSERT((co_await sleep_for(executor, milliseconds(1), {})).has_value());
  peak.now -= static_cast<int>(amount);
}

TEST(Semaphore, never_gives_more_than_its_limit) {
  TestExecutor executor;
  Gate gate(executor);
  Semaphore semaphore(executor, 5);
  Peak peak;
  for (uint64_t i = 0; i < 50; ++i) gate.spawn(use_permit(executor, semaphore, 1 + i % 3, peak));
  executor.run_until_idle();
  EXPECT_EQ(gate.count(), 0u);
  EXPECT_EQ(semaphore.used(), 0u);
  EXPECT_GE(peak.max, 4);
  EXPECT_LE(peak.max, 5);
}

Task<void> give_up(Executor& executor, Semaphore& semaphore, bool& gave_up) {
  auto permit = co_await semaphore.acquire(1, Context::within(executor, milliseconds(1)));
  gave_up = !permit && permit.error().code() == Code::kDeadlineExceeded;
}

TEST(Semaphore, a_waiter_may_give_up) {
  TestExecutor executor;
  Gate gate(executor);
  Semaphore semaphore(executor, 1);
  bool gave_up = false;
  {
    auto held = semaphore.try_acquire(1);
    ASSERT_TRUE(held.has_value());
    gate.spawn(give_up(executor, semaphore, gave_up));
    executor.run_until_idle();
  }
  EXPECT_TRUE(gave_up);
  EXPECT_TRUE(semaphore.try_acquire(1).has_value());
}

Task<Result<int>> slow_value(Executor& executor, int& starts) {
  ++starts;
  SHOAL_ASSERT((co_await sleep_for(executor, milliseconds(3), {})).has_value());
  co_return 7;
}
Task<void> ask(Executor& executor, SingleFlight<int, int>& flights, int& starts, int& sum) {
  auto start = [&executor, &starts] { return slow_value(executor, starts); };
  auto value = co_await flights.run(1, start, {});
  sum += value.value();
}

TEST(SingleFlight, calls_once_for_many_askers) {
  TestExecutor executor;
  Gate gate(executor);
  SingleFlight<int, int> flights(executor, gate);
  int starts = 0;
  int sum = 0;
  for (int i = 0; i < 10; ++i) gate.spawn(ask(executor, flights, starts, sum));
  executor.run_until_idle();
  EXPECT_EQ(starts, 1);
  EXPECT_EQ(sum, 70);
  EXPECT_EQ(flights.size(), 0u);
}

using Answer = std::pair<int, bool>;  // and whether the call was forgotten

Task<void> ask_at(Executor& executor, Duration when, SingleFlight<int, int>& flights, int& starts,
                  Answer& answer) {
  SHOAL_ASSERT((co_await sleep_for(executor, when, {})).has_value());
  auto start = [&executor, &starts] { return slow_value(executor, starts); };
  auto value = co_await flights.run(1, start, {}, &answer.second);
  answer.first = value.value();
}
Task<void> forget_at(Executor& executor, Duration when, SingleFlight<int, int>& flights) {
  SHOAL_ASSERT((co_await sleep_for(executor, when, {})).has_value());
  flights.forget(1);
  flights.forget(2);  // of which there is none
}

// A change between two questions: the second is not answered by what was asked before it.
TEST(SingleFlight, a_forgotten_call_is_not_shared) {
  TestExecutor executor;
  Gate gate(executor);
  SingleFlight<int, int> flights(executor, gate);
  int starts = 0;
  Answer before;
  Answer after;
  gate.spawn(ask_at(executor, milliseconds(1), flights, starts, before));
  gate.spawn(forget_at(executor, milliseconds(2), flights));
  gate.spawn(ask_at(executor, milliseconds(3), flights, starts, after));
  executor.run_until_idle();
  EXPECT_EQ(starts, 2);
  EXPECT_EQ(before, Answer(7, true));
  EXPECT_EQ(after, Answer(7, false));
  EXPECT_EQ(flights.size(), 0u);
}

Task<Status> maybe_fail(int index, int& ran) {
  ++ran;
  if (index == 3) co_return fail(Code::kBusy, "three");
  co_return Status();
}
Task<void> run_batch(Executor& executor, int& ran, Status& status) {
  std::vector<Task<Status>> tasks;
  for (int i = 0; i < 10; ++i) tasks.push_back(maybe_fail(i, ran));
  status = co_await run_all(executor, std::move(tasks), 2);
}

TEST(RunAll, stops_at_the_first_error) {
  TestExecutor executor;
  Gate gate(executor);
  int ran = 0;
  Status status;
  gate.spawn(run_batch(executor, ran, status));
  executor.run_until_idle();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message(), "three");
  EXPECT_LT(ran, 10);
}

TEST(Gate, refuses_after_close) {
  TestExecutor executor;
  Gate gate(executor);
  Gate closer(executor);
  closer.spawn(gate.close());
  executor.run_until_idle();
  int value = 0;
  EXPECT_FALSE(gate.spawn(store(value)));
}

TEST(Backoff, doubles_to_the_cap_and_honours_the_server) {
  CountingRandom random;
  Backoff backoff(random, milliseconds(100), std::chrono::seconds(2));
  for (int i = 0; i < 40; ++i) {
    Duration expected =
        std::min<Duration>(milliseconds(100) * (1ll << std::min(i, 20)), std::chrono::seconds(2));
    Duration delay = backoff.next();
    EXPECT_GE(delay, expected * 8 / 10);
    EXPECT_LE(delay, expected * 13 / 10);
  }
  EXPECT_EQ(backoff.next(std::chrono::seconds(60)), std::chrono::seconds(60));
}

}  // namespace
}  // namespace shoal
