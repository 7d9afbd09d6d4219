#include "world_sim/sim_world.h"

#include <gtest/gtest.h>

#include <set>

#include "async/disk_io.h"
#include "async/gate.h"
#include "async/http_io.h"
#include "async/sync.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const std::string kBase = "http://blob:1/devstoreaccount1/ccc/";

BlobServiceConfig open_config() {
  BlobServiceConfig config;
  config.require_auth = false;
  return config;
}

class Cloud {
 public:
  explicit Cloud(uint64_t seed = 1, BlobFaults faults = {})
      : sim({.seed = seed}),
        blob(sim.add_blob_account("blob:1", open_config(), std::move(faults))),
        machine(sim.add_machine("m", {})) {
    blob.service.add_container("ccc");
    machine.boot();
  }
  World& world() { return machine.world(); }
  bool run(Task<void> task) {
    Gate& gate = machine.own(std::make_unique<Gate>(world().executor));
    EXPECT_TRUE(gate.spawn(std::move(task)));
    return sim.run_until([&] { return gate.count() == 0; }, std::chrono::hours(1));
  }
  Simulation sim;
  SimBlobAccount& blob;
  SimMachine& machine;
};

Task<void> get(World& world, std::string name, Buffer& into, Context context,
               Result<HttpResponse>& result) {
  HttpExchange exchange(world.http, context);
  exchange.request.method = "GET";
  exchange.request.url = kBase + name;
  exchange.into = into.span();
  exchange.stall_timeout = seconds(10);
  result = co_await exchange;
}

Task<void> put(World& world, std::string name, std::string body, Result<HttpResponse>& result) {
  HttpExchange exchange(world.http, Context{});
  exchange.request.method = "PUT";
  exchange.request.url = kBase + name;
  exchange.request.headers = {{"x-ms-blob-type", "BlockBlob"}};
  exchange.request.body = as_bytes(body);
  result = co_await exchange;
}

TEST(SimExecutor, clock_jumps_and_costs_nothing) {
  Simulation sim({});
  SimExecutor& executor = sim.driver();
  Gate gate(executor);
  struct Sleeper {
    static Task<void> sleep(Executor& on) {
      SHOAL_ASSERT((co_await sleep_for(on, std::chrono::hours(1000), {})).has_value());
    }
  };
  gate.spawn(Sleeper::sleep(executor));
  EXPECT_FALSE(sim.run_until([&] { return gate.count() == 0; }, std::chrono::hours(1)));
  EXPECT_EQ(sim.now().time_since_epoch(), std::chrono::hours(1));
  EXPECT_TRUE(sim.run_until([&] { return gate.count() == 0; }, std::chrono::hours(1000)));
  WallTime before = executor.wall_now();
  executor.set_wall_offset(-std::chrono::hours(5));
  EXPECT_EQ(before - executor.wall_now(), std::chrono::hours(5));
}

Task<void> busy(World& world, int number, std::vector<int>& order) {
  for (int i = 0; i < 5; ++i) {
    SHOAL_ASSERT((co_await sleep_for(world.executor, milliseconds(1 + i), {})).has_value());
    co_await Yield(world.executor);
    order.push_back(number);
    std::string path = "f" + std::to_string(number);
    SHOAL_ASSERT((co_await disk_io::replace_file(world.disk, path, "x")).has_value());
    Result<HttpResponse> result = fail(Code::kInternal, "");
    co_await put(world, path, std::string(1000, 'x'), result);
  }
}

struct Trace {
  uint64_t hash = 0;
  std::vector<int> order;
};
Trace trace_of(uint64_t seed) {
  BlobFaults faults;
  faults.latency = milliseconds(2);
  faults.latency_jitter = milliseconds(5);
  faults.set(BlobFault::kBusy, 0.1);
  faults.set(BlobFault::kLostReply, 0.1);
  Cloud cloud(seed, faults);
  Trace trace;
  Gate gate(cloud.world().executor);
  for (int i = 0; i < 10; ++i) gate.spawn(busy(cloud.world(), i, trace.order));
  EXPECT_TRUE(cloud.sim.run_until([&] { return gate.count() == 0; }, std::chrono::hours(1)));
  trace.hash = cloud.sim.trace_hash();
  return trace;
}

