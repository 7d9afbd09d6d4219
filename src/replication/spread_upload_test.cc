// One node's replicas and the real Azure client against the simulated account.
#include "replication/spread_upload.h"

#include <gtest/gtest.h>

#include <cstring>

#include "origin/make_origin.h"
#include "placement/slot_map.h"
#include "replication/replication.h"
#include "replication/upload_width.h"
#include "store/test_support.h"
#include "wire/parse_message.h"

namespace shoal {
namespace {

constexpr NodeId kSelf{9, 9};
constexpr uint64_t kChunk = 256 * kKiB;
constexpr WriteName kWrite{{7, 1}, 0};

class OnlyMember final : public ClusterView {
 public:
  OnlyMember() {
    Member member;
    member.id = kSelf;
    member.name = "m";
    member.address = "127.0.0.1:7070";
    map_ = std::make_shared<SlotMap>(placement::first_map("c", {5, 5}, "o", 1, std::move(member)));
  }
  std::shared_ptr<const SlotMap> map() const override { return map_; }
  const NodeId& self() const override { return kSelf; }
  bool usable(const NodeId& member) const override { return member == kSelf; }
  void report(const NodeId&, bool) override {}

 private:
  std::shared_ptr<const SlotMap> map_;
};

// Answers reads with the writer's bytes.
class WriterAnswers final : public RpcPool {
 public:
  explicit WriterAnswers(std::string bytes) : bytes_(std::move(bytes)) {}
  Task<Result<std::string>> call(std::string, Hash128, Method method, std::string body,
                                 RpcSink* sink, uint64_t, Context) override {
    auto request = parse_message<wire::ReadRequest>(body, "a read");
    SHOAL_ASSERT(method == Method::kRead && request && sink != nullptr);
    std::memcpy(sink->into.data(), bytes_.data() + request->offset(), sink->into.size());
    sink->arrived = sink->into.size();
    co_return wire::ReadReply().SerializeAsString();
  }
  bool heard_from(const std::string&, Duration) const override { return true; }
  uint64_t connections() const override { return 0; }
  Task<void> close() override { co_return; }

 private:
  const std::string bytes_;
};

class SpreadUploads : public testing::Test {
 protected:
  void SetUp() override {
    account_.service.add_container("data");
    ASSERT_TRUE(m_.open());
    World& world = m_.machine.world();
    OriginConfig config;
    config.location = "http://127.0.0.1:10000/devstoreaccount1/data";
    config.azure.credentials.account_key = BlobServiceConfig{}.key_base64;
    auto made = make_origin(std::move(config), world, m_.registry, m_.log);
    ASSERT_TRUE(made);
    origin_ = &m_.machine.own(std::move(*made));
    rate_ = std::make_unique<RateLimit>(world.executor, 0);
    ReplicationOptions options;
    options.chunk_bytes = kChunk;
    replication_ = &m_.machine.own(std::make_unique<Replication>(
        ReplicationParts{world, m_.store(), *origin_, pool_, view_, m_.registry, m_.log, *rate_},
        options));
    replication_->replicas().start();
  }
  void TearDown() override {
    EXPECT_TRUE(m_.run(stop(replication_)));
    m_.run(give_up(replication_));
    EXPECT_TRUE(m_.close());
  }

