// The lab itself: limits are kept in both directions, places are apart, nothing stays behind.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "cluster/async_copy.h"
#include "cluster/cluster_bench.h"
#include "cluster/grpc_wire.h"
#include "cluster/lab.h"
#include "cluster/raw_tcp.h"
#include "cluster/write_rounds.h"
#include "one_node/load.h"

namespace shoal::bench {
namespace {

// Once for all tests: a process cannot go back.
const Status& namespaces() {
  static const Status status = enter_own_namespaces();  // constant
  return status;
}

class LabTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!namespaces()) GTEST_SKIP() << namespaces().error().message();
    payload_ = fmt::format("/tmp/shoal-lab-test-{}", getpid());
    ASSERT_TRUE(make_native_file(payload_, 2 * kMiB, 1));
  }
  void TearDown() override { unlink(payload_.c_str()); }

  std::unique_ptr<Lab> make(const LabOptions& options) {
    auto lab = Lab::make(options);
    EXPECT_TRUE(lab) << lab.error().message();
    return lab ? std::move(*lab) : nullptr;
  }
  TcpLoad load(const Lab& lab, int sender, unsigned receiver, uint64_t bytes) {
    return {{sender}, lab.network(receiver), lab.address(receiver), 2, bytes, payload_};
  }

  std::string payload_;
};

constexpr double kRate = 25e6;

TEST_F(LabTest, a_limit_holds_in_each_direction) {
  auto lab = make({.places = 3, .bytes_per_second = kRate, .loopback = false});
  ASSERT_TRUE(lab);
  for (int sender : {-1, lab->network(0)}) {
    auto outcome = run_tcp(load(*lab, sender, 1, 12'500'000));
    ASSERT_TRUE(outcome) << outcome.error().message();
    EXPECT_LT(outcome->rate(), 1.1 * kRate);  // the burst comes on top
    EXPECT_GT(outcome->rate(), 0.7 * kRate);
  }
  // Only the sender's own end holds it back.
  ASSERT_TRUE(lab->limit(2, 0));
  auto outcome = run_tcp(load(*lab, lab->network(0), 2, 12'500'000));
  ASSERT_TRUE(outcome) << outcome.error().message();
  EXPECT_LT(outcome->rate(), 1.1 * kRate);
  outcome = run_tcp(load(*lab, -1, 2, 64 * kMiB));
  ASSERT_TRUE(outcome) << outcome.error().message();
  EXPECT_GT(outcome->rate(), 2 * kRate);
}

TEST_F(LabTest, places_on_loopback_share_one_network) {
  auto lab = make({.places = 2, .bytes_per_second = 0, .loopback = true});
  ASSERT_TRUE(lab);
  auto outcome = run_tcp(load(*lab, lab->network(0), 1, 16 * kMiB));
  ASSERT_TRUE(outcome) << outcome.error().message();
  EXPECT_EQ(outcome->bytes, 16 * kMiB);
  EXPECT_GT(outcome->sender_cpu + outcome->receiver_cpu, 0);
}

TEST_F(LabTest, a_cable_can_be_pulled_and_put_back) {
  auto lab = make({.places = 2, .bytes_per_second = 0, .loopback = false});
  ASSERT_TRUE(lab);
  ASSERT_TRUE(lab->plug(1, false));
  // From the hub, where the kernel says so at once; others would wait for long.
  EXPECT_FALSE(run_tcp(load(*lab, -1, 1, kMiB)));
  ASSERT_TRUE(lab->plug(1, true));
  EXPECT_TRUE(run_tcp(load(*lab, lab->network(0), 1, kMiB)));
}

TEST_F(LabTest, a_place_is_gone_with_its_lab) {
  std::string address;
  for (int round = 0; round < 2; ++round) {
    // The same names and addresses again.
    auto lab = make({.places = 30, .bytes_per_second = 0, .loopback = false});
    ASSERT_TRUE(lab);
    EXPECT_EQ(lab->address(29), "10.77.1.30");
  }
}

TEST(ClusterSettingsTest, quick_comes_first_and_values_are_checked) {
  auto settings = parse_cluster_settings({{"size", "16MiB"}, {"quick", "yes"}}, {});
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->size, 16 * kMiB);
  EXPECT_EQ(settings->rounds, 1u);
  for (NameValues bad : {NameValues{{"nodes", "1"}},
                         {{"nodes", "2.5"}},
                         {{"size", "big"}},
                         {{"mbit", "0"}},
                         {{"what", "1"}}}) {
    auto refused = parse_cluster_settings(bad, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
    EXPECT_NE(refused.error().message().find(bad[0].first), std::string::npos);
  }
}

