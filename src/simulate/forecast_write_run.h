// WriteRun: one simulated cluster into which a checkpoint is written, or the same machines without
// Shoal: each writes to its own disk and sends it to the origin from there. See forecast.h.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "simulate/forecast_cluster.h"

namespace shoal::simulate {

// One simulated chunk. A smaller one would make the first of a file small objects, which take
// another path.
inline constexpr uint64_t kWriteChunk = kSmallBytesMax;
// A file of so many chunks is above what goes to the origin in one request.
inline constexpr uint64_t kWriteChunksMin = kChunkBytesDefault / kWriteChunk + 1;

enum class Saving { kShoal, kLocalAndUploader };

// When each writer's file reached what; seconds from the beginning, negative: never.
struct SavedFile {
  double acknowledged = -1;  // replicated; or synced on the local disk
  double durable = -1;       // in the origin, whole, with the bytes that were written
};

// A node that is destroyed with its disk, and when.
struct NodeLoss {
  size_t node = 0;
  Duration after{0};  // from the beginning of the save
};

class WriteRun final : public ForecastCluster {
 public:
  // options.writers and file_chunks are set.
  WriteRun(const ForecastOptions& options, Saving saving);

  // All writers at once, until everything that must be is in the origin. With a loss: what the lost
  // node had not acknowledged before need not be.
  Result<std::vector<SavedFile>> save(std::optional<NodeLoss> loss);
  // Real bytes that came to the origin, not scaled ones.
  double origin_bytes() const;

 private:
  struct Writer {
    size_t node = 0;
    std::string object;
    bool running = false;
    SavedFile file;
    std::string error;
  };
  // What one machine has to save to its disk and upload without Shoal.
  struct Uploader;

  static Task<void> write_one(WriteRun* self, Writer* writer);
  static Task<void> save_locally(WriteRun* self, Writer* writer);
  Task<Status> write_file(Writer* writer);
  Task<Status> write_local(Writer* writer);
  Task<Status> upload(Writer* writer);
  void make_chunk(const Writer& writer, uint64_t index, ByteSpan into) const;
  void scale_rates() override;
  void lose(const NodeLoss& loss);
  bool over();
  bool intact(const Writer& writer) const;
  double since_begun() const { return to_seconds(sim_.now() - begun_); }
  Duration patience(double chunks, Duration at_least) const;

  Saving saving_;
  uint32_t in_flight_ = 1;            // simulated requests of one uploader
  double connection_ = 0;             // real bytes per second of each
  std::vector<Writer> writers_;       // does not grow after construction
  std::vector<Uploader*> uploaders_;  // owned by their machines
  std::optional<size_t> lost_;
  SteadyTime begun_{};
  WallTime begun_wall_{};
  SteadyTime next_look_{};
  Duration look_period_{};
};

}  // namespace shoal::simulate
