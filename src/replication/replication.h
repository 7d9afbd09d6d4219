// Replication: versions that the origin does not have yet, on more nodes than the one that writes
// them. A node takes part in three roles: it keeps ledger records of objects whose slots it owns
// (ledger.h), chunks of other nodes' versions (replicas.h), and for what it writes itself it sees
// to both and to the upload by all who hold chunks (replicated_version.h, spread_upload.h). When
// the writer is lost, the owner of the record takes its place (takeover.h).
//
// Shard's thread. Owned by the node; everything it is given outlives it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/buffer_pool.h"
#include "async/gate.h"
#include "async/rate_limit.h"
#include "async/sync.h"
#include "membership/membership.h"
#include "observe/metrics.h"
#include "origin/origin.h"
#include "replication/endings.h"
#include "replication/keepers.h"
#include "replication/ledger.h"
#include "replication/replicas.h"
#include "replication/waiting.h"
#include "rpc/rpc.h"

namespace shoal {

struct ReplicationOptions {
  uint32_t replicas = 2;      // nodes that acknowledged bytes are on, the writer's counted; 1 to 5
  bool ack_degraded = false;  // acknowledge with fewer when no more can be reached
  // A writer waits so long for its replicas while no byte of what it writes gets on.
  Duration ack_timeout = std::chrono::seconds(30);
  uint64_t chunk_bytes = 8 * kMiB;
  uint64_t memory = 256 * kMiB;  // of buffers for chunks on their way
  // Chunks of all versions on their way, for each copy. Few: what is under way when writers end is
  // not spread any more, and some holders get their last chunks while others are idle (0013).
  uint32_t sends_max = 8;
  uint32_t upload_blocks_max = 16;  // blocks that this node sends to the origin for others
  // A holder that was asked for a block has so long to send it; then another is asked.
  Duration block_timeout = std::chrono::seconds(60);
  Duration check_period = std::chrono::seconds(2);  // looks after records and replicas
};

struct ReplicationMetrics {
  explicit ReplicationMetrics(Registry& registry);
  Counter& replicated_bytes;  // of other nodes' versions, taken in
  Counter& degraded;          // acknowledgements with fewer replicas than wanted
  Counter& takeovers;         // versions uploaded for writers that were lost
  Counter& repaired_bytes;    // copied again because a holder was lost
  Counter& blocks;            // blocks sent to the origin for other nodes
};

// What this node itself is writing; the node implements it.
class WriterSide {
 public:
  virtual ~WriterSide() = default;
  struct Local {
    FileRef file;                        // or
    std::shared_ptr<std::string> small;  // the whole content
  };
  // The bytes of a version that this node writes or is to upload; nothing if it does not know it.
  virtual Task<std::optional<Local>> find_written(WriteName write) = 0;
  virtual bool is_written(const WriteName& write) const = 0;
  // The same, but a renamed version is not written under its old name any more once other nodes
  // have a record of the new one; one that was replaced is, until they have one of its successor.
  virtual bool is_written_as(const WriteName& write, const std::string& object) const = 0;
  // Somebody waits for it. False: not known here.
  virtual bool upload_now(const WriteName& write) = 0;
  // What it has at or below the path.
  virtual WaitingPage waiting(const WaitingQuestion& question) = 0;
  // Another node may have put an earlier version of the name there in this one's place. False:
  // nothing of the name waits here.
  virtual bool may_be_in_origin(const std::string& object) = 0;
  // Looks whether what waits is still on enough nodes, and sees to it.
  virtual Task<void> keep_replicated() = 0;
};

struct ReplicationParts {
  World& world;
  Store& store;
  Origin& origin;
  RpcPool& pool;
  ClusterView& view;
  Registry& registry;
  const Log& log;
  RateLimit& upload_rate;  // of bytes to the origin
};

// What fewer nodes than needed is for the caller: no space, if that is what the last one lacked.
Code code_of_too_few(const std::optional<Error>& last);

class Replication {
 public:
  Replication(ReplicationParts parts, ReplicationOptions options);
  ~Replication();

  // Reads what the store recovered; then the watch over it begins.
  Task<Status> start(WriterSide& writer);
  // Ends every flow. Nothing is lost by it.
  Task<void> stop();