TEST(Simulation, equal_seeds_give_equal_traces) {
  std::set<uint64_t> hashes;
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Trace first = trace_of(seed);
    Trace second = trace_of(seed);
    EXPECT_EQ(first.hash, second.hash);
    EXPECT_EQ(first.order, second.order);
    hashes.insert(first.hash);
    orders.insert(first.order);
  }
  EXPECT_EQ(hashes.size(), 20u);
  EXPECT_GT(orders.size(), 15u);
}

TEST(SimHttp, moves_bytes_in_virtual_time) {
  BlobFaults faults;
  faults.latency = milliseconds(20);
  faults.connection_bytes_per_second = 10 * kMiB;
  Cloud cloud(1, faults);
  cloud.blob.service.add_synthetic("ccc", "x", 20 * kMiB, 3);
  Buffer into(20 * kMiB);
  Result<HttpResponse> result = fail(Code::kInternal, "");
  ASSERT_TRUE(cloud.run(get(cloud.world(), "x", into, {}, result)));
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(result->into_bytes, into.size());
  EXPECT_TRUE(synthetic_equal(3, 0, into.span()));
  EXPECT_NEAR(to_seconds(cloud.sim.now().time_since_epoch()), 2.02, 0.05);
}

TEST(SimHttp, clients_share_the_account) {
  BlobFaults faults;
  faults.account_out_bytes_per_second = 10 * kMiB;
  Cloud cloud(1, faults);
  cloud.blob.service.add_synthetic("ccc", "x", 5 * kMiB, 3);
  SimMachine& other = cloud.sim.add_machine("n", {});
  other.boot();
  Buffer a(5 * kMiB);
  Buffer b(5 * kMiB);
  Result<HttpResponse> result_a = fail(Code::kInternal, "");
  Result<HttpResponse> result_b = fail(Code::kInternal, "");
  Gate gate_a(cloud.world().executor);
  Gate gate_b(other.world().executor);
  gate_a.spawn(get(cloud.world(), "x", a, {}, result_a));
  gate_b.spawn(get(other.world(), "x", b, {}, result_b));
  ASSERT_TRUE(
      cloud.sim.run_until([&] { return gate_a.count() + gate_b.count() == 0; }, seconds(9)));
  EXPECT_TRUE(result_a && result_b);
  EXPECT_NEAR(to_seconds(cloud.sim.now().time_since_epoch()), 1.0, 0.1);
}

class FaultCase : public ::testing::TestWithParam<BlobFault> {};

TEST_P(FaultCase, ends_as_it_should) {
  BlobFault fault = GetParam();
  BlobFaults faults;
  faults.script.push_back({fault, "GET", "", 0, 1});
  Cloud cloud(5, faults);
  cloud.blob.service.add_synthetic("ccc", "x", 3 * kMiB, 3);
  Buffer into(3 * kMiB);
  Result<HttpResponse> result = fail(Code::kInternal, "");
  ASSERT_TRUE(cloud.run(get(cloud.world(), "x", into, {}, result)));
  switch (fault) {
    case BlobFault::kBusy:
      EXPECT_EQ(result->status, 503);
      break;
    case BlobFault::kServerError:
      EXPECT_EQ(result->status, 500);
      break;
    case BlobFault::kExpiredToken:
      EXPECT_EQ(result->status, 403);
      break;
    case BlobFault::kNone:
    case BlobFault::kSlowFirstByte:
    case BlobFault::kChangeEtag:
      EXPECT_EQ(result->status, 200);
      break;
    default:
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error().code(), Code::kUnavailable);
  }
  if (fault == BlobFault::kStallInBody) {
    EXPECT_GE(cloud.sim.now().time_since_epoch(), seconds(10));
  }
  // The next one is fine.
  ASSERT_TRUE(cloud.run(get(cloud.world(), "x", into, {}, result)));
  EXPECT_EQ(result->status, 200);
}
INSTANTIATE_TEST_SUITE_P(Each, FaultCase,
                         ::testing::Values(BlobFault::kNone, BlobFault::kBusy,
                                           BlobFault::kServerError, BlobFault::kResetBefore,
                                           BlobFault::kLostReply, BlobFault::kResetInBody,
                                           BlobFault::kShortBody, BlobFault::kStallInBody,
                                           BlobFault::kSlowFirstByte, BlobFault::kChangeEtag,
                                           BlobFault::kExpiredToken),
                         [](const auto& info) { return std::string(blob_fault_name(info.param)); });

