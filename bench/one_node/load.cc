#include "one_node/load.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>

#include "one_node/child.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace {

constexpr size_t kSampleBytes = 64;

// An open file that closes itself; close() is for those who want to know how it went.
class File {
 public:
  static Result<File> open(const std::string& path, int flags) {
    int number = -1;
    do {
      number = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    } while (number < 0 && errno == EINTR && !interrupted());
    if (number < 0) return fail(error_from_errno(errno, "cannot open " + path));
    return File(number);
  }
  File(File&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  File& operator=(File&&) = delete;
  ~File() {
    if (number_ >= 0) ::close(number_);
  }
  Status close() {
    if (::close(std::exchange(number_, -1)) != 0) return fail(error_from_errno(errno, "close"));
    return {};
  }
  Status read(ByteSpan into, uint64_t offset) const {
    size_t at = 0;
    while (at < into.size()) {
      ssize_t n =
          pread(number_, into.data() + at, into.size() - at, static_cast<off_t>(offset + at));
      if (n < 0 && errno == EINTR && !interrupted()) continue;
      if (n < 0) return fail(error_from_errno(errno, "pread"));
      if (n == 0) return fail(Code::kCorrupt, fmt::format("the file ends at {}", offset + at));
      at += static_cast<size_t>(n);
    }
    return {};
  }
  Status write(ConstByteSpan bytes, uint64_t offset) const {
    while (!bytes.empty()) {
      ssize_t n = pwrite(number_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR && !interrupted()) continue;
      if (n <= 0) return fail(error_from_errno(errno, "pwrite"));
      bytes = bytes.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
    return {};
  }
  Status sync() const {
    if (fsync(number_) != 0) return fail(error_from_errno(errno, "fsync"));
    return {};
  }

 private:
  explicit File(int number) : number_(number) {}
  int number_;
};

class Outcome {
 public:
  void note(Status status) {
    std::lock_guard lock(mutex_);
    if (status_ && !status) status_ = std::move(status);
  }
  Status take() { return std::move(status_); }

 private:
  std::mutex mutex_;
  Status status_;
};

Status check_sample(std::optional<uint64_t> seed, uint64_t offset, ConstByteSpan block) {
  if (!seed) return {};
  // A different place in every block, without a generator's cost.
  size_t room = block.size() - std::min(kSampleBytes, block.size());
  size_t at = room == 0 ? 0 : (offset / 4096 * 2654435761u) % room;
  ConstByteSpan sample = block.subspan(at, std::min(kSampleBytes, block.size()));
  if (synthetic_equal(*seed, offset + at, sample)) return {};
  return fail(Code::kCorrupt, fmt::format("wrong bytes at {}", offset + at));
}

struct Job {
  uint64_t first = 0;  // of its part of the file
  uint64_t blocks = 0;
  double seconds = 0;
  uint64_t bytes = 0;
};

Status run_read_job(const ReadLoad& load, Job& job, unsigned index, std::barrier<>& start) {
  auto file = File::open(load.path, O_RDONLY);
  Buffer buffer(load.block);
  std::memset(buffer.data(), 1, buffer.size());
  // Opened before all begin: the cost of open has its own row.
  start.arrive_and_wait();
  if (!file) return fail(std::move(file).error());
  uint64_t state = 88172645463325252ull + index * 7919;
  uint64_t next = 0;
  double begun = seconds_now();
  double until = begun + load.seconds;
  unsigned unchecked = 0;
  while (true) {
    uint64_t block = next++ % job.blocks;
    if (load.random) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      block = state % job.blocks;
    }
    uint64_t offset = job.first + block * load.block;
    SHOAL_RETURN_IF_ERROR(file->read(buffer.span(), offset));
    job.bytes += load.block;
    if (!load.random || unchecked % 64 == 0) {
      SHOAL_RETURN_IF_ERROR(check_sample(load.seed, offset, buffer.span()));
    }
    // The clock is asked often enough, not for every small read.
    if (++unchecked % (load.block >= 128 * kKiB ? 1 : 64) != 0) continue;
    double now = seconds_now();
    if (now < until && !interrupted()) continue;
    job.seconds = now - begun;
    return check_interrupted();
  }
}

}  // namespace

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds_of_this_process() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Result<ReadRate> read_for_a_while(const ReadLoad& load) {
  SHOAL_ASSERT(load.jobs > 0 && load.block > 0 && load.size >= load.block * load.jobs);
  std::vector<Job> jobs(load.jobs);
  Outcome outcome;
  std::barrier<> start(load.jobs);
  {
    std::vector<std::jthread> threads;
    uint64_t blocks = load.size / load.block / load.jobs;
    for (unsigned i = 0; i < load.jobs; ++i) {
      // Random jobs roam over the whole file, sequential ones in their own part.
      jobs[i].first = load.random ? 0 : i * blocks * load.block;
      jobs[i].blocks = load.random ? load.size / load.block : blocks;
      threads.emplace_back([&load, &outcome, &start, &job = jobs[i], i] {
        outcome.note(run_read_job(load, job, i, start));
      });
    }
  }
  SHOAL_RETURN_IF_ERROR(outcome.take());
  ReadRate rate;
  for (const Job& job : jobs) {
    SHOAL_ASSERT(job.seconds > 0);
    rate.bytes += static_cast<double>(job.bytes);
    rate.bytes_per_second += static_cast<double>(job.bytes) / job.seconds;
  }
  return rate;
}

