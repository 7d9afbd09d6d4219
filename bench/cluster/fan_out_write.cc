// `shoal bench fan-out-write`: checkpoints that are on other nodes before they are acknowledged and
// go to the origin from all of them, against a local disk with an upload beside it.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/assert.h"
#include "cluster/cluster_bench.h"
#include "cluster/write_faults.h"
#include "cluster/write_rounds.h"
#include "one_node/load.h"

namespace shoal::bench {

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSeed = 90;
// A single client of Blob seldom gets more of its network.
constexpr double kClientShare = 1.0 / 8;
constexpr std::chrono::milliseconds kScrubPatience{600'000};

double gib(double bytes) { return bytes / static_cast<double>(kGiB); }

Result<std::unique_ptr<Lab>> limited_lab(const ClusterBench& bench) {
  return Lab::make({.places = bench.settings.nodes,
                    .bytes_per_second = bench.settings.bytes_per_second(),
                    .loopback = false});
}

bool has_baseline(const ClusterBench& bench) { return bench.settings.baseline != "none"; }

// --- the writer is destroyed ---

// Files that every node can read whole within a minute; of the others, who could not and why.
Result<unsigned> readable(const ClusterBench& bench, ClusterNodes& nodes, unsigned files,
                          uint64_t size, uint64_t seed) {
  unsigned good = 0;
  std::vector<ClusterNode*> running = nodes.running();
  for (unsigned file = 0; file < files; ++file) {
    auto name = fmt::format("lost-{}.0", file);
    std::vector<std::string> paths;
    for (ClusterNode* node : running) paths.push_back(*node / name);
    std::vector<ReaderOutcome> readers;
    double until = seconds_now() + 60;
    while (true) {
      readers = read_together(paths, size, seed + file);
      Status status = check_readers(readers);
      if (status || seconds_now() > until || status.error().code() == Code::kCorrupt) break;
      SHOAL_RETURN_IF_ERROR(check_interrupted());
    }
    if (check_readers(readers)) ++good;
    for (size_t i = 0; i < readers.size(); ++i) {
      if (readers[i].status) continue;
      bench.progress(fmt::format("{} cannot be read at {}: {}", name, running[i]->name(),
                                 readers[i].status.error().to_string()));
    }
  }
  return good;
}

// The writer's disk is gone with its node; nothing was uploaded.
Result<double> baseline_lost(ClusterBench& bench, const Lab& lab, unsigned files, uint64_t size) {
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({.outage = true}));
  std::string directory = bench.work / "local";
  std::error_code error;
  fs::create_directories(directory, error);
  double lost = 0;
  for (unsigned file = 0; file < files; ++file) {
    auto name = fmt::format("local-{}", file);
    WriteLoad load{.path = directory + "/" + name, .size = size, .fsync = true, .seed = kSeed};
    SHOAL_RETURN_IF_ERROR(write_files(load));
    AsyncCopy copy;
    copy.file = written_path(load, 0);
    copy.target = bench.stub.target(name);
    copy.address = lab.hub_address();
    copy.port = bench.stub.port();
    copy.network = lab.network(0);
    SHOAL_ASSIGN_OR_RETURN(auto copier, AsyncCopier::start(bench.work, copy));
    copier->kill9();
  }
  fs::remove_all(directory, error);
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
  for (unsigned file = 0; file < files; ++file) {
    if (!verify_in_origin(bench, fmt::format("local-{}", file), size, kSeed)) ++lost;
  }
  return lost;
}

Status run_survive(ClusterBench& bench) {
  constexpr unsigned kFiles = 4;
  uint64_t size = bench.settings.size / 8;
  bench.progress("the writer is destroyed before anything is uploaded");
  SHOAL_ASSIGN_OR_RETURN(auto lab, limited_lab(bench));
  NodeChoice choice = replicated();
  // Nothing may be in the origin when the writer dies.
  choice.flags.insert(choice.flags.end(), {"--upload-delay", "1h"});
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, lab->places(), choice));
  for (unsigned file = 0; file < kFiles; ++file) {
    SHOAL_RETURN_IF_ERROR(write_files(
        {.path = (*nodes)[0] / fmt::format("lost-{}", file), .size = size, .seed = kSeed + file}));
  }
  for (unsigned file = 0; file < kFiles; ++file) {
    if (verify_in_origin(bench, fmt::format("lost-{}.0", file), size, kSeed + file)) {
      return fail(Code::kInternal, "a file was uploaded before its writer was killed");
    }
  }
  SHOAL_RETURN_IF_ERROR((*nodes)[0].kill9());
  std::error_code error;
  fs::remove_all((*nodes)[0].cache_directory(), error);
  double destroyed = seconds_now();
  SHOAL_ASSIGN_OR_RETURN(unsigned good, readable(bench, *nodes, kFiles, size, kSeed));
  bench.add_value("survive.lost_files", "files", kFiles - good, Goal::kValueAtMost, 0);
  bench.add_value("survive.readable", "s", seconds_now() - destroyed);
  SHOAL_RETURN_IF_ERROR(wait_drained(*nodes, 180));
  bench.add_value("survive.durable", "s", seconds_now() - destroyed);
  double lost = 0;
  for (unsigned file = 0; file < kFiles; ++file) {
    if (!verify_in_origin(bench, fmt::format("lost-{}.0", file), size, kSeed + file)) ++lost;
  }
  bench.add_value("survive.not_durable", "files", lost, Goal::kValueAtMost, 0);
  if (!has_baseline(bench)) return {};
  SHOAL_ASSIGN_OR_RETURN(double baseline, baseline_lost(bench, *lab, kFiles, size));
  bench.add_value("survive.lost_by_baseline", "files", baseline);
  return {};
}

