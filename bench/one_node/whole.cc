// The node as a whole: large directories, memory, and what a restart costs the origin.
#include <fmt/format.h>

#include <filesystem>
#include <thread>

#include "one_node/one_node.h"

namespace shoal::bench {

namespace {

constexpr uint64_t kSeed = 41;
constexpr uint64_t kListedBytes = 1000;
constexpr double kIdleBytesMax = 30.0 * static_cast<double>(kMiB);
constexpr uint64_t kBusyOverheadMax = 64 * kMiB;
constexpr double kSlowPageMs = 20;
constexpr double kMebibyte = static_cast<double>(kMiB);

std::string_view between(std::string_view text, std::string_view begin, std::string_view end) {
  size_t from = text.find(begin);
  if (from == std::string_view::npos) return {};
  from += begin.size();
  size_t to = text.find(end, from);
  return to == std::string_view::npos ? std::string_view() : text.substr(from, to - from);
}

uint64_t occurrences(std::string_view text, std::string_view word) {
  uint64_t count = 0;
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1))
    ++count;
  return count;
}

// The origin's own pages, one after the other on one connection, with the least parsing that can
// find the names and the next page. The largest page Azure gives is 5,000 names.
Result<double> list_plainly(const Bench& bench, const std::string& directory, uint64_t expected) {
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect(bench.stub.port()));
  std::string base = bench.stub.target("");
  base.pop_back();  // the container, without a slash
  double begun = seconds_now();
  std::string marker;
  uint64_t count = 0;
  do {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    auto target = fmt::format(
        "{}?restype=container&comp=list&include=metadata&delimiter=%2F&maxresults=5000&prefix={}%"
        "2F{}{}",
        base, directory, marker.empty() ? "" : "&marker=", marker);
    SHOAL_ASSIGN_OR_RETURN(std::string page, http.call("GET", target));
    count += occurrences(page, "<Name>");
    marker = between(page, "<NextMarker>", "</NextMarker>");
  } while (!marker.empty());
  if (count != expected) {
    return fail(Code::kCorrupt,
                fmt::format("the origin lists {} names instead of {}", count, expected));
  }
  return seconds_now() - begun;
}

}  // namespace

Status run_list(Bench& bench) {
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-list"}));
  uint64_t count = bench.settings.list_objects;
  unsigned directory = 0;
  for (double latency : {0.0, kSlowPageMs}) {
    std::string name = latency == 0 ? "list.loopback" : "list.20ms";
    if (!bench.wants(name)) continue;
    bench.progress(name);
    Pairs pairs;
    for (unsigned round = 0; round < bench.settings.rounds; ++round) {
      // A directory that the mount has never seen.
      auto fresh = fmt::format("list-{}", directory++);
      SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
      SHOAL_RETURN_IF_ERROR(bench.stub.add_many(fresh + "/", count, kListedBytes, kSeed));
      SHOAL_RETURN_IF_ERROR(
          bench.stub.shape({.latency_ms = latency, .account_bytes_per_second = 0}));
      double seconds[2] = {};
      for (unsigned turn = 0; turn < 2; ++turn) {
        if ((turn == 0) == (round % 2 == 0)) {
          SHOAL_ASSIGN_OR_RETURN(seconds[0], list_directory(*mount / fresh, count));
        } else {
          SHOAL_ASSIGN_OR_RETURN(seconds[1], list_plainly(bench, fresh, count));
        }
      }
      pairs.add(seconds[0], seconds[1]);
    }
    bench.add(pairs.row(name, "s", Goal::kRatioAtMost, 1.2));
  }
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
  return mount->stop();
}

