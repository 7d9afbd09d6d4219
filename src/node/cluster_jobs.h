// ClusterJobs: long work that is spread over the members: warming, each chunk by its owner, and the
// hand-over of a node that leaves.
//
// Owned by Node; shard's thread.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "node/chunk_filler.h"
#include "node/cluster.h"
#include "node/node_core.h"

namespace shoal {

struct DrainProgress {
  bool done = false;
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  uint64_t dirty_bytes = 0;  // still to be uploaded
  std::string error;         // it has ended, without success
};

class ClusterJobs {
 public:
  // `dirty` answers how many bytes wait for their upload.
  ClusterJobs(NodeCore& core, std::function<uint64_t()> dirty);

  // Every chunk of the version into its owner's cache, or with `everywhere` into that of every
  // member. `progress` hears the bytes of finished chunks. Members that fail are passed over; fails
  // when a chunk can be filled nowhere.
  Task<Status> warm(VersionName version, bool everywhere, std::function<void(uint64_t)> progress,
                    Context context);
  // Begins to give away slots and chunks, then leaves the map; or tells how far that is.
  DrainProgress drain();
  // Members that a chunk of an object counts for when it is warmed everywhere.
  size_t members() const;

 private:
  struct Batch {
    Member member;  // this node by an empty address
    std::vector<uint64_t> chunks;
  };
  struct Round;
  std::vector<Batch> assign(const VersionName& version, const std::vector<uint64_t>& chunks,
                            const std::set<NodeId>& passed_over, bool not_here) const;
  Task<Status> do_batch(Round& round, Batch batch);
  Task<Result<FillResult>> fill_at(const Batch& batch, const VersionName& version, bool copies,
                                   bool hand_over, Context context);
  // Chunks to their owners, in rounds without those that failed.
  Task<Status> to_owners(VersionName version, std::vector<uint64_t> chunks, bool hand_over,
                         std::function<void(uint64_t)> progress, Context context);
  Task<Status> to_everybody(VersionName version, std::vector<uint64_t> chunks,
                            std::function<void(uint64_t)> progress, Context context);
  Task<void> run_drain();
  void keep_own(Store::CachedChunks& cached) const;
  Task<Status> hand_over(Context context);
  Task<Status> hand_over_one(VersionName version, std::vector<uint64_t> chunks, Context context);
  Task<Status> hand_over_files(Context context);
  Task<Status> hand_over_small(Context context);
  uint64_t length_of(const VersionName& version, uint64_t chunk) const;

  NodeCore& core_;
  std::function<uint64_t()> dirty_;
  DrainProgress drain_;
  bool draining_ = false;
  bool error_told_ = false;
};

}  // namespace shoal
