// What every Origin does: whole objects, ranges, conditions, metadata, copies.
#include <algorithm>

#include "async/gate.h"
#include "backend.h"
#include "base/object_name.h"

namespace shoal {
namespace {

TEST_P(OriginConformance, probes) {
  Status status = run(origin_->probe(true, {}));
  EXPECT_TRUE(status) << status.error().to_string();
  EXPECT_TRUE(run(origin_->probe(false, {})));
  Result<ListPage> page = run(origin_->list({.prefix = ".shoal/", .recursive = true}, {}));
  ASSERT_TRUE(page) << page.error().to_string();
  EXPECT_TRUE(page->objects.empty()) << "the probe left " << page->objects[0].name;
}

TEST_P(OriginConformance, puts_and_reads_back) {
  std::string text = text_of_size(70'000, 1);
  ObjectInfo info = put("a/b/c.bin", text);
  EXPECT_EQ(get(info), text);
  Result<ObjectInfo> head = run(origin_->head("a/b/c.bin", {}));
  ASSERT_TRUE(head) << head.error().to_string();
  EXPECT_EQ(head->etag, info.etag);
  EXPECT_EQ(head->size, text.size());
  EXPECT_EQ(head->name, "a/b/c.bin");
  auto age = test_shard().wall_now() - head->modified;
  EXPECT_LT(age, std::chrono::minutes(5));
  EXPECT_GT(age, -std::chrono::minutes(5));
}

TEST_P(OriginConformance, has_empty_objects) {
  ObjectInfo info = put("empty", "");
  EXPECT_EQ(get(info), "");
  Result<ObjectInfo> head = run(origin_->head("empty", {}));
  ASSERT_TRUE(head);
  EXPECT_EQ(head->size, 0u);
  EXPECT_EQ(code_of(get(info, 0, 1)), Code::kInvalidArgument);
  put("empty", "");
  EXPECT_EQ(code_of(get(info)), Code::kStale);
}

TEST_P(OriginConformance, says_what_is_not_there) {
  EXPECT_EQ(code_of(run(origin_->head("none", {}))), Code::kNotFound);
  EXPECT_EQ(code_of(run(origin_->head("none/below", {}))), Code::kNotFound);
  ObjectInfo ghost{"none", 4, "0x8D000000000000", {}, {}};
  EXPECT_EQ(code_of(get(ghost)), Code::kStale);
  EXPECT_EQ(code_of(run(origin_->remove("none", Condition::none(), {}))), Code::kNotFound);
  EXPECT_EQ(code_of(run(origin_->set_metadata("none", {}, Condition::none(), {}))),
            Code::kNotFound);
  put("dir/below", "x");
  Result<ObjectInfo> directory = run(origin_->head("dir", {}));
  if (deviates(Deviation::kHeadOfDirectory)) {
    ASSERT_TRUE(directory);
    EXPECT_EQ(directory->metadata.at("hdi_isfolder"), "true");
  } else {
    EXPECT_EQ(code_of(directory), Code::kNotFound);
  }
}

TEST_P(OriginConformance, reads_ranges) {
  std::string text = text_of_size(1'000'003, 2);
  ObjectInfo info = put("ranges", text);
  struct {
    uint64_t offset, length;
  } cases[] = {{0, 1},         {0, 65'536},        {1, 2},        {999'999, 4}, {500'000, 13},
               {1'000'002, 1}, {123'456, 400'000}, {0, 1'000'003}};
  for (auto [offset, length] : cases) {
    EXPECT_EQ(get(info, offset, length), text.substr(offset, length)) << offset;
  }
  EXPECT_EQ(get(info, 1'000'003, 0), "");
  EXPECT_EQ(code_of(get(info, 1'000'003, 1)), Code::kInvalidArgument);
  EXPECT_EQ(code_of(get(info, 1'000'000, 4)), Code::kInvalidArgument);
  EXPECT_EQ(code_of(get(info, 5'000'000, 10)), Code::kInvalidArgument);
}

Task<Status> read_watched(Origin& origin, ObjectInfo info, ByteSpan into,
                          std::vector<uint64_t>& seen) {
  auto progress = [&seen](uint64_t bytes) { seen.push_back(bytes); };
  co_return co_await origin.read(info.name, info.etag, 0, into, progress, {});
}

TEST_P(OriginConformance, tells_progress_that_only_grows) {
  std::string text = text_of_size(9'000'000, 3);
  ObjectInfo info = put("large", text);
  std::string into(text.size(), '?');
  std::vector<uint64_t> seen;
  Status status = run(read_watched(*origin_, info, std::as_writable_bytes(std::span(into)), seen));
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(into, text);
  ASSERT_FALSE(seen.empty());
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), text.size());
}

TEST_P(OriginConformance, never_mixes_versions) {
  ObjectInfo old = put("changing", std::string(100'000, 'a'));
  EXPECT_EQ(get(old, 0, 50'000), std::string(50'000, 'a'));
  ObjectInfo now = put("changing", std::string(100'000, 'b'));
  EXPECT_NE(old.etag, now.etag);
  EXPECT_EQ(code_of(get(old, 50'000, 50'000)), Code::kStale);
  EXPECT_EQ(get(now, 50'000, 50'000), std::string(50'000, 'b'));
  ASSERT_TRUE(run(origin_->remove("changing", Condition::none(), {})));
  EXPECT_EQ(code_of(get(now, 0, 10)), Code::kStale);
}

TEST_P(OriginConformance, gives_each_write_another_etag) {
  std::vector<std::string> etags;
  for (int i = 0; i < 12; ++i) etags.push_back(put("again", "same").etag);
  std::sort(etags.begin(), etags.end());
  EXPECT_EQ(std::unique(etags.begin(), etags.end()), etags.end());
}

TEST_P(OriginConformance, creates_once) {
  PutOptions absent{Condition::absent(), {}};
  ObjectInfo first = put("once", "one", absent);
  EXPECT_EQ(code_of(run(origin_->put("once", as_bytes("two"), absent, {}))), Code::kAlreadyExists);
  EXPECT_EQ(get(first), "one");
}

TEST_P(OriginConformance, swaps_by_etag) {
  ObjectInfo one = put("swap", "one");
  ObjectInfo two = put("swap", "two", {Condition::match(one.etag), {}});
  PutOptions stale{Condition::match(one.etag), {}};
  EXPECT_EQ(code_of(run(origin_->put("swap", as_bytes("three"), stale, {}))), Code::kConflict);
  EXPECT_EQ(get(two), "two");
  EXPECT_EQ(code_of(run(origin_->put("nothing", as_bytes("x"), stale, {}))), Code::kConflict);
  EXPECT_EQ(code_of(run(origin_->remove("swap", Condition::match(one.etag), {}))), Code::kConflict);
  EXPECT_TRUE(run(origin_->remove("swap", Condition::match(two.etag), {})));
  EXPECT_EQ(code_of(run(origin_->head("swap", {}))), Code::kNotFound);
}

TEST_P(OriginConformance, keeps_metadata) {
  Metadata metadata = {{"shoalwriteid", "00ff"},
                       {"mode", "0644"},
                       {"odd", "a b;c=d,e\"f%20~'<>&"},
                       {"hdi_other", "x"}};
  ObjectInfo info = put("meta", "body", {Condition::none(), metadata});
  EXPECT_EQ(info.metadata, metadata);
  Result<ObjectInfo> head = run(origin_->head("meta", {}));
  ASSERT_TRUE(head);
  EXPECT_EQ(head->metadata, metadata);
  Result<ListPage> page = run(origin_->list({}, {}));
  ASSERT_TRUE(page);
  ASSERT_EQ(page->objects.size(), 1u);
  EXPECT_EQ(page->objects[0].metadata, metadata);
  put("meta", "body");
  EXPECT_TRUE(run(origin_->head("meta", {}))->metadata.empty());
}

TEST_P(OriginConformance, changes_metadata_without_the_content) {
  ObjectInfo info = put("meta", "body", {Condition::none(), {{"one", "1"}}});
  Result<ObjectInfo> changed =
      run(origin_->set_metadata("meta", {{"two", "2"}}, Condition::match(info.etag), {}));
  ASSERT_TRUE(changed) << changed.error().to_string();
  EXPECT_NE(changed->etag, info.etag);
  EXPECT_EQ(changed->size, 4u);
  EXPECT_EQ(changed->metadata, (Metadata{{"two", "2"}}));
  EXPECT_EQ(code_of(run(origin_->set_metadata("meta", {}, Condition::match(info.etag), {}))),
            Code::kConflict);
  Result<ObjectInfo> head = run(origin_->head("meta", {}));
  ASSERT_TRUE(head);
  EXPECT_EQ(head->etag, changed->etag);
  EXPECT_EQ(get(*changed), "body");
  EXPECT_EQ(code_of(get(info)), Code::kStale);
  ASSERT_TRUE(run(origin_->set_metadata("meta", {}, Condition::none(), {})));
  EXPECT_TRUE(run(origin_->head("meta", {}))->metadata.empty());
}

TEST_P(OriginConformance, copies) {
  std::string text = text_of_size(300'000, 4);
  ObjectInfo from = put("from", text, {Condition::none(), {{"k", "v"}}});
  Result<ObjectInfo> to = run(origin_->copy("from", from.etag, "new/to", {}, {}));
  ASSERT_TRUE(to) << to.error().to_string();
  EXPECT_EQ(to->name, "new/to");
  EXPECT_EQ(to->metadata, from.metadata);
  EXPECT_EQ(get(*to), text);
  EXPECT_EQ(run(origin_->head("new/to", {}))->etag, to->etag);
  // Other metadata, onto something that exists.
  PutOptions options = named(Condition::match(to->etag), {{"other", "w"}});
  Result<ObjectInfo> again = run(origin_->copy("from", from.etag, "new/to", options, {}));
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_EQ(again->metadata, options.metadata);
}

TEST_P(OriginConformance, copies_only_what_was_meant) {
  ObjectInfo from = put("from", "one");
  ObjectInfo to = put("to", "two");
  EXPECT_EQ(code_of(run(origin_->copy("gone", from.etag, "x", {}, {}))), Code::kNotFound);
  EXPECT_EQ(code_of(run(origin_->copy("from", to.etag, "x", {}, {}))), Code::kConflict);
  PutOptions absent{Condition::absent(), {}};
  EXPECT_EQ(code_of(run(origin_->copy("from", from.etag, "to", absent, {}))), Code::kAlreadyExists);
  PutOptions stale{Condition::match(from.etag), {}};
  EXPECT_EQ(code_of(run(origin_->copy("from", from.etag, "to", stale, {}))), Code::kConflict);
  EXPECT_EQ(get(to), "two");
  EXPECT_EQ(code_of(run(origin_->head("x", {}))), Code::kNotFound);
}

Task<Status> create(Origin& origin, int writer, int& won) {
  std::string text = std::to_string(writer);
  Result<ObjectInfo> info = co_await origin.put(
      "race", as_bytes(text), {Condition::absent(), {{"shoalwriteid", text}}}, {});
  if (info) ++won;
  if (!info && info.error().code() != Code::kAlreadyExists) co_return fail(info.error());
  co_return Status();
}
Task<Status> race_to_create(Executor& executor, Origin& a, Origin& b, int& won) {
  std::vector<Task<Status>> tasks;
  for (int i = 0; i < 12; ++i) tasks.push_back(create(i % 2 ? a : b, i, won));
  co_return co_await run_all(executor, std::move(tasks), 12);
}

TEST_P(OriginConformance, lets_one_creator_win) {
  auto other = make();
  int won = 0;
  Status status = run(race_to_create(test_shard(), *origin_, *other, won));
  EXPECT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(won, 1);
}

Task<Status> add_one(Origin& origin, int writer) {
  while (true) {
    Result<ObjectInfo> info = co_await origin.head("counter", {});
    if (!info) co_return fail(info.error());
    std::string text(info->size, ' ');
    Status read = co_await origin.read("counter", info->etag, 0,
                                       std::as_writable_bytes(std::span(text)), {}, {});
    if (!read && read.error().code() == Code::kStale) continue;
    if (!read) co_return read;
    text = std::to_string(std::stoi(text) + 1);
    // Unique among the writers: the version it was made from, and who made it.
    std::string id = info->etag + "-" + std::to_string(writer);
    PutOptions options{Condition::match(info->etag), {{"shoalwriteid", id}}};
    Result<ObjectInfo> written = co_await origin.put("counter", as_bytes(text), options, {});
    if (written) co_return Status();
    if (written.error().code() != Code::kConflict) co_return fail(written.error());
  }
}
Task<Status> add_many(Executor& executor, Origin& a, Origin& b) {
  std::vector<Task<Status>> tasks;
  for (int i = 0; i < 20; ++i) tasks.push_back(add_one(i % 2 ? a : b, i));
  co_return co_await run_all(executor, std::move(tasks), 4);
}

TEST_P(OriginConformance, loses_no_update) {
  put("counter", "0");
  auto other = make();
  Status status = run(add_many(test_shard(), *origin_, *other));
  ASSERT_TRUE(status) << status.error().to_string();
  Result<ObjectInfo> info = run(origin_->head("counter", {}));
  ASSERT_TRUE(info);
  Result<std::string> text = get(*info);
  ASSERT_TRUE(text);
  // A write whose answer was lost and that somebody else then replaced looks like a lost race: its
  // writer adds once more. Nobody can tell; but none is lost.
  if (deviates(Deviation::kHasFaults)) {
    EXPECT_GE(std::stoi(*text), 20);
  } else {
    EXPECT_EQ(*text, "20");
  }
}

Task<Status> head_too_late(Origin& origin, Executor& executor) {
  Context late{executor.now(), nullptr};
  Result<ObjectInfo> info = co_await origin.head("x", late);
  if (info) co_return Status();
  co_return fail(info.error());
}

TEST_P(OriginConformance, keeps_deadlines) {
  EXPECT_EQ(code_of(run(head_too_late(*origin_, test_shard()))), Code::kDeadlineExceeded);
}

TEST_P(OriginConformance, refuses_impossible_names) {
  std::string long_name(1025, 'x');
  for (const std::string& bad : {std::string(), long_name}) {
    EXPECT_FALSE(run(origin_->head(bad, {})));
    EXPECT_FALSE(run(origin_->put(bad, as_bytes("x"), {}, {})));
  }
}

TEST_P(OriginConformance, counts) {
  OriginMetrics metrics(registry_);
  ObjectInfo info = put("counted", "12345");
  ASSERT_EQ(get(info), "12345");
  EXPECT_EQ(metrics.writes.value(), 1u);
  EXPECT_EQ(metrics.bytes_written.value(), 5u);
  EXPECT_EQ(metrics.reads.value(), 1u);
  EXPECT_EQ(metrics.bytes_read.value(), 5u);
  if (!deviates(Deviation::kHasFaults)) EXPECT_EQ(metrics.errors.value(), 0u);
}

std::string other_key() { return base64_encode(std::string(64, 'k')); }

TEST_P(OriginConformance, explains_bad_credentials_and_containers) {
  if (GetParam() == BackendKind::kDirectory) GTEST_SKIP() << "a directory has no credentials";
  OriginConfig config;
  config.location = location_;
  config.azure.account = kEmulatorAccount;
  config.azure.credentials.account_key = other_key();
  auto origin = make_origin(config, test_shard().world(), registry_, log_);
  ASSERT_TRUE(origin);
  Status status = run((*origin)->probe(true, {}));
  bool forbidden = deviates(Deviation::kWrongKeyIsForbidden);
  ASSERT_EQ(code_of(status), forbidden ? Code::kPermissionDenied : Code::kUnauthenticated)
      << status.error().to_string();
  std::string advice = forbidden ? "use other credentials" : "AZURE_STORAGE_KEY";
  EXPECT_NE(status.error().message().find(advice), std::string::npos) << status.error().message();
  EXPECT_EQ(status.error().message().find(other_key()), std::string::npos);

  OriginConfig missing;
  missing.location = backend(GetParam()).location + "-missing";
  auto nowhere = make_origin(missing, test_shard().world(), registry_, log_);
  ASSERT_TRUE(nowhere);
  status = run((*nowhere)->probe(false, {}));
  ASSERT_EQ(code_of(status), Code::kNotFound) << status.error().to_string();
  EXPECT_NE(status.error().message().find("container create"), std::string::npos)
      << status.error().message();
  PutOptions options;
  EXPECT_EQ(code_of(run((*nowhere)->put("x", as_bytes("x"), options, {}))), Code::kNotFound);
}

INSTANTIATE_TEST_SUITE_P(directory, OriginConformance, testing::Values(BackendKind::kDirectory));
INSTANTIATE_TEST_SUITE_P(azurite, OriginConformance, testing::Values(BackendKind::kAzurite));
INSTANTIATE_TEST_SUITE_P(stub, OriginConformance, testing::Values(BackendKind::kStub));
INSTANTIATE_TEST_SUITE_P(faulty, OriginConformance, testing::Values(BackendKind::kFaultyStub));

}  // namespace
}  // namespace shoal
