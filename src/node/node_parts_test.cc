#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "async/gate.h"
#include "async/timer_queue.h"
#include "node/attribute_cache.h"
#include "node/attributes.h"
#include "node/copies.h"
#include "node/fetcher.h"
#include "node/hot_chunks.h"
#include "node/tree.h"

namespace shoal {
namespace {

class IdleExecutor final : public Executor {
 public:
  SteadyTime now() const override { return {}; }
  WallTime wall_now() const override { return {}; }
  void post(Runnable&) override {}
  void post_remote(Runnable&) override {}
  bool on_thread() const override { return true; }
  void start_timer(Timer& timer, SteadyTime when) override { timers_.add(timer, when); }
  void stop_timer(Timer& timer) override { timers_.remove(timer); }

 private:
  TimerQueue timers_;
};

TEST(Attributes, survive_the_metadata) {
  FileAttributes attributes;
  attributes.mode = 0640;
  attributes.uid = 12;
  attributes.gid = 4294967294u;
  attributes.modified = WallTime(std::chrono::nanoseconds(1600000001123456789));
  attributes.xattrs["user.note"] = std::string("caf\xc3\xa9 \0 binary", 14);
  attributes.write_id = "00112233445566778899aabbccddeeff.3";
  attributes.other["someone"] = "else";
  auto metadata = encode_attributes(attributes);
  ASSERT_TRUE(metadata.has_value());
  for (const auto& [key, value] : *metadata) {
    EXPECT_EQ(key.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_"), std::string::npos);
    for (char c : value) EXPECT_TRUE(c >= 32 && c < 127) << key;
  }
  FileAttributes back = decode_attributes(*metadata);
  EXPECT_EQ(back.kind, FileKind::kFile);
  EXPECT_EQ(back.mode, attributes.mode);
  EXPECT_EQ(back.uid, attributes.uid);
  EXPECT_EQ(back.gid, attributes.gid);
  EXPECT_EQ(back.modified, attributes.modified);
  EXPECT_EQ(back.xattrs, attributes.xattrs);
  EXPECT_EQ(back.write_id, attributes.write_id);
  EXPECT_EQ(back.other, attributes.other);
}

TEST(Attributes, know_directories_and_links_of_other_tools) {
  EXPECT_EQ(decode_attributes({{"hdi_isfolder", "true"}}).kind, FileKind::kDirectory);
  EXPECT_EQ(decode_attributes({{"is_symlink", "true"}}).kind, FileKind::kSymlink);
}

TEST(Attributes, refuse_nonsense_quietly) {
  FileAttributes odd = decode_attributes({{"shoalmode", "rwx"},
                                          {"shoaluid", "-1"},
                                          {"shoalmtime", "yesterday"},
                                          {"shoalxzz", "AAAA"},
                                          {"shoalx6", "AAAA"},
                                          {"shoalx6162", "not base64"},
                                          {"hdi_isfolder", "maybe"}});
  EXPECT_EQ(odd.kind, FileKind::kFile);
  EXPECT_FALSE(odd.mode || odd.uid || odd.modified);
  EXPECT_TRUE(odd.xattrs.empty());
}

TEST(Attributes, have_a_limit) {
  FileAttributes attributes;
  attributes.xattrs["user.big"] = std::string(8000, 'x');
  auto metadata = encode_attributes(attributes);
  ASSERT_FALSE(metadata.has_value());
  EXPECT_EQ(metadata.error().code(), Code::kTooLarge);
}

TEST(ListMarker, survives_as_text) {
  for (const std::string& after : {std::string(), std::string("d/7:c\n"), std::string(1000, 'x')}) {
    for (const std::string& origin : {std::string(), std::string("2!92!MDAw"), after}) {
      for (bool continued : {false, true}) {
        ListMarker back = ListMarker::parse(ListMarker{after, origin, continued}.text());
        EXPECT_EQ(back.after, after);
        EXPECT_EQ(back.origin, origin);
        EXPECT_EQ(back.continued, continued);
      }
    }
  }
}

TEST(ListMarker, takes_what_the_origin_says) {
  for (const char* text : {"", "2!92!MDAw", "shoal-after:", "shoal-after:x", "shoal-after:9:nabc",
                           "shoal-after:99999999999999999999999:n"}) {
    ListMarker marker = ListMarker::parse(text);
    EXPECT_EQ(marker.origin, text);
    EXPECT_EQ(marker.after, "");
    EXPECT_FALSE(marker.continued);
  }
}

TEST(Tree, names_and_moves) {
  IdleExecutor executor;
  Tree tree(executor);
  FileAttributes directory;
  directory.kind = FileKind::kDirectory;
  Inode& a = tree.add(tree.root(), "a", directory);
  Inode& b = tree.add(a, "b", directory);
  Inode& f = tree.add(b, "f", {});
  f.lookups = 1;
  EXPECT_EQ(tree.path(f), "a/b/f");
  EXPECT_EQ(tree.find_path("a/b/f"), &f);
  EXPECT_EQ(tree.find_path("a/x"), nullptr);
  EXPECT_EQ(tree.find_path(""), &tree.root());
  uint64_t number = f.number;
  a.lookups = 1;
  tree.move(f, a, "g");
  EXPECT_EQ(tree.path(f), "a/g");
  EXPECT_EQ(f.number, number);
  EXPECT_EQ(tree.find_path("a/b"), nullptr) << "an unused directory is forgotten";
}

TEST(Tree, forgets_what_nobody_uses) {
  IdleExecutor executor;
  Tree tree(executor);
  FileAttributes directory;
  directory.kind = FileKind::kDirectory;
  Inode& a = tree.add(tree.root(), "a", directory);
  Inode& f = tree.add(a, "f", {});
  InodeId id = f.id;
  {
    InodeUse use(tree, f);
    tree.drop_if_unused(f);
    EXPECT_EQ(tree.find(id), &f);
  }
  EXPECT_EQ(tree.find(id), nullptr);
  EXPECT_EQ(tree.size(), 1u) << "and the parent with it";
}

TEST(Tree, a_detached_inode_lives_while_it_is_used) {
  IdleExecutor executor;
  Tree tree(executor);
  Inode& f = tree.add(tree.root(), "f", {});
  f.handles = 1;
  InodeId id = f.id;
  tree.detach(f);
  EXPECT_FALSE(f.attached());
  Inode& other = tree.add(tree.root(), "f", {});
  EXPECT_NE(other.id, id);
  f.handles = 0;
  tree.drop_if_unused(f);
  EXPECT_EQ(tree.find(id), nullptr);
  EXPECT_EQ(tree.find_path("f"), &other);
}

bool all_alive(const NodeId&) { return true; }

// Nodes 1 to `askers` ask for the chunk, in this order; whom each is sent to.
std::map<uint64_t, std::optional<NodeId>> parents_of(HotChunks& chunks, uint64_t askers,
                                                     uint64_t chunk = 1) {
  std::map<uint64_t, std::optional<NodeId>> parents;
  for (uint64_t i = 1; i <= askers; ++i) {
    parents[i] = chunks.parent_of({{7, 7}, chunk, {0, i}, SteadyTime{}}, all_alive);
  }
  return parents;
}

// The way to the owner, from the deepest node.
size_t depth_of(const std::map<uint64_t, std::optional<NodeId>>& parents) {
  size_t deepest = 0;
  for (const auto& [id, parent] : parents) {
    size_t depth = 1;
    for (auto at = parent; at; at = parents.at(at->low)) {
      if (++depth > parents.size()) return SIZE_MAX;  // a circle
    }
    deepest = std::max(deepest, depth);
  }
  return deepest;
}

TEST(ReadPattern, goes_on_past_what_the_mount_read_by_itself) {
  auto nothing = [](Range) { return false; };
  auto all = [](Range) { return true; };
  ReadPattern pattern{
      .next = 100 * kMiB, .window = 16 * kMiB, .ahead = 112 * kMiB, .grow_at = 104 * kMiB};
  EXPECT_TRUE(pattern.goes_on({100 * kMiB, kMiB}, nothing));
  EXPECT_TRUE(pattern.goes_on({97 * kMiB, kMiB}, nothing)) << "out of order";
  EXPECT_TRUE(pattern.goes_on({108 * kMiB, kMiB}, nothing)) << "asked for already";
  EXPECT_TRUE(pattern.goes_on({200 * kMiB, kMiB}, all)) << "cached before";
  EXPECT_FALSE(pattern.goes_on({200 * kMiB, kMiB}, nothing));
  EXPECT_FALSE(pattern.goes_on({50 * kMiB, kMiB}, all));
  EXPECT_FALSE(pattern.goes_on({0, kMiB}, all));
  // Random so far: no far jump makes it sequential.
  EXPECT_FALSE((ReadPattern{.next = kMiB}.goes_on({9 * kMiB, 4 * kKiB}, all)));
}

TEST(ReadPattern, looks_as_far_ahead_as_it_reads_in_two_seconds) {
  // Reads `rate` bytes a second from the start, until the window stays.
  auto window_at = [](uint64_t rate, uint64_t most) {
    ReadPattern pattern;
    SteadyTime now{};
    Range asked{kMiB, 128 * kKiB};
    for (int i = 0; i < 4000; ++i) {
      if (pattern.window == 0 || asked.end() >= pattern.grow_at) pattern.grow(asked, most, now);
      asked.offset += asked.length;
      now += Duration(static_cast<int64_t>(asked.length * 1'000'000'000 / rate));
    }
    return pattern.window;
  };
  EXPECT_EQ(window_at(1'000 * kMiB, 64 * kMiB), 64 * kMiB);
  EXPECT_NEAR(static_cast<double>(window_at(6 * kMiB, 64 * kMiB)), 12.0 * kMiB, kMiB);
  EXPECT_LE(window_at(kMiB, 64 * kMiB), 8 * kMiB);
  EXPECT_EQ(window_at(1'000 * kMiB, 256 * kKiB), 256 * kKiB);
}

TEST(HotChunks, few_askers_form_a_chain) {
  HotChunks chunks;
  auto parents = parents_of(chunks, HotChunks::kChain);
  EXPECT_FALSE(parents[1]);
  for (uint64_t i = 2; i <= HotChunks::kChain; ++i) EXPECT_EQ(parents[i], (NodeId{0, i - 1}));
  // Asked for another part of the chunk, each is sent the same way.
  EXPECT_EQ(parents_of(chunks, HotChunks::kChain), parents);
}

TEST(HotChunks, many_askers_form_a_tree_that_is_not_deep) {
  HotChunks chunks;
  auto parents = parents_of(chunks, 1000);
  std::map<uint64_t, size_t> children;
  for (const auto& [id, parent] : parents) {
    if (parent) ++children[parent->low];
  }
  EXPECT_LE(depth_of(parents), HotChunks::kChain + 10);
  for (const auto& [id, count] : children) EXPECT_LE(count, HotChunks::kChildren);
}

// In the same order for each chunk: the first would carry all, the last nothing.
TEST(HotChunks, readers_of_an_object_carry_the_same) {
  for (uint64_t nodes : {4, 8, 64}) {
    HotChunks chunks;
    std::map<uint64_t, size_t> children;
    constexpr uint64_t kChunks = 400;
    for (uint64_t chunk = 1; chunk <= kChunks; ++chunk) {
      auto parents = parents_of(chunks, nodes, chunk);
      EXPECT_LE(depth_of(parents), HotChunks::kChain + 3);
      for (const auto& [id, parent] : parents) {
        if (parent) ++children[parent->low];
      }
    }
    for (uint64_t id = 1; id <= nodes; ++id) {
      EXPECT_NEAR(static_cast<double>(children[id]), kChunks, 0.3 * kChunks)
          << id << " of " << nodes;
    }
  }
}

TEST(HotChunks, who_reads_no_more_is_not_expected) {
  HotChunks chunks;
  parents_of(chunks, 2, 1);
  SteadyTime later = SteadyTime{} + HotChunks::kLife + std::chrono::seconds(1);
  for (uint64_t chunk = 2; chunk < 30; ++chunk) {
    EXPECT_FALSE(chunks.parent_of({{7, 7}, chunk, {0, 1}, later}, all_alive)) << chunk;
  }
  // Nor who is somewhere else in the object.
  chunks.parent_of({{7, 7}, 100'000, {0, 2}, later}, all_alive);
  for (uint64_t chunk = 30; chunk < 60; ++chunk) {
    EXPECT_FALSE(chunks.parent_of({{7, 7}, chunk, {0, 1}, later}, all_alive)) << chunk;
  }
}

TEST(HotChunks, nobody_is_sent_to_the_dead) {
  HotChunks chunks;
  parents_of(chunks, 3);
  auto second_is_dead = [](const NodeId& id) { return id.low != 2; };
  EXPECT_FALSE(chunks.parent_of({{7, 7}, 1, {0, 3}, SteadyTime{}}, second_is_dead));
  auto later = chunks.parent_of({{7, 7}, 1, {0, 4}, SteadyTime{}}, second_is_dead);
  EXPECT_EQ(later, (NodeId{0, 3}));
  for (uint64_t chunk = 2; chunk < 50; ++chunk) {
    auto parent = chunks.parent_of({{7, 7}, chunk, {0, 1}, SteadyTime{}}, second_is_dead);
    EXPECT_NE(parent, (NodeId{0, 2}));
  }
}

// Runs what is posted when told to; time stands still but for advance().
class ManualExecutor final : public Executor {
 public:
  SteadyTime now() const override { return now_; }
  WallTime wall_now() const override { return {}; }
  void post(Runnable& item) override { items_.push_back(&item); }
  void post_remote(Runnable& item) override { post(item); }
  bool on_thread() const override { return true; }
  void start_timer(Timer& timer, SteadyTime when) override { timers_.add(timer, when); }
  void stop_timer(Timer& timer) override { timers_.remove(timer); }

  void run() {
    while (!items_.empty()) {
      Runnable* item = items_.front();
      items_.pop_front();
      item->run();
    }
  }
  void advance(Duration by) { now_ += by; }

 private:
  SteadyTime now_{};
  std::deque<Runnable*> items_;
  TimerQueue timers_;
};

// Two copies of 10 bytes are being written, the others wait for their turn; 20 bytes may.
class CopiesThatWait : public testing::Test {
 protected:
  static constexpr uint64_t kBytes = 10;
  struct One {
    explicit One(Executor& executor) : copy(executor) {}
    Copies::Copy copy;
    std::optional<bool> kept;
  };

  void SetUp() override {
    add();
    add();
    ASSERT_EQ(all_[0]->kept, true);
    ASSERT_EQ(all_[1]->kept, true);
  }
  void TearDown() override {
    stop_.request();
    executor_.run();
  }
  One& add() {
    One& one = *all_.emplace_back(std::make_unique<One>(executor_));
    gate_.spawn(wait(copies_, one, Context{kNever, &stop_}));
    executor_.run();
    return one;
  }
  void read(One& one) {
    copies_.was_read(one.copy);
    executor_.run();
  }
  static Task<void> wait(Copies& copies, One& one, Context context) {
    one.kept = co_await copies.turn(one.copy, kBytes, context);
  }

  ManualExecutor executor_;
  Registry registry_;
  Cancel stop_;
  std::vector<std::unique_ptr<One>> all_;
  Copies copies_{executor_, registry_, 2 * kBytes};
  Gate gate_{executor_};
};

TEST_F(CopiesThatWait, have_their_turns_in_order) {
  One& third = add();
  One& fourth = add();
  EXPECT_FALSE(third.kept.has_value());
  copies_.written(all_[0]->copy);
  executor_.run();
  EXPECT_EQ(third.kept, true);
  EXPECT_FALSE(fourth.kept.has_value());
}

TEST_F(CopiesThatWait, are_not_kept_once_read_when_there_are_too_many) {
  One& third = add();
  One& fourth = add();
  read(third);
  EXPECT_FALSE(third.kept.has_value()) << "the disk may still catch up";
  One& fifth = add();
  EXPECT_EQ(third.kept, false);
  EXPECT_TRUE(copies_.dropped(third.copy));
  add();
  EXPECT_FALSE(fourth.kept.has_value()) << "nobody has its bytes yet";
  read(fifth);
  EXPECT_EQ(fifth.kept, false);
}

TEST_F(CopiesThatWait, are_kept_if_somebody_waits_for_them) {
  One& third = add();
  copies_.want(third.copy);
  read(third);
  add();
  add();
  copies_.make_room(1000);
  executor_.run();
  EXPECT_FALSE(third.kept.has_value());
}

TEST_F(CopiesThatWait, make_room_for_what_is_to_be_read) {
  One& third = add();
  One& fourth = add();
  read(fourth);
  copies_.make_room(kBytes);
  executor_.run();
  EXPECT_EQ(fourth.kept, false);
  copies_.make_room(kBytes);
  executor_.run();
  EXPECT_FALSE(third.kept.has_value()) << "its reader may be about to come";
  executor_.advance(std::chrono::seconds(2));
  copies_.make_room(kBytes);
  executor_.run();
  EXPECT_EQ(third.kept, false);
}

}  // namespace
}  // namespace shoal
