// Writes: large files with close at --ack local, and many small files.
#include <fmt/format.h>

#include <filesystem>

#include "one_node/one_node.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace {

namespace fs = std::filesystem;

constexpr double kMegabyte = 1e6;
constexpr uint64_t kWriteSeed = 31;

void remove_files(const WriteLoad& load) {
  std::error_code ignored;
  for (unsigned job = 0; job < load.jobs; ++job) fs::remove(written_path(load, job), ignored);
}

// What the origin holds now must be what was written: a sample at the begin and the end.
Status verify_upload(const Bench& bench, const WriteLoad& load, const std::string& name) {
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect(bench.stub.port()));
  uint64_t size = load.size / load.jobs;
  Buffer buffer(64 * kKiB);
  for (unsigned job = 0; job < load.jobs; ++job) {
    auto target = bench.stub.target(fmt::format("{}.{}", name, job));
    for (uint64_t offset : {uint64_t{0}, size / 2, size - buffer.size()}) {
      SHOAL_RETURN_IF_ERROR(http.get_range(target, offset, buffer.span()));
      if (!synthetic_equal(load.seed + job, offset, buffer.span())) {
        return fail(Code::kCorrupt,
                    fmt::format("the origin's {} has wrong bytes at {}", target, offset));
      }
    }
  }
  return {};
}

struct WriteSeries {
  Pairs rate;
  std::vector<double> upload_cpu;  // seconds per GiB, write and upload together
};

Status write_round(Bench& bench, Mount& mount, unsigned jobs, unsigned round, WriteSeries& series) {
  auto name = fmt::format("written-{}-{}", jobs, round);
  WriteLoad ours{.path = mount / name,
                 .size = bench.settings.size,
                 .jobs = jobs,
                 .fsync = false,
                 .seed = kWriteSeed + 100 * round};
  WriteLoad native = ours;
  native.path = bench.work / name;
  native.fsync = true;
  double rates[2] = {};
  for (unsigned turn = 0; turn < 2; ++turn) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    settle_disk();
    bool our_turn = (turn == 0) == (round % 2 == 0);
    auto bytes = static_cast<double>(ours.size);
    if (!our_turn) {
      SHOAL_ASSIGN_OR_RETURN(double took, write_files(native));
      rates[1] = bytes / took / kMegabyte;
      continue;
    }
    SHOAL_ASSIGN_OR_RETURN(double before, mount.process().cpu_seconds());
    SHOAL_ASSIGN_OR_RETURN(double took, write_files(ours));
    rates[0] = bytes / took / kMegabyte;
    // The upload must not run into the other side's measure.
    SHOAL_RETURN_IF_ERROR(mount.sync());
    SHOAL_ASSIGN_OR_RETURN(double after, mount.process().cpu_seconds());
    series.upload_cpu.push_back((after - before) * static_cast<double>(kGiB) / bytes);
    SHOAL_RETURN_IF_ERROR(verify_upload(bench, ours, name));
    if (round == 0)
      SHOAL_RETURN_IF_ERROR(verify_file(written_path(ours, 0), ours.size / jobs, ours.seed));
  }
  series.rate.add(rates[0], rates[1]);
  remove_files(native);
  remove_files(ours);
  return mount.sync();
}

}  // namespace

Status run_write(Bench& bench) {
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-write"}));
  for (unsigned jobs : {1u, 4u}) {
    auto name = fmt::format("write.sequential.{}", jobs == 1 ? "1job" : "4jobs");
    bool cpu = jobs == 1 && bench.wants("cpu.write_upload");
    if (!bench.wants(name) && !cpu) continue;
    bench.progress(name);
    WriteSeries series;
    for (unsigned round = 0; round < bench.settings.rounds; ++round) {
      SHOAL_RETURN_IF_ERROR(write_round(bench, *mount, jobs, round, series));
    }
    bench.add(series.rate.row(name, "MB/s", Goal::kRatioAtLeast, 0.9));
    if (cpu) {
      bench.add({"cpu.write_upload", "CPU s/GiB", median(series.upload_cpu), std::nullopt,
                 std::nullopt, Goal::kNone, 0});
    }
  }
  return mount->stop();
}

