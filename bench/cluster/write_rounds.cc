#include "cluster/write_rounds.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <thread>

#include "one_node/load.h"
#include "one_node/raw_http.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr milliseconds kPatience{600'000};

WriteLoad load_of(const std::string& path, uint64_t size, uint64_t seed, bool fsync) {
  return {.path = path, .size = size, .jobs = 1, .fsync = fsync, .seed = seed};
}

}  // namespace

NodeChoice replicated() {
  NodeChoice choice;
  choice.flags = {"--ack", "replicated", "--replicas", "2"};
  return choice;
}

Status wait_drained(ClusterNodes& nodes, double seconds) {
  double until = seconds_now() + seconds;
  while (true) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    SHOAL_ASSIGN_OR_RETURN(double records, nodes.total("replication.records"));
    SHOAL_ASSIGN_OR_RETURN(double waiting, nodes.total("dirty.objects"));
    if (records == 0 && waiting == 0) return {};
    if (seconds_now() > until) {
      return fail(
          Code::kDeadlineExceeded,
          fmt::format("{} records and {} files still wait after {} s", records, waiting, seconds));
    }
    std::this_thread::sleep_for(milliseconds(20));
  }
}

Status wait_durable(ClusterNodes& nodes, unsigned place, const std::string& name) {
  SHOAL_ASSIGN_OR_RETURN(
      CommandResult result,
      nodes[place].command({"sync", nodes[place] / name, "--level", "durable"}, kPatience));
  if (result.status != 0) return fail(Code::kUnavailable, "shoal sync: " + result.output);
  return {};
}

Result<Saved> save_and_wait(ClusterBench& bench, ClusterNodes& nodes, unsigned place,
                            const std::string& name, uint64_t size, uint64_t seed,
                            OriginShape origin) {
  SHOAL_RETURN_IF_ERROR(bench.stub.shape(origin));
  Saved out;
  double begun = seconds_now();
  SHOAL_ASSIGN_OR_RETURN(out.stall, write_files(load_of(nodes[place] / name, size, seed, false)));
  SHOAL_RETURN_IF_ERROR(wait_durable(nodes, place, name + ".0"));
  out.durable = seconds_now() - begun;
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
  SHOAL_RETURN_IF_ERROR(verify_in_origin(bench, name + ".0", size, seed));
  return out;
}

Result<double> save_together(ClusterNodes& nodes, const std::vector<unsigned>& places,
                             const std::string& name, uint64_t size, uint64_t seed) {
  std::mutex mutex;
  Status outcome;
  double begun = seconds_now();
  {
    std::vector<std::jthread> threads;
    for (unsigned place : places) {
      threads.emplace_back([&, place] {
        auto path = nodes[place] / fmt::format("{}-{}", name, place);
        auto took = write_files(load_of(path, size, seed + place, false));
        std::lock_guard lock(mutex);
        if (outcome && !took) outcome = fail(took.error());
      });
    }
  }
  double seconds = seconds_now() - begun;
  SHOAL_RETURN_IF_ERROR(outcome);
  return seconds;
}

Result<BaselineSaved> baseline_save(ClusterBench& bench, const Lab& lab, unsigned place,
                                    const std::string& name, uint64_t size, uint64_t seed,
                                    OriginShape origin) {
  SHOAL_RETURN_IF_ERROR(bench.stub.shape(origin));
  BaselineSaved out;
  std::string path = bench.work / name;
  double begun = seconds_now();
  SHOAL_ASSIGN_OR_RETURN(out.saved.stall, write_files(load_of(path, size, seed, true)));
  AsyncCopy copy;
  copy.file = path + ".0";
  copy.target = bench.stub.target(name);
  copy.address = lab.hub_address();
  copy.port = bench.stub.port();
  copy.network = lab.network(place);
  SHOAL_ASSIGN_OR_RETURN(auto copier, AsyncCopier::start(bench.work, copy));
  SHOAL_ASSIGN_OR_RETURN(AsyncCopyOutcome copied, copier->wait(kPatience));
  out.saved.durable = seconds_now() - begun;
  out.upload_cpu = copied.cpu;
  SHOAL_RETURN_IF_ERROR(bench.stub.shape({}));
  SHOAL_RETURN_IF_ERROR(verify_in_origin(bench, name, size, seed));
  std::error_code ignored;
  fs::remove(copy.file, ignored);
  SHOAL_RETURN_IF_ERROR(forget_in_origin(bench, name));
  return out;
}

Status verify_in_origin(ClusterBench& bench, const std::string& object, uint64_t size,
                        uint64_t seed) {
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect(bench.stub.port()));
  Buffer buffer(std::min<uint64_t>(8 * kMiB, size));
  for (uint64_t at = 0; at < size; at += buffer.size()) {
    ByteSpan part = buffer.part(0, std::min<uint64_t>(buffer.size(), size - at));
    SHOAL_RETURN_IF_ERROR(http.get_range(bench.stub.target(object), at, part));
    if (!synthetic_equal(seed, at, part)) {
      return fail(Code::kCorrupt, fmt::format("the origin's {} has wrong bytes within {} + {}",
                                              object, at, part.size()));
    }
  }
  return {};
}

Status forget_in_origin(ClusterBench& bench, const std::string& object) {
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect(bench.stub.port()));
  SHOAL_ASSIGN_OR_RETURN(HttpAnswer answer, http.send("DELETE", bench.stub.target(object)));
  if (answer.status != 202) {
    return fail(Code::kUnavailable, fmt::format("DELETE {}: {}", object, answer.status));
  }
  return {};
}

}  // namespace shoal::bench
