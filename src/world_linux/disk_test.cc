#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "async/disk_io.h"
#include "async/gate.h"
#include "world_linux/linux_disk.h"
#include "world_linux/test_support.h"

namespace shoal {
namespace {

constexpr uint32_t kCreate = DiskOp::kOpenWrite | DiskOp::kOpenCreate;

class DiskTest : public testing::Test {
 protected:
  Disk& disk() { return shard_->world().disk; }
  template <typename T>
  T run(Task<T> task) {
    return run_blocking(*shard_, std::move(task));
  }
  FileId open(const std::string& path, uint32_t flags) {
    auto file = run(disk_io::open(disk(), path, flags));
    SHOAL_ASSERT(file.has_value());
    return *file;
  }
  void write_file(const std::string& path, std::string_view content) {
    FileId file = open(path, kCreate | DiskOp::kOpenTruncate);
    ASSERT_TRUE(run(disk_io::write(disk(), file, 0, as_bytes(content))));
    ASSERT_TRUE(run(disk_io::close(disk(), file)));
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Shard> shard_ = start_test_shard();
};

void fill(ByteSpan bytes, uint64_t seed) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>((i * 131 + (i >> 12) * 17 + seed) & 0xFF);
  }
}

TEST_F(DiskTest, writes_and_reads_back) {
  FileId file = open(directory_ / "f", kCreate);
  ASSERT_TRUE(run(disk_io::write(disk(), file, 5, as_bytes("hello"))));
  ASSERT_TRUE(run(disk_io::sync(disk(), file)));
  ASSERT_TRUE(run(disk_io::sync_data(disk(), file)));
  Buffer buffer(100);
  auto count = run(disk_io::read_some(disk(), file, 0, buffer.span()));
  ASSERT_TRUE(count);
  EXPECT_EQ(*count, 10u);  // short at the end of the file
  EXPECT_EQ(as_text(buffer.part(0, 10)), std::string_view("\0\0\0\0\0hello", 10));
  EXPECT_EQ(run(disk_io::read_some(disk(), file, 10, buffer.span())).value(), 0u);
  EXPECT_EQ(run(disk_io::read_some(disk(), file, 1000, buffer.span())).value(), 0u);
  EXPECT_EQ(code_of(run(disk_io::read_exactly(disk(), file, 8, buffer.part(0, 3)))),
            Code::kCorrupt);
  EXPECT_EQ(run(disk_io::read_some(disk(), file, 0, {})).value(), 0u);
  ASSERT_TRUE(run(disk_io::write(disk(), file, 0, {})));
  struct stat about{};
  ASSERT_EQ(fstat(disk().native_descriptor(file), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u);
  EXPECT_EQ(fcntl(disk().native_descriptor(file), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  ASSERT_TRUE(run(disk_io::close(disk(), file)));
}

TEST_F(DiskTest, moves_64_mib_in_one_operation) {
  Buffer out(64 * kMiB);
  Buffer in(64 * kMiB);
  fill(out.span(), 3);
  FileId file = open(directory_ / "large", kCreate);
  ASSERT_TRUE(run(disk_io::write(disk(), file, 4096, out.span())));
  ASSERT_TRUE(run(disk_io::start_writeback(disk(), file, 0, 64 * kMiB)));
  ASSERT_TRUE(run(disk_io::read_exactly(disk(), file, 4096, in.span())));
  EXPECT_TRUE(std::ranges::equal(out.span(), in.span()));
  auto about = run(disk_io::stat(disk(), file));
  ASSERT_TRUE(about);
  EXPECT_EQ(about->size, 64 * kMiB + 4096);
  ASSERT_TRUE(run(disk_io::close(disk(), file)));
}

TEST_F(DiskTest, open_flags_mean_what_they_say) {
  std::string path = directory_ / "f";
  EXPECT_EQ(code_of(run(disk_io::open(disk(), path, 0))), Code::kNotFound);
  EXPECT_EQ(code_of(run(disk_io::open(disk(), path, DiskOp::kOpenWrite))), Code::kNotFound);
  write_file(path, "content");
  EXPECT_EQ(code_of(run(disk_io::open(disk(), path, kCreate | DiskOp::kOpenExclusive))),
            Code::kAlreadyExists);
  EXPECT_EQ(run(disk_io::read_file(disk(), path, 100)).value(), "content");
  EXPECT_EQ(code_of(run(disk_io::read_file(disk(), path, 3))), Code::kTooLarge);
  FileId reader = open(path, 0);
  EXPECT_FALSE(run(disk_io::write(disk(), reader, 0, as_bytes("x"))));
  ASSERT_TRUE(run(disk_io::close(disk(), reader)));
  FileId file = open(path, kCreate | DiskOp::kOpenTruncate);
  EXPECT_EQ(run(disk_io::stat(disk(), file)).value().size, 0u);
  ASSERT_TRUE(run(disk_io::close(disk(), file)));
}

TEST_F(DiskTest, never_follows_the_last_link) {
  write_file(directory_ / "target", "secret");
  ASSERT_TRUE(run(disk_io::make_directory(disk(), directory_ / "d")));
  std::filesystem::create_symlink(directory_ / "target", directory_ / "link");
  std::filesystem::create_directory_symlink(directory_ / "d", directory_ / "dlink");
  EXPECT_FALSE(run(disk_io::open(disk(), directory_ / "link", 0)));
  EXPECT_FALSE(run(disk_io::open(disk(), directory_ / "link", kCreate)));
  EXPECT_FALSE(run(disk_io::list(disk(), directory_ / "dlink")));
  EXPECT_FALSE(run(disk_io::lock(disk(), directory_ / "link")));
  EXPECT_EQ(run(disk_io::stat(disk(), directory_ / "dlink")).value().is_directory, false);
  EXPECT_EQ(code_of(run(disk_io::make_directory(disk(), directory_ / "dlink"))),
            Code::kAlreadyExists);
  auto entries = run(disk_io::list(disk(), directory_.path()));
  ASSERT_TRUE(entries);
  EXPECT_EQ(entries->size(), 4u);
  for (const DirectoryEntry& entry : *entries) EXPECT_EQ(entry.is_directory, entry.name == "d");
  ASSERT_TRUE(run(disk_io::remove(disk(), directory_ / "dlink")));  // the link, not what it names
  EXPECT_TRUE(run(disk_io::stat(disk(), directory_ / "d")));
}

TEST_F(DiskTest, direct_reads_end_at_an_odd_size) {
  Buffer out(3 * 4096);
  fill(out.span(), 9);
  std::string path = directory_ / "f";
  write_file(path, as_text(out.part(0, 9000)));
  auto file = run(disk_io::open(disk(), path, DiskOp::kOpenDirect));
  if (!file) GTEST_SKIP() << "no O_DIRECT here: " << file.error().message();
  Buffer in(4 * 4096);
  EXPECT_EQ(run(disk_io::read_some(disk(), *file, 0, in.span())).value(), 9000u);
  EXPECT_TRUE(std::ranges::equal(out.part(0, 9000), in.part(0, 9000)));
  EXPECT_EQ(code_of(run(disk_io::read_some(disk(), *file, 1, in.span()))), Code::kInvalidArgument);
  ASSERT_TRUE(run(disk_io::close(disk(), *file)));
}

TEST_F(DiskTest, sizes_holes_and_space) {
  FileId file = open(directory_ / "f", kCreate);
  ASSERT_TRUE(run(disk_io::allocate(disk(), file, 0, 4 * kMiB)));
  auto about = run(disk_io::stat(disk(), file)).value();
  EXPECT_EQ(about.size, 4 * kMiB);
  EXPECT_GE(about.allocated, 4 * kMiB);
  ASSERT_TRUE(run(disk_io::write(disk(), file, kMiB, as_bytes("data"))));
  ASSERT_TRUE(run(disk_io::punch(disk(), file, 0, 2 * kMiB)));
  about = run(disk_io::stat(disk(), file)).value();
  EXPECT_EQ(about.size, 4 * kMiB);
  EXPECT_LE(about.allocated, 2 * kMiB + 64 * kKiB);
  Buffer buffer(4);
  ASSERT_TRUE(run(disk_io::read_exactly(disk(), file, kMiB, buffer.span())));
  EXPECT_EQ(as_text(buffer.span()), std::string_view("\0\0\0\0", 4));
  ASSERT_TRUE(run(disk_io::set_size(disk(), file, 100)));
  EXPECT_EQ(run(disk_io::stat(disk(), directory_ / "f")).value().size, 100u);
  EXPECT_FALSE(run(disk_io::set_size(disk(), file, ~uint64_t{0})));
  EXPECT_FALSE(run(disk_io::allocate(disk(), file, ~uint64_t{0} - 1, 4)));
  ASSERT_TRUE(run(disk_io::close(disk(), file)));
  auto space = run(disk_io::space(disk(), directory_.path())).value();
  EXPECT_GT(space.total, 0u);
  EXPECT_LE(space.free, space.total);
  EXPECT_EQ(code_of(run(disk_io::space(disk(), directory_ / "none"))), Code::kNotFound);
}

TEST_F(DiskTest, copies_ranges) {
  Buffer out(kMiB);
  fill(out.span(), 1);
  write_file(directory_ / "a", as_text(out.span()));
  FileId from = open(directory_ / "a", 0);
  FileId to = open(directory_ / "b", kCreate);
  ASSERT_TRUE(run(disk_io::copy_range(disk(), from, 1000, to, 5000, 500'000)));
  Buffer in(500'000);
  ASSERT_TRUE(run(disk_io::read_exactly(disk(), to, 5000, in.span())));
  EXPECT_TRUE(std::ranges::equal(out.part(1000, 500'000), in.span()));
  // All or an error: the source is shorter.
  EXPECT_EQ(code_of(run(disk_io::copy_range(disk(), from, kMiB - 10, to, 0, 11))),
            Code::kDiskError);
  ASSERT_TRUE(run(disk_io::close(disk(), from)));
  ASSERT_TRUE(run(disk_io::close(disk(), to)));
}

TEST_F(DiskTest, names_and_directories) {
  std::string directory = directory_ / "d";
  ASSERT_TRUE(run(disk_io::make_directory(disk(), directory)));
  ASSERT_TRUE(run(disk_io::make_directory(disk(), directory)));  // fine if it exists
  struct stat about{};
  ASSERT_EQ(stat(directory.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0700u);
  write_file(directory_ / "f", "1");
  EXPECT_EQ(code_of(run(disk_io::make_directory(disk(), directory_ / "f"))), Code::kAlreadyExists);
  EXPECT_EQ(code_of(run(disk_io::make_directory(disk(), directory_ / "x/y"))), Code::kNotFound);
  ASSERT_TRUE(run(disk_io::rename(disk(), directory_ / "f", directory + "/g")));
  write_file(directory_ / "f", "2");
  ASSERT_TRUE(run(disk_io::rename(disk(), directory_ / "f", directory + "/g")));  // replaces
  EXPECT_EQ(run(disk_io::read_file(disk(), directory + "/g", 10)).value(), "2");
  EXPECT_EQ(code_of(run(disk_io::rename(disk(), directory_ / "f", directory + "/h"))),
            Code::kNotFound);
  auto entries = run(disk_io::list(disk(), directory)).value();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].name, "g");
  EXPECT_FALSE(entries[0].is_directory);
  EXPECT_EQ(code_of(run(disk_io::list(disk(), directory + "/g"))), Code::kNotDirectory);
  ASSERT_TRUE(run(disk_io::sync_directory(disk(), directory)));
  EXPECT_EQ(code_of(run(disk_io::sync_directory(disk(), directory_ / "none"))), Code::kNotFound);
  EXPECT_TRUE(run(disk_io::stat(disk(), directory)).value().is_directory);
  EXPECT_EQ(code_of(run(disk_io::remove(disk(), directory))), Code::kNotEmpty);
  ASSERT_TRUE(run(disk_io::remove(disk(), directory + "/g")));
  ASSERT_TRUE(run(disk_io::remove(disk(), directory)));
  EXPECT_EQ(code_of(run(disk_io::remove(disk(), directory))), Code::kNotFound);
  EXPECT_EQ(code_of(run(disk_io::stat(disk(), directory))), Code::kNotFound);
  EXPECT_EQ(code_of(run(disk_io::stat(disk(), std::string("a\0b", 3)))), Code::kInvalidArgument);
  EXPECT_EQ(code_of(run(disk_io::stat(disk(), ""))), Code::kNotFound);
  ASSERT_TRUE(run(disk_io::replace_file(disk(), directory_ / "r", "old")));
  ASSERT_TRUE(run(disk_io::replace_file(disk(), directory_ / "r", "new")));
  EXPECT_EQ(run(disk_io::read_file(disk(), directory_ / "r", 10)).value(), "new");
}

TEST_F(DiskTest, a_lock_is_held_once) {
  auto first = run(disk_io::lock(disk(), directory_ / "lock"));
  ASSERT_TRUE(first);
  EXPECT_EQ(code_of(run(disk_io::lock(disk(), directory_ / "lock"))), Code::kBusy);
  ASSERT_TRUE(run(disk_io::close(disk(), *first)));
  auto second = run(disk_io::lock(disk(), directory_ / "lock"));
  ASSERT_TRUE(second);
  ASSERT_TRUE(run(disk_io::close(disk(), *second)));
  EXPECT_EQ(code_of(run(disk_io::lock(disk(), directory_ / "none/lock"))), Code::kNotFound);
}

Task<Status> write_block(Disk& disk, FileId file, uint64_t index) {
  Buffer buffer(4096);
  fill(buffer.span(), index);
  co_return co_await disk_io::write(disk, file, index * 4096, buffer.span());
}
Task<Status> check_block(Disk& disk, FileId file, FileId copy, uint64_t index) {
  Buffer expected(4096);
  Buffer buffer(4096);
  fill(expected.span(), index);
  SHOAL_CO_RETURN_IF_ERROR(
      co_await disk_io::copy_range(disk, file, index * 4096, copy, index * 4096, 4096));
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::read_exactly(disk, copy, index * 4096, buffer.span()));
  if (!std::ranges::equal(expected.span(), buffer.span())) co_return fail(Code::kCorrupt, "bytes");
  co_return Status();
}
Task<Status> run_many(World& world, std::vector<Task<Status>> tasks) {
  return run_all(world.executor, std::move(tasks), 100'000);
}

// Far more at once than the ring, the pool of operations or the helpers hold.
TEST(DiskLimits, more_operations_than_places) {
  TemporaryDirectory directory;
  ShardOptions options;
  options.ring_entries = 16;
  auto shard = start_test_shard(std::move(options));
  Disk& disk = shard->world().disk;
  auto file = run_blocking(*shard, disk_io::open(disk, directory / "f", kCreate));
  auto copy = run_blocking(*shard, disk_io::open(disk, directory / "c", kCreate));
  ASSERT_TRUE(file && copy);
  constexpr uint64_t kBlocks = 2000;
  static_assert(kBlocks > 4 * LinuxDisk::kRingOpsMax);
  std::vector<Task<Status>> tasks;
  for (uint64_t i = 0; i < kBlocks; ++i) tasks.push_back(write_block(disk, *file, i));
  ASSERT_TRUE(run_blocking(*shard, run_many(shard->world(), std::move(tasks))));
  tasks.clear();
  for (uint64_t i = 0; i < kBlocks; ++i) tasks.push_back(check_block(disk, *file, *copy, i));
  ASSERT_TRUE(run_blocking(*shard, run_many(shard->world(), std::move(tasks))));
  ASSERT_TRUE(run_blocking(*shard, disk_io::close(disk, *file)));
  ASSERT_TRUE(run_blocking(*shard, disk_io::close(disk, *copy)));
}

}  // namespace
}  // namespace shoal