// --- how long a save stalls the training ---

Status run_stall_local(ClusterBench& bench) {
  uint64_t size = bench.settings.size;
  SHOAL_ASSIGN_OR_RETURN(auto lab, limited_lab(bench));
  NodeChoice choice;
  choice.flags = {"--ack", "local"};
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, lab->places(), choice));
  Pairs stall;
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    bench.progress(fmt::format("stall at --ack local, round {}", round + 1));
    double ours = 0;
    double native = 0;
    for (unsigned turn = 0; turn < 2; ++turn) {
      settle_disk();
      if ((turn == 0) == (round % 2 == 0)) {
        auto name = fmt::format("local-{}", round);
        SHOAL_ASSIGN_OR_RETURN(Saved saved,
                               save_and_wait(bench, *nodes, 0, name, size, kSeed + round));
        ours = saved.stall;
        SHOAL_RETURN_IF_ERROR(forget_in_origin(bench, name + ".0"));
      } else {
        WriteLoad load{
            .path = bench.work / "native", .size = size, .fsync = true, .seed = kSeed + round};
        SHOAL_ASSIGN_OR_RETURN(native, write_files(load));
        std::error_code ignored;
        fs::remove(written_path(load, 0), ignored);
      }
    }
    stall.add(ours, native);
  }
  bench.add(stall.row("stall.local", "s", Goal::kRatioAtMost, 1.05));
  return {};
}

// What the writer's network gives towards the others, in bytes per second.
Result<double> outgoing_rate(ClusterBench& bench, const Lab& lab) {
  TcpLoad load;
  load.senders = {lab.network(0)};
  load.receiver = -1;
  load.address = lab.hub_address();
  load.connections = 4;
  load.bytes = static_cast<uint64_t>(bench.settings.bytes_per_second() * bench.settings.seconds);
  SHOAL_ASSIGN_OR_RETURN(load.file, bench.payload());
  SHOAL_ASSIGN_OR_RETURN(TcpOutcome outcome, run_tcp(load));
  return outcome.rate();
}

// CPU seconds per GiB of a save that stays on the writer's disk: no other node has a part in it,
// and nothing is uploaded. The median of the rounds.
Result<double> local_save_cpu(ClusterBench& bench, const Lab& lab) {
  NodeChoice choice;
  choice.flags = {"--ack", "local", "--upload-delay", "1h"};
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(lab, 1, choice));
  std::vector<double> cpu;
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    bench.progress(fmt::format("a save that stays on its disk, round {}", round + 1));
    settle_disk();
    WriteLoad load{
        .path = (*nodes)[0] / "local", .size = bench.settings.size, .seed = kSeed + round};
    SHOAL_ASSIGN_OR_RETURN(double before, nodes->cpu_seconds());
    SHOAL_RETURN_IF_ERROR(write_files(load));
    SHOAL_ASSIGN_OR_RETURN(double after, nodes->cpu_seconds());
    cpu.push_back((after - before) / gib(static_cast<double>(load.size)));
    std::error_code failed;
    fs::remove(written_path(load, 0), failed);
    if (failed) return fail(Code::kInternal, "removing what was saved: " + failed.message());
  }
  return median(std::move(cpu));
}