Result<double> read_once(const std::string& path, uint64_t size, std::optional<uint64_t> seed) {
  Buffer buffer(kMiB);
  std::memset(buffer.data(), 1, buffer.size());
  double begun = seconds_now();
  SHOAL_ASSIGN_OR_RETURN(File file, File::open(path, O_RDONLY));
  for (uint64_t offset = 0; offset < size; offset += kMiB) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    ByteSpan part = buffer.part(0, std::min(kMiB, size - offset));
    SHOAL_RETURN_IF_ERROR(file.read(part, offset));
    SHOAL_RETURN_IF_ERROR(check_sample(seed, offset, part));
  }
  SHOAL_RETURN_IF_ERROR(file.close());
  return seconds_now() - begun;
}

std::string written_path(const WriteLoad& load, unsigned job) {
  return fmt::format("{}.{}", load.path, job);
}

namespace {

Status write_one(const WriteLoad& load, unsigned job) {
  SHOAL_ASSIGN_OR_RETURN(File file,
                         File::open(written_path(load, job), O_WRONLY | O_CREAT | O_TRUNC));
  uint64_t size = load.size / load.jobs;
  for (uint64_t offset = 0; offset < size; offset += kMiB) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    // Straight from constant memory: making the bytes costs nothing.
    ConstByteSpan bytes = synthetic_span(load.seed + job, offset);
    SHOAL_RETURN_IF_ERROR(file.write(bytes.first(std::min(bytes.size(), size - offset)), offset));
  }
  if (load.fsync) SHOAL_RETURN_IF_ERROR(file.sync());
  return file.close();
}

}  // namespace

Result<double> write_files(const WriteLoad& load) {
  SHOAL_ASSERT(load.jobs > 0 && load.size / load.jobs > 0);
  (void)synthetic_span(0, 0);  // the pattern is made at its first use
  Outcome outcome;
  double begun = seconds_now();
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < load.jobs; ++i) {
      threads.emplace_back([&load, &outcome, i] { outcome.note(write_one(load, i)); });
    }
  }
  double took = seconds_now() - begun;
  SHOAL_RETURN_IF_ERROR(outcome.take());
  return took;
}

Status make_native_file(const std::string& path, uint64_t size, uint64_t seed) {
  WriteLoad load{.path = path, .size = size, .jobs = 1, .fsync = true, .seed = seed};
  SHOAL_RETURN_IF_ERROR(write_files(load));
  if (rename(written_path(load, 0).c_str(), path.c_str()) != 0) {
    return fail(error_from_errno(errno, "cannot rename to " + path));
  }
  return {};
}