namespace {

Status measure_idle(Bench& bench) {
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-idle"}));
  std::this_thread::sleep_for(std::chrono::duration<double>(bench.settings.idle_seconds));
  SHOAL_ASSIGN_OR_RETURN(uint64_t bytes, mount->process().memory_field("VmRSS"));
  bench.add({"memory.idle", "MiB", static_cast<double>(bytes) / kMebibyte, std::nullopt,
             std::nullopt, Goal::kValueAtMost, kIdleBytesMax / kMebibyte});
  return mount->stop();
}

// More than the cache holds passes through, so that eviction is at work as well.
Status measure_busy(Bench& bench) {
  SHOAL_ASSIGN_OR_RETURN(uint64_t limit, parse_size(bench.settings.memory));
  uint64_t size = bench.settings.stream_size;
  uint64_t cache = std::max(size * 2 / 5, 128 * kMiB);
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-busy",
                                                  .memory = bench.settings.memory,
                                                  .cache_size = fmt::format("{}", cache)}));
  uint64_t part = std::min(kGiB, size / 4);
  SHOAL_RETURN_IF_ERROR(mount->process().reset_peak_memory());
  for (uint64_t done = 0, i = 0; done < size; done += part, ++i) {
    auto name = fmt::format("stream-{}", i);
    uint64_t bytes = std::min(part, size - done);
    SHOAL_RETURN_IF_ERROR(bench.stub.add_blob(name, bytes, kSeed + i));
    SHOAL_RETURN_IF_ERROR(read_once(*mount / name, bytes, kSeed + i));
  }
  SHOAL_ASSIGN_OR_RETURN(uint64_t peak, mount->process().memory_field("VmHWM"));
  bench.add({"memory.busy", "MiB", static_cast<double>(peak) / kMebibyte, std::nullopt,
             std::nullopt, Goal::kValueAtMost,
             static_cast<double>(limit + kBusyOverheadMax) / kMebibyte});
  return mount->stop();
}

}  // namespace

Status run_memory(Bench& bench) {
  if (bench.wants("memory.idle")) {
    bench.progress("memory.idle");
    SHOAL_RETURN_IF_ERROR(measure_idle(bench));
  }
  if (bench.wants("memory.busy")) {
    bench.progress("memory.busy");
    SHOAL_RETURN_IF_ERROR(measure_busy(bench));
    std::error_code ignored;
    std::filesystem::remove_all(bench.work / "cache-busy", ignored);
  }
  return {};
}

namespace {

// Bytes that the origin had to give for reading the whole object, verified.
Result<double> bytes_for_reading(Mount& mount, const std::string& name, uint64_t size) {
  SHOAL_ASSIGN_OR_RETURN(double before, mount.settled_number("origin.bytes_read"));
  SHOAL_RETURN_IF_ERROR(verify_file(mount / name, size, kSeed));
  SHOAL_ASSIGN_OR_RETURN(double after, mount.settled_number("origin.bytes_read"));
  return after - before;
}

void add_reread(Bench& bench, const std::string& name, double bytes) {
  bench.add({name, "B", bytes, std::nullopt, std::nullopt, Goal::kValueAtMost, 0});
}

}  // namespace

Status run_reread(Bench& bench) {
  bench.progress("reading again after close, remount and kill");
  const std::string name = "again";
  uint64_t size = std::min(bench.settings.size, 256 * kMiB);
  SHOAL_RETURN_IF_ERROR(bench.stub.add_blob(name, size, kSeed));
  MountChoice choice{.cache = "cache-reread"};
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount(choice));
  SHOAL_ASSIGN_OR_RETURN(double first, bytes_for_reading(*mount, name, size));
  if (first != static_cast<double>(size)) {
    return fail(Code::kInternal,
                fmt::format("the first read took {} bytes from the origin for {}", first, size));
  }
  SHOAL_ASSIGN_OR_RETURN(double reopened, bytes_for_reading(*mount, name, size));
  add_reread(bench, "reread.reopen", reopened);

  SHOAL_RETURN_IF_ERROR(mount->stop());
  SHOAL_ASSIGN_OR_RETURN(mount, bench.mount(choice));
  SHOAL_ASSIGN_OR_RETURN(double remounted, bytes_for_reading(*mount, name, size));
  add_reread(bench, "reread.remount", remounted);

  SHOAL_RETURN_IF_ERROR(mount->kill());
  SHOAL_ASSIGN_OR_RETURN(mount, bench.mount(choice));
  SHOAL_ASSIGN_OR_RETURN(double killed, bytes_for_reading(*mount, name, size));
  add_reread(bench, "reread.after_kill", killed);
  return mount->stop();
}

}  // namespace shoal::bench