std::string frame(uint8_t type, uint8_t flags, uint8_t stream, std::string_view payload) {
  std::string out{'\0',
                  '\0',
                  static_cast<char>(payload.size()),
                  static_cast<char>(type),
                  static_cast<char>(flags),
                  '\0',
                  '\0',
                  '\0',
                  static_cast<char>(stream)};
  return out.append(payload);
}

TEST(GrpcCallsTest, answers_end_with_their_trailers_however_they_are_cut) {
  GrpcCalls calls("/a/B", "127.0.0.1:1", 3);
  std::string out;
  calls.append_call(out, "x");
  calls.append_call(out, "y");
  EXPECT_TRUE(out.starts_with("PRI * HTTP/2.0"));
  std::string in = frame(4, 0, 0, "") + frame(1, 4, 3, "h") + frame(0, 0, 3, "12345abc") +
                   frame(1, 4, 1, "h") + frame(1, 5, 3, "t") + frame(6, 0, 0, "12345678") +
                   frame(0, 0, 1, "12345abc") + frame(1, 5, 1, "t");
  uint64_t answers = 0;
  std::string held;
  out.clear();
  for (char byte : in) {
    held.push_back(byte);
    auto taken = calls.take_answers(held, answers, out);
    ASSERT_TRUE(taken);
    held.erase(0, *taken);
  }
  EXPECT_TRUE(held.empty());
  EXPECT_EQ(answers, 2u);
  // Settings and the ping were acknowledged.
  EXPECT_EQ(out, frame(4, 1, 0, "") + frame(6, 1, 0, "12345678"));
}

TEST(GrpcCallsTest, a_failed_call_is_told) {
  for (const std::string& answer : {frame(1, 5, 1, "t"), frame(3, 0, 1, "1234"),
                                    frame(7, 0, 0, "12345678"), frame(1, 5, 9, "t")}) {
    GrpcCalls calls("/a/B", "127.0.0.1:1", 3);
    std::string out;
    calls.append_call(out, "x");
    uint64_t answers = 0;
    EXPECT_FALSE(calls.take_answers(answer, answers, out));
    EXPECT_EQ(answers, 0u);
  }
}

class AsyncCopyTest : public LabTest {
 protected:
  // Uploads a file of synthetic bytes from a place of the lab.
  Result<AsyncCopyOutcome> copy(const OriginShape& shape, uint64_t size) {
    SHOAL_RETURN_IF_ERROR(namespaces());
    SHOAL_ASSIGN_OR_RETURN(work_, WorkDirectory::make("/var/tmp", false));
    SHOAL_ASSIGN_OR_RETURN(stub_, Stub::start(*work_, 0, "0.0.0.0"));
    SHOAL_RETURN_IF_ERROR(stub_->shape(shape));
    LabOptions one{.places = 1, .bytes_per_second = 0, .loopback = false};
    SHOAL_ASSIGN_OR_RETURN(auto lab, Lab::make(one));
    SHOAL_RETURN_IF_ERROR(make_native_file(*work_ / "file", size, 5));
    AsyncCopy copy{.file = *work_ / "file",
                   .target = stub_->target("copied"),
                   .address = lab->hub_address(),
                   .port = stub_->port(),
                   .network = lab->network(0),
                   .block_bytes = kMiB};
    SHOAL_ASSIGN_OR_RETURN(auto copier, AsyncCopier::start(*work_, copy));
    return copier->wait(std::chrono::milliseconds(60'000));
  }
  Status verify(uint64_t size, uint64_t seed) {
    Report report;
    ClusterSettings settings;
    ClusterBench bench(settings, *work_, *stub_, report);
    return verify_in_origin(bench, "copied", size, seed);
  }

 private:
  std::unique_ptr<WorkDirectory> work_;
  std::unique_ptr<Stub> stub_;
};

TEST_F(AsyncCopyTest, repeats_what_is_refused) {
  constexpr uint64_t kSize = 20 * kMiB + 777;
  auto outcome = copy({.busy = 0.3}, kSize);
  ASSERT_TRUE(outcome) << outcome.error().message();
  EXPECT_EQ(outcome->bytes, kSize);
  Status same = verify(kSize, 5);
  EXPECT_TRUE(same) << same.error().message();
  EXPECT_FALSE(verify(kSize, 6));
}

TEST_F(AsyncCopyTest, one_client_of_the_origin_can_be_limited) {
  auto outcome = copy({.client_bytes_per_second = 10e6}, 10'000'000);
  ASSERT_TRUE(outcome) << outcome.error().message();
  EXPECT_GT(outcome->seconds, 0.9);  // all its connections together
}

}  // namespace
}  // namespace shoal::bench
