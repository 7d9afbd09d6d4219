// Mounts of other processes: killed ones, and those of ordinary users. Skipped where /dev/fuse
// cannot be used.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mount/mounted_test_support.h"

namespace shoal {
namespace {

// Runs `body` in a process of its own; its mount must not inherit what this process has open.
template <typename Body>
pid_t in_child(Body body) {
  pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  return child;
}

TEST(SessionProcess, a_killed_daemon_hangs_nobody) {
  REQUIRE_FUSE();
  std::string directory = make_directory();
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  pid_t daemon = in_child([&] {
    Mounted mounted(directory);
    mounted.file_system->block_reads = true;
    char said = mounted.session != nullptr ? 'm' : 'f';
    if (::write(ready[1], &said, 1) != 1) ::_exit(1);
    if (!eventually([&] { return mounted.file_system->reads_blocked > 0; })) ::_exit(1);
    if (::write(ready[1], "r", 1) != 1) ::_exit(1);
    ::pause();
  });
  char said = 0;
  ASSERT_EQ(::read(ready[0], &said, 1), 1);
  ASSERT_EQ(said, 'm');
  int file = ::open((directory + "/a").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  ASSERT_GE(file, 0);
  ssize_t got = 0;
  int error = 0;
  std::thread reader([&] {
    char byte;
    got = ::read(file, &byte, 1);
    error = errno;
  });
  ASSERT_EQ(::read(ready[0], &said, 1), 1);
  ::kill(daemon, SIGKILL);
  int status;
  ASSERT_EQ(::waitpid(daemon, &status, 0), daemon);
  reader.join();
  EXPECT_EQ(got, -1);
  // Aborted while the daemon had it: the kernel says ECONNABORTED or ENOTCONN.
  EXPECT_TRUE(error == ENOTCONN || error == ECONNABORTED) << ::strerror(error);
  struct stat stat;
  EXPECT_ERRNO(::stat((directory + "/a").c_str(), &stat), ENOTCONN);
  ::close(file);
  ::close(ready[0]);
  ::close(ready[1]);
  {
    Mounted again(directory);
    ASSERT_NE(again.session, nullptr) << again.error;
    EXPECT_ERRNO(::stat((directory + "/a").c_str(), &stat), ENOENT);
  }
  EXPECT_EQ(::stat(directory.c_str(), &stat), 0);
  ::rmdir(directory.c_str());
}

TEST(SessionProcess, an_ordinary_user_mounts_with_fusermount3) {
  REQUIRE_FUSE();
  if (::access("/usr/bin/fusermount3", X_OK) != 0) GTEST_SKIP() << "no fusermount3";
  struct stat device;
  ASSERT_EQ(::stat("/dev/fuse", &device), 0);
  if ((device.st_mode & 06) != 06) GTEST_SKIP() << "/dev/fuse is closed to ordinary users";
  std::string directory = make_directory();
  ASSERT_EQ(::chown(directory.c_str(), 65534, 65534), 0);
  pid_t user = in_child([&] {
    if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
    Mounted mounted(directory);
    if (mounted.session == nullptr) {
      std::fprintf(stderr, "%s\n", mounted.error.c_str());
      ::_exit(3);
    }
    std::string name = directory + "/a";
    int file = ::open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    char byte = 0;
    if (file < 0 || ::write(file, "u", 1) != 1 || ::pread(file, &byte, 1, 0) != 1) ::_exit(4);
    ::close(file);
    if (byte != 'u' || mounted.session->mode() != "direct") ::_exit(5);
    mounted.stop();
    struct stat stat;
    if (::stat(name.c_str(), &stat) == 0) ::_exit(6);
  });
  int status = 0;
  ASSERT_EQ(::waitpid(user, &status, 0), user);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  (void)fuse::unmount(directory, true);  // what a failed child left
  ::rmdir(directory.c_str());
}

}  // namespace
}  // namespace shoal