Status run_replicated(ClusterBench& bench) {
  uint64_t size = bench.settings.size;
  auto bytes = static_cast<double>(size);
  SHOAL_ASSIGN_OR_RETURN(auto lab, limited_lab(bench));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, lab->places(), replicated()));
  double idle_time = bench.settings.quick ? 2 : 20;
  bench.progress(fmt::format("{} idle nodes for {} s", lab->places(), idle_time));
  SHOAL_ASSIGN_OR_RETURN(double idle, idle_cores(*nodes, idle_time));
  Pairs rate, slow, durable, against, cpu;
  std::vector<double> watching;  // as cpu
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    bench.progress(fmt::format("one writer, {} nodes, round {}", lab->places(), round + 1));
    SHOAL_ASSIGN_OR_RETURN(double line, outgoing_rate(bench, *lab));
    auto name = fmt::format("fast-{}", round);
    settle_disk();
    SHOAL_ASSIGN_OR_RETURN(double cpu_before, nodes->cpu_seconds());
    SHOAL_ASSIGN_OR_RETURN(Saved fast, save_and_wait(bench, *nodes, 0, name, size, kSeed + round));
    SHOAL_ASSIGN_OR_RETURN(double cpu_after, nodes->cpu_seconds());
    SHOAL_RETURN_IF_ERROR(forget_in_origin(bench, name + ".0"));
    rate.add(bytes / fast.stall / 1e6, line / 1e6);
    durable.add(fast.durable, bytes / line);

    OriginShape slow_origin{.client_bytes_per_second =
                                bench.settings.bytes_per_second() * kClientShare};
    name = fmt::format("slow-{}", round);
    settle_disk();
    SHOAL_ASSIGN_OR_RETURN(Saved behind,
                           save_and_wait(bench, *nodes, 0, name, size, kSeed + round, slow_origin));
    SHOAL_RETURN_IF_ERROR(forget_in_origin(bench, name + ".0"));
    slow.add(bytes / behind.stall / 1e6, line / 1e6);
    if (has_baseline(bench)) {
      bench.progress("the same by a local disk and an upload beside it");
      name = fmt::format("baseline-{}", round);
      SHOAL_ASSIGN_OR_RETURN(BaselineSaved baseline,
                             baseline_save(bench, *lab, 0, name, size, kSeed + round, slow_origin));
      against.add(behind.durable, baseline.saved.durable);
    }
    // What the bytes cost when nothing but TCP replicates them and nothing but PUT uploads them.
    SHOAL_ASSIGN_OR_RETURN(
        BaselineSaved put,
        baseline_save(bench, *lab, 0, fmt::format("put-{}", round), size, kSeed + round));
    TcpLoad load;
    load.senders = {lab->network(0)};
    load.receiver = lab->network(1);
    load.address = lab->address(1);
    load.connections = 4;
    load.bytes = size;
    SHOAL_ASSIGN_OR_RETURN(load.file, bench.payload());
    SHOAL_ASSIGN_OR_RETURN(TcpOutcome raw, run_tcp(load));
    cpu.add((cpu_after - cpu_before) / gib(bytes),
            (put.upload_cpu + raw.sender_cpu + raw.receiver_cpu) / gib(bytes));
    watching.push_back(idle * fast.durable / gib(bytes));
  }
  bench.add(rate.row("stall.replicated", "MB/s", Goal::kRatioAtLeast, 0.9));
  bench.add(slow.row("stall.slow_origin", "MB/s", Goal::kRatioAtLeast, 0.9));
  bench.add(durable.row("durable.fast_origin", "s", Goal::kRatioAtMost, 1.2));
  if (has_baseline(bench)) {
    bench.add(against.row("durable.against_baseline", "s", Goal::kRatioAtMost, 0.2));
  }
  nodes.reset();
  SHOAL_ASSIGN_OR_RETURN(double local, local_save_cpu(bench, *lab));
  Pairs beyond = cpu;
  for (size_t i = 0; i < watching.size(); ++i) beyond.ours[i] -= local + watching[i];
  bench.add(cpu.row("cpu.save", "CPU s/GiB", Goal::kNone, 0));
  bench.add_value("cpu.local_save", "CPU s/GiB", local);
  bench.add_value("cpu.idle", "CPU s/GiB", median(watching));
  bench.add(beyond.row("cpu.replicate_upload", "CPU s/GiB", Goal::kRatioAtMost, 1.5));
  return {};
}

// --- what lies in the origin ---

// By a node that neither wrote it nor holds any of it.
Result<CommandResult> scrub(ClusterNodes& nodes, unsigned place, const std::string& name) {
  return nodes[place].command({"scrub", nodes[place] / name}, kScrubPatience);
}

