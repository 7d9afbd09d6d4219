// The map as an object: over the simulated Blob service, with the real Azure client.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "async/gate.h"
#include "membership/map_store.h"
#include "origin/make_origin.h"
#include "world_sim/sim_world.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;

constexpr std::string_view kHost = "127.0.0.1:10000";

Member member(uint64_t number) {
  Member out;
  out.id = {number, number};
  out.name = "node-" + std::to_string(number);
  out.address = "10.0.0." + std::to_string(number) + ":7070";
  return out;
}
SlotMap first_map() { return placement::first_map("test", {1, 2}, "az:x", 3, member(1)); }

// One node: a machine with a client of the account and a store over it.
struct Node {
  Node(Simulation& sim, const std::string& name, Registry& registry, const Log& log,
       std::string_view cluster = "test")
      : machine(sim.add_machine(name, {})), world(machine.boot()) {
    OriginConfig config;
    config.location = fmt::format("http://{}/devstoreaccount1/data/prefix", kHost);
    config.azure.credentials.account_key = BlobServiceConfig{}.key_base64;
    auto made = make_origin(std::move(config), world, registry, log);
    SHOAL_ASSERT(made.has_value());
    Origin& origin = machine.own(std::move(*made));
    store = &machine.own(make_origin_map_store(origin, world, std::string(cluster)));
    gate = &machine.own(std::make_unique<Gate>(world.executor));
  }
  Context within(Duration limit) { return Context::within(world.executor, limit); }
  SimMachine& machine;
  World& world;
  MapStore* store;
  Gate* gate;
};

class OriginMapStoreTest : public testing::Test {
 protected:
  void start(BlobFaults faults = {}, uint64_t seed = 1) {
    clear();
    sim_ = std::make_unique<Simulation>(SimOptions{.seed = seed});
    blob_ = &sim_->add_blob_account(std::string(kHost), {}, std::move(faults));
    blob_->service.add_container("data");
  }
  ~OriginMapStoreTest() override { clear(); }
  void clear() {
    for (auto& node : nodes_) node->machine.shut_down();
    nodes_.clear();
  }
  Node& add_node(std::string_view cluster = "test") {
    nodes_.push_back(std::make_unique<Node>(*sim_, "m" + std::to_string(nodes_.size()), registry_,
                                            log_, cluster));
    return *nodes_.back();
  }
  void run() {
    auto idle = [this] {
      return std::ranges::all_of(nodes_, [](auto& node) { return node->gate->count() == 0; });
    };
    ASSERT_TRUE(sim_->run_until(idle, std::chrono::hours(1)));
  }
  template <typename T>
  static Task<void> keep(Task<T> task, std::optional<T>& out) {
    out.emplace(co_await task);
  }
  template <typename T>
  T run(Node& node, Task<T> task) {
    std::optional<T> out;
    SHOAL_ASSERT(node.gate->spawn(keep(std::move(task), out)));
    SHOAL_ASSERT(sim_->run_until([&] { return out.has_value(); }, std::chrono::hours(1)));
    return std::move(*out);
  }
  void put_blob(std::string bytes) {
    Node& writer = add_node();
    OriginConfig config;
    config.location = fmt::format("http://{}/devstoreaccount1/data/prefix", kHost);
    config.azure.credentials.account_key = BlobServiceConfig{}.key_base64;
    auto made = make_origin(std::move(config), writer.world, registry_, log_);
    Origin& origin = writer.machine.own(std::move(*made));
    auto put = run(writer, origin.put(".shoal/test/map", as_bytes(bytes), {}, {}));
    ASSERT_TRUE(put) << put.error().to_string();
  }

  Registry registry_;
  Log log_;
  std::unique_ptr<Simulation> sim_;
  SimBlobAccount* blob_ = nullptr;
  std::vector<std::unique_ptr<Node>> nodes_;
};

