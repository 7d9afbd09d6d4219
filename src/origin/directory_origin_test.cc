// What only a directory origin does; the rest is in tests/conformance. On the real disk.
#include "origin/directory_origin.h"

#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "world_linux/shard.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

class DirectoryTest : public testing::Test {
 protected:
  DirectoryTest() {
    std::string pattern = (fs::current_path() / "origin_XXXXXX").string();
    SHOAL_ASSERT(mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
    auto shard = Shard::start({});
    SHOAL_ASSERT(shard.has_value(), "no shard");
    shard_ = std::move(*shard);
    origin_ = make();
  }
  ~DirectoryTest() override {
    origin_.reset();
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  std::unique_ptr<DirectoryOrigin> make() {
    return std::make_unique<DirectoryOrigin>(root_, shard_->world(), registry_, log_);
  }
  template <typename T>
  T run(Task<T> task) {
    return run_blocking(*shard_, std::move(task));
  }
  ObjectInfo put(const std::string& object, std::string_view text, PutOptions options = {}) {
    Result<ObjectInfo> info = run(origin_->put(object, as_bytes(text), std::move(options), {}));
    if (!info) ADD_FAILURE() << info.error().to_string();
    return info ? *info : ObjectInfo{};
  }
  Result<std::string> get(const ObjectInfo& info) {
    std::string into(info.size, '?');
    Status status = run(
        origin_->read(info.name, info.etag, 0, std::as_writable_bytes(std::span(into)), {}, {}));
    if (!status) return fail(std::move(status).error());
    return into;
  }
  std::string path(std::string_view object) const { return root_ + "/" + std::string(object); }
  std::string content(std::string_view object) const {
    std::ifstream in(path(object), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write_outside(std::string_view object, std::string_view text) const {
    fs::create_directories(fs::path(path(object)).parent_path());
    std::ofstream(path(object), std::ios::binary) << text;
  }
  // Files below .shoal/.directory, but for the lock.
  size_t leftovers() const {
    size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(path(".shoal/.directory"))) {
      count += entry.is_regular_file() && entry.path().filename() != "lock";
    }
    return count;
  }

  std::string root_;
  Registry registry_;
  Log log_;
  std::unique_ptr<Shard> shard_;
  std::unique_ptr<DirectoryOrigin> origin_;
};

const PutOptions kFolder{Condition::none(), {{"hdi_isfolder", "true"}}};

TEST_F(DirectoryTest, objects_are_plain_files) {
  put("a/b", "hello", {Condition::none(), {{"k", "v"}}});
  EXPECT_EQ(content("a/b"), "hello");
  EXPECT_EQ(leftovers(), 1u) << "the metadata, and nothing else";
  put("a/b", "hello");
  EXPECT_EQ(leftovers(), 0u);
}

TEST_F(DirectoryTest, sees_what_other_tools_do) {
  write_outside("x/y", "one");
  Result<ObjectInfo> info = run(origin_->head("x/y", {}));
  ASSERT_TRUE(info);
  EXPECT_EQ(get(*info), "one");
  ASSERT_TRUE(run(origin_->set_metadata("x/y", {{"k", "v"}}, Condition::match(info->etag), {})));
  info = run(origin_->head("x/y", {}));
  fs::remove(path("x/y"));
  write_outside("x/y", "two");
  EXPECT_EQ(get(*info).error().code(), Code::kStale);
  Result<ObjectInfo> now = run(origin_->head("x/y", {}));
  ASSERT_TRUE(now);
  EXPECT_NE(now->etag, info->etag);
  EXPECT_TRUE(now->metadata.empty()) << "a stranger's metadata";
  // Changed in place.
  {
    std::ofstream(path("x/y"), std::ios::app) << "more";
  }
  EXPECT_EQ(get(*now).error().code(), Code::kStale);
}

TEST_F(DirectoryTest, has_directories_of_their_own) {
  ASSERT_TRUE(run(origin_->put("d/e", {}, kFolder, {})));
  EXPECT_TRUE(fs::is_directory(path("d/e")));
  Result<ListPage> page = run(origin_->list({.prefix = "d/"}, {}));
  ASSERT_TRUE(page);
  EXPECT_EQ(page->prefixes, std::vector<std::string>{"d/e/"});
  page = run(origin_->list({.recursive = true}, {}));
  ASSERT_TRUE(page);
  EXPECT_EQ(page->prefixes, std::vector<std::string>{"d/e/"}) << "empty, and still seen";
  Result<ObjectInfo> info = run(origin_->head("d/e", {}));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->metadata.at("hdi_isfolder"), "true");
  PutOptions absent = kFolder;
  absent.condition = Condition::absent();
  EXPECT_EQ(run(origin_->put("d/e", {}, absent, {})).error().code(), Code::kAlreadyExists);
  // Attributes survive what happens inside.
  Metadata attributes = {{"hdi_isfolder", "true"}, {"mode", "0700"}};
  ASSERT_TRUE(run(origin_->set_metadata("d/e", attributes, Condition::none(), {})));
  put("d/e/file", "x");
  EXPECT_EQ(run(origin_->head("d/e", {}))->metadata, attributes);

  EXPECT_EQ(run(origin_->remove("d/e", Condition::none(), {})).error().code(), Code::kNotEmpty);
  ASSERT_TRUE(run(origin_->remove("d/e/file", Condition::none(), {})));
  ASSERT_TRUE(run(origin_->remove("d/e", Condition::none(), {})));
  EXPECT_FALSE(fs::exists(path("d/e")));
  EXPECT_EQ(leftovers(), 0u);
}

TEST_F(DirectoryTest, files_and_directories_exclude_each_other) {
  put("file", "x");
  PutOptions options;
  EXPECT_EQ(run(origin_->put("file/below", as_bytes("x"), options, {})).error().code(),
            Code::kNotDirectory);
  EXPECT_EQ(run(origin_->put("file", {}, kFolder, {})).error().code(), Code::kNotDirectory);
  ASSERT_TRUE(run(origin_->put("dir", {}, kFolder, {})));
  EXPECT_EQ(run(origin_->put("dir", as_bytes("x"), options, {})).error().code(),
            Code::kIsDirectory);
  EXPECT_EQ(run(origin_->put_block("file/below", "id", 0, as_bytes("x"), {})).has_value(), true);
  EXPECT_EQ(run(origin_->commit_blocks("file/below", {{"id", 1}}, {}, {})).error().code(),
            Code::kNotDirectory);
}

TEST_F(DirectoryTest, renames_with_metadata) {
  ObjectInfo a = put("from/a", "one", {Condition::none(), {{"k", "a"}}});
  put("from/deep/b", "two", {Condition::none(), {{"k", "b"}}});
  ASSERT_TRUE(run(origin_->rename("from", "new/to", {})));
  EXPECT_EQ(run(origin_->head("from/a", {})).error().code(), Code::kNotFound);
  EXPECT_EQ(run(origin_->head("new/to/a", {}))->metadata.at("k"), "a");
  EXPECT_EQ(run(origin_->head("new/to/deep/b", {}))->metadata.at("k"), "b");
  ASSERT_TRUE(run(origin_->rename("new/to/a", "new/to/deep/b", {})));
  EXPECT_EQ(run(origin_->head("new/to/deep/b", {}))->metadata.at("k"), "a");
  EXPECT_EQ(content("new/to/deep/b"), "one");
  EXPECT_EQ(leftovers(), 1u) << "the replaced file's metadata stayed";
  EXPECT_EQ(run(origin_->rename("none", "x", {})).error().code(), Code::kNotFound);
  EXPECT_EQ(run(origin_->rename("new", "new/to/below", {})).error().code(), Code::kInvalidArgument);
}

TEST_F(DirectoryTest, serves_no_links_and_no_special_files) {
  write_outside("real", "x");
  fs::create_symlink(path("real"), path("link"));
  fs::create_directory_symlink("/etc", path("etc"));
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  Result<ListPage> page = run(origin_->list({.recursive = true}, {}));
  ASSERT_TRUE(page);
  ASSERT_EQ(page->objects.size(), 1u);
  EXPECT_EQ(page->objects[0].name, "real");
  EXPECT_TRUE(page->prefixes.empty());
  for (const char* name : {"link", "etc", "pipe"}) {
    EXPECT_EQ(run(origin_->head(name, {})).error().code(), Code::kNotFound) << name;
  }
  PutOptions options;
  EXPECT_FALSE(run(origin_->put("link", as_bytes("overwritten"), options, {})));
  fs::create_directory(path("target"));
  fs::create_directory_symlink(path("target"), path("linked"));
  EXPECT_EQ(run(origin_->put("linked/x", as_bytes("x"), options, {})).error().code(),
            Code::kNotSupported);
  EXPECT_TRUE(fs::is_empty(path("target")));
  EXPECT_EQ(content("real"), "x");
}

TEST_F(DirectoryTest, works_through_a_link_to_its_root) {
  std::string link = root_ + "-link";
  fs::create_directory_symlink(root_, link);
  DirectoryOrigin origin(link, shard_->world(), registry_, log_);
  Status probed = run(origin.probe(true, {}));
  EXPECT_TRUE(probed) << probed.error().to_string();
  EXPECT_TRUE(run(origin.put("x", as_bytes("y"), {}, {})));
  EXPECT_EQ(content("x"), "y");
  EXPECT_EQ(run(origin.list({}, {}))->objects.size(), 1u);
  fs::remove(link);
}

TEST_F(DirectoryTest, explains_what_is_wrong_with_its_root) {
  DirectoryOrigin missing(root_ + "/none", shard_->world(), registry_, log_);
  Status status = run(missing.probe(true, {}));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kNotFound);
  EXPECT_NE(status.error().message().find("create it"), std::string::npos);
  write_outside("file", "x");
  DirectoryOrigin file(root_ + "/file", shard_->world(), registry_, log_);
  EXPECT_EQ(run(file.probe(false, {})).error().code(), Code::kNotDirectory);
  EXPECT_EQ(run(origin_->probe(false, {})).has_value(), true);
  EXPECT_FALSE(fs::exists(path(".shoal"))) << "reading leaves no trace";
}

Task<Result<ObjectInfo>> put_within(Origin& origin, Executor& executor, Duration limit) {
  co_return co_await origin.put("x", as_bytes("y"), {}, Context::within(executor, limit));
}

TEST_F(DirectoryTest, waits_for_the_lock_until_the_deadline) {
  ASSERT_TRUE(run(origin_->probe(true, {})));
  int held = open(path(".shoal/.directory/lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(held, 0);
  ASSERT_EQ(flock(held, LOCK_EX), 0);
  Result<ObjectInfo> info = run(put_within(*origin_, *shard_, std::chrono::milliseconds(100)));
  ASSERT_FALSE(info);
  EXPECT_EQ(info.error().code(), Code::kBusy) << info.error().to_string();
  EXPECT_EQ(leftovers(), 0u) << "the temporary file stayed";
  close(held);
  EXPECT_TRUE(run(put_within(*origin_, *shard_, std::chrono::seconds(20))));
}

TEST_F(DirectoryTest, makes_the_object_of_the_staged_file_itself) {
  std::string text(3 * kMiB, 'x');
  ASSERT_TRUE(run(origin_->put_block("big", "id-0", 0, as_bytes(text), {})));
  ASSERT_TRUE(run(origin_->put_block("big", "id-1", text.size(), as_bytes("tail"), {})));
  ASSERT_TRUE(run(origin_->put_block("big", "id-2", text.size() + 4, as_bytes("unused"), {})));
  ino_t staged = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path(".shoal/.directory/uploads"))) {
    struct stat about{};
    if (entry.is_regular_file() && entry.file_size() > 0) {
      ASSERT_EQ(stat(entry.path().c_str(), &about), 0);
      staged = about.st_ino;
    }
  }
  std::vector<BlockInfo> blocks = {{"id-0", text.size()}, {"id-1", 4}};
  Result<ObjectInfo> info = run(origin_->commit_blocks("big", blocks, {}, {}));
  ASSERT_TRUE(info) << info.error().to_string();
  struct stat about{};
  ASSERT_EQ(stat(path("big").c_str(), &about), 0);
  EXPECT_EQ(about.st_ino, staged) << "it was copied";
  EXPECT_EQ(get(*info), text + "tail");
  EXPECT_EQ(leftovers(), 0u);
}

TEST_F(DirectoryTest, ignores_markers_without_bytes) {
  ASSERT_TRUE(run(origin_->put_block("cut", "id-0", 0, as_bytes("aaaa"), {})));
  ASSERT_TRUE(run(origin_->put_block("cut", "id-1", 4, as_bytes("bbbb"), {})));
  for (const auto& entry : fs::recursive_directory_iterator(path(".shoal/.directory/uploads"))) {
    if (entry.is_regular_file() && entry.file_size() > 0) fs::resize_file(entry.path(), 6);
  }
  origin_ = make();  // as after a crash
  Result<std::vector<BlockInfo>> staged = run(origin_->staged_blocks("cut", {}));
  ASSERT_TRUE(staged);
  ASSERT_EQ(staged->size(), 1u);
  EXPECT_EQ((*staged)[0].id, "id-0");
}

TEST_F(DirectoryTest, survives_damaged_metadata) {
  ObjectInfo info = put("a", "text", {Condition::none(), {{"k", "v"}}});
  for (const auto& entry : fs::recursive_directory_iterator(path(".shoal/.directory/meta"))) {
    if (entry.is_regular_file()) fs::resize_file(entry.path(), 20);
  }
  Result<ObjectInfo> now = run(origin_->head("a", {}));
  ASSERT_TRUE(now) << now.error().to_string();
  EXPECT_TRUE(now->metadata.empty());
  EXPECT_NE(now->etag, info.etag);
  EXPECT_EQ(get(*now), "text");
}

}  // namespace
}  // namespace shoal
