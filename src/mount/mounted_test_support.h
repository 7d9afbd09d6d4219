// For this room's tests: a mounted MemoryFileSystem.
#pragma once

#include <errno.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "mount/memory_file_system_test_support.h"
#include "mount/session.h"
#include "world_linux/shard.h"

namespace shoal {

inline bool may_mount() { return ::geteuid() == 0 && ::access("/dev/fuse", R_OK | W_OK) == 0; }
#define REQUIRE_FUSE() \
  if (!may_mount()) GTEST_SKIP() << "needs root and /dev/fuse"

inline std::string make_directory() {
  char name[] = "/tmp/shoal-mount-XXXXXX";
  SHOAL_ASSERT(::mkdtemp(name) != nullptr);
  return name;
}

// Everything a mount needs, and the mount.
class Mounted {
 public:
  explicit Mounted(std::string directory, MountOptions options = {}) : directory_(directory) {
    auto shard = Shard::start({});
    SHOAL_ASSERT(shard.has_value());
    shard_ = std::move(*shard);
    file_system = std::make_unique<MemoryFileSystem>(*shard_);
    options.mountpoint = directory;
    options.allow_other = ::geteuid() == 0;
    auto started = FuseSession::start(*shard_, *file_system, log_, registry_, std::move(options));
    if (!started) {
      error = started.error().to_string();
      return;
    }
    session = std::move(*started);
  }
  ~Mounted() { stop(); }
  void stop() {
    if (session) session->stop();
    session.reset();
    if (shard_) shard_->stop();
  }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  uint64_t metric(const std::string& name) {
    std::string text = registry_.prometheus_text();
    size_t at = text.find("\n" + name + " ");
    SHOAL_ASSERT(at != std::string::npos);
    return std::stoull(text.substr(at + name.size() + 2));
  }

  std::unique_ptr<MemoryFileSystem> file_system;
  std::unique_ptr<FuseSession> session;
  std::string error;

 private:
  std::string directory_;
  Log log_{LogLevel::kWarning, [](LogLevel, std::string_view line) {
             std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
           }};
  Registry registry_;
  std::unique_ptr<Shard> shard_;
};

// Waits for what another thread is about to do; the limit only ends a test that has failed.
template <typename Condition>
bool eventually(Condition condition) {
  auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

#define EXPECT_ERRNO(call, number)                 \
  do {                                             \
    errno = 0;                                     \
    EXPECT_LT((call), 0);                          \
    EXPECT_EQ(errno, number) << ::strerror(errno); \
  } while (false)

}  // namespace shoal
