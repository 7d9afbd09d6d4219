// ReplicatedVersion: the writer's side of one version: which of its chunks are on which other
// nodes. Full chunks are sent while the writer goes on; settle() sends the rest and returns when
// all of it is on as many disks as was asked for.
//
// Chunks go to the owners of their slots, so they spread over the cluster. A holder fetches its
// chunk from the writer (the read path of peers); with more than one, the next fetches from the one
// before, so that the writer's network carries each byte once.
//
// Shared by the staged version and running sends. Shard's thread.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "async/sync.h"
#include "async/task.h"
#include "replication/replication.h"

namespace shoal {

class ReplicatedVersion : public std::enable_shared_from_this<ReplicatedVersion> {
 public:
  // `early_upload`: holders begin to send chunks to the origin as they come.
  ReplicatedVersion(Replication& replication, std::string object, WriteName write,
                    bool early_upload);

  const std::string& home() const { return home_; }  // the name that the replicas are under
  const WriteName& write() const { return write_; }
  // The version goes by another name in the origin: the next settle() tells the holders.
  void renamed(std::string object);

  // The writer changed [range.offset, range.end()) of its file, which now has `size` bytes.
  void wrote(Range range, uint64_t size);
  void resized(uint64_t size);

  // All bytes of the file's `size` on enough disks. Nobody writes meanwhile. kUnavailable: not
  // enough nodes can take them (the message says how many did), or nothing has got on for the
  // options' ack_timeout.
  Task<Status> settle(uint64_t size, Context context);

  // Nodes that hold something, and what they hold.
  std::vector<NodeId> holders() const;
  std::vector<NodeId> holders_of(uint64_t chunk) const;
  // After a restart of the writer: what the holders say they have, where their checksums are the
  // record's.
  Task<void> find_holders(const LedgerRecord& record, Context context);
  // How many copies the least replicated chunk has, the writer's included.
  uint32_t copies() const;

 private:
  struct Chunk {
    std::vector<NodeId> holders;
    uint64_t filled = 0;    // bytes written since it was last sent
    uint64_t revision = 1;  // raised by each change
    uint64_t sent = 0;      // revision that the holders have
    bool sending = false;
  };
  uint64_t chunk_bytes() const { return replication_.options().chunk_bytes; }
  bool is_good(const NodeId& node) const;
  bool settled(const Chunk& chunk) const;
  std::vector<NodeId> choose(uint64_t chunk) const;
  void put_least_used_first(std::vector<NodeId>& nodes) const;
  bool has(uint64_t chunk, const NodeId& node, uint64_t revision) const;
  void start_send(uint64_t chunk);
  static Task<void> send(std::shared_ptr<ReplicatedVersion> self, uint64_t chunk);
  // Both answer the instance of the node's replica.
  Task<Result<uint64_t>> send_to(NodeId node, NodeId source, uint64_t chunk, bool upload);
  Task<Result<uint64_t>> ask_to_replicate(NodeId node, wire::ReplicateRequest request,
                                          Context context);
  // The node has this instance of a replica now. If it had another one before, nothing that was
  // sent to that one counts any more.
  void met(const NodeId& node, uint64_t instance);
  Task<Status> wait_sent(SteadyTime begun, Context context);
  Task<Status> sync_holder(NodeId node, Context context);
  void lost(const NodeId& node);
  void note_given(uint64_t chunk, const NodeId& node);
  // Sends chunks to holders of others that have an earlier state of them. Should the writer be
  // lost, each holder is asked for whatever it has, and it cannot tell what came first.
  Task<void> replace_stale();
  Task<Status> sync_all(Context context);

  Replication& replication_;
  const std::string home_;
  std::string object_;
  const WriteName write_;
  const bool early_upload_;
  uint64_t size_ = 0;
  std::vector<Chunk> chunks_;
  std::vector<std::vector<NodeId>> given_;  // by chunk: who may have some state of it
  uint32_t sending_ = 0;
  SteadyTime moved_{};                    // when a holder last got a chunk
  std::set<NodeId> unsynced_;             // holders with something that may not be on their disks
  std::map<NodeId, uint64_t> instances_;  // of the holders' replicas
  std::map<NodeId, SteadyTime> avoided_;  // failed lately: not before then
  std::map<NodeId, uint64_t> sent_to_;    // chunks of this version, tried ones included
  std::optional<Error> last_error_;       // why a node did not take a chunk
  Signal changed_;
};

}  // namespace shoal