  // The methods kLedgerPut to kLedgerBelow, asked by a member.
  Task<Result<std::string>> handle(NodeId from, Method method, std::string body, Context context);
  // Serves a peer's read of an un-uploaded version from what this node has staged of it. kNotFound:
  // not all of the range is here.
  Task<Status> serve(const wire::ReadRequest& request, WriteName write, RpcResponder& responder,
                     Context context);
  // Reads from whoever holds the bytes; when the version has been uploaded meanwhile, from the
  // origin. kStale: it is gone. `progress` as in Origin::read.
  Task<Status> read(std::string object, WriteName write, uint64_t offset, ByteSpan into,
                    std::function<void(uint64_t)> progress, Context context);
  // Waits until the origin has the newest version of the object; at once if none is waiting.
  // Answers what the origin then says of it.
  Task<Status> wait_uploaded(std::string object, Context context);
  // The origin's ETag of a version that was un-uploaded: for what was made on top of it. kNotFound:
  // not there yet; kConflict: the origin has something else.
  Task<Result<std::string>> resolve(std::string object, WriteName write, Context context);

  // --- records ---
  // On the first owners of the object's slot that can be reached, as many as the record wants (all
  // there are with `ack_degraded`). kUnavailable names how many took it.
  // record.placed names all that may have it then, also after a failure.
  Task<Status> put_record(LedgerRecord& record, Context context);
  // The version has ended under record.object, up to record.sequence (endings.h).
  Task<Status> end_record(LedgerRecord record, End end, Context context);
  // The same in the background, until it succeeds.
  void remove_record(LedgerRecord record, End end);
  // Of a version that another node wrote, and whose name this one takes away or has written anew:
  // ends it where a record of it is left. Its writer may have been lost before it told the end, and
  // who acts in its place is to know that it came late. `record`: object, write and sequence count.
  Task<Status> end_left_behind(LedgerRecord record, End end, Context context);
  // The same in the background, until it succeeds.
  void remove_left_behind(LedgerRecord record, End end);
  // Waits for the ends that are under way in the background, of the object and of what is below it.
  // Before then a removed file may come back with a node that has not been told.
  Task<Status> wait_ended(std::string path, Context context);
  bool is_ending(const std::string& object, const Hash128& write_id) const;
  // Removes the object from the origin if it is this generation of the write, or one before.
  Task<Status> take_back(std::string object, WriteName write, Context context);
  // Removes the object from the origin if it is the one of this ETag.
  Task<Status> take_back_stray(std::string object, std::string etag, Context context);
  // What the members that would know say of a version.
  struct Standing {
    bool recorded = false;           // one has a record of this state of the write or a later one
    bool earlier = false;            // ... of this one or an earlier one
    std::optional<EndReason> ended;  // (up to this sequence)
    Commits commits;
    std::vector<NodeId> placed;
  };
  // kUnavailable: one of them that is not lost does not answer, and no other knows of an end.
  Task<Result<Standing>> ask_standing(std::string object, WriteName write, uint64_t sequence,
                                      Context context);
  // Records of the object that its owners have. kUnavailable: none of them answered.
  Task<Result<std::vector<LedgerRecord>>> get_records(std::string object, Context context);

