// The forecast of a checkpoint: time to replicated and to durable, and what a lost node costs.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "simulate/forecast.h"
#include "simulate/forecast_write_run.h"
#include "simulate/in_child.h"

namespace shoal::simulate {

namespace {

constexpr uint64_t kFileChunks = 36;
// A chunk must not keep a card busy for so long that other requests wait for it.
constexpr double kChunkSecondsMax = 0.1;
constexpr uint64_t kLossSalt = 0x6c6f73736573;  // "losses"
constexpr double kGiga = 1e9;

Result<ForecastOptions> complete(ForecastOptions options) {
  auto refuse = [](std::string what) { return fail(Code::kInvalidArgument, std::move(what)); };
  if (options.writers == 0) options.writers = options.nodes;
  if (options.writers > options.nodes) {
    return refuse(fmt::format("{} writers are more than {} nodes", options.writers, options.nodes));
  }
  if (options.replicas > options.nodes) {
    return refuse(
        fmt::format("{} replicas are more than {} nodes", options.replicas, options.nodes));
  }
  double share = static_cast<double>(options.size) / static_cast<double>(options.writers);
  if (options.file_chunks == 0) {
    auto needed = static_cast<uint64_t>(std::ceil(share / (options.nic * kChunkSecondsMax)));
    options.file_chunks = std::max(kFileChunks, needed);
  }
  if (options.file_chunks < kWriteChunksMin) {
    return refuse(
        fmt::format("chunks, of each writer's file, must be {} at least", kWriteChunksMin));
  }
  if (share < static_cast<double>(options.file_chunks * kWriteChunk)) {
    return refuse(fmt::format("{:.4g} MB for each writer are too few: a forecast needs {:.4g} MB",
                              share / 1e6,
                              static_cast<double>(options.file_chunks * kWriteChunk) / 1e6));
  }
  return options;
}

Forecast begin(const ForecastOptions& options) {
  Forecast forecast;
  forecast.scenario = "fan-out-write";
  double chunk = static_cast<double>(options.size) /
                 static_cast<double>(options.writers * options.file_chunks);
  forecast.add("nodes", fmt::format("{}", options.nodes));
  forecast.add("writers", fmt::format("{}, an equal part each", options.writers));
  forecast.add("size", fmt::format("{:.6g} GB", static_cast<double>(options.size) / kGiga));
  forecast.add("replicas", fmt::format("{}", options.replicas));
  forecast.add("nic", rate_text(options.nic) + ", each way");
  forecast.add("nvme", fmt::format("{:.4g} GB/s written, {:.4g} GB/s read", options.nvme / kGiga,
                                   options.nvme_read / kGiga));
  forecast.add("blob_in", rate_text(options.blob_in));
  forecast.add("blob_connection", fmt::format("{:.4g} MB/s", options.blob_connection / 1e6));
  forecast.add("blob_connections",
               fmt::format("{} of the baseline's uploader, each node's", options.blob_connections));
  forecast.add("upload_blocks", fmt::format("{} of a node's own files, {} for other nodes",
                                            options.upload_blocks, options.upload_blocks));
  forecast.add("blob_latency", fmt::format("{:.4g} ms", to_seconds(options.blob_latency) * 1e3));
  forecast.add("latency", fmt::format("{:.4g} us", to_seconds(options.latency) * 1e6));
  forecast.add("interval", fmt::format("{:.4g} s", to_seconds(options.interval)));
  forecast.add("chunks", fmt::format("{} of each writer's file", options.file_chunks));
  forecast.add("losses", fmt::format("{}", options.losses));
  forecast.add("seed", fmt::format("{}", options.seed));
  forecast.add("scale", fmt::format("one simulated chunk of {} KiB stands for {:.4g} MB; sizes and "
                                    "rates are divided by {:.4g}",
                                    kWriteChunk / kKiB, chunk / 1e6,
                                    chunk / static_cast<double>(kWriteChunk)));
  forecast.add("not_modelled", "CPU time, page caches, limits between switches");
  return forecast;
}

// What the slowest part alone allows.
struct Ceilings {
  double replicated = 0;
  double durable = 0;
  double local = 0;
  double local_durable = 0;
};

Ceilings ceilings(const ForecastOptions& options) {
  auto size = static_cast<double>(options.size);
  auto nodes = static_cast<double>(options.nodes);
  double share = size / static_cast<double>(options.writers);
  double copies = options.replicas;
  double connections = options.blob_connections;
  // A node sends blocks of its own and of others, together no more than its connections.
  double blocks = std::min(connections, 2.0 * options.upload_blocks);
  Ceilings out;
  out.local = share / options.nvme;
  // The writer's card sends all copies but its own; all disks together take all copies.
  out.replicated =
      std::max({out.local, share * std::min(copies - 1, 1.0) / options.nic,
                size * copies / nodes / options.nvme, size * (copies - 1) / nodes / options.nic});
  out.durable = std::max({out.replicated, size / options.blob_in,
                          size / nodes / (blocks * options.blob_connection),
                          size * copies / nodes / options.nic});
  out.local_durable =
      std::max({out.local, size / options.blob_in, share / (connections * options.blob_connection),
                share / options.nic});
  return out;
}

struct Measured {
  double start = 0;
  std::vector<SavedFile> files;
  double origin_bytes = 0;
  double peer_bytes = 0;
  double busiest = 0;

