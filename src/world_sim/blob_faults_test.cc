#include "world_sim/blob_faults.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/bytes.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

SteadyTime at(Duration since_start) { return SteadyTime(since_start); }

TEST(BlobFaults, json_round_trips) {
  auto faults = blob_faults_from_json(
      R"({"latency_ms": 5.5, "connection_mibps": 60, "requests_per_second": 100, "outage": true,
          "chance": {"busy": 0.25, "lost_reply": 1},
          "script": [{"fault": "short_body", "method": "GET", "target": "x", "skip": 2}]})",
      {});
  ASSERT_TRUE(faults) << faults.error().message();
  EXPECT_EQ(faults->latency, std::chrono::microseconds(5500));
  EXPECT_EQ(faults->connection_bytes_per_second, 60 * kMiB);
  EXPECT_EQ(faults->script.at(0).fault, BlobFault::kShortBody);
  EXPECT_EQ(faults->script.at(0).count, 1u);
  auto again = blob_faults_from_json(blob_faults_to_json(*faults), {});
  ASSERT_TRUE(again);
  EXPECT_EQ(blob_faults_to_json(*again), blob_faults_to_json(*faults));
  // Absent fields keep their value.
  auto changed = blob_faults_from_json(R"({"outage": false})", *faults);
  ASSERT_TRUE(changed);
  EXPECT_EQ(changed->latency, faults->latency);
  EXPECT_FALSE(changed->outage);
}

TEST(BlobFaults, json_is_checked) {
  for (const char* text :
       {"", "[]", "{", R"({"latency_ms": -1})", R"({"latency_ms": "5"})", R"({"outage": 1})",
        R"({"chance": {"nonsense": 0.1}})", R"({"chance": {"busy": 1.1}})", R"({"script": [{}]})",
        R"({"script": [{"fault": "busy", "skip": -1}]})"}) {
    EXPECT_FALSE(blob_faults_from_json(text, {})) << text;
  }
}

TEST(BlobFaultModel, equal_seeds_decide_equally) {
  BlobFaults faults;
  faults.latency_jitter = milliseconds(10);
  for (size_t i = 1; i < kBlobFaults; ++i) faults.chance[i] = 0.05;
  auto fates = [&](uint64_t seed) {
    BlobFaultModel model(faults, seed);
    std::vector<int64_t> out;
    for (int i = 0; i < 1000; ++i) {
      BlobFate fate = model.decide("GET", "/x", at(milliseconds(i)));
      out.push_back(static_cast<int64_t>(fate.fault) * 1'000'000'000 + fate.first_byte.count());
    }
    return out;
  };
  EXPECT_EQ(fates(1), fates(1));
  EXPECT_NE(fates(1), fates(2));
}

TEST(BlobFaultModel, every_fault_occurs_as_often_as_told) {
  BlobFaults faults;
  for (size_t i = 1; i < kBlobFaults; ++i) faults.chance[i] = 0.05;
  BlobFaultModel model(faults, 1);
  for (int i = 0; i < 10000; ++i) model.decide("GET", "/x", at(milliseconds(i)));
  for (size_t i = 1; i < kBlobFaults; ++i) {
    EXPECT_GT(model.injected(static_cast<BlobFault>(i)), 200u) << i;
    EXPECT_LT(model.injected(static_cast<BlobFault>(i)), 700u) << i;
  }
}

TEST(BlobFaultModel, scripts_skip_and_count) {
  BlobFaults faults;
  faults.script.push_back({BlobFault::kBusy, "GET", "model", 1, 2});
  BlobFaultModel model(faults, 1);
  std::string seen;
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(model.decide("PUT", "/model", {}).fault, BlobFault::kNone);
    EXPECT_EQ(model.decide("GET", "/other", {}).fault, BlobFault::kNone);
    seen += model.decide("GET", "/a/model", {}).fault == BlobFault::kBusy ? 'b' : '.';
  }
  EXPECT_EQ(seen, ".bb..");
}

TEST(BlobFaultModel, limits_requests_per_second) {
  BlobFaults faults;
  faults.requests_per_second = 100;
  BlobFaultModel model(faults, 1);
  int passed = 0;
  for (int i = 0; i < 10000; ++i) {  // 1,000 per second for ten seconds
    if (model.decide("GET", "/x", at(seconds(100) + milliseconds(i))).fault == BlobFault::kNone) {
      ++passed;
    }
  }
  EXPECT_GE(passed, 1000);
  EXPECT_LE(passed, 1020);
}

TEST(Pacer, gives_its_rate_and_a_small_burst) {
  Pacer pacer(milliseconds(2));
  EXPECT_EQ(pacer.reserve(at(seconds(1)), kGiB), at(seconds(1)));  // unlimited
  pacer.set_rate(1'000'000);
  SteadyTime now = at(seconds(10));
  for (int i = 0; i < 10; ++i) now = pacer.reserve(now, 100'000);
  EXPECT_EQ(now, at(seconds(11) - milliseconds(2)));
  // Two users of one pacer: each gets half.
  SteadyTime a = pacer.reserve(at(seconds(20)), 500'000);
  SteadyTime b = pacer.reserve(at(seconds(20)), 500'000);
  EXPECT_EQ(a, at(seconds(20) + milliseconds(498)));
  EXPECT_EQ(b, at(seconds(20) + milliseconds(998)));
}

}  // namespace
}  // namespace shoal
