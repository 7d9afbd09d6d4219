#include "cluster/steady_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
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

int run_reads(const SteadyReads& reads) {
  catch_interrupts();
  (void)synthetic_span(reads.seed, 0);  // the pattern is made at its first use
  dprintf(1, "begun\n");
  Shared shared;
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < reads.paths.size(); ++i) {
      threads.emplace_back([&reads, &shared, i] { read_steadily(reads, i, shared); });
    }
  }
  Json line = {{"reads", shared.outcome.reads},
               {"errors", shared.outcome.errors},
               {"longest_seconds", shared.outcome.longest_seconds},
               {"first_error", shared.outcome.first_error}};
  std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  return write(1, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1;
}

}  // namespace

Result<std::unique_ptr<SteadyReader>> SteadyReader::start(const WorkDirectory& work,
                                                          const SteadyReads& reads) {
  SHOAL_ASSERT(!reads.paths.empty() && reads.block > 0 && reads.size >= reads.block);
  std::string log = work / fmt::format("reader{}.log", reinterpret_cast<uintptr_t>(&reads));
  unlink(log.c_str());
  SHOAL_ASSIGN_OR_RETURN(Child child, Child::fork_off([&reads] { return run_reads(reads); }, log));
  double until = seconds_now() + 10;
  while (child.running() && seconds_now() < until) {
    if (last_lines(log, 1).ends_with("begun")) {
      return std::unique_ptr<SteadyReader>(new SteadyReader(std::move(child), log));
    }
    std::this_thread::sleep_for(milliseconds(2));
  }
  return fail(Code::kUnavailable, "the readers did not start:" + last_lines(log, 3));
}

Result<SteadyOutcome> SteadyReader::stop() {
  if (!child_.stop(SIGTERM, kStopPatience)) {
    SteadyOutcome hung{.reads = 1, .errors = 1, .longest_seconds = 30, .first_error = "hangs"};
    return hung;
  }
  std::ifstream in(log_);
  std::string line;
  std::getline(in, line);  // "begun"
  std::getline(in, line);
  Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) {
    return fail(Code::kInternal, "the readers ended early:" + last_lines(log_, 3));
  }
  return SteadyOutcome{.reads = json.value("reads", uint64_t{0}),
                       .errors = json.value("errors", uint64_t{0}),
                       .longest_seconds = json.value("longest_seconds", 0.0),
                       .first_error = json.value("first_error", std::string())};
}

}  // namespace shoal::bench
