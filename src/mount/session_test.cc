// The whole room against the real kernel: a FileSystem in memory, mounted, used by system calls.
// Skipped where /dev/fuse cannot be used.
#include "mount/session.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "mount/mounted_test_support.h"

namespace shoal {
namespace {

using fuse::Descriptor;

class SessionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    REQUIRE_FUSE();
    directory_ = make_directory();
    start({});
  }
  void TearDown() override {
    mounted_.reset();
    if (!directory_.empty()) ::rmdir(directory_.c_str());
  }
  void start(MountOptions options) {
    mounted_ = std::make_unique<Mounted>(directory_, std::move(options));
    ASSERT_TRUE(mounted_->session != nullptr) << mounted_->error;
  }
  std::string path(const std::string& name) const { return mounted_->path(name); }
  MemoryFileSystem& fs() { return *mounted_->file_system; }
  Descriptor open_file(const std::string& name, int flags, mode_t mode = 0644) {
    Descriptor file(::open(path(name).c_str(), flags | O_CLOEXEC, mode));
    EXPECT_TRUE(file.valid()) << name << ": " << ::strerror(errno);
    return file;
  }
  void write_file(const std::string& name, std::string_view bytes) {
    Descriptor file = open_file(name, O_CREAT | O_WRONLY | O_TRUNC);
    ASSERT_EQ(::write(file.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  std::string read_all(int file) {
    std::string bytes;
    char piece[70000];
    while (true) {
      ssize_t got = ::pread(file, piece, sizeof(piece), static_cast<off_t>(bytes.size()));
      EXPECT_GE(got, 0) << ::strerror(errno);
      if (got <= 0) return bytes;
      bytes.append(piece, static_cast<size_t>(got));
    }
  }
  std::string read_file(const std::string& name) {
    Descriptor file = open_file(name, O_RDONLY);
    return read_all(file.get());
  }

  std::string directory_;
  std::unique_ptr<Mounted> mounted_;
};

std::string pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((i * 131 + i / 4096) % 251);
  return bytes;
}

TEST_F(SessionTest, writes_and_reads_files) {
  std::string bytes = pattern(3'000'001);
  write_file("a", bytes);
  EXPECT_EQ(read_file("a"), bytes);
  struct stat stat;
  ASSERT_EQ(::stat(path("a").c_str(), &stat), 0);
  EXPECT_EQ(stat.st_size, 3'000'001);
  EXPECT_EQ(stat.st_mode, S_IFREG | 0644u);
  EXPECT_ERRNO(::stat(path("b").c_str(), &stat), ENOENT);
  {
    Descriptor file = open_file("a", O_WRONLY | O_APPEND);
    ASSERT_EQ(::write(file.get(), "tail", 4), 4);
  }
  EXPECT_EQ(read_file("a"), bytes + "tail");
  ASSERT_EQ(::truncate(path("a").c_str(), 1000), 0);
  EXPECT_EQ(read_file("a"), bytes.substr(0, 1000));
  {
    Descriptor file = open_file("a", O_RDWR);
    ASSERT_EQ(::pwrite(file.get(), "xy", 2, 100'000), 2);
    ASSERT_EQ(::ftruncate(file.get(), 100'001), 0);
    ASSERT_EQ(::fsync(file.get()), 0);
    ASSERT_EQ(::fdatasync(file.get()), 0);
  }
  EXPECT_EQ(read_file("a"), bytes.substr(0, 1000) + std::string(99'000, '\0') + "x");
  {
    Descriptor file = open_file("a", O_WRONLY | O_TRUNC);
  }
  EXPECT_EQ(read_file("a"), "");
}

TEST_F(SessionTest, keeps_open_files_through_unlink_and_rename) {
  write_file("a", "old a");
  write_file("b", "new a");
  Descriptor old_a = open_file("a", O_RDONLY);
  ASSERT_EQ(::rename(path("b").c_str(), path("a").c_str()), 0);
  EXPECT_EQ(read_all(old_a.get()), "old a");
  EXPECT_EQ(read_file("a"), "new a");
  struct stat stat;
  EXPECT_ERRNO(::stat(path("b").c_str(), &stat), ENOENT);

  Descriptor gone = open_file("a", O_RDWR);
  ASSERT_EQ(::unlink(path("a").c_str()), 0);
  EXPECT_ERRNO(::stat(path("a").c_str(), &stat), ENOENT);
  ASSERT_EQ(::pwrite(gone.get(), "!", 1, 5), 1);
  EXPECT_EQ(read_all(gone.get()), "new a!");

  write_file("c", "c");
  write_file("d", "d");
  EXPECT_ERRNO(::syscall(SYS_renameat2, AT_FDCWD, path("c").c_str(), AT_FDCWD, path("d").c_str(),
                         1 /* NOREPLACE */),
               EEXIST);
  EXPECT_ERRNO(::syscall(SYS_renameat2, AT_FDCWD, path("c").c_str(), AT_FDCWD, path("d").c_str(),
                         2 /* EXCHANGE */),
               EINVAL);
}

TEST_F(SessionTest, makes_and_lists_directories) {
  ASSERT_EQ(::mkdir(path("dir").c_str(), 0750), 0);
  EXPECT_ERRNO(::mkdir(path("dir").c_str(), 0750), EEXIST);
  std::set<std::string> names;
  for (int i = 0; i < 5000; ++i) {
    std::string name = "file-with-a-name-" + std::to_string(i);
    Descriptor file = open_file("dir/" + name, O_CREAT | O_EXCL | O_WRONLY);
    ASSERT_TRUE(file.valid());
    names.insert(name);
  }
  EXPECT_ERRNO(::rmdir(path("dir").c_str()), ENOTEMPTY);
  for (int round = 0; round < 2; ++round) {  // the second with look-ups in between (READDIRPLUS)
    std::set<std::string> seen;
    DIR* directory = ::opendir(path("dir").c_str());
    ASSERT_NE(directory, nullptr);
    int count = 0;
    while (dirent* entry = ::readdir(directory)) {
      if (count == 0) {
        EXPECT_STREQ(entry->d_name, ".");
      }
      if (count == 1) {
        EXPECT_STREQ(entry->d_name, "..");
      }
      EXPECT_EQ(entry->d_type, count < 2 ? DT_DIR : DT_REG);
      if (++count > 2) {
        EXPECT_TRUE(seen.insert(entry->d_name).second) << "twice: " << entry->d_name;
      }
      struct stat stat;
      if (round == 1) {
        EXPECT_EQ(::fstatat(::dirfd(directory), entry->d_name, &stat, 0), 0);
      }
    }
    ::closedir(directory);
    EXPECT_EQ(seen, names);
  }
  for (const std::string& name : names) ASSERT_EQ(::unlink(path("dir/" + name).c_str()), 0);
  ASSERT_EQ(::rmdir(path("dir").c_str()), 0);
}

TEST_F(SessionTest, has_symlinks_modes_times_and_statfs) {
  ASSERT_EQ(::symlink("target/of/link", path("link").c_str()), 0);
  char target[100];
  ASSERT_EQ(::readlink(path("link").c_str(), target, sizeof(target)), 14);
  EXPECT_EQ(std::string(target, 14), "target/of/link");

  write_file("a", "a");
  ASSERT_EQ(::chmod(path("a").c_str(), 04751), 0);
  ASSERT_EQ(::chown(path("a").c_str(), 1234, 4321), 0);
  timespec times[2] = {{1'000'000'007, 5}, {-3, 250'000'000}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path("a").c_str(), times, 0), 0);
  struct stat stat;
  ASSERT_EQ(::stat(path("a").c_str(), &stat), 0);
  EXPECT_EQ(stat.st_mode, S_IFREG | 0751u) << "chown drops the set-user-id bit";
  EXPECT_EQ(stat.st_uid, 1234u);
  EXPECT_EQ(stat.st_gid, 4321u);
  EXPECT_EQ(stat.st_atim.tv_sec, 1'000'000'007);
  EXPECT_EQ(stat.st_atim.tv_nsec, 5);
  EXPECT_EQ(stat.st_mtim.tv_sec, -3);
  EXPECT_EQ(stat.st_mtim.tv_nsec, 250'000'000);

  struct statvfs space;
  ASSERT_EQ(::statvfs(path("a").c_str(), &space), 0);
  EXPECT_EQ(space.f_blocks * space.f_frsize, 100 * kGiB);
  EXPECT_EQ(space.f_bavail * space.f_frsize, 40 * kGiB);
  EXPECT_EQ(space.f_namemax, 255u);

  EXPECT_ERRNO(::link(path("a").c_str(), path("hard").c_str()), EPERM);
  EXPECT_ERRNO(::mkfifo(path("fifo").c_str(), 0600), EPERM);
  ASSERT_EQ(::mknod(path("plain").c_str(), S_IFREG | 0600, 0), 0);
  EXPECT_EQ(read_file("plain"), "");
}

TEST_F(SessionTest, drops_set_id_bits_on_write) {
  write_file("a", "a");
  ASSERT_EQ(::chmod(path("a").c_str(), 06777), 0);
  pid_t child = ::fork();
  if (child == 0) {
    if (::setuid(65534) != 0) ::_exit(2);
    int file = ::open(path("a").c_str(), O_WRONLY);
    ::_exit(file >= 0 && ::write(file, "b", 1) == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  struct stat stat;
  ASSERT_EQ(::stat(path("a").c_str(), &stat), 0);
  EXPECT_EQ(stat.st_mode, S_IFREG | 0777u);
}

TEST_F(SessionTest, keeps_extended_attributes) {
  write_file("a", "a");
  const std::string a = path("a");
  ASSERT_EQ(::setxattr(a.c_str(), "user.one", "value", 5, 0), 0);
  ASSERT_EQ(::setxattr(a.c_str(), "user.two", "", 0, 0), 0);
  EXPECT_ERRNO(::setxattr(a.c_str(), "user.one", "v", 1, XATTR_CREATE), EEXIST);
  EXPECT_ERRNO(::setxattr(a.c_str(), "user.three", "v", 1, XATTR_REPLACE), ENODATA);
  char value[100];
  EXPECT_EQ(::getxattr(a.c_str(), "user.one", nullptr, 0), 5);
  EXPECT_EQ(::getxattr(a.c_str(), "user.one", value, sizeof(value)), 5);
  EXPECT_EQ(std::string(value, 5), "value");
  EXPECT_EQ(::getxattr(a.c_str(), "user.two", value, sizeof(value)), 0);
  EXPECT_ERRNO(::getxattr(a.c_str(), "user.one", value, 4), ERANGE);
  EXPECT_ERRNO(::getxattr(a.c_str(), "user.none", value, 4), ENODATA);
  EXPECT_ERRNO(::getxattr(a.c_str(), "security.capability", value, 4), ENODATA);
  EXPECT_EQ(::listxattr(a.c_str(), nullptr, 0), 18);
  ASSERT_EQ(::listxattr(a.c_str(), value, sizeof(value)), 18);
  EXPECT_EQ(std::string(value, 18), std::string("user.one\0user.two\0", 18));
  EXPECT_ERRNO(::listxattr(a.c_str(), value, 3), ERANGE);
  ASSERT_EQ(::removexattr(a.c_str(), "user.one"), 0);
  EXPECT_ERRNO(::removexattr(a.c_str(), "user.one"), ENODATA);
}

TEST_F(SessionTest, maps_files_shared) {
  std::string bytes = pattern(300'000);
  write_file("a", bytes);
  {
    Descriptor file = open_file("a", O_RDWR);
    void* at = ::mmap(nullptr, bytes.size(), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    ASSERT_NE(at, MAP_FAILED) << ::strerror(errno);
    auto* mapped = static_cast<char*>(at);
    EXPECT_EQ(std::string_view(mapped, bytes.size()), bytes);
    mapped[0] = 'X';
    mapped[299'999] = 'Y';
    ASSERT_EQ(::msync(at, bytes.size(), MS_SYNC), 0);
    mapped[150'000] = 'Z';
    ASSERT_EQ(::munmap(at, bytes.size()), 0);
  }
  bytes[0] = 'X';
  bytes[150'000] = 'Z';
  bytes[299'999] = 'Y';
  EXPECT_EQ(read_file("a"), bytes);
}

TEST_F(SessionTest, allocates_and_seeks) {
  Descriptor file = open_file("a", O_CREAT | O_RDWR);
  ASSERT_EQ(::fallocate(file.get(), 0, 0, 50'000), 0);
  struct stat stat;
  ASSERT_EQ(::fstat(file.get(), &stat), 0);
  EXPECT_EQ(stat.st_size, 50'000);
  EXPECT_ERRNO(::fallocate(file.get(), FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP);
  ASSERT_EQ(::ftruncate(file.get(), 0), 0);
  ASSERT_EQ(::pwrite(file.get(), "data", 4, 1 << 20), 4);
  EXPECT_EQ(::lseek(file.get(), 0, SEEK_DATA), 1 << 20);
  EXPECT_EQ(::lseek(file.get(), 0, SEEK_HOLE), 0);
  EXPECT_EQ(::lseek(file.get(), 1 << 20, SEEK_HOLE), (1 << 20) + 4);
  EXPECT_ERRNO(::lseek(file.get(), (1 << 20) + 4, SEEK_DATA), ENXIO);
  EXPECT_ERRNO(::open(path("a").c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
  EXPECT_ERRNO(::ioctl(file.get(), 0x1234), ENOTTY);
}

TEST_F(SessionTest, a_write_is_answered_when_it_is_accepted_and_lives_on) {
  write_file("other", "x");
  int before = fs().writes_ended;
  Descriptor file = open_file("a", O_CREAT | O_WRONLY);
  std::string bytes = pattern(1 << 19);  // one request
  fs().accept_writes = true;
  ASSERT_EQ(::write(file.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(fs().writes_ended, before);
  fs().accept_writes = false;
  EXPECT_EQ(read_file("other"), "x");
  EXPECT_TRUE(eventually([&] { return fs().writes_ended == before + 1; }));
  EXPECT_EQ(read_file("a"), bytes);
}

TEST_F(SessionTest, copies_between_its_files_and_locks) {
  std::string bytes = pattern(200'000);
  write_file("a", bytes);
  Descriptor from = open_file("a", O_RDONLY);
  Descriptor to = open_file("b", O_CREAT | O_WRONLY);
  loff_t in = 0;
  loff_t out = 0;
  while (static_cast<size_t>(out) < bytes.size()) {
    ssize_t copied = ::copy_file_range(from.get(), &in, to.get(), &out, bytes.size(), 0);
    ASSERT_GT(copied, 0) << ::strerror(errno);
  }
  EXPECT_EQ(read_file("b"), bytes);
  struct flock lock{};
  lock.l_type = F_WRLCK;
  EXPECT_EQ(::fcntl(to.get(), F_SETLK, &lock), 0);
}

// Its one thread reads a file and waits; answers what came of it.
struct WaitingReader {
  explicit WaitingReader(const std::string& path) {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    for (int signal : {SIGINT, SIGUSR1}) {
      EXPECT_EQ(::sigaction(signal, &action, &before[signal == SIGINT]), 0);
    }
    thread = std::thread([this, path] {
      int file = ::open(path.c_str(), O_RDONLY);
      char byte;
      got = ::read(file, &byte, 1);
      error = errno;
      ended = true;
      ::close(file);
    });
  }
  ~WaitingReader() {
    if (thread.joinable()) thread.join();
    ::sigaction(SIGINT, &before[1], nullptr);
    ::sigaction(SIGUSR1, &before[0], nullptr);
  }
  struct sigaction before[2];
  ssize_t got = 0;
  int error = 0;
  std::atomic<bool> ended{false};
  std::thread thread;
};

TEST_F(SessionTest, interrupts_a_read_that_waits) {
  write_file("a", "a");
  fs().block_reads = true;
  {
    WaitingReader reader(path("a"));
    EXPECT_TRUE(eventually([&] { return fs().reads_blocked > 0; }));
    ::pthread_kill(reader.thread.native_handle(), SIGINT);
    reader.thread.join();
    EXPECT_EQ(reader.got, -1);
    EXPECT_EQ(reader.error, EINTR);
  }
  EXPECT_EQ(fs().cancelled, 1);
  fs().block_reads = false;
  EXPECT_EQ(read_file("a"), "a");
}

// What profilers, timers and language runtimes send ends no request, but what comes later does.
TEST_F(SessionTest, other_signals_interrupt_nothing) {
  write_file("a", "a");
  write_file("b", "b");
  auto requests = [&] { return mounted_->metric("shoal_mount_requests_total"); };
  fs().block_reads = true;
  {
    WaitingReader reader(path("a"));
    EXPECT_TRUE(eventually([&] { return fs().reads_blocked > 0; }));
    uint64_t seen = requests();
    ::pthread_kill(reader.thread.native_handle(), SIGUSR1);
    EXPECT_TRUE(eventually([&] { return requests() > seen; }));
    EXPECT_EQ(::access(path("a").c_str(), F_OK), 0);  // on the shard, behind the interrupt
    EXPECT_FALSE(reader.ended);
    fs().block_reads = false;
    EXPECT_EQ(read_file("b"), "b");
    reader.thread.join();
    EXPECT_EQ(reader.got, 1);
  }
  fs().block_reads = true;
  {
    WaitingReader reader(path("a"));
    EXPECT_TRUE(eventually([&] { return fs().reads_blocked > 1; }));
    uint64_t seen = requests();
    ::pthread_kill(reader.thread.native_handle(), SIGUSR1);
    EXPECT_TRUE(eventually([&] { return requests() > seen; }));
    EXPECT_EQ(::access(path("a").c_str(), F_OK), 0);
    EXPECT_FALSE(reader.ended);
    ::pthread_kill(reader.thread.native_handle(), SIGINT);  // of which the kernel says nothing
    reader.thread.join();
    EXPECT_EQ(reader.error, EINTR);
  }
  EXPECT_EQ(fs().cancelled, 1);
}

TEST_F(SessionTest, reads_by_itself_what_the_view_covers) {
  std::string bytes = pattern(2'500'000);
  write_file("a", bytes);
  fs().offer_view = true;
  fs().reads = 0;
  EXPECT_EQ(read_file("a"), bytes);
  EXPECT_GT(mounted_->metric("shoal_mount_fast_reads_total"), 30u);
  EXPECT_EQ(fs().reads, 0) << "the shard was asked";
  fs().offer_view = false;
  EXPECT_EQ(read_file("a"), bytes);
  EXPECT_GT(fs().reads, 0);
}

TEST_F(SessionTest, serves_cached_opens) {
  fs().offer_cached = true;
  std::string bytes = pattern(2'500'000);
  write_file("a", bytes);
  EXPECT_EQ(read_file("a"), bytes);
  EXPECT_EQ(read_file("a"), bytes);
}

TEST_F(SessionTest, lets_the_kernel_read_by_itself) {
  if (mounted_->session->mode() != "passthrough") GTEST_SKIP() << mounted_->session->describe();
  std::string bytes = pattern(2'500'000);
  write_file("a", bytes);
  fs().offer_passthrough = true;
  fs().reads = 0;
  {
    Descriptor first = open_file("a", O_RDONLY);
    Descriptor second = open_file("a", O_RDONLY);
    EXPECT_EQ(read_all(first.get()), bytes);
    EXPECT_EQ(read_all(second.get()), bytes);
    void* at = ::mmap(nullptr, bytes.size(), PROT_READ, MAP_SHARED, first.get(), 0);
    ASSERT_NE(at, MAP_FAILED);
    EXPECT_EQ(std::string_view(static_cast<char*>(at), bytes.size()), bytes);
    ::munmap(at, bytes.size());
    // A reader whose answer is another mode joins, because the kernel would refuse it.
    fs().offer_passthrough = false;
    Descriptor third = open_file("a", O_RDONLY);
    EXPECT_EQ(read_all(third.get()), bytes);
  }
  EXPECT_EQ(fs().reads, 0) << "a read came to the file system";
  EXPECT_EQ(mounted_->metric("shoal_mount_passthrough_opens_total"), 3u);
  ASSERT_TRUE(eventually([&] { return fs().releases >= 4; }));
  EXPECT_EQ(read_file("a"), bytes);
  EXPECT_GT(fs().reads, 0) << "all passthrough opens are gone";
}

TEST_F(SessionTest, keeps_a_file_open_while_the_kernel_maps_it) {
  if (mounted_->session->mode() != "passthrough") GTEST_SKIP() << mounted_->session->describe();
  std::string bytes = pattern(100'000);
  write_file("a", bytes);
  ASSERT_TRUE(eventually([&] { return fs().releases == 1; }));
  fs().offer_passthrough = true;
  void* at = MAP_FAILED;
  {
    Descriptor file = open_file("a", O_RDONLY);
    at = ::mmap(nullptr, bytes.size(), PROT_READ, MAP_SHARED, file.get(), 0);
    ASSERT_NE(at, MAP_FAILED);
  }
  ASSERT_TRUE(eventually([&] { return mounted_->session->mapped_files() == 1; }));
  EXPECT_EQ(fs().releases, 1) << "closed in the file system in spite of the mapping";
  // The next open and close of it changes nothing, and a writer goes elsewhere.
  EXPECT_EQ(read_file("a"), bytes);
  {
    Descriptor writer = open_file("a", O_RDWR);
  }
  EXPECT_EQ(fs().stale_answers, 1);
  EXPECT_EQ(std::string_view(static_cast<char*>(at), bytes.size()), bytes);
  ASSERT_TRUE(eventually([&] { return mounted_->session->mapped_files() == 1; }));
  EXPECT_TRUE(eventually([&] { return fs().releases == 3; }));
  ::munmap(at, bytes.size());
  EXPECT_TRUE(eventually([&] { return mounted_->session->mapped_files() == 0; }));
  EXPECT_TRUE(eventually([&] { return fs().releases == 4; }));
}

TEST_F(SessionTest, offers_no_passthrough_beside_other_opens) {
  if (mounted_->session->mode() != "passthrough") GTEST_SKIP() << mounted_->session->describe();
  std::string bytes = pattern(100'000);
  write_file("a", bytes);
  Descriptor direct = open_file("a", O_RDONLY);
  void* at = ::mmap(nullptr, bytes.size(), PROT_READ, MAP_SHARED, direct.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  fs().offer_passthrough = true;
  EXPECT_EQ(read_file("a"), bytes);
  EXPECT_EQ(mounted_->metric("shoal_mount_passthrough_opens_total"), 0u);
  ::munmap(at, bytes.size());
}

TEST_F(SessionTest, a_writer_beside_passthrough_gets_a_new_inode) {
  if (mounted_->session->mode() != "passthrough") GTEST_SKIP() << mounted_->session->describe();
  write_file("a", "old bytes");
  fs().offer_passthrough = true;
  Descriptor reader = open_file("a", O_RDONLY);
  Descriptor writer = open_file("a", O_RDWR);
  ASSERT_TRUE(writer.valid());
  EXPECT_EQ(fs().stale_answers, 1);
  ASSERT_EQ(::pwrite(writer.get(), "NEW", 3, 0), 3);
  EXPECT_EQ(read_all(reader.get()), "old bytes");
  EXPECT_EQ(read_all(writer.get()), "NEW bytes");
}

TEST_F(SessionTest, stops_with_files_open) {
  mounted_.reset();
  MountOptions options;
  options.stop_grace = std::chrono::milliseconds(50);
  start(std::move(options));
  write_file("a", "a");
  Descriptor file = open_file("a", O_RDONLY);
  fs().block_reads = true;
  int error = 0;
  std::thread reader([&] {
    char byte;
    if (::read(file.get(), &byte, 1) < 0) error = errno;
  });
  EXPECT_TRUE(eventually([&] { return fs().reads_blocked > 0; }));
  mounted_->session->stop();  // the read is cancelled when stop_grace ends
  reader.join();
  EXPECT_EQ(error, EINTR);
  EXPECT_EQ(fs().open_handles(), 0u);
  char byte;
  EXPECT_ERRNO(::read(file.get(), &byte, 1), ENOTCONN);
  struct stat stat;
  ASSERT_EQ(::stat(directory_.c_str(), &stat), 0);
}

TEST_F(SessionTest, notices_an_unmount_by_others) {
  EXPECT_FALSE(mounted_->session->ended());
  write_file("a", "a");
  {
    Descriptor file = open_file("a", O_RDONLY);
    Status busy = fuse::unmount(directory_, false);
    ASSERT_FALSE(busy);
    EXPECT_EQ(busy.error().code(), Code::kBusy);
  }
  ASSERT_TRUE(eventually([&] { return fs().releases >= 2; }));
  Status status = fuse::unmount(directory_, false);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_TRUE(eventually([&] { return mounted_->session->ended(); }));
  EXPECT_EQ(fuse::unmount(directory_, false).error().code(), Code::kNotFound);
}

TEST_F(SessionTest, refuses_bad_mountpoints) {
  Mounted twice(directory_);
  ASSERT_EQ(twice.session, nullptr);
  EXPECT_NE(twice.error.find("Shoal mount already"), std::string::npos) << twice.error;
  Mounted missing("/tmp/shoal-no-such-directory");
  ASSERT_EQ(missing.session, nullptr);
  EXPECT_NE(missing.error.find("mkdir -p"), std::string::npos) << missing.error;
  Mounted file("/etc/passwd");
  ASSERT_EQ(file.session, nullptr);
  EXPECT_NE(file.error.find("not a directory"), std::string::npos) << file.error;
  Mounted full("/etc");
  ASSERT_EQ(full.session, nullptr);
  EXPECT_NE(full.error.find("not empty"), std::string::npos) << full.error;
}

TEST_F(SessionTest, read_only_refuses_writes) {
  mounted_.reset();
  MountOptions options;
  options.read_only = true;
  start(std::move(options));
  EXPECT_ERRNO(::open(path("a").c_str(), O_CREAT | O_WRONLY, 0600), EROFS);
}

}  // namespace
}  // namespace shoal
