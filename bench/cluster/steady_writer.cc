#include "cluster/steady_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/assert.h"
#include "one_node/load.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kStopPatience{60'000};
constexpr uint64_t kErrorsMax = 100;  // of a thread: then it gives up

// What went wrong; empty: acknowledged.
std::string save(const std::string& path, uint64_t size, uint64_t seed) {
  int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return std::string("open: ") + strerror(errno);
  std::string problem;
  for (uint64_t at = 0; problem.empty() && at < size;) {
    ConstByteSpan bytes = synthetic_span(seed, at);
    bytes = bytes.first(std::min<uint64_t>({bytes.size(), size - at, kMiB}));
    ssize_t n = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) problem = std::string("write: ") + strerror(errno);
    if (n > 0) at += static_cast<uint64_t>(n);
  }
  if (problem.empty() && fsync(file) != 0) problem = std::string("fsync: ") + strerror(errno);
  if (close(file) != 0 && problem.empty()) problem = std::string("close: ") + strerror(errno);
  return problem;
}

void write_steadily(const SteadyWrites& writes, size_t thread, SteadyWritten& mine) {
  for (uint64_t i = 0; !interrupted() && mine.errors < kErrorsMax; ++i) {
    std::string path = writes.directories[thread] + "/" + steady_name(i);
    double begun = seconds_now();
    std::string problem = save(path, writes.size, steady_seed(writes.seed, thread, i));
    mine.longest_seconds = std::max(mine.longest_seconds, seconds_now() - begun);
    if (problem.empty()) {
      mine.acknowledged.push_back(i);
    } else if (mine.errors++ == 0) {
      mine.first_error = path + ": " + problem;
    }
    std::this_thread::sleep_for(std::chrono::duration<double>(writes.pause_seconds));
  }
}

Json run_writes(const SteadyWrites& writes) {
  std::vector<SteadyWritten> outcomes(writes.directories.size());
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < outcomes.size(); ++i) {
      threads.emplace_back([&writes, &outcomes, i] { write_steadily(writes, i, outcomes[i]); });
    }
  }
  Json report = Json::array();
  for (const SteadyWritten& one : outcomes) {
    report.push_back({{"acknowledged", one.acknowledged},
                      {"errors", one.errors},
                      {"longest_seconds", one.longest_seconds},
                      {"first_error", one.first_error}});
  }
  return report;
}

}  // namespace

uint64_t steady_seed(uint64_t seed, size_t thread, uint64_t file) {
  return seed + 1'000'000 * (thread + 1) + file;
}

std::string steady_name(uint64_t file) { return fmt::format("step-{:06}", file); }

Result<std::unique_ptr<SteadyWriter>> SteadyWriter::start(const WorkDirectory& work,
                                                          const SteadyWrites& writes) {
  SHOAL_ASSERT(!writes.directories.empty() && writes.size > 0);
  (void)synthetic_span(writes.seed, 0);  // the pattern is made at its first use
  SHOAL_ASSIGN_OR_RETURN(
      auto child, ReportingChild::start(work, "writers", [&writes] { return run_writes(writes); }));
  return std::unique_ptr<SteadyWriter>(new SteadyWriter(std::move(child)));
}

Result<std::vector<SteadyWritten>> SteadyWriter::stop() {
  SHOAL_ASSIGN_OR_RETURN(Json json, child_.stop(SIGTERM, kStopPatience));
  std::vector<SteadyWritten> out;
  for (const Json& one : json) {
    out.push_back({.acknowledged = one.value("acknowledged", std::vector<uint64_t>{}),
                   .errors = one.value("errors", uint64_t{0}),
                   .longest_seconds = one.value("longest_seconds", 0.0),
                   .first_error = one.value("first_error", std::string())});
  }
  return out;
}

}  // namespace shoal::bench