  // --- for the parts of this room ---
  // To the first `count` of the nodes that can be reached and do not fail. How many did not;
  // `error`: what the last one that did said.
  Task<uint32_t> ask_first(std::vector<NodeId> nodes, uint32_t count, Method method,
                           std::string body, std::optional<Error>* error, Context context);
  // A request to a member, or to this node itself.
  Task<Result<std::string>> ask(NodeId node, Method method, std::string body, Context context);
  // For requests that may take long: ends with kUnavailable when the member is down or does not
  // answer pings.
  Task<Result<std::string>> ask_while_alive(NodeId node, Method method, std::string body,
                                            Context context);
  // What a member holds of a version's replicas, and whether it writes it.
  struct StateQuestion {
    std::string home;  // the replicas' name
    WriteName write;
    uint64_t size = 0;      // only what lies before it; 0: all
    std::string as_object;  // whether it is written under this name; empty: under any
  };
  Task<Result<wire::ReplicaStateReply>> ask_state(NodeId node, StateQuestion question,
                                                  Context context);
  bool usable(const NodeId& node) const;
  // Down in the map, or not in it any more.
  bool is_lost(const NodeId& node) const;
  bool is_member(const NodeId& node) const;
  // Whether a member is down: it is no member any more after the grace time.
  bool is_any_lost() const;
  // Who acts for the slot: the first of candidates() that can be reached.
  std::optional<NodeId> first_usable(uint32_t slot) const;
  // Owners of the slot first, then all other members in an order of their own for each slot.
  std::vector<NodeId> candidates(uint32_t slot) const;
  const NodeId& self() const { return parts_.view.self(); }
  ReplicationParts& parts() { return parts_; }
  const ReplicationOptions& options() const { return options_; }
  ReplicationMetrics& metrics() { return metrics_; }
  Ledger& ledger() { return ledger_; }
  const Ledger& ledger() const { return ledger_; }
  Endings& endings() { return endings_; }
  Keepers& keepers() { return keepers_; }
  Replicas& replicas() { return replicas_; }
  WriterSide& writer() { return *writer_; }
  BufferPool& buffers() { return buffers_; }
  Semaphore& memory() { return memory_; }
  Semaphore& upload_memory() { return upload_memory_; }
  Semaphore& sends() { return sends_; }
  // When other nodes last got bytes of what this node writes.
  SteadyTime served_at() const { return served_at_; }
  // Chunks on their way from here to the node.
  int sending_to(const NodeId& node) const;
  void count_send(const NodeId& node, int change) { sending_to_[node] += change; }
  Signal& sends_idle() { return sends_idle_; }  // told when the last of `sends` is given back
  void sends_changed();                         // after one was taken or given back
  Gate& gate() { return gate_; }
  Cancel& stopping() { return stopping_; }
  Executor& executor() { return parts_.world.executor; }
  Context limited(Duration limit) {
    Context context = Context::within(executor(), limit);
    context.cancel = &stopping_;
    return context;
  }

  struct Stats {
    size_t records = 0;
    size_t replicas = 0;
    uint64_t replica_bytes = 0;
    bool degraded = false;  // something was acknowledged with fewer replicas, and still waits
    std::string last_error;
  };
  Stats stats() const;
  void note_error(std::string text) { last_error_ = std::move(text); }

 private:
  Task<Status> outdate_listings(const LedgerRecord& record, Context context);
  Task<Result<std::string>> handle_replica(Method method, std::string body, Context context);
  enum class HeldBy { kWriter, kReplica, kRecord };
  struct Held {
    HeldBy by;
    std::vector<uint32_t> crcs;  // of each piece
  };
  Task<Result<Held>> read_held(std::string object, WriteName write, uint64_t offset, ByteSpan into,
                               std::optional<uint32_t> chunk_crc);
  Task<Status> read_here(const std::string& home, WriteName write, uint64_t offset, ByteSpan into,
                         std::optional<uint32_t> chunk_crc);
  // `as_held`: whatever the node holds; else only what a sealed record says.
  Task<Status> read_from_node(NodeId node, std::string home, WriteName write, Range range,
                              uint64_t size, ByteSpan into, std::optional<uint32_t> chunk_crc,
                              bool as_held, Context context);
  Task<Status> read_from_nodes(const std::string& object, WriteName write, uint64_t offset,
                               ByteSpan into, const std::function<void(uint64_t)>& progress,
                               const std::vector<LedgerRecord>& records, Context context);
  using EndTask = Task<Status> (Replication::*)(LedgerRecord record, End end, Context context);
  static Task<void> end_later(Replication* self, EndTask task, LedgerRecord record, End end);
  Task<void> end_at(NodeId node, Method method, std::string body);

  ReplicationParts parts_;
  const ReplicationOptions options_;
  ReplicationMetrics metrics_;
  BufferPool buffers_;
  Semaphore memory_;  // for chunks that come in
  // For chunks that others fetch. Never shared with `memory_`: who fetches holds memory of its own
  // meanwhile, so nodes that fetch from each other would wait for each other.
  Semaphore serve_memory_;
  Semaphore upload_memory_;  // for blocks that go to the origin, which may be slow
  Semaphore sends_;
  Signal sends_idle_;
  std::map<NodeId, int> sending_to_;
  SteadyTime served_at_{};
  Ledger ledger_;
  Endings endings_;
  Keepers keepers_;
  Replicas replicas_;
  WriterSide* writer_ = nullptr;
  // Ends that are under way in the background: objects and their writes.
  std::multimap<std::string, Hash128> ending_;
  Signal ended_;
  Gate gate_;
  Cancel stopping_;
  std::string last_error_;
  std::unique_ptr<class Takeover> takeover_;
};

}  // namespace shoal
