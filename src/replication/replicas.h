// Replicas: chunks of versions that other nodes write, kept here until the origin has them. They
// come by reading from the writer (or from another holder), lie in the store as a partial staged
// file, and become clean chunks when the version is committed.
//
// Shard's thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "async/buffer_pool.h"
#include "async/sync.h"
#include "async/task.h"
#include "replication/ledger_record.h"
#include "replication/upload_width.h"
#include "rpc/rpc.h"
#include "store/store.h"
#include "wire/messages.pb.h"

namespace shoal {

class Replication;

// Chunks of the record's version that a member holds. With `by_checksum` only those that are the
// record's: older bytes may have been left there.
std::vector<uint64_t> good_chunks(const wire::ReplicaStateReply& state, const LedgerRecord& record,
                                  uint64_t chunk_bytes, bool by_checksum);

class Replicas {
 public:
  explicit Replicas(Replication& replication);

  // Finds what the store recovered.
  void note_recovered(const Store::Staged& staged);
  Task<Status> load();
  // Background uploads begin.
  void start();

  Task<Result<wire::ReplicateReply>> replicate(wire::ReplicateRequest request, Context context);
  // The checksum of the chunk at the offset in the version's sealed record; nothing if no replica
  // of it is held here. kNotFound: no such record.
  Task<Result<std::optional<uint32_t>>> sealed_crc(std::string object, WriteName write,
                                                   uint64_t offset, Context context);
  // Bytes that are here, not compared with the CRC32C of each piece, as it entered, that it
  // answers. kNotFound if not all of the range is here, or if its chunk has another checksum: while
  // the version was written it may have been sent here, and once more to others.
  Task<Result<std::vector<uint32_t>>> read(std::string object, WriteName write, uint64_t offset,
                                           ByteSpan into, std::optional<uint32_t> chunk_crc);
  // With a checksum of each chunk that is whole. Only of what lies before `size`, unless that is 0:
  // a version that was written on has more by now than its last record says.
  Task<Result<wire::ReplicaStateReply>> state(std::string object, WriteName write, uint64_t size);
  Task<Result<wire::ReplicaUploadReply>> upload(wire::ReplicaUploadRequest request,
                                                Context context);
  // The version was committed, as `as_object` under the etag: its chunks become clean ones of that;
  // or given up (empty etag). Chunks that are not those of the checksums are given up as well.
  Task<Status> end(std::string object, WriteName write, std::string as_object, std::string etag,
                   uint64_t size, std::vector<uint32_t> crcs);

  // The name that the version has in the origin, as far as this node was told.
  std::string as_object(const std::string& object, const WriteName& write) const;
  // While this node sends chunks of its own (`busy`), few blocks at a time go to the origin: a
  // writer waits for the chunks, and both share one network.
  void share_network(bool busy);
  // Ends what waits for the origin.
  void cancel_all();

  // What is held: object and write of each.
  std::vector<std::pair<std::string, WriteName>> list() const;
  uint64_t bytes() const;
  size_t size() const { return replicas_.size(); }

 private:
  // A chunk as it came, until it goes to the origin: it need not be read from the disk for that.
  struct Arrived {
    BufferPool::Lease bytes;
    std::vector<uint32_t> crcs;  // of its pieces
    Permit memory;               // for blocks on their way to the origin
  };
  struct Loaded {
    Arrived block;
    Hash128 hash;
  };
  struct Block {
    enum class State { kQueued, kUploading, kDone };
    State state = State::kQueued;
    std::unique_ptr<Arrived> arrived = {};
    std::string id;
    uint64_t revision = 0;  // of the sending that this entry is about
    uint64_t length = 0;    // as it was sent
  };
  struct Replica {
    Replica(Executor& executor, uint64_t instance_) : instance(instance_), changed(executor) {}
    std::string object;
    std::string as_object;  // the version's name in the origin
    bool named = false;     // so by its writer
    WriteName write;
    // Random, in memory only: another one tells the writer that unsynced chunks may be gone.
    const uint64_t instance;
    FileRef file;           // null while it is being made
    uint64_t unsynced = 1;  // changes since `synced`
    uint64_t synced = 0;
    std::map<uint64_t, Block> blocks;  // of `block_bytes`, by index
    std::string blocks_as;  // the object that they are of: of who uploads, if not its own
    uint64_t block_bytes = 0;
    uint64_t revisions = 0;
    std::vector<uint32_t> sealed_crcs;  // of its record's chunks, once it was asked for
    uint32_t users = 0;
    bool ending = false;
    Cancel cancel;
    Signal changed;
  };
  using Ref = std::shared_ptr<Replica>;
  // Counts as a user while it lives.
  class Use {
   public:
    explicit Use(Ref replica) : replica_(std::move(replica)) { ++replica_->users; }
    Use(Use&& other) noexcept = default;
    ~Use() {
      if (replica_ != nullptr && --replica_->users == 0) replica_->changed.notify_all();
    }
    Replica* operator->() const { return replica_.get(); }
    Replica& operator*() const { return *replica_; }
    const Ref& ref() const { return replica_; }

   private:
    Ref replica_;
  };

  static constexpr uint64_t kSizeMax = uint64_t{1} << 47;
  static constexpr int kChunksMax = 4096;  // in one request
  static uint64_t block_length(uint64_t index, uint64_t block_bytes, uint64_t size) {
    uint64_t begin = index * block_bytes;
    return begin >= size ? 0 : std::min(block_bytes, size - begin);
  }
  static Hash128 key_of(const std::string& object, const WriteName& write);
  // By its writer.
  static Status rename(Replica& replica, std::string as_object);
  Ref make(std::string object, WriteName write) const;
  Ref find(const std::string& object, const WriteName& write) const;
  Task<Result<Ref>> open(std::string object, WriteName write);
  Task<Result<Arrived>> bring(Replica& replica, NodeId source, uint64_t chunk, uint64_t size,
                              Context context);
  bool has_some(const Replica& replica, uint64_t chunk) const;
  std::unique_ptr<Arrived> keep(Arrived arrived);
  Task<Status> sync(Replica& replica, uint64_t size);
  static Task<Result<uint32_t>> crc_of(Replica& replica, Range range);
  Task<Result<Loaded>> load_block(Replica& replica, uint64_t index, uint64_t length,
                                  Context context);
  Task<Status> send_block(Replica& replica, uint64_t index, uint64_t size,
                          std::set<std::string> there, Context context);
  Task<void> upload_queued();
  Task<void> upload_early(Ref replica, uint64_t index, Permit permit);
  Task<Status> upload_one(Replica& replica, uint64_t index, uint64_t size,
                          std::set<std::string> there, bool again, std::string* id,
                          Context context);
  // Whether all chunks that are here have these checksums.
  Task<Result<bool>> matches(Replica& replica, uint64_t size, std::vector<uint32_t> crcs);
  void enqueue(const Ref& replica, uint64_t chunk);
  void set_uploads();

  Replication& replication_;
  std::vector<StagedRecord> recovered_;         // until load()
  std::map<Hash128, Ref> replicas_;             // shared with running flows
  std::deque<std::pair<Ref, uint64_t>> queue_;  // blocks to be sent when nobody waits yet
  Signal queued_;
  bool sharing_ = false;  // the network, with chunks that a writer here waits for
  UploadWidth width_;
  Semaphore uploads_;  // blocks on their way to the origin
};

}  // namespace shoal
