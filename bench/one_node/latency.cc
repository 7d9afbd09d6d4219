// Cold small reads: what they move from the origin and how long the first byte takes.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <random>

#include "one_node/one_node.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace {

constexpr uint64_t kSeed = 23;
constexpr uint64_t kReadBytes = 4 * kKiB;
constexpr uint64_t kSpacing = 4 * kMiB;  // between two cold reads, so that none is near another
constexpr double kOriginBytesMax = 128 * 1024;

// Opens, reads 4 KiB, closes. Answers microseconds of the read alone.
Result<double> read_cold(const std::string& path, uint64_t offset) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return fail(error_from_errno(errno, "cannot open " + path));
  Buffer buffer(kReadBytes);
  double begun = seconds_now();
  ssize_t n = pread(file, buffer.data(), kReadBytes, static_cast<off_t>(offset));
  double took = seconds_now() - begun;
  int reason = errno;
  close(file);
  if (n < 0) return fail(error_from_errno(reason, "cannot read " + path));
  if (static_cast<uint64_t>(n) != kReadBytes || !synthetic_equal(kSeed, offset, buffer.span())) {
    return fail(Code::kCorrupt, fmt::format("{} has wrong bytes at {}", path, offset));
  }
  return took * 1e6;
}

Result<double> get_cold(RawHttp& http, const std::string& target, uint64_t offset) {
  Buffer buffer(kReadBytes);
  double begun = seconds_now();
  SHOAL_RETURN_IF_ERROR(http.get_range(target, offset, buffer.span()));
  double took = seconds_now() - begun;
  if (!synthetic_equal(kSeed, offset, buffer.span())) {
    return fail(Code::kCorrupt, fmt::format("{} has wrong bytes at {}", target, offset));
  }
  return took * 1e6;
}

// Reads at places in random order, each far from all others; every second one plainly.
Result<Pairs> compare_latency(Bench& bench, Mount& mount, const std::string& name) {
  uint64_t count = bench.settings.latency_reads;
  SHOAL_RETURN_IF_ERROR(bench.stub.add_blob(name, (count + 1) * kSpacing, kSeed));
  std::vector<uint64_t> places(count);
  std::mt19937_64 random(7);
  for (uint64_t i = 0; i < count; ++i) {
    places[i] = (i + 1) * kSpacing - (1 + random() % 512) * kReadBytes;
  }
  std::shuffle(places.begin(), places.end(), random);
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect(bench.stub.port()));
  std::string target = bench.stub.target(name);
  // The name is known and both connections are there: only the read itself is measured.
  SHOAL_RETURN_IF_ERROR(read_cold(mount / name, 0));
  SHOAL_RETURN_IF_ERROR(get_cold(http, target, 0));
  Pairs pairs;
  for (uint64_t place : places) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    SHOAL_ASSIGN_OR_RETURN(double ours, read_cold(mount / name, place));
    SHOAL_ASSIGN_OR_RETURN(double plain, get_cold(http, target, place));
    pairs.add(ours, plain);
  }
  return pairs;
}

// open and read of an object that nobody has seen, against HEAD and GET.
Result<Pairs> compare_first_byte(Bench& bench, Mount& mount) {
  uint64_t count = std::max<uint64_t>(bench.settings.latency_reads / 2, 5);
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect(bench.stub.port()));
  Pairs pairs;
  for (uint64_t i = 0; i < count; ++i) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    auto name = fmt::format("first-{}", i);
    SHOAL_RETURN_IF_ERROR(bench.stub.add_blob(name, 64 * kMiB, kSeed));
    double begun = seconds_now();
    SHOAL_RETURN_IF_ERROR(read_cold(mount / name, 0));
    double ours = (seconds_now() - begun) * 1e6;
    begun = seconds_now();
    SHOAL_ASSIGN_OR_RETURN(HttpAnswer head, http.send("HEAD", bench.stub.target(name)));
    if (head.status != 200) return fail(Code::kUnavailable, "HEAD of " + name);
    SHOAL_RETURN_IF_ERROR(get_cold(http, bench.stub.target(name), 0));
    pairs.add(ours, (seconds_now() - begun) * 1e6);
  }
  return pairs;
}

}  // namespace

Status run_cold_random(Bench& bench) {
  bench.progress("cold random reads of 4 KiB");
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-random"}));
  SHOAL_ASSIGN_OR_RETURN(double before, mount->settled_number("origin.bytes_read"));
  SHOAL_ASSIGN_OR_RETURN(Pairs pairs, compare_latency(bench, *mount, "sparse"));
  SHOAL_ASSIGN_OR_RETURN(double after, mount->settled_number("origin.bytes_read"));
  auto reads = static_cast<double>(bench.settings.latency_reads + 1);
  bench.add({"cold.random4k.origin_bytes", "B/read", (after - before) / reads, std::nullopt,
             std::nullopt, Goal::kValueAtMost, kOriginBytesMax});
  bench.add(pairs.row("cold.random4k.latency", "us", Goal::kNone, 0));
  if (bench.wants("cold.random4k.latency_5ms")) {
    SHOAL_RETURN_IF_ERROR(bench.stub.shape({.latency_ms = 5, .account_bytes_per_second = 0}));
    SHOAL_ASSIGN_OR_RETURN(Pairs slow, compare_latency(bench, *mount, "sparse-5ms"));
    bench.add(slow.row("cold.random4k.latency_5ms", "us", Goal::kNone, 0));
    SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
  }
  if (bench.wants("cold.first_byte")) {
    SHOAL_ASSIGN_OR_RETURN(Pairs first, compare_first_byte(bench, *mount));
    bench.add(first.row("cold.first_byte", "us", Goal::kNone, 0));
  }
  return mount->stop();
}

}  // namespace shoal::bench
