// The map in a real directory.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "membership/map_store.h"
#include "origin/directory_origin.h"
#include "world_linux/shard.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

Member member(uint64_t number) {
  Member out;
  out.id = {number, number};
  out.name = "node-" + std::to_string(number);
  out.address = "10.0.0." + std::to_string(number) + ":7070";
  return out;
}

// One process: a shard, an origin and a store over it.
struct Node {
  explicit Node(const std::string& root) {
    auto started = Shard::start({});
    SHOAL_ASSERT(started.has_value());
    shard = std::move(*started);
    origin = std::make_unique<DirectoryOrigin>(root, shard->world(), registry, log);
    store = make_origin_map_store(*origin, shard->world(), "test");
  }
  ~Node() {
    store.reset();
    origin.reset();
    shard->stop();
  }
  template <typename T>
  T run(Task<T> task) {
    return run_blocking(*shard, std::move(task));
  }
  Registry registry;
  Log log;
  std::unique_ptr<Shard> shard;
  std::unique_ptr<DirectoryOrigin> origin;
  std::unique_ptr<MapStore> store;
};

class RealMapStoreTest : public testing::Test {
 protected:
  RealMapStoreTest() {
    std::string pattern = (fs::current_path() / "membership_XXXXXX").string();
    SHOAL_ASSERT(mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
  }
  ~RealMapStoreTest() override {
    std::error_code ignored;
    fs::permissions(root_ + "/.shoal/test", fs::perms::owner_all, ignored);
    fs::remove_all(root_, ignored);
  }
  std::string root_;
};

TEST_F(RealMapStoreTest, lies_below_the_prefix_and_the_key_is_private) {
  Node node(root_);
  SlotMap map = placement::first_map("test", {1, 2}, node.origin->identity(), 3, member(1));
  auto token = node.run(node.store->compare_and_swap(map, "", {}));
  ASSERT_TRUE(token) << token.error().to_string();
  EXPECT_TRUE(fs::is_regular_file(root_ + "/.shoal/test/map"));
  auto key = node.run(node.store->key({}));
  ASSERT_TRUE(key) << key.error().to_string();
  EXPECT_EQ(key->size(), 32u);
  struct stat info{};
  ASSERT_EQ(stat((root_ + "/.shoal/test/key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(info.st_size, 65);
  Node other(root_);
  EXPECT_EQ(other.run(other.store->key({})).value_or(""), *key);
  auto loaded = other.run(other.store->load({}));
  ASSERT_TRUE(loaded && *loaded);
  EXPECT_EQ((*loaded)->map, map);
  EXPECT_EQ((*loaded)->token, *token);
}

// Every swap counts once: none is lost, none happens twice.
TEST_F(RealMapStoreTest, many_writers_take_turns) {
  constexpr int kNodes = 4;
  constexpr int kSwaps = 10;
  Node first(root_);
  SlotMap map = placement::first_map("test", {1, 2}, first.origin->identity(), 3, member(1));
  ASSERT_TRUE(first.run(first.store->compare_and_swap(map, "", {})));
  std::atomic<int> conflicts = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kNodes; ++i) {
    threads.emplace_back([&] {
      Node node(root_);
      for (int done = 0; done < kSwaps;) {
        auto stored = node.run(node.store->load({}));
        ASSERT_TRUE(stored && *stored) << stored.error().to_string();
        SlotMap next = (*stored)->map;
        ++next.version;
        auto token = node.run(node.store->compare_and_swap(next, (*stored)->token, {}));
        if (token) {
          ++done;
        } else {
          ASSERT_EQ(token.error().code(), Code::kConflict) << token.error().to_string();
          ++conflicts;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  auto last = first.run(first.store->load({}));
  ASSERT_TRUE(last && *last);
  EXPECT_EQ((*last)->map.version, map.version + kNodes * kSwaps);
  RecordProperty("conflicts", conflicts);
}

TEST_F(RealMapStoreTest, damage_is_named) {
  Node node(root_);
  fs::create_directories(root_ + "/.shoal/test");
  for (const char* text : {"", "SHOALMAP", "something else that is longer than a header is"}) {
    std::ofstream(root_ + "/.shoal/test/map", std::ios::binary) << text;
    Error error = node.run(node.store->load({})).error();
    EXPECT_EQ(error.code(), Code::kCorrupt);
    EXPECT_NE(error.message().find(root_ + "/.shoal/test/map"), std::string::npos)
        << error.message();
  }
  std::ofstream(root_ + "/.shoal/test/key", std::ios::binary) << "not hexadecimal";
  Error error = node.run(node.store->key({})).error();
  EXPECT_EQ(error.code(), Code::kCorrupt);
  EXPECT_NE(error.message().find(root_ + "/.shoal/test/key"), std::string::npos);
  EXPECT_EQ(error.message().find("not hexadecimal"), std::string::npos) << "secrets are not quoted";
}

TEST_F(RealMapStoreTest, a_refusal_names_the_way_out) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  Node node(root_);
  SlotMap map = placement::first_map("test", {1, 2}, node.origin->identity(), 3, member(1));
  auto token = node.run(node.store->compare_and_swap(map, "", {}));
  ASSERT_TRUE(token);
  fs::permissions(root_ + "/.shoal/test", fs::perms::owner_read | fs::perms::owner_exec);
  ++map.version;
  Error error = node.run(node.store->compare_and_swap(map, *token, {})).error();
  EXPECT_EQ(error.code(), Code::kPermissionDenied);
  EXPECT_NE(error.message().find("--map-store"), std::string::npos) << error.message();
}

}  // namespace
}  // namespace shoal