  double first(double SavedFile::* what) const {
    double least = files.front().*what;
    for (const SavedFile& file : files) least = std::min(least, file.*what);
    return least;
  }
  double last(double SavedFile::* what) const {
    double most = 0;
    for (const SavedFile& file : files) most = std::max(most, file.*what);
    return most;
  }
};

Result<Measured> save_here(const ForecastOptions& options, Saving saving) {
  WriteRun run(options, saving);
  Measured measured;
  SHOAL_ASSIGN_OR_RETURN(measured.start, run.start());
  double origin = run.origin_bytes();
  SHOAL_ASSIGN_OR_RETURN(measured.files, run.save(std::nullopt));
  measured.origin_bytes = run.origin_bytes() - origin;
  measured.peer_bytes = run.peer_bytes();
  measured.busiest = run.busiest_sender();
  for (const SavedFile& file : measured.files) {
    if (file.durable < 0)
      return fail(Code::kCorrupt, "the origin has other bytes than were written");
  }
  return measured;
}

Result<Measured> save(const ForecastOptions& options, Saving saving) {
  auto run = [&]() -> Result<std::vector<double>> {
    SHOAL_ASSIGN_OR_RETURN(Measured it, save_here(options, saving));
    std::vector<double> numbers{it.start, it.origin_bytes, it.peer_bytes, it.busiest};
    for (const SavedFile& file : it.files) {
      numbers.insert(numbers.end(), {file.acknowledged, file.durable});
    }
    return numbers;
  };
  SHOAL_ASSIGN_OR_RETURN(std::vector<double> numbers, in_child(run));
  SHOAL_ASSERT(numbers.size() >= 4 && numbers.size() % 2 == 0);
  Measured measured{numbers[0], {}, numbers[1], numbers[2], numbers[3]};
  for (size_t i = 4; i < numbers.size(); i += 2) {
    measured.files.push_back({numbers[i], numbers[i + 1]});
  }
  return measured;
}

// For a node lost at any moment from its acknowledgement to the next checkpoint: how often the
// checkpoint was not yet in the origin without it. All nodes are as likely; one that wrote nothing
// costs nothing.
double share_lost(const ForecastOptions& options, const Measured& measured) {
  double interval = to_seconds(options.interval);
  double sum = 0;
  for (const SavedFile& file : measured.files) {
    sum += std::min(1.0, (file.durable - file.acknowledged) / interval);
  }
  return sum / static_cast<double>(options.nodes);
}

struct Lost {
  uint64_t runs = 0;
  uint64_t costly = 0;  // runs in which something acknowledged is not in the origin in the end
  double durable = 0;   // the latest, over all runs
};

// Of a run in which a node is lost: whether all that was acknowledged is in the origin in the end
// (1 or 0), and when the last of it was.
Result<std::vector<double>> lose_one(const ForecastOptions& options, NodeLoss loss) {
  WriteRun run(options, Saving::kShoal);
  SHOAL_ASSIGN_OR_RETURN(double started, run.start());
  static_cast<void>(started);
  SHOAL_ASSIGN_OR_RETURN(std::vector<SavedFile> files, run.save(loss));
  bool all = true;
  double durable = 0;
  for (const SavedFile& file : files) {
    if (file.acknowledged < 0) continue;
    all = all && file.durable >= 0;
    durable = std::max(durable, file.durable);
  }
  return std::vector<double>{all ? 1.0 : 0.0, durable};
}

// Nodes are lost at moments spread over the time in which something could be.
Result<Lost> lose_nodes(const ForecastOptions& options, const Measured& calm) {
  Lost lost;
  SeededRandom random(options.seed ^ kLossSalt);
  double from = calm.first(&SavedFile::acknowledged);
  double to = calm.last(&SavedFile::durable);
  for (uint64_t i = 0; i < options.losses; ++i) {
    double part = (static_cast<double>(i) + random.unit()) / static_cast<double>(options.losses);
    NodeLoss loss{random.below(options.nodes),
                  Duration(static_cast<int64_t>((from + part * (to - from)) * 1e9))};
    SHOAL_ASSIGN_OR_RETURN(std::vector<double> run,
                           in_child([&] { return lose_one(options, loss); }));
    SHOAL_ASSERT(run.size() == 2);
    ++lost.runs;
    lost.durable = std::max(lost.durable, run[1]);
    if (run[0] == 0) ++lost.costly;
  }
  return lost;
}

}  // namespace

Result<Forecast> forecast_fan_out_write(const ForecastOptions& given) {
  SHOAL_ASSIGN_OR_RETURN(ForecastOptions options, complete(given));
  Forecast forecast = begin(options);
  auto size = static_cast<double>(options.size);
  Ceilings ceiling = ceilings(options);
  SHOAL_ASSIGN_OR_RETURN(Measured ours, save(options, Saving::kShoal));
  SHOAL_ASSIGN_OR_RETURN(Measured local, save(options, Saving::kLocalAndUploader));
  SHOAL_ASSIGN_OR_RETURN(Lost lost, lose_nodes(options, ours));
  double durable = ours.last(&SavedFile::durable);
  double local_durable = local.last(&SavedFile::durable);
  auto& rows = forecast.rows;
  auto add = [&rows](auto&&... parts) { rows.push_back(forecast_row(parts...)); };
  add("start of all nodes", ours.start, "s");
  add(options.replicas > 1 ? "replicated, last writer" : "local, last writer",
      ours.last(&SavedFile::acknowledged), "s", ceiling.replicated, 1.25);
  add("replicated, first writer", ours.first(&SavedFile::acknowledged), "s");
  add("durable, last file", durable, "s", ceiling.durable);
  add("bytes to the origin", ours.origin_bytes / kGiga, "GB", size / kGiga, 1.02);
  add("bytes between nodes", ours.peer_bytes / kGiga, "GB", size * (options.replicas - 1) / kGiga);
  add("busiest sender over the mean", ours.busiest, "");
  add("local NVMe and uploader: local, last node", local.last(&SavedFile::acknowledged), "s",
      ceiling.local);
  add("local NVMe and uploader: durable, last node", local_durable, "s", ceiling.local_durable);
  add("durable, over that of local NVMe and uploader", durable / local_durable, "", 1.0, 1.0);
  add("node losses that cost the checkpoint, local NVMe and uploader",
      share_lost(options, local) * 100, "%");
  if (lost.runs == 0) return forecast;
  double window = durable - ours.first(&SavedFile::acknowledged);
  double at_risk = std::min(1.0, window / to_seconds(options.interval));
  double costly = static_cast<double>(lost.costly) / static_cast<double>(lost.runs);
  add("node losses that cost the checkpoint, Shoal", costly * at_risk * 100, "%");
  add(fmt::format("runs of {} in which a lost node cost anything acknowledged", lost.runs),
      static_cast<double>(lost.costly), "");
  add("durable, last file, after a node was lost", lost.durable, "s");
  return forecast;
}

}  // namespace shoal::simulate