TEST(SimHttp, lost_replies_were_executed) {
  BlobFaults faults;
  faults.script.push_back({BlobFault::kLostReply, "PUT", "", 0, 1});
  Cloud cloud(1, faults);
  Result<HttpResponse> result = fail(Code::kInternal, "");
  ASSERT_TRUE(cloud.run(put(cloud.world(), "x", "body", result)));
  EXPECT_FALSE(result);
  EXPECT_EQ(cloud.blob.service.find("ccc", "x")->content.to_string(), "body");
}

Task<void> cancel_after(World& world, Cancel& cancel, Duration delay) {
  SHOAL_ASSERT((co_await sleep_for(world.executor, delay, {})).has_value());
  cancel.request();
}

TEST(SimHttp, honours_deadline_cancellation_and_body_limits) {
  BlobFaults faults;
  faults.latency = milliseconds(100);
  Cloud cloud(1, faults);
  cloud.blob.service.add_synthetic("ccc", "x", kMiB, 3);
  Buffer into(kMiB);
  Result<HttpResponse> result = fail(Code::kInternal, "");
  Context late = Context::within(cloud.world().executor, milliseconds(50));
  ASSERT_TRUE(cloud.run(get(cloud.world(), "x", into, late, result)));
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
  Cancel cancel;
  Gate gate(cloud.world().executor);
  gate.spawn(cancel_after(cloud.world(), cancel, milliseconds(30)));
  ASSERT_TRUE(cloud.run(get(cloud.world(), "x", into, {kNever, &cancel}, result)));
  EXPECT_EQ(result.error().code(), Code::kCancelled);
  Buffer small(1000);
  ASSERT_TRUE(cloud.run(get(cloud.world(), "x", small, {}, result)));
  EXPECT_EQ(result.error().code(), Code::kUnavailable);
  Buffer none;
  ASSERT_TRUE(cloud.run(get(cloud.world(), "x", none, {}, result)));
  EXPECT_EQ(result.error().code(), Code::kTooLarge);
  cloud.machine.process().http.set_partitioned(true);
  ASSERT_TRUE(cloud.run(get(cloud.world(), "x", into, {}, result)));
  EXPECT_EQ(result.error().code(), Code::kUnavailable);
}

// A client that dies while its requests are on their way: some are executed, none answers.
TEST(SimMachine, crashes_with_everything_in_flight) {
  int executed = 0;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    BlobFaults faults;
    faults.latency = milliseconds(20);
    Cloud cloud(seed, faults);
    std::vector<int> order;
    Gate& gate = cloud.machine.own(std::make_unique<Gate>(cloud.world().executor));
    auto* results = new std::vector<Result<HttpResponse>>;  // owned by the process below
    cloud.machine.own(std::unique_ptr<std::vector<Result<HttpResponse>>>(results));
    for (int i = 0; i < 4; ++i) results->push_back(fail(Code::kInternal, ""));
    for (size_t i = 0; i < 4; ++i) {
      gate.spawn(
          put(cloud.world(), "x" + std::to_string(i), std::string(5000, 'x'), (*results)[i]));
    }
    cloud.sim.run_for(Duration(static_cast<int64_t>(cloud.sim.random().below(22'000'000))));
    cloud.machine.crash(seed % 2 == 0 ? CrashKind::kProcess : CrashKind::kPowerLoss);
    cloud.sim.run_for(seconds(1));
    EXPECT_FALSE(cloud.machine.running());
    executed += static_cast<int>(cloud.blob.service.names("ccc").size());
    cloud.machine.boot();
    Result<HttpResponse> result = fail(Code::kInternal, "");
    ASSERT_TRUE(cloud.run(put(cloud.world(), "after", "x", result)));
    EXPECT_EQ(result->status, 201);
  }
  EXPECT_GT(executed, 20);
  EXPECT_LT(executed, 200);
}

}  // namespace
}  // namespace shoal
