// What a request costs: getattr, small and large reads on each path, against the same system calls
// on the file itself. Prints one line per row: name, per second, ratio to its ceiling.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <random>

#include "mount/memory_file_system_test_support.h"
#include "mount/session.h"
#include "world_linux/shard.h"

namespace shoal {
namespace {

constexpr uint64_t kFileBytes = 256 * kMiB;

// Calls per second, of a quarter of a second of calls.
double rate(const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < 64; ++i) call();
  uint64_t calls = 0;
  auto begin = Clock::now();
  double seconds = 0;
  while (seconds < 0.5) {
    for (int i = 0; i < 64; ++i) call();
    calls += 64;
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return static_cast<double>(calls) / seconds;
}

double read_rate(int file, size_t size, bool random) {
  std::string buffer(size, '\0');
  std::mt19937_64 chance(1);
  uint64_t at = 0;
  return rate([&] {
    uint64_t slot = random ? chance() % (kFileBytes / size) : at++ % (kFileBytes / size);
    ssize_t got = ::pread(file, buffer.data(), size, static_cast<off_t>(slot * size));
    SHOAL_ASSERT(got == static_cast<ssize_t>(size));
  });
}

void show(const char* name, double value, double ceiling) {
  std::printf("%-34s %12.0f /s   %6.3f of %0.0f\n", name, value, value / ceiling, ceiling);
}

int run() {
  char name[] = "/tmp/shoal-bench-XXXXXX";
  SHOAL_ASSERT(::mkdtemp(name) != nullptr);
  std::string directory = name;
  auto shard = Shard::start({});
  if (!shard) return 1;
  Log log(LogLevel::kWarning, [](LogLevel, std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
  });
  Registry registry;
  MemoryFileSystem file_system(**shard);
  MountOptions options;
  options.mountpoint = directory;
  auto session = FuseSession::start(**shard, file_system, log, registry, options);
  if (!session) {
    std::fprintf(stderr, "%s\n", session.error().to_string().c_str());
    return 77;
  }
  std::printf("%s\n", (*session)->describe().c_str());
  std::string path = directory + "/big";
  std::string block(kMiB, 'x');
  int plain = ::open("/tmp", O_TMPFILE | O_RDWR, 0600);
  int written = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  uint64_t at = 0;
  double plain_write = rate([&] {
    SHOAL_ASSERT(::pwrite(plain, block.data(), kMiB, static_cast<off_t>(at++ * kMiB % kFileBytes)) >
                 0);
  });
  at = 0;
  double fuse_write = rate([&] {
    SHOAL_ASSERT(
        ::pwrite(written, block.data(), kMiB, static_cast<off_t>(at++ * kMiB % kFileBytes)) > 0);
  });
  for (uint64_t i = 0; i < kFileBytes / kMiB; ++i) {
    SHOAL_ASSERT(::pwrite(plain, block.data(), kMiB, static_cast<off_t>(i * kMiB)) > 0);
    SHOAL_ASSERT(::pwrite(written, block.data(), kMiB, static_cast<off_t>(i * kMiB)) > 0);
  }
  show("write 1 MiB", fuse_write, plain_write);
  ::close(written);

  struct stat stat;
  double plain_stat = rate([&] { SHOAL_ASSERT(::fstat(plain, &stat) == 0); });
  int asked = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  show("getattr (shard)", rate([&] { SHOAL_ASSERT(::fstat(asked, &stat) == 0); }), plain_stat);
  double small = read_rate(plain, 4096, true);
  double large = read_rate(plain, kMiB, false);
  show("read 4 KiB, shard", read_rate(asked, 4096, true), small);
  show("read 1 MiB, shard", read_rate(asked, kMiB, false), large);
  ::close(asked);
  file_system.offer_view = true;
  int fast = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  show("read 4 KiB, fast path", read_rate(fast, 4096, true), small);
  show("read 1 MiB, fast path", read_rate(fast, kMiB, false), large);
  ::close(fast);
  // RELEASE comes some time after close; passthrough begins when no other open is left.
  while (file_system.open_now() > 0) ::usleep(1000);
  if ((*session)->mode() == "passthrough") {
    file_system.offer_passthrough = true;
    int passed = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    show("read 4 KiB, passthrough", read_rate(passed, 4096, true), small);
    show("read 1 MiB, passthrough", read_rate(passed, kMiB, false), large);
    ::close(passed);
  }
  double plain_open = rate([&] { ::close(::open("/tmp", O_RDONLY)); });
  show("open and close", rate([&] { ::close(::open(path.c_str(), O_RDONLY)); }), plain_open);
  (*session)->stop();
  (*shard)->stop();
  ::rmdir(directory.c_str());
  return 0;
}

}  // namespace
}  // namespace shoal

int main() { return shoal::run(); }