Status run_scrub(ClusterBench& bench) {
  constexpr unsigned kFiles = 4;
  uint64_t size = bench.settings.size / kFiles;
  bench.progress("a scrub by another node, of what is durable");
  SHOAL_ASSIGN_OR_RETURN(auto lab, limited_lab(bench));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, lab->places(), replicated()));
  unsigned last = lab->places() - 1;
  double mismatches = 0;
  double seconds = 0;
  for (unsigned file = 0; file < kFiles; ++file) {
    auto name = fmt::format("scrub-{}", file);
    SHOAL_ASSIGN_OR_RETURN(Saved saved, save_and_wait(bench, *nodes, 0, name, size, kSeed + file));
    static_cast<void>(saved);
    double begun = seconds_now();
    SHOAL_ASSIGN_OR_RETURN(CommandResult result, scrub(*nodes, last, name + ".0"));
    seconds += seconds_now() - begun;
    if (result.status == 0) continue;
    ++mismatches;
    bench.progress(result.output);
  }
  bench.add_value("scrub.mismatches", "files", mismatches, Goal::kValueAtMost, 0);
  bench.add_value("scrub.rate", "MB/s", static_cast<double>(size) * kFiles / seconds / 1e6);
  // One byte of each changes: in the first block, the last, and between.
  double found = 0;
  for (unsigned file = 0; file < kFiles; ++file) {
    auto name = fmt::format("scrub-{}.0", file);
    nlohmann::json spoil = {
        {"container", "bench"}, {"name", name}, {"offset", (size - 1) / (kFiles - 1) * file}};
    SHOAL_ASSIGN_OR_RETURN(std::string spoiled,
                           bench.stub.ask("POST", "/__stub/spoil", spoil.dump()));
    static_cast<void>(spoiled);
    SHOAL_ASSIGN_OR_RETURN(CommandResult result, scrub(*nodes, last, name));
    bool named = result.status != 0 && result.output.find(name) != std::string::npos;
    if (named) ++found;
    SHOAL_RETURN_IF_ERROR(forget_in_origin(bench, name));
  }
  bench.add_value("scrub.found", "x of those spoiled", found / kFiles, Goal::kValueAtLeast, 1);
  return {};
}

// --- all nodes write ---

Status run_all_write(ClusterBench& bench) {
  uint64_t size = bench.settings.size / 2;
  SHOAL_ASSIGN_OR_RETURN(auto lab, limited_lab(bench));
  SHOAL_ASSIGN_OR_RETURN(auto nodes, bench.start_nodes(*lab, lab->places(), replicated()));
  std::vector<unsigned> places;
  for (unsigned i = 0; i < lab->places(); ++i) places.push_back(i);
  double all = static_cast<double>(size) * lab->places();
  Pairs rate, durable;
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    bench.progress(
        fmt::format("{} writers on {} nodes, round {}", places.size(), lab->places(), round + 1));
    SHOAL_ASSIGN_OR_RETURN(double line, outgoing_rate(bench, *lab));
    settle_disk();
    auto name = fmt::format("all-{}", round);
    double begun = seconds_now();
    SHOAL_ASSIGN_OR_RETURN(double took,
                           save_together(*nodes, places, name, size, kSeed + 100 * round));
    for (unsigned place : places) {
      SHOAL_RETURN_IF_ERROR(wait_durable(*nodes, place, fmt::format("{}-{}.0", name, place)));
    }
    double ended = seconds_now() - begun;
    rate.add(all / took / 1e6, line * lab->places() / 1e6);
    // Every byte leaves its writer once and a holder once.
    durable.add(ended, 2 * all / (line * lab->places()));
    for (unsigned place : places) {
      auto object = fmt::format("{}-{}.0", name, place);
      SHOAL_RETURN_IF_ERROR(verify_in_origin(bench, object, size, kSeed + 100 * round + place));
      SHOAL_RETURN_IF_ERROR(forget_in_origin(bench, object));
    }
  }
  bench.add(rate.row("all_write.replicated", "MB/s", Goal::kRatioAtLeast, 0.9));
  bench.add(durable.row("all_write.durable", "s", Goal::kNone, 0));
  return {};
}

}  // namespace

ClusterScenario fan_out_write_scenario() {
  ClusterScenario scenario{"fan-out-write", {}, {}};
  scenario.defaults.size = 256 * kMiB;
  scenario.defaults.mbit = 250;
  scenario.groups = {
      {"survive",
       {"survive.lost_files", "survive.readable", "survive.durable", "survive.not_durable",
        "survive.lost_by_baseline"},
       run_survive},
      {"stall_local", {"stall.local"}, run_stall_local},
      {"one_writer",
       {"stall.replicated", "stall.slow_origin", "durable.fast_origin", "durable.against_baseline",
        "cpu.save", "cpu.local_save", "cpu.idle", "cpu.replicate_upload"},
       run_replicated},
      {"scrub", {"scrub.mismatches", "scrub.rate", "scrub.found"}, run_scrub},
      {"all_write", {"all_write.replicated", "all_write.durable"}, run_all_write},
      {"outage",
       {"outage.saved_files", "outage.lost_files", "outage.longest_save", "outage.failed_saves",
        "outage.blocks_repeated"},
       run_origin_faults},
      {"kills", {"kills.saved_files", "kills.lost_files", "kills.longest_save"}, run_node_faults}};
  return scenario;
}

}  // namespace shoal::bench
