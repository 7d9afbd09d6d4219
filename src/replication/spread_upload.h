// Upload of one version by all nodes that hold its blocks, each sending its own, with one commit
// afterwards. Who is slow or refuses is relieved by who else has the block.
//
// Shard's thread.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "origin/origin.h"
#include "replication/ledger_record.h"

namespace shoal {

class Replication;

struct SpreadUpload {
  std::string object;  // in the origin
  std::string home;    // name of the replicas
  WriteName write;
  uint64_t size = 0;
  uint64_t block_bytes = 0;
  std::vector<std::vector<NodeId>> holders;  // of each block, other nodes only
  // Sends one block from here and sets its id; `there`: ids that the origin has. Empty: nothing is
  // here.
  std::function<Task<Status>(uint64_t index, const std::set<std::string>& there, std::string* id,
                             Context context)>
      send_here;
  uint32_t here_max = 16;                        // blocks sent from here at a time
  std::function<void(uint64_t bytes)> progress;  // of each block that the origin has; may be empty
};

using CommitBlocks = std::function<Task<Result<ObjectInfo>>(std::vector<BlockInfo> blocks)>;

// All blocks, then `commit` of them, in order. What holders have sent before is not sent again; if
// the commit says that the origin has lost some of it (kNotFound: another commit of the same name
// drops what is staged), it is sent once more and committed.
Task<Result<ObjectInfo>> spread_upload(Replication& replication, SpreadUpload upload,
                                       CommitBlocks commit, Context context);

// Size of an object's blocks: a chunk, or as many as it takes for the origin's largest count.
uint64_t block_bytes_of(const Origin& origin, uint64_t size, uint64_t chunk_bytes);

}  // namespace shoal
