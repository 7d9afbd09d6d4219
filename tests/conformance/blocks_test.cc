// Staged blocks and their commit, for every Origin.
#include <fmt/format.h>

#include <algorithm>

#include "async/gate.h"
#include "backend.h"
#include "base/hash.h"

namespace shoal {
namespace {

// As the uploader makes them: 8 digits of index, 32 of hash.
std::string block_id(size_t index, std::string_view content) {
  return fmt::format("{:08x}{}", index, hash_string(content).to_hex());
}

struct Block {
  std::string content;
  uint64_t offset = 0;
  BlockInfo info;
};

// Cuts `text` into blocks of `size` bytes.
std::vector<Block> cut(std::string_view text, size_t size) {
  std::vector<Block> blocks;
  for (size_t offset = 0; offset < text.size(); offset += size) {
    std::string content(text.substr(offset, size));
    BlockInfo info{block_id(blocks.size(), content), content.size()};
    blocks.push_back({std::move(content), offset, std::move(info)});
  }
  return blocks;
}
std::vector<BlockInfo> infos(const std::vector<Block>& blocks) {
  std::vector<BlockInfo> out;
  for (const Block& block : blocks) out.push_back(block.info);
  return out;
}

Task<Status> stage_all(Executor& executor, Origin& origin, const std::string& object,
                       const std::vector<Block>& blocks) {
  std::vector<Task<Status>> tasks;
  for (const Block& block : blocks) {
    tasks.push_back(
        origin.put_block(object, block.info.id, block.offset, as_bytes(block.content), {}));
  }
  co_return co_await run_all(executor, std::move(tasks), 16);
}

class OriginBlocks : public OriginConformance {
 protected:
  void stage(Origin& origin, const std::string& object, const std::vector<Block>& blocks) {
    Status status = run(stage_all(test_shard(), origin, object, blocks));
    ASSERT_TRUE(status) << status.error().to_string();
  }
  Result<ObjectInfo> commit(Origin& origin, const std::string& object,
                            std::vector<BlockInfo> blocks,
                            Condition condition = Condition::none()) {
    return run(origin.commit_blocks(object, std::move(blocks), named(std::move(condition)), {}));
  }
  std::vector<std::string> staged_ids(const std::string& object) {
    Result<std::vector<BlockInfo>> blocks = run(origin_->staged_blocks(object, {}));
    if (!blocks) {
      ADD_FAILURE() << blocks.error().to_string();
      return {};
    }
    std::vector<std::string> ids;
    for (const BlockInfo& block : *blocks) ids.push_back(block.id);
    std::sort(ids.begin(), ids.end());
    return ids;
  }
};

TEST_P(OriginBlocks, stay_invisible_until_they_are_committed) {
  std::string text = text_of_size(250'000, 10);
  std::vector<Block> blocks = cut(text, 100'000);
  stage(*origin_, "new/object", blocks);
  EXPECT_EQ(code_of(run(origin_->head("new/object", {}))), Code::kNotFound);
  Result<ListPage> page = run(origin_->list({.recursive = true}, {}));
  ASSERT_TRUE(page);
  EXPECT_TRUE(page->objects.empty());
  Result<std::vector<BlockInfo>> staged = run(origin_->staged_blocks("new/object", {}));
  ASSERT_TRUE(staged) << staged.error().to_string();
  ASSERT_EQ(staged->size(), 3u);
  for (const Block& block : blocks) {
    auto found = std::find_if(staged->begin(), staged->end(),
                              [&](const BlockInfo& info) { return info.id == block.info.id; });
    ASSERT_NE(found, staged->end());
    EXPECT_EQ(found->size, block.info.size);
  }

  PutOptions options{Condition::absent(), {{"shoalwriteid", "abc"}}};
  Result<ObjectInfo> info = run(origin_->commit_blocks("new/object", infos(blocks), options, {}));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->size, text.size());
  EXPECT_EQ(info->metadata, options.metadata);
  EXPECT_EQ(get(*info), text);
  Result<ObjectInfo> head = run(origin_->head("new/object", {}));
  ASSERT_TRUE(head);
  EXPECT_EQ(head->etag, info->etag);
  EXPECT_EQ(head->metadata, options.metadata);
  EXPECT_TRUE(staged_ids("new/object").empty());
}

TEST_P(OriginBlocks, of_nothing_are_none) {
  EXPECT_TRUE(staged_ids("never").empty());
  put("exists", "x");
  EXPECT_TRUE(staged_ids("exists").empty());
}

TEST_P(OriginBlocks, are_put_together_in_the_order_of_the_list) {
  std::vector<Block> blocks = cut("aaaabbbbccccdd", 4);
  stage(*origin_, "order", blocks);
  std::vector<BlockInfo> order = {blocks[2].info, blocks[0].info, blocks[3].info};
  Result<ObjectInfo> info = commit(*origin_, "order", order);
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(get(*info), "ccccaaaadd");
}

TEST_P(OriginBlocks, that_are_missing_are_said) {
  std::vector<Block> blocks = cut("aaaabbbbcccc", 4);
  stage(*origin_, "partial", {blocks[0], blocks[2]});
  Result<ObjectInfo> info = commit(*origin_, "partial", infos(blocks));
  ASSERT_EQ(code_of(info), Code::kNotFound);
  EXPECT_NE(info.error().message().find("blocks"), std::string::npos) << info.error().message();
  EXPECT_EQ(code_of(run(origin_->head("partial", {}))), Code::kNotFound);
  // What was staged is still there; the rest is enough.
  EXPECT_EQ(staged_ids("partial").size(), 2u);
  stage(*origin_, "partial", {blocks[1]});
  info = commit(*origin_, "partial", infos(blocks));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(get(*info), "aaaabbbbcccc");
  // The commit used them up, those it did not name too.
  info = commit(*origin_, "elsewhere", infos(blocks));
  EXPECT_EQ(code_of(info), Code::kNotFound);
}

TEST_P(OriginBlocks, survive_their_writer) {
  std::string text = text_of_size(40'000, 11);
  std::vector<Block> blocks = cut(text, 10'000);
  stage(*origin_, "resume", {blocks[0], blocks[1]});
  origin_ = make();
  EXPECT_EQ(staged_ids("resume"), (std::vector<std::string>{blocks[0].info.id, blocks[1].info.id}));
  stage(*origin_, "resume", {blocks[2], blocks[3]});
  Result<ObjectInfo> info = commit(*origin_, "resume", infos(blocks));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(get(*info), text);
}

TEST_P(OriginBlocks, of_several_nodes_make_one_object) {
  std::string text = text_of_size(100'000, 12);
  std::vector<Block> blocks = cut(text, 9'000);
  auto other = make();
  std::vector<Block> ours;
  std::vector<Block> theirs;
  for (size_t i = 0; i < blocks.size(); ++i) (i % 2 ? ours : theirs).push_back(blocks[i]);
  theirs.push_back(blocks[1]);  // one of them twice
  stage(*origin_, "joint", ours);
  stage(*other, "joint", theirs);
  Result<ObjectInfo> info = commit(*origin_, "joint", infos(blocks));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(get(*info), text);
}

TEST_P(OriginBlocks, of_two_versions_never_mix) {
  std::string one(60'000, '1');
  std::string two = text_of_size(61'000, 13);
  std::vector<Block> first = cut(one, 20'000);
  std::vector<Block> second = cut(two, 20'000);
  auto other = make();
  stage(*origin_, "mixed", first);
  stage(*origin_, "mixed", second);
  stage(*other, "mixed", second);
  Result<ObjectInfo> info = commit(*origin_, "mixed", infos(first));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(get(*info), one);
  // The losers' blocks are gone: they stage again.
  EXPECT_EQ(code_of(commit(*other, "mixed", infos(second))), Code::kNotFound);
  stage(*other, "mixed", second);
  Result<ObjectInfo> later = commit(*other, "mixed", infos(second), Condition::match(info->etag));
  ASSERT_TRUE(later) << later.error().to_string();
  EXPECT_EQ(get(*later), two);
  EXPECT_EQ(code_of(get(*info)), Code::kStale);
}

TEST_P(OriginBlocks, are_committed_under_conditions) {
  ObjectInfo old = put("cond", "old");
  std::vector<Block> blocks = cut("new content", 4);
  stage(*origin_, "cond", blocks);
  PutOptions absent{Condition::absent(), {}};
  EXPECT_EQ(code_of(run(origin_->commit_blocks("cond", infos(blocks), absent, {}))),
            Code::kAlreadyExists);
  ObjectInfo newer = put("other", "x");
  PutOptions wrong{Condition::match(newer.etag), {}};
  EXPECT_EQ(code_of(run(origin_->commit_blocks("cond", infos(blocks), wrong, {}))),
            Code::kConflict);
  EXPECT_EQ(get(old), "old");
  EXPECT_EQ(staged_ids("cond").size(), blocks.size()) << "a refused commit keeps the blocks";
  Result<ObjectInfo> info = commit(*origin_, "cond", infos(blocks), Condition::match(old.etag));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(get(*info), "new content");
}

TEST_P(OriginBlocks, may_be_none) {
  Result<ObjectInfo> info = commit(*origin_, "nothing", {});
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->size, 0u);
  EXPECT_EQ(get(*info), "");
}

TEST_P(OriginBlocks, may_be_many) {
  std::string text = text_of_size(16'000, 14);
  std::vector<Block> blocks = cut(text, 16);
  ASSERT_EQ(blocks.size(), 1000u);
  stage(*origin_, "many", blocks);
  EXPECT_EQ(staged_ids("many").size(), 1000u);
  Result<ObjectInfo> info = commit(*origin_, "many", infos(blocks));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(get(*info), text);
}

TEST_P(OriginBlocks, refuse_nonsense) {
  PutOptions options;
  EXPECT_FALSE(run(origin_->put_block("x", "", 0, as_bytes("x"), {})));
  EXPECT_FALSE(run(origin_->put_block("x", std::string(65, 'a'), 0, as_bytes("x"), {})));
  EXPECT_FALSE(run(origin_->put_block("x", "abc", 0, {}, {})));
}

INSTANTIATE_TEST_SUITE_P(directory, OriginBlocks, testing::Values(BackendKind::kDirectory));
INSTANTIATE_TEST_SUITE_P(azurite, OriginBlocks, testing::Values(BackendKind::kAzurite));
INSTANTIATE_TEST_SUITE_P(stub, OriginBlocks, testing::Values(BackendKind::kStub));
INSTANTIATE_TEST_SUITE_P(faulty, OriginBlocks, testing::Values(BackendKind::kFaultyStub));

}  // namespace
}  // namespace shoal