TEST_F(OriginMapStoreTest, swaps_only_what_it_saw) {
  start();
  Node& a = add_node();
  Node& b = add_node();
  auto none = run(a, a.store->load({}));
  ASSERT_TRUE(none) << none.error().to_string();
  EXPECT_FALSE(none->has_value());
  SlotMap map = first_map();
  auto token = run(a, a.store->compare_and_swap(map, "", {}));
  ASSERT_TRUE(token) << token.error().to_string();
  EXPECT_EQ(run(b, b.store->compare_and_swap(map, "", {})).error().code(), Code::kConflict);
  auto seen = run(b, b.store->load({}));
  ASSERT_TRUE(seen && *seen);
  EXPECT_EQ((*seen)->map, map);
  EXPECT_EQ((*seen)->token, *token);
  SlotMap second = placement::join(map, member(2));
  auto next = run(b, b.store->compare_and_swap(second, *token, {}));
  ASSERT_TRUE(next);
  EXPECT_EQ(run(a, a.store->compare_and_swap(second, *token, {})).error().code(), Code::kConflict);
  EXPECT_EQ((*run(a, a.store->load({})))->map, second);
  EXPECT_EQ(run(a, a.store->watch(*next, {})).error().code(), Code::kNotSupported);
}

Task<void> ask_key(Node& node, std::string& out) {
  Result<std::string> key = co_await node.store->key(node.within(minutes(5)));
  EXPECT_TRUE(key) << key.error().to_string();
  if (key) out = *key;
}

TEST_F(OriginMapStoreTest, makes_one_key_however_many_ask) {
  BlobFaults faults;
  faults.latency = milliseconds(20);
  faults.latency_jitter = milliseconds(20);
  faults.set(BlobFault::kLostReply, 0.2);
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    start(faults, seed);
    std::vector<std::string> keys(8);
    for (std::string& key : keys) {
      Node& node = add_node();
      node.gate->spawn(ask_key(node, key));
    }
    run();
    EXPECT_EQ(keys[0].size(), 32u);
    for (const std::string& key : keys) EXPECT_EQ(key, keys[0]) << "seed " << seed;
    clear();
  }
}

// Alone, a writer is never told of a conflict, whatever happens to the answers.
Task<void> swap_often(Node& node, int times) {
  SlotMap map = first_map();
  std::string token;
  for (int i = 0; i < times; ++i) {
    Result<std::string> next =
        co_await node.store->compare_and_swap(map, token, node.within(minutes(5)));
    EXPECT_TRUE(next) << i << ": " << next.error().to_string();
    if (!next) co_return;
    token = *next;
    ++map.version;
  }
  auto last = co_await node.store->load(node.within(minutes(5)));
  EXPECT_TRUE(last && *last && (*last)->map.version == static_cast<uint64_t>(times));
}

TEST_F(OriginMapStoreTest, recognises_its_own_write_when_the_answer_was_lost) {
  BlobFaults faults;
  faults.set(BlobFault::kLostReply, 0.3);
  faults.set(BlobFault::kResetBefore, 0.1);
  faults.set(BlobFault::kBusy, 0.1);
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    start(faults, seed);
    Node& node = add_node();
    node.gate->spawn(swap_often(node, 30));
    run();
    clear();
  }
}

TEST_F(OriginMapStoreTest, says_where_a_corrupt_map_lies) {
  start();
  put_blob("this is no map, but it has more than twenty-four bytes");
  Node& node = add_node();
  Error error = run(node, node.store->load({})).error();
  EXPECT_EQ(error.code(), Code::kCorrupt);
  EXPECT_NE(error.message().find(".shoal/test/map"), std::string::npos) << error.message();
  EXPECT_NE(error.message().find("delete it"), std::string::npos) << error.message();
}

TEST_F(OriginMapStoreTest, refuses_bad_names_before_any_request) {
  start();
  Node& node = add_node("Bad/Name");
  EXPECT_EQ(run(node, node.store->load({})).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(run(node, node.store->key({})).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(run(node, node.store->compare_and_swap(first_map(), "", {})).error().code(),
            Code::kInvalidArgument);
}

TEST_F(OriginMapStoreTest, clusters_share_a_container) {
  start();
  Node& a = add_node("one");
  Node& b = add_node("two");
  SlotMap map = first_map();
  ASSERT_TRUE(run(a, a.store->compare_and_swap(map, "", {})));
  EXPECT_FALSE(run(b, b.store->load({}))->has_value());
  EXPECT_NE(*run(a, a.store->key({})), *run(b, b.store->key({})));
}

}  // namespace
}  // namespace shoal