namespace {

// Files per second of every deed, ours and native.
struct SmallSeries {
  Pairs create;
  Pairs create_vs_fsync;
  Pairs stat;
  Pairs list;
  Pairs read;
  std::vector<double> upload;
};

struct SmallRates {
  double create = 0;
  double stat = 0;
  double list = 0;
  double read = 0;
};

// Everything but the creation, with names and attributes as warm as one pass makes them.
Status measure_small(const SmallFiles& files, SmallRates& rates) {
  auto count = static_cast<double>(files.count);
  SHOAL_RETURN_IF_ERROR(stat_small(files));
  SHOAL_ASSIGN_OR_RETURN(double stat, stat_small(files));
  SHOAL_ASSIGN_OR_RETURN(double list, list_directory(files.directory, files.count));
  SHOAL_ASSIGN_OR_RETURN(double read, read_small(files));
  rates.stat = count / stat;
  rates.list = count / list;
  rates.read = count / read;
  return {};
}

Status small_ours(Mount& mount, const SmallFiles& files, SmallRates& rates, SmallSeries& series) {
  auto count = static_cast<double>(files.count);
  settle_disk();
  double begun = seconds_now();
  SHOAL_ASSIGN_OR_RETURN(double create, create_small(files, false));
  rates.create = count / create;
  SHOAL_RETURN_IF_ERROR(mount.sync());
  series.upload.push_back(count / (seconds_now() - begun));
  return measure_small(files, rates);
}

Status small_native(const Bench& bench, const SmallFiles& files, SmallRates& rates,
                    double& create_fsync) {
  auto count = static_cast<double>(files.count);
  settle_disk();
  SHOAL_ASSIGN_OR_RETURN(double create, create_small(files, false));
  rates.create = count / create;
  SHOAL_RETURN_IF_ERROR(measure_small(files, rates));
  SmallFiles synced = files;
  synced.directory = bench.work / "small-fsync";
  settle_disk();
  SHOAL_ASSIGN_OR_RETURN(double took, create_small(synced, true));
  create_fsync = count / took;
  std::error_code ignored;
  fs::remove_all(synced.directory, ignored);
  return {};
}

}  // namespace

Status run_small(Bench& bench) {
  bench.progress("small files");
  SHOAL_ASSIGN_OR_RETURN(auto mount, bench.mount({.cache = "cache-small"}));
  SmallSeries series;
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    SmallFiles ours{.directory = *mount / fmt::format("small-{}", round),
                    .count = bench.settings.small_files};
    SmallFiles native = ours;
    native.directory = bench.work / "small";
    SmallRates our_rates;
    SmallRates native_rates;
    double create_fsync = 0;
    for (unsigned turn = 0; turn < 2; ++turn) {
      if ((turn == 0) == (round % 2 == 0)) {
        SHOAL_RETURN_IF_ERROR(small_ours(*mount, ours, our_rates, series));
      } else {
        SHOAL_RETURN_IF_ERROR(small_native(bench, native, native_rates, create_fsync));
      }
    }
    series.create.add(our_rates.create, native_rates.create);
    series.create_vs_fsync.add(our_rates.create, create_fsync);
    series.stat.add(our_rates.stat, native_rates.stat);
    series.list.add(our_rates.list, native_rates.list);
    series.read.add(our_rates.read, native_rates.read);
    std::error_code ignored;
    fs::remove_all(native.directory, ignored);
  }
  bench.add(series.create.row("small.create", "files/s", Goal::kNone, 0));
  bench.add(series.create_vs_fsync.row("small.create_vs_fsync", "files/s", Goal::kNone, 0));
  bench.add(series.stat.row("small.stat", "files/s", Goal::kNone, 0));
  bench.add(series.list.row("small.list", "files/s", Goal::kNone, 0));
  bench.add(series.read.row("small.read", "files/s", Goal::kNone, 0));
  bench.add({"small.upload", "files/s", median(series.upload), std::nullopt, std::nullopt,
             Goal::kNone, 0});
  return mount->stop();
}

}  // namespace shoal::bench
