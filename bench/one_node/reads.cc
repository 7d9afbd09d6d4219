// Reads: warm through passthrough, warm through the daemon, cold from the origin.
#include <fmt/format.h>

#include <filesystem>

#include "one_node/one_node.h"

namespace shoal::bench {

namespace {

constexpr uint64_t kWarmSeed = 11;
constexpr double kMegabyte = 1e6;
constexpr double kNicBytesPerSecond = 1.25e9;  // 10 Gbit/s
constexpr double kNicLatencyMs = 5;

struct Kind {
  const char* name;  // end of the row's name
  unsigned jobs;
  bool random;
  double target_passthrough;
};
constexpr Kind kKinds[] = {{"sequential.1job", 1, false, 0.9},
                           {"sequential.4jobs", 4, false, 0.9},
                           {"random4k.1job", 1, true, 0.85},
                           {"random4k.4jobs", 4, true, 0.85}};

ReadLoad load_of(const Bench& bench, const Kind& kind, const std::string& path) {
  return {.path = path,
          .size = bench.settings.size,
          .jobs = kind.jobs,
          .block = kind.random ? 4 * kKiB : kMiB,
          .random = kind.random,
          .seconds = bench.settings.seconds,
          .seed = kWarmSeed};
}

// MB/s for sequential reads, reads per second for random ones.
Measure rate(const ReadLoad& load) {
  return [load]() -> Result<double> {
    SHOAL_ASSIGN_OR_RETURN(ReadRate rate, read_for_a_while(load));
    return rate.bytes_per_second / (load.random ? static_cast<double>(load.block) : kMegabyte);
  };
}

Status compare(Bench& bench, const std::string& group, const Kind& kind, const std::string& ours,
               const std::string& native, double target) {
  std::string name = group + "." + kind.name;
  if (!bench.wants(name)) return {};
  bench.progress(name);
  SHOAL_ASSIGN_OR_RETURN(Pairs pairs, alternate(bench, rate(load_of(bench, kind, ours)),
                                                rate(load_of(bench, kind, native))));
  bench.add(pairs.row(name, kind.random ? "reads/s" : "MB/s", Goal::kRatioAtLeast, target));
  return {};
}

// The blob in the cache, in the page cache, and checked byte for byte.
Status make_warm(const Bench& bench, Mount& mount, const std::string& name) {
  SHOAL_RETURN_IF_ERROR(mount.warm(name));
  SHOAL_RETURN_IF_ERROR(verify_file(mount / name, bench.settings.size, kWarmSeed));
  settle_disk();
  SHOAL_RETURN_IF_ERROR(read_once(mount / name, bench.settings.size, kWarmSeed));
  return {};
}

// Whether the kernel reads the file by itself: then the daemon sees nothing of a read.
Result<bool> is_passed_through(Mount& mount, const std::string& name) {
  SHOAL_ASSIGN_OR_RETURN(double before, mount.metric("shoal_mount_read_bytes_total"));
  SHOAL_RETURN_IF_ERROR(read_once(mount / name, 16 * kMiB, kWarmSeed));
  SHOAL_ASSIGN_OR_RETURN(double after, mount.metric("shoal_mount_read_bytes_total"));
  return before == after;
}

Status compare_disk_cold(Bench& bench, const std::string& ours, const std::string& native) {
  const std::string name = "diskcold.sequential.1job";
  if (!bench.wants(name)) return {};
  bench.progress(name);
  bool dropped = drop_page_cache();
  bench.fact("diskcold", dropped ? "page cache dropped before every measure"
                                 : "page cache could not be dropped: as warm");
  auto once = [&bench](const std::string& path) -> Measure {
    return [&bench, path]() -> Result<double> {
      settle_disk();
      drop_page_cache();
      SHOAL_ASSIGN_OR_RETURN(double took, read_once(path, bench.settings.size, kWarmSeed));
      return static_cast<double>(bench.settings.size) / took / kMegabyte;
    };
  };
  SHOAL_ASSIGN_OR_RETURN(Pairs pairs, alternate(bench, once(ours), once(native)));
  bench.add(pairs.row(name, "MB/s", Goal::kNone, 0));
  return {};
}

}  // namespace

Status run_warm(Bench& bench) {
  bench.progress("warm: preparing");
  SHOAL_RETURN_IF_ERROR(bench.stub.add_blob("warm", bench.settings.size, kWarmSeed));
  std::string native = bench.work / "native";
  SHOAL_RETURN_IF_ERROR(make_native_file(native, bench.settings.size, kWarmSeed));
  SHOAL_RETURN_IF_ERROR(verify_file(native, bench.settings.size, kWarmSeed));
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-warm"}));
  SHOAL_RETURN_IF_ERROR(make_warm(bench, *mount, "warm"));
  SHOAL_ASSIGN_OR_RETURN(std::string mode, mount->fact("mode"));
  SHOAL_ASSIGN_OR_RETURN(bool passed, is_passed_through(*mount, "warm"));
  bench.fact("mode", mode);
  bench.fact("warm_reads", passed ? "by the kernel alone (passthrough)" : "through the daemon");
  for (const Kind& kind : kKinds) {
    SHOAL_RETURN_IF_ERROR(
        compare(bench, "warm", kind, *mount / "warm", native, kind.target_passthrough));
  }
  SHOAL_RETURN_IF_ERROR(compare_disk_cold(bench, *mount / "warm", native));
  SHOAL_RETURN_IF_ERROR(mount->stop());
  std::error_code ignored;
  std::filesystem::remove_all(bench.work / "cache-warm", ignored);
  std::filesystem::remove(native, ignored);
  return {};
}

namespace {

// CPU seconds of the serving process per GiB read by one job.
Measure cpu_of_reading(const Bench& bench, const Child& server, const std::string& path) {
  ReadLoad load = load_of(bench, kKinds[0], path);
  load.seconds *= 2;  // the kernel counts in steps of 10 ms
  return [load, &server]() -> Result<double> {
    SHOAL_ASSIGN_OR_RETURN(double before, server.cpu_seconds());
    SHOAL_ASSIGN_OR_RETURN(ReadRate rate, read_for_a_while(load));
    SHOAL_ASSIGN_OR_RETURN(double after, server.cpu_seconds());
    return (after - before) * static_cast<double>(kGiB) / rate.bytes;
  };
}

}  // namespace

Status run_direct(Bench& bench) {
  bench.progress("direct: preparing");
  SHOAL_RETURN_IF_ERROR(bench.stub.add_blob("warm", bench.settings.size, kWarmSeed));
  std::string native = bench.work / "native";
  SHOAL_RETURN_IF_ERROR(make_native_file(native, bench.settings.size, kWarmSeed));
  SHOAL_RETURN_IF_ERROR(verify_file(native, bench.settings.size, kWarmSeed));
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-direct", .passthrough = false}));
  SHOAL_RETURN_IF_ERROR(make_warm(bench, *mount, "warm"));
  SHOAL_ASSIGN_OR_RETURN(bool passed, is_passed_through(*mount, "warm"));
  if (passed)
    return fail(Code::kInternal, "--no-passthrough was given, but the daemon sees no reads");
  {
    SHOAL_ASSIGN_OR_RETURN(auto minimal, MinimalMount::start(bench.work, native));
    SHOAL_RETURN_IF_ERROR(verify_file(minimal->file(), bench.settings.size, kWarmSeed));
    for (const Kind& kind : kKinds) {
      SHOAL_RETURN_IF_ERROR(compare(bench, "direct", kind, *mount / "warm", minimal->file(), 0.9));
    }
    if (bench.wants("cpu.direct_read")) {
      bench.progress("cpu.direct_read");
      SHOAL_ASSIGN_OR_RETURN(
          Pairs pairs, alternate(bench, cpu_of_reading(bench, mount->process(), *mount / "warm"),
                                 cpu_of_reading(bench, minimal->process(), minimal->file())));
      bench.add(pairs.row("cpu.direct_read", "CPU s/GiB", Goal::kNone, 0));
    }
  }
  SHOAL_RETURN_IF_ERROR(mount->stop());
  std::error_code ignored;
  std::filesystem::remove_all(bench.work / "cache-direct", ignored);
  std::filesystem::remove(native, ignored);
  return {};
}

namespace {

struct ColdSeries {
  Pairs to_file;
  Pairs to_memory;
  Pairs cpu;
};

// One object: through the mount, downloaded to a file, downloaded to memory, in changing order.
Status cold_round(Bench& bench, Mount& mount, const std::string& name, uint64_t seed,
                  unsigned round, ColdSeries& series) {
  uint64_t size = bench.settings.size;
  SHOAL_RETURN_IF_ERROR(bench.stub.add_blob(name, size, seed));
  Download plain{.port = bench.stub.port(),
                 .target = bench.stub.target(name),
                 .size = size,
                 .connections = bench.settings.connections,
                 .seed = seed};
  double rates[3] = {};
  double cpu[2] = {};
  for (unsigned turn = 0; turn < 3; ++turn) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    settle_disk();
    unsigned side = (turn + round) % 3;
    double took = 0;
    if (side == 0) {
      SHOAL_ASSIGN_OR_RETURN(double before, mount.process().cpu_seconds());
      SHOAL_ASSIGN_OR_RETURN(took, read_once(mount / name, size, seed));
      SHOAL_ASSIGN_OR_RETURN(double after, mount.process().cpu_seconds());
      cpu[0] = after - before;
    } else {
      plain.file = side == 1 ? bench.work / "download" : "";
      double before = cpu_seconds_of_this_process();
      SHOAL_ASSIGN_OR_RETURN(took, download(plain));
      if (side == 1) cpu[1] = cpu_seconds_of_this_process() - before;
      std::error_code ignored;
      std::filesystem::remove(bench.work / "download", ignored);
    }
    rates[side] = static_cast<double>(size) / took / kMegabyte;
  }
  series.to_file.add(rates[0], rates[1]);
  series.to_memory.add(rates[0], rates[2]);
  double gib = static_cast<double>(size) / static_cast<double>(kGiB);
  series.cpu.add(cpu[0] / gib, cpu[1] / gib);
  if (round == 0) SHOAL_RETURN_IF_ERROR(verify_file(mount / name, size, seed));
  return mount.evict(name);
}

}  // namespace

