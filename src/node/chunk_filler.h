// ChunkFiller: brings given chunks of a version into this node's cache, for `warm`, hand-over and
// small objects. Paces hand-overs, so that they yield to reads.
//
// Owned by NodeCore; shard's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "async/single_flight.h"
#include "node/fetcher.h"
#include "node/node_core.h"

namespace shoal {

// Objects up to this size are fetched and kept whole; larger ones by piece, so that one small read
// of a cold file moves at most two pieces.
inline constexpr uint64_t kFetchWholeMax = 2 * kPieceBytes;

struct VersionName {
  std::string object;
  std::string etag;
  uint64_t size = 0;
};

struct FillResult {
  uint64_t bytes = 0;            // brought in; what was there already does not count
  std::vector<uint64_t> failed;  // chunks
  std::string error;             // of one of them
};

class ChunkFiller {
 public:
  explicit ChunkFiller(NodeCore& core);

  // The whole of a small object (size <= kFetchWholeMax), from the cache, peers or the origin.
  Task<Result<std::shared_ptr<Buffer>>> small(VersionName version, FetchRole role, Context context);
  // Chunks of a version, a few at a time. Numbers must lie inside the object.
  Task<Result<FillResult>> fill(VersionName version, std::vector<uint64_t> chunks, FetchRole role,
                                bool hand_over, Context context);
  uint64_t chunk_bytes() const;
  Task<void> close() { return gate_.close(); }

 private:
  struct Work;
  Task<Status> fill_one(Work& work, uint64_t chunk);
  Task<Result<std::shared_ptr<Buffer>>> fetch_small(VersionName version, FetchRole role);
  Task<Status> small_from_peers(VersionName version, FetchRole role, ByteSpan into,
                                Context context);
  // Waits until a hand-over may move so many further bytes.
  Task<Status> pace(uint64_t bytes, Context context);

  NodeCore& core_;
  Gate gate_;
  SingleFlight<std::string, std::shared_ptr<Buffer>> small_flights_;
  SteadyTime next_{};               // when the hand-over may go on
  uint64_t foreground_before_ = 0;  // bytes of others' reads, at the last look
  SteadyTime looked_{};
};

}  // namespace shoal
