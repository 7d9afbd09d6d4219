// The real Azure client against the simulated account: signatures, wording and retries of both
// sides meet here.
#include <gtest/gtest.h>

#include "async/gate.h"
#include "origin/make_origin.h"
#include "world_sim/sim_world.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;

class AzureOverSim {
 public:
  AzureOverSim(uint64_t seed, BlobFaults faults)
      : sim({.seed = seed}),
        blob(sim.add_blob_account("127.0.0.1:10000", {}, std::move(faults))),
        machine(sim.add_machine("m", {})) {
    blob.service.add_container("data");
    World& world = machine.boot();
    OriginConfig config;
    config.location = "http://127.0.0.1:10000/devstoreaccount1/data/prefix";
    config.azure.credentials.account_key = BlobServiceConfig{}.key_base64;
    config.content_crc64 = seed % 2 == 0;
    auto made = make_origin(std::move(config), world, registry, log);
    SHOAL_ASSERT(made.has_value());
    origin = &machine.own(std::move(*made));
    gate = &machine.own(std::make_unique<Gate>(world.executor));
  }
  ~AzureOverSim() { machine.shut_down(); }
  void run(Task<void> task) {
    ASSERT_TRUE(gate->spawn(std::move(task)));
    ASSERT_TRUE(sim.run_until([&] { return gate->count() == 0; }, std::chrono::hours(2)));
  }
  Simulation sim;
  SimBlobAccount& blob;
  SimMachine& machine;
  Registry registry;
  Log log;
  Origin* origin = nullptr;
  Gate* gate = nullptr;
};

Task<void> use(Origin& origin, Executor& executor, std::string text) {
  auto within = [&] { return Context::within(executor, std::chrono::minutes(30)); };
  // A probe gives up sooner than other requests do.
  Status probed = fail(Code::kUnavailable, "");
  for (int i = 0; i < 20 && !probed; ++i) probed = co_await origin.probe(true, within());
  EXPECT_TRUE(probed) << probed.error().message();
  PutOptions once{Condition::absent(), {{"shoalwriteid", "0123"}, {"color", "red"}}};
  auto put = co_await origin.put("dir/a b&\xC3\xA9", as_bytes(text), once, within());
  EXPECT_TRUE(put) << put.error().message();
  if (!put) co_return;
  auto head = co_await origin.head("dir/a b&\xC3\xA9", within());
  EXPECT_TRUE(head) << head.error().message();
  EXPECT_EQ(head->size, text.size());
  EXPECT_EQ(head->metadata["color"], "red");

  Buffer part(1000);
  Status read = co_await origin.read("dir/a b&\xC3\xA9", head->etag, 5, part.span(), {}, within());
  EXPECT_TRUE(read) << read.error().message();
  EXPECT_EQ(as_text(part.span()), text.substr(5, 1000));

  std::vector<BlockInfo> blocks;
  for (int i = 0; i < 5; ++i) {
    std::string id = "0000000" + std::to_string(i) + std::string(32, 'f');
    Status staged = co_await origin.put_block("dir/big", id, static_cast<uint64_t>(i) * text.size(),
                                              as_bytes(text), within());
    EXPECT_TRUE(staged) << staged.error().message();
    blocks.push_back({id, text.size()});
  }
  auto listed = co_await origin.staged_blocks("dir/big", within());
  EXPECT_TRUE(listed && listed->size() == 5);
  auto commit = co_await origin.commit_blocks("dir/big", blocks, once, within());
  EXPECT_TRUE(commit) << commit.error().message();
  auto page = co_await origin.list({.prefix = "dir/", .recursive = true}, within());
  EXPECT_TRUE(page && page->objects.size() == 2) << (page ? "" : page.error().message());
  auto copied = co_await origin.copy("dir/big", commit->etag, "copy", {}, within());
  EXPECT_TRUE(copied) << copied.error().message();
  Status removed = co_await origin.remove("dir/big", {}, within());
  EXPECT_TRUE(removed) << removed.error().message();
  auto gone = co_await origin.head("dir/big", within());
  EXPECT_FALSE(gone);
}

void check(AzureOverSim& world, const std::string& text) {
  BlobService& service = world.blob.service;
  EXPECT_EQ(service.find("data", "prefix/dir/a b&\xC3\xA9")->content.to_string(), text);
  EXPECT_EQ(service.find("data", "prefix/copy")->size, 5 * text.size());
}

TEST(AzureOverSim, works_without_faults) {
  std::string text(10000, 'x');
  synthetic_fill(1, 0, std::as_writable_bytes(std::span(text)));
  AzureOverSim world(2, {});
  world.run(use(*world.origin, world.machine.world().executor, text));
  check(world, text);
  EXPECT_EQ(world.blob.service.stats().failures[static_cast<size_t>(BlobOperation::kPutBlob)], 0u);
}

TEST(AzureOverSim, outlives_a_bad_service) {
  std::string text(10000, 'x');
  synthetic_fill(1, 0, std::as_writable_bytes(std::span(text)));
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SeededRandom random(seed);
    BlobFaults faults;
    faults.latency = milliseconds(random.below(30));
    faults.latency_jitter = milliseconds(1 + random.below(30));
    faults.account_out_bytes_per_second = random.below(2) * kMiB;
    for (BlobFault fault : {BlobFault::kBusy, BlobFault::kServerError, BlobFault::kResetBefore,
                            BlobFault::kLostReply, BlobFault::kResetInBody, BlobFault::kShortBody,
                            BlobFault::kStallInBody, BlobFault::kSlowFirstByte}) {
      if (random.below(2) == 0) faults.set(fault, 0.02 + 0.1 * random.unit());
    }
    AzureOverSim world(seed, faults);
    world.run(use(*world.origin, world.machine.world().executor, text));
    check(world, text);
    if (testing::Test::HasFailure()) {
      std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
      break;
    }
  }
}

}  // namespace
}  // namespace shoal
