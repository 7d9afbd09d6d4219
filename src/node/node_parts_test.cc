#include <gtest/gtest.h>

#include <deque>

#include "async/timer_queue.h"
#include "node/attributes.h"
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

}  // namespace
}  // namespace shoal
