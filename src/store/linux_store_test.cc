// The store on the real disk: io_uring, real descriptors, and what it costs.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/checksum.h"
#include "store/store.h"
#include "world_linux/shard.h"

namespace shoal {
namespace {

class LinuxStore : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::current_path() / "store_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
    auto shard = Shard::start({});
    if (!shard) GTEST_SKIP() << "no io_uring here: " << shard.error().to_string();
    shard_ = std::move(*shard);
    options_.directory = directory_ + "/cache";
    options_.identity = "dir:/data";
    options_.capacity = kGiB;
    options_.memory = kMiB;
    options_.disk_reserve = 0;
  }
  void TearDown() override {
    if (store_) EXPECT_TRUE(close());
    shard_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  template <typename T>
  T run(Task<T> task) {
    return run_blocking(*shard_, std::move(task));
  }
  Status open() {
    auto opened = run(Store::open(shard_->world(), registry_, log_, options_));
    if (!opened) return fail(std::move(opened).error());
    store_ = std::move(*opened);
    return {};
  }
  // References belong to the shard's thread, where they must also end.
  Status close() {
    Status status = run(close_on_shard());
    return status;
  }
  Task<Status> close_on_shard() {
    file_.reset();
    Status status = co_await store_->close();
    store_.reset();
    co_return status;
  }
  Task<Status> find(std::string object, std::string etag) {
    SHOAL_CO_ASSIGN_OR_RETURN(file_, co_await store_->find_file(object, etag));
    co_return file_ ? Status() : fail(Code::kNotFound, object);
  }
  Task<Status> cache(std::string object, std::string etag, ConstByteSpan bytes) {
    SHOAL_CO_ASSIGN_OR_RETURN(file_, co_await store_->open_file(object, etag, bytes.size()));
    co_return co_await file_->fill(0, bytes);
  }
  Task<Status> release() {
    file_.reset();
    co_return Status();
  }

  std::string directory_;
  std::unique_ptr<Shard> shard_;
  Registry registry_;
  Log log_;
  StoreOptions options_;
  std::unique_ptr<Store> store_;
  FileRef file_;
};

std::string bytes_of(uint64_t size) {
  std::string bytes(size, '\0');
  uint64_t x = 88172645463325252ull;
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    memcpy(&bytes[i], &x, 8);
  }
  return bytes;
}

TEST_F(LinuxStore, caches_restarts_and_shows_a_view) {
  ASSERT_TRUE(open());
  std::string bytes = bytes_of(20 * kMiB + 11);
  ASSERT_TRUE(run(cache("m/model", "e", as_bytes(bytes))));
  ASSERT_TRUE(close());
  struct stat about{};
  ASSERT_EQ(::stat(options_.directory.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0700u);
  ASSERT_TRUE(open());
  ASSERT_TRUE(run(find("m/model", "e")));
  EXPECT_TRUE(file_->vouched());
  std::shared_ptr<ReadView> view = file_->view();
  ASSERT_NE(view, nullptr);
  EXPECT_EQ(view->size(), bytes.size());
  EXPECT_TRUE(view->covers(0, bytes.size()));
  std::string got(bytes.size(), '\0');
  ASSERT_EQ(::pread(view->descriptor(), got.data(), got.size(), 0),
            static_cast<ssize_t>(got.size()));
  EXPECT_TRUE(got == bytes);
}

TEST_F(LinuxStore, a_second_daemon_is_refused) {
  ASSERT_TRUE(open());
  auto second = run(Store::open(shard_->world(), registry_, log_, options_));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Code::kBusy);
  EXPECT_NE(second.error().message().find("another shoal daemon"), std::string::npos);
}

Task<Status> evict_and_fill(Store& store, std::string object, FileRef& file, ConstByteSpan bytes,
                            int rounds) {
  for (int i = 0; i < rounds; ++i) {
    // Filling past the budget evicts the file's own older chunks.
    uint64_t at = static_cast<uint64_t>(i) % (file->size() / bytes.size()) * bytes.size();
    SHOAL_CO_RETURN_IF_ERROR(co_await file->fill(at, bytes));
  }
  (void)store;
  (void)object;
  co_return Status();
}