  // This node gets all chunks and sends them to the origin while the writer goes on.
  void hold_all() {
    wire::ReplicateRequest request;
    request.set_object("a");
    to_wire(kWrite, *request.mutable_write());
    request.mutable_source()->set_high(kSelf.high);
    request.mutable_source()->set_low(kSelf.low);
    request.set_size(bytes_.size());
    for (uint64_t chunk = 0; chunk < blocks(); ++chunk) request.add_chunks(chunk);
    request.set_upload(true);
    request.set_block_bytes(kChunk);
    request.set_sync(true);
    ASSERT_TRUE(m_.run(replication_->replicas().replicate(std::move(request), {})));
    auto sent = [this] { return replication_->metrics().blocks.value() == blocks(); };
    ASSERT_TRUE(m_.sim.run_until(sent, std::chrono::minutes(1)));
  }
  Result<ObjectInfo> upload() {
    SpreadUpload upload;
    upload.object = upload.home = "a";
    upload.write = kWrite;
    upload.size = bytes_.size();
    upload.block_bytes = kChunk;
    upload.holders.assign(blocks(), {kSelf});
    auto commit = [this](std::vector<BlockInfo> staged) {
      ++commits_;
      return origin_->commit_blocks("a", std::move(staged), {}, {});
    };
    return m_.run(spread_upload(*replication_, std::move(upload), commit, {}));
  }
  std::string in_origin() { return account_.service.find("data", "a")->content.to_string(); }
  uint64_t blocks() const { return (bytes_.size() + kChunk - 1) / kChunk; }
  uint64_t sent() const { return replication_->metrics().blocks.value(); }

  StoreMachine m_;
  SimBlobAccount& account_ = m_.sim.add_blob_account("127.0.0.1:10000", {}, {});
  const std::string bytes_ = pattern(2 * kChunk + 1000, 1);
  WriterAnswers pool_{bytes_};
  OnlyMember view_;
  std::unique_ptr<RateLimit> rate_;
  Origin* origin_ = nullptr;
  Replication* replication_ = nullptr;
  int commits_ = 0;

 private:
  static Task<Status> stop(Replication* replication) {
    co_await replication->stop();
    co_return Status();
  }
  static Task<Status> give_up(Replication* replication) {
    co_return co_await replication->replicas().end("a", kWrite, "a", "", 0, {});
  }
};

TEST_F(SpreadUploads, do_not_send_again_what_was_sent_early) {
  hold_all();
  ASSERT_TRUE(upload());
  EXPECT_EQ(in_origin(), bytes_);
  EXPECT_EQ(commits_, 1);
  EXPECT_EQ(sent(), blocks());
}

TEST_F(SpreadUploads, send_again_what_another_commit_has_dropped) {
  hold_all();
  ASSERT_TRUE(m_.run(origin_->put("a", as_bytes(std::string("another version")), {}, {})));
  auto done = upload();
  ASSERT_TRUE(done) << done.error().to_string();
  EXPECT_EQ(in_origin(), bytes_);
  EXPECT_EQ(commits_, 2);
  EXPECT_EQ(sent(), 2 * blocks());
}

// Sends `count` blocks, as many at a time as it allows; `took` says how long one takes then.
template <typename Took>
uint32_t width_after(UploadWidth& width, int count, Took took, SteadyTime& now) {
  for (int i = 0; i < count; ++i) {
    uint32_t beside = width.limit();
    width.begin(beside, now);
    now += took(beside);
    width.sent(8 * kMiB, took(beside), beside, now);
  }
  return width.limit();
}

TEST(UploadWidth, grows_while_blocks_do_not_slow_each_other_down) {
  UploadWidth width(16);
  SteadyTime now{};
  auto alone = [](uint32_t) { return std::chrono::milliseconds(130); };
  EXPECT_EQ(width_after(width, 10, alone, now), 12u);
  EXPECT_EQ(width_after(width, 10, alone, now), 16u);
}

TEST(UploadWidth, stays_small_where_blocks_share_a_slow_link) {
  UploadWidth width(16);
  SteadyTime now{};
  auto shared = [](uint32_t beside) { return std::chrono::milliseconds(2000) * beside; };
  EXPECT_LE(width_after(width, 30, shared, now), 4u);
}

TEST(UploadWidth, shrinks_when_the_origin_slows_down_and_begins_anew_after_a_pause) {
  UploadWidth width(16);
  SteadyTime now{};
  EXPECT_EQ(
      width_after(width, 20, [](uint32_t) { return std::chrono::milliseconds(100); }, now), 16u);
  EXPECT_LE(
      width_after(width, 20, [](uint32_t) { return std::chrono::milliseconds(900); }, now), 3u);
  width.begin(1, now + std::chrono::seconds(10));
  EXPECT_EQ(width.limit(), UploadWidth::kFirst);
}

}  // namespace
}  // namespace shoal