Status verify_file(const std::string& path, uint64_t size, uint64_t seed) {
  Buffer buffer(kMiB);
  SHOAL_ASSIGN_OR_RETURN(File file, File::open(path, O_RDONLY));
  for (uint64_t offset = 0; offset < size; offset += kMiB) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    ByteSpan part = buffer.part(0, std::min(kMiB, size - offset));
    SHOAL_RETURN_IF_ERROR(file.read(part, offset));
    if (!synthetic_equal(seed, offset, part)) {
      return fail(Code::kCorrupt,
                  fmt::format("{} has wrong bytes within 1 MiB from {}", path, offset));
    }
  }
  struct stat info{};
  if (stat(path.c_str(), &info) != 0 || static_cast<uint64_t>(info.st_size) != size) {
    return fail(Code::kCorrupt, fmt::format("{} has not {} bytes", path, size));
  }
  return {};
}

void settle_disk() { ::sync(); }

bool drop_page_cache() {
  int control = ::open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
  if (control < 0) return false;
  bool dropped = ::write(control, "1", 1) == 1;
  ::close(control);
  return dropped;
}

std::string small_file(const SmallFiles& files, uint64_t index) {
  return fmt::format("{}/f{:08}", files.directory, index);
}

Result<double> create_small(const SmallFiles& files, bool fsync) {
  if (mkdir(files.directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return fail(error_from_errno(errno, "cannot make " + files.directory));
  }
  double begun = seconds_now();
  for (uint64_t i = 0; i < files.count; ++i) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    SHOAL_ASSIGN_OR_RETURN(File file,
                           File::open(small_file(files, i), O_WRONLY | O_CREAT | O_EXCL));
    SHOAL_RETURN_IF_ERROR(file.write(synthetic_span(i, 0).first(files.bytes), 0));
    if (fsync) SHOAL_RETURN_IF_ERROR(file.sync());
    SHOAL_RETURN_IF_ERROR(file.close());
  }
  return seconds_now() - begun;
}

Result<double> stat_small(const SmallFiles& files) {
  double begun = seconds_now();
  for (uint64_t i = 0; i < files.count; ++i) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    struct stat info{};
    std::string path = small_file(files, i);
    if (stat(path.c_str(), &info) != 0) return fail(error_from_errno(errno, "cannot stat " + path));
    if (static_cast<uint64_t>(info.st_size) != files.bytes) {
      return fail(Code::kCorrupt, fmt::format("{} has {} bytes", path, info.st_size));
    }
  }
  return seconds_now() - begun;
}

Result<double> read_small(const SmallFiles& files) {
  Buffer buffer(files.bytes);
  double begun = seconds_now();
  for (uint64_t i = 0; i < files.count; ++i) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    SHOAL_ASSIGN_OR_RETURN(File file, File::open(small_file(files, i), O_RDONLY));
    SHOAL_RETURN_IF_ERROR(file.read(buffer.span(), 0));
    if (!synthetic_equal(i, 0, buffer.span())) {
      return fail(Code::kCorrupt, small_file(files, i) + " has wrong bytes");
    }
  }
  return seconds_now() - begun;
}

Result<double> list_directory(const std::string& path, uint64_t expected) {
  double begun = seconds_now();
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return fail(error_from_errno(errno, "cannot open " + path));
  uint64_t count = 0;
  errno = 0;
  while (const dirent* entry = readdir(directory)) {
    count += entry->d_name[0] != '.';
    if (count % 1024 == 0 && interrupted()) break;
    errno = 0;
  }
  int reason = errno;
  closedir(directory);
  SHOAL_RETURN_IF_ERROR(check_interrupted());
  if (reason != 0) return fail(error_from_errno(reason, "cannot list " + path));
  if (count != expected) {
    return fail(Code::kCorrupt,
                fmt::format("{} lists {} names instead of {}", path, count, expected));
  }
  return seconds_now() - begun;
}

}  // namespace shoal::bench