// Readers on other threads never see a punched hole as data.
TEST_F(LinuxStore, views_are_safe_against_eviction) {
  options_.capacity = 128 * kMiB;  // 64 MiB for files
  ASSERT_TRUE(open());
  std::string chunk(8 * kMiB, 'x');
  auto make = [](Store& store, FileRef& file) -> Task<Status> {
    SHOAL_CO_ASSIGN_OR_RETURN(file, co_await store.open_file("big", "e", 128 * kMiB));
    co_return Status();
  };
  ASSERT_TRUE(run(make(*store_, file_)));
  std::shared_ptr<ReadView> view = file_->view();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0};
  std::atomic<uint64_t> good{0};
  std::atomic<uint64_t> thrown_away{0};
  std::vector<std::thread> readers;
  for (uint64_t t = 0; t < 2; ++t) {
    readers.emplace_back([&, t] {
      std::string got(128 * kKiB, '\0');
      uint64_t x = t * 977 + 1;
      while (!stop.load()) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t at = (x >> 33) % (127 * kMiB);
        uint64_t epoch = view->epoch();
        if (!view->covers(at, got.size())) continue;
        ssize_t count = ::pread(view->descriptor(), got.data(), got.size(), static_cast<off_t>(at));
        if (view->epoch() != epoch) {
          ++thrown_away;
          continue;
        }
        bool same = count == static_cast<ssize_t>(got.size()) &&
                    got.find_first_not_of('x') == std::string::npos;
        ++(same ? good : wrong);
      }
    });
  }
  Status status = run(evict_and_fill(*store_, "big", file_, as_bytes(chunk), 150));
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(wrong.load(), 0u);
  EXPECT_GT(good.load(), 0u);
}

Task<Status> write_all(FileRef& file, ConstByteSpan part, uint64_t total) {
  for (uint64_t at = 0; at < total; at += part.size()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await file->write(at, part));
  }
  StagedRecord record = file->record();
  record.sealed = true;
  co_return co_await file->sync(record);
}
Task<Status> create(Store& store, FileRef& file, uint64_t id) {
  StagedRecord record;
  record.object = "checkpoint";
  record.write_id = {1, id};
  SHOAL_CO_ASSIGN_OR_RETURN(file, co_await store.create_staged(record));
  co_return Status();
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Writing and syncing a staged file against the same with plain system calls.
TEST_F(LinuxStore, staged_writes_keep_up_with_plain_files) {
  const char* setting = getenv("SHOAL_STORE_BENCH_MIB");
  uint64_t total = (setting != nullptr ? strtoull(setting, nullptr, 10) : 64) * kMiB;
  options_.capacity = 8 * kGiB;
  ASSERT_TRUE(open());
  std::string part = bytes_of(kMiB);
  for (uint64_t round = 1; round <= (setting != nullptr ? 3u : 1u); ++round) {
    std::string path = directory_ + "/plain";
    auto start = std::chrono::steady_clock::now();
    int plain = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_GE(plain, 0);
    for (uint64_t at = 0; at < total; at += part.size()) {
      ASSERT_EQ(::pwrite(plain, part.data(), part.size(), static_cast<off_t>(at)),
                static_cast<ssize_t>(part.size()));
    }
    ASSERT_EQ(::fsync(plain), 0);
    double native = seconds_since(start);
    ::close(plain);
    ::unlink(path.c_str());

    start = std::chrono::steady_clock::now();
    ASSERT_TRUE(run(create(*store_, file_, round)));
    ASSERT_TRUE(run(write_all(file_, as_bytes(part), total)));
    double ours = seconds_since(start);
    EXPECT_EQ(file_->size(), total);
    uint32_t crc = crc32c(as_bytes(part));
    EXPECT_EQ(file_->crc({0, 2 * kMiB}), crc32c_combine(crc, crc, kMiB));
    std::printf("%llu MiB: plain write+fsync %.3f s, staged write+sync %.3f s (%.2f x)\n",
                static_cast<unsigned long long>(total / kMiB), native, ours, ours / native);
    ASSERT_TRUE(run(store_->drop_staged(file_)));
    ASSERT_TRUE(run(release()));
  }
}

Task<Status> write_both_ways(FileRef& file, ConstByteSpan bytes) {
  // The direct one begins among pages that the other one left dirty.
  SHOAL_CO_RETURN_IF_ERROR(co_await file->write(0, bytes.first(3 * kPieceBytes + 77)));
  co_return co_await file->write(kPieceBytes, bytes.subspan(kPieceBytes), {},
                                 CachedFile::Way::kDirect, {});
}
Task<Status> read_both_ways(FileRef& file, ByteSpan direct, ByteSpan cached) {
  SHOAL_CO_RETURN_IF_ERROR(co_await file->read(0, direct, CachedFile::Way::kDirect));
  co_return co_await file->read(0, cached);
}

// Pieces 0 to 3 as they entered; piece 3 partly written since.
Task<Status> write_in_part(FileRef& file, ConstByteSpan bytes) {
  SHOAL_CO_RETURN_IF_ERROR(co_await file->write(0, bytes));
  SHOAL_CO_RETURN_IF_ERROR(co_await file->write(3 * kPieceBytes + 5, as_bytes("new")));
  co_return co_await file->sync(file->record());
}

// Two appends, the second into the middle of a piece: what other threads may take for its bytes.
struct Seen {
  uint64_t size = 0;
  bool covers_before = false;
  bool covers_after = false;
  bool epoch_changed = false;
};
Task<Status> append_in_view(FileRef& file, ConstByteSpan bytes, uint64_t first, Seen& seen) {
  std::shared_ptr<ReadView> view = file->view();
  SHOAL_CO_RETURN_IF_ERROR(co_await file->write(0, bytes.first(first)));
  seen.covers_before = view->covers(0, first);
  uint64_t epoch = view->epoch();
  auto accepted = [&] {
    seen.size = view->size();
    seen.covers_after = view->covers(0, first) || view->covers(first, 1);
    seen.epoch_changed = view->epoch() != epoch;
  };
  SHOAL_CO_RETURN_IF_ERROR(
      co_await file->write(first, bytes.subspan(first), {}, CachedFile::Way::kPageCache, accepted));
  bool all = view->covers(0, bytes.size());
  co_return all ? Status() : fail(Code::kInternal, "the view does not have what was written");
}

// The share of a file that lies in the page cache.
double resident(const std::string& path) {
  int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  auto size = static_cast<size_t>(lseek(file, 0, SEEK_END));
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  ::close(file);
  if (mapped == MAP_FAILED) return -1;
  std::vector<unsigned char> pages((size + 4095) / 4096);
  int answer = mincore(mapped, size, pages.data());
  munmap(mapped, size);
  if (answer != 0) return -1;
  auto count = std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; });
  return static_cast<double>(count) / static_cast<double>(pages.size());
}