Status run_cold(Bench& bench) {
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-cold"}));
  struct Shape {
    const char* name;
    OriginShape shape;
  };
  const Shape shapes[] = {{"10gbit", {kNicLatencyMs, kNicBytesPerSecond}}, {"loopback", {}}};
  bench.fact("origin_10gbit", "1.25e9 bytes/s for the account each way, 5 ms to the first byte");
  for (const Shape& shape : shapes) {
    std::string group = fmt::format("cold.{}", shape.name);
    bool cpu = shape.shape.latency_ms == 0 && bench.wants("cpu.cold_read");
    if (!bench.wants(group + ".to_file") && !bench.wants(group + ".to_memory") && !cpu) continue;
    bench.progress(group);
    SHOAL_RETURN_IF_ERROR(bench.stub.shape(shape.shape));
    ColdSeries series;
    for (unsigned round = 0; round < bench.settings.rounds; ++round) {
      auto name = fmt::format("cold-{}-{}", shape.name, round);
      SHOAL_RETURN_IF_ERROR(cold_round(bench, *mount, name, 100 + round, round, series));
    }
    bench.add(series.to_file.row(group + ".to_file", "MB/s", Goal::kRatioAtLeast, 0.9));
    // Loopback into memory that is thrown away is no download: nobody can keep the bytes at that
    // speed here. Reported, without a target.
    Goal goal = shape.shape.latency_ms > 0 ? Goal::kRatioAtLeast : Goal::kNone;
    bench.add(series.to_memory.row(group + ".to_memory", "MB/s", goal, 0.9));
    if (cpu) bench.add(series.cpu.row("cpu.cold_read", "CPU s/GiB", Goal::kNone, 0));
  }
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
  return mount->stop();
}

}  // namespace shoal::bench
