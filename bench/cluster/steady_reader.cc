#include "cluster/steady_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <thread>

#include "base/assert.h"
#include "one_node/load.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kStopPatience{30'000};
constexpr uint64_t kErrorsMax = 1000;  // of a thread: then it gives up

struct Shared {
  std::mutex mutex;
  SteadyOutcome outcome;
};

// What went wrong with this read; empty: nothing.
std::string read_block(int file, uint64_t seed, uint64_t offset, ByteSpan into) {
  size_t at = 0;
  while (at < into.size()) {
    ssize_t n = pread(file, into.data() + at, into.size() - at, static_cast<off_t>(offset + at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::string("pread: ") + strerror(errno);
    if (n == 0) return fmt::format("the file ends at {}", offset + at);
    at += static_cast<size_t>(n);
  }
  if (!synthetic_equal(seed, offset, into)) return fmt::format("wrong bytes at {}", offset);
  return {};
}

void read_steadily(const SteadyReads& reads, size_t index, Shared& shared) {
  SteadyOutcome mine;
  const std::string& path = reads.paths[index];
  Buffer buffer(reads.block);
  uint64_t state = 88172645463325252ull + index * 7919;
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (!interrupted() && mine.errors < kErrorsMax) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    uint64_t offset = state % (reads.size / reads.block) * reads.block;
    double begun = seconds_now();
    std::string problem =
        file < 0 ? "cannot open " + path : read_block(file, reads.seed, offset, buffer.span());
    mine.longest_seconds = std::max(mine.longest_seconds, seconds_now() - begun);
    ++mine.reads;
    if (!problem.empty() && mine.errors++ == 0) mine.first_error = path + ": " + problem;
    std::this_thread::sleep_for(std::chrono::duration<double>(reads.pause_seconds));
  }
  if (file >= 0) close(file);
  std::lock_guard lock(shared.mutex);
  shared.outcome.reads += mine.reads;
  shared.outcome.errors += mine.errors;
  shared.outcome.longest_seconds = std::max(shared.outcome.longest_seconds, mine.longest_seconds);
  if (shared.outcome.first_error.empty()) shared.outcome.first_error = mine.first_error;
}

Json run_reads(const SteadyReads& reads) {
  Shared shared;
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < reads.paths.size(); ++i) {
      threads.emplace_back([&reads, &shared, i] { read_steadily(reads, i, shared); });
    }
  }
  return {{"reads", shared.outcome.reads},
          {"errors", shared.outcome.errors},
          {"longest_seconds", shared.outcome.longest_seconds},
          {"first_error", shared.outcome.first_error}};
}

}  // namespace

Result<std::unique_ptr<SteadyReader>> SteadyReader::start(const WorkDirectory& work,
                                                          const SteadyReads& reads) {
  SHOAL_ASSERT(!reads.paths.empty() && reads.block > 0 && reads.size >= reads.block);
  (void)synthetic_span(reads.seed, 0);  // the pattern is made at its first use
  SHOAL_ASSIGN_OR_RETURN(
      auto child, ReportingChild::start(work, "readers", [&reads] { return run_reads(reads); }));
  return std::unique_ptr<SteadyReader>(new SteadyReader(std::move(child)));
}

Result<SteadyOutcome> SteadyReader::stop() {
  auto json = child_.stop(SIGTERM, kStopPatience);
  if (!json && json.error().code() == Code::kDeadlineExceeded) {
    return SteadyOutcome{
        .reads = 1, .errors = 1, .longest_seconds = 30, .first_error = json.error().message()};
  }
  if (!json) return fail(std::move(json).error());
  return SteadyOutcome{.reads = json->value("reads", uint64_t{0}),
                       .errors = json->value("errors", uint64_t{0}),
                       .longest_seconds = json->value("longest_seconds", 0.0),
                       .first_error = json->value("first_error", std::string())};
}

}  // namespace shoal::bench