std::string data_path_below(const std::string& directory) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.path().extension() == ".data") return entry.path();
  }
  return "";
}

TEST_F(LinuxStore, a_view_hides_what_was_accepted_and_is_not_there_yet) {
  ASSERT_TRUE(open());
  ASSERT_TRUE(run(create(*store_, file_, 1)));
  std::string bytes = bytes_of(3 * kPieceBytes);
  Seen seen;
  Status status = run(append_in_view(file_, as_bytes(bytes), kPieceBytes / 2, seen));
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_TRUE(seen.covers_before);
  EXPECT_EQ(seen.size, bytes.size());
  EXPECT_FALSE(seen.covers_after);
  EXPECT_TRUE(seen.epoch_changed);
  ASSERT_TRUE(run(store_->drop_staged(file_)));
  ASSERT_TRUE(run(release()));
}

TEST_F(LinuxStore, what_is_passed_on_has_the_checksums_with_which_it_entered) {
  ASSERT_TRUE(open());
  ASSERT_TRUE(run(create(*store_, file_, 1)));
  std::string bytes = bytes_of(4 * kPieceBytes);
  ASSERT_TRUE(run(write_in_part(file_, as_bytes(bytes))));
  bytes.replace(3 * kPieceBytes + 5, 3, "new");
  // The disk changes a byte.
  std::string path = data_path_below(options_.directory);
  int file = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(::pwrite(file, "?", 1, kPieceBytes + 9), 1);
  ::close(file);
  Buffer back(bytes.size());
  auto crcs = run(file_->read_with_crcs(0, back.span()));
  ASSERT_TRUE(crcs);
  ASSERT_EQ(crcs->size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ((*crcs)[i], crc32c(as_bytes(bytes).subspan(i * kPieceBytes, kPieceBytes))) << i;
  }
  EXPECT_NE(as_text(back.span()), bytes);
  // Parts of pieces: as they are read.
  auto part = run(file_->read_with_crcs(kPieceBytes + 1, back.part(0, 50)));
  ASSERT_TRUE(part);
  EXPECT_EQ(*part, std::vector{crc32c(back.part(0, 50))});
  ASSERT_TRUE(run(store_->drop_staged(file_)));
  ASSERT_TRUE(run(release()));
}

TEST_F(LinuxStore, bytes_go_past_the_page_cache) {
  ASSERT_TRUE(open());
  ASSERT_TRUE(run(create(*store_, file_, 1)));
  Buffer bytes = Buffer::copy_of(as_bytes(bytes_of(8 * kMiB + 999)));
  ASSERT_TRUE(run(write_both_ways(file_, bytes.span())));
  std::string path = data_path_below(options_.directory);
  ASSERT_FALSE(path.empty());
  int direct = ::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (direct >= 0) {
    ::close(direct);
    double share = resident(path);
    EXPECT_GE(share, 0);
    EXPECT_LT(share, 0.1);
  }
  Buffer one(bytes.size());
  Buffer other(bytes.size());
  ASSERT_TRUE(run(read_both_ways(file_, one.span(), other.span())));
  EXPECT_TRUE(std::ranges::equal(one.span(), bytes.span()));
  EXPECT_TRUE(std::ranges::equal(other.span(), bytes.span()));
  ASSERT_TRUE(run(store_->drop_staged(file_)));
  ASSERT_TRUE(run(release()));
}

}  // namespace
}  // namespace shoal
