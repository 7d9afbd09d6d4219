// WriteBack: everything that is staged and not yet in the origin. It knows each staged version by
// its object name (so that look-ups and listings see it), uploads sealed ones in the background,
// retries for ever, recognises its own commits after a crash, and keeps both versions when somebody
// else changed the object meanwhile.
//
// Owned by the node; shard's thread. The file system owns the contents while files are open.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "node/attributes.h"
#include "node/node_core.h"
#include "node/tree.h"
#include "node/version_record.h"
#include "replication/packed_record.h"
#include "replication/replicated_version.h"

namespace shoal {

inline constexpr uint64_t kWholePutMax = kChunkBytesDefault;  // larger objects go up in blocks

struct StagedVersion {
  explicit StagedVersion(Executor& executor) : changed(executor) {}

  VersionRecord record;
  uint32_t generation = 0;  // of the contents under this write id; each reopening adds one
  bool small = true;
  FileRef file;                               // files tier
  std::shared_ptr<std::string> bytes;         // small tier; null while only the store has them
  Inode* inode = nullptr;                     // null when no inode knows it (after a restart)
  bool durable = false;                       // the store has a durable record of it
  bool modified = true;                       // changed since that record
  std::shared_ptr<StagedVersion> supersedes;  // sealed before; dropped once this one is durable
  // Write ids (hex, with spaces between) of versions that this one follows and whose upload may
  // have reached the origin unnoticed: meeting one there is no conflict.
  std::string ancestors;
  // The write that record.base_etag holds, as in its metadata. A repeated request may have made the
  // same object once more.
  std::string base_write;
  std::string gate;     // what the origin must have before it (manifest.h); empty: nothing
  bool tried = false;   // an upload began: the origin may have it, or an ancestor
  bool reseal = false;  // recovered: its checksums may have to be made again

  // In a cluster, what other nodes have of it.
  std::shared_ptr<ReplicatedVersion> replicated;  // shared with running sends; null: nothing
  std::unique_ptr<PackedRecord> recorded;         // the last record that its owners took; or null
  std::vector<LedgerRecord> earlier;  // of versions that it replaces, until it has a record itself
  std::weak_ptr<StagedVersion> successor;  // has, among those, the record of this one
  uint64_t sequence = 0;                   // of its records
  std::vector<NodeId> placed;              // nodes that may have records of it
  bool ended = false;                      // no record of it may be made any more
  std::string renamed_from;                // other nodes may have records of it under this name
  bool ask_ledger = false;                 // recovered: there may be a record
  bool replicating = false;                // in the background, because somebody waits for it

  // Upload.
  uint64_t order = 0;   // grows with each close on this node; 0: not closed
  bool parked = false;  // waits, outside the queue, for one that was closed before it
  std::vector<std::weak_ptr<StagedVersion>> followers;  // those that are parked because of this one
  SteadyTime held_since{};                              // it waits for files of other nodes
  Duration look_took{0};                                // the last one at what it waits for
  Permit slot;                                          // while its data is on its way
  bool committed = false;
  bool dropped = false;  // given up by its owner (unlinked, replaced)
  bool uploading = false;
  bool committing = false;  // the request that makes it visible is on its way
  bool queued = false;
  bool due = false;  // queued, and only waits for a slot
  std::pair<uint64_t, uint64_t> due_key{};
  std::pair<SteadyTime, uint64_t> later_key{};
  uint32_t held = 0;    // UploadHolds
  bool wanted = false;  // was to be queued while held
  bool forced = false;  // somebody waits: no delay
  uint64_t uploaded_bytes = 0;
  unsigned failures = 0;
  std::string last_error;
  bool refused = false;  // the last attempt failed with what another attempt does not mend
  SteadyTime since{};    // when it became dirty
  Cancel cancel;         // of the running upload
  Signal changed;        // committed, dropped, failed

  uint64_t size() const { return file ? file->size() : bytes ? bytes->size() : record.size; }
  std::string write_id_text() const;
  WriteName write() const { return {record.write_id, generation}; }
  // Whether `write_id` (text, as in metadata) names this version's earlier state or an ancestor.
  bool descends_from(const std::string& write_id) const;
  void add_ancestor(const StagedVersion& before);
  void add_ancestors(std::string_view ids);
};

// In a staged record's metadata only; never sent to the origin.
inline constexpr const char* kAncestorsName = "shoalancestors";
inline constexpr const char* kRenamedFromName = "shoalrenamedfrom";

class WriteBack;

// While it lives, no upload of the version begins. Then what asked for one meanwhile gets it.
class UploadHold {
 public:
  UploadHold(WriteBack& write_back, std::shared_ptr<StagedVersion> version);
  UploadHold(UploadHold&& other) noexcept
      : write_back_(other.write_back_), version_(std::move(other.version_)) {}
  UploadHold& operator=(UploadHold&&) = delete;
  ~UploadHold();

 private:
  WriteBack& write_back_;
  std::shared_ptr<StagedVersion> version_;  // shared with the write-back; null: nothing held
};

struct SyncProgress {
  uint64_t objects_left = 0;
  uint64_t bytes_left = 0;
  std::string last_error;
};

struct BacklogItem {
  std::string object;
  uint64_t size = 0;
  uint64_t uploaded = 0;
  std::string state;  // "open", "waiting", "uploading", "retrying"
  std::string last_error;
};

class WriteBack final : public WriterSide {
 public:
  using Version = std::shared_ptr<StagedVersion>;
  struct Callbacks {
    // The origin has the version under info.etag; the store knows it as clean.
    std::function<void(const Version&, const ObjectInfo&)> committed;
    // Somebody else owns `object` now; the version goes on under version.record.object.
    std::function<void(const Version&, const std::string& object)> conflicted;
    // Somebody waits for it to be on other nodes.
    std::function<void(const Version&)> replicate;
  };

  WriteBack(NodeCore& core, Callbacks callbacks);
  ~WriteBack() override;

  // Begins the background work, with what the store recovered.
  Task<void> start();
  // Stops uploading; what is staged stays staged.
  Task<void> stop();

  // --- the overlay of names ---
  Version find(const std::string& object) const;
  bool any_below(const std::string& directory) const;  // "a" covers "a/...", "" covers all
  // Names directly in the directory: (leaf, version or null for a directory that exists only here).
  std::vector<std::pair<std::string, Version>> list(const std::string& directory) const;
  std::vector<Version> below(const std::string& directory) const;
  // The name must not have another version (drop or rename that first).
  void add(Version version);
  // Forgets the name only.
  void remove_name(const Version& version);
  // After a rename: record.object is the new name.
  void renamed(const Version& version, const std::string& from);

  // --- uploads ---
  // It was closed (again): commits follow this order (commit_order.h). Within a directory none goes
  // before a large one that was closed earlier; a marker not before anything below its directory.
  // One that fails for good, or again and again, is passed.
  void closed(const Version& version);
  // It is open again: nobody waits for it.
  void reopened(const Version& version);
  // A sealed, durable version: upload it after the configured delay, or now.
  void enqueue(const Version& version, bool now);
  // Takes it out of the queue and waits until no upload of it runs. It may be committed afterwards.
  // A commit that is on its way gets a moment to end by itself; cancelled, it may still happen in
  // the origin, later.
  Task<void> halt(Version version);
  // Before a name is taken away in the origin: waits until no cancelled commit can come late and
  // make the object again. Covers names below the path too.
  Task<void> let_late_commits_pass(std::string path);
  // Waits until it is committed (or dropped). Fails with the last error at the deadline.
  Task<Status> wait_committed(Version version, Context context);
  // Forgets it, and what it supersedes, in memory and in the store. halt() first.
  Task<Status> drop(Version version);
  // Forgets here what the version supersedes, as it is on this disk. On other nodes that stays
  // until they have the version itself, which then ends it.
  Task<void> drop_superseded(Version version);

  // --- for other nodes ---
  Task<std::optional<Local>> find_written(WriteName write) override;
  bool is_written(const WriteName& write) const override;
  bool is_written_as(const WriteName& write, const std::string& object) const override;
  bool upload_now(const WriteName& write) override;
  WaitingPage waiting(const WaitingQuestion& question) override;
  bool may_be_in_origin(const std::string& object) override;
  Task<void> keep_replicated() override;
  // After a restart: what other nodes have of it. Leaves ask_ledger set if they do not answer, or
  // none of those that do has a record: one that does not may have.
  Task<void> ask_ledger(Version version);
  // A version that another node wrote, and whose name this one takes away or has written anew.
  // None: it was this node's. `write_id`: as in its metadata; `etag`: empty or un-uploaded where it
  // was not in the origin.
  struct LeftBehind {
    LedgerRecord record;
    End end;
  };
  std::optional<LeftBehind> left_behind(std::string object, const std::string& write_id,
                                        const std::string& etag) const;
  // Whether an ETag names a version that this node wrote and that has ended: other nodes may not
  // have heard of that.
  bool has_ended(const std::string& etag) const {
    auto write = WriteName::parse(etag);
    return write && ended_writes_.contains(write->id) && !is_written(*write);
  }
  // The version can be asked for by its write id from now on.
  void publish(const Version& version) { by_write_[version->record.write_id] = version; }
  // On the nodes that keep its record. One that ended meanwhile ends there too.
  Task<Status> put_record(Version version, LedgerRecord& record, Context context);
  // It has ended: tells the other nodes, with the etag under which the origin has it (or empty).
  void end_records(const Version& version, EndReason reason, const std::string& etag);
  // The same of what another node had written there.
  void end_base(const Version& version);
  // As end_records(); returns when no node can bring it back.
  Task<Status> end_now(Version version, EndReason reason, Context context);

  std::vector<BacklogItem> backlog(size_t items_max) const;
  uint64_t objects() const { return by_name_.size(); }
  // Where many wait, these two are some seconds old.
  uint64_t bytes() const { return totals().bytes; }
  double oldest_seconds() const { return to_seconds(core_.now() - totals().oldest); }
  // There is no room for what somebody writes: waits until an upload has ended, and hurries those
  // that wait. False: none is to come, or none ended within NodeOptions::space_timeout.
  Task<bool> await_room(Context context);

 private:
  // Small objects and large ones have slots of their own, so that none of them hinders the other.
  struct Lane {
    Lane(Executor& executor, uint64_t slots_max) : slots(executor, slots_max), changed(executor) {}
    std::map<std::pair<SteadyTime, uint64_t>, Version> later;  // by when, and who came first
    // Due: the directory whose files began to come last (the newest checkpoint) goes first, in it
    // who was closed first. Keys: due_key.
    std::map<std::pair<uint64_t, uint64_t>, Version> due;
    Semaphore slots;
    Signal changed;
  };
  struct Totals {
    SteadyTime when{};
    uint64_t bytes = 0;
    SteadyTime oldest{};
  };
  const Totals& totals() const;
  Lane& lane_of(const Version& version);
  void hurry(Lane& lane);
  void unqueue(const Version& version);
  void move_due(Lane& lane);
  Task<void> pump(Lane& lane);
  // commit order (write_back_order.cc)
  Version earlier(const Version& version) const;
  static bool goes_before(const StagedVersion& one, const StagedVersion& other);
  void park(const Version& version, const Version& before);
  void release_followers(const Version& version);
  Task<Status> await_turn(Version version, Context context);
  Task<Status> check_others(Version version);
  void restore_order();
  void take_waiting(const Version& version, const WaitingQuestion& question, WaitingPage& page);
  Version recover(Store::Staged staged);
  void take_recovered(Store::Staged staged);
  void finish_rename(const Version& version);
  struct Ending {
    LedgerRecord record;
    EndReason reason;
    std::string etag;
  };
  // Whether another version ends it, as it was handed over meanwhile; then on these nodes, too.
  static bool ends_with_successor(const StagedVersion& version, const LedgerRecord& record);
  // What other nodes have to be told the end of. `etag`: under which the origin has the version.
  std::vector<Ending> take_records(const Version& version, EndReason reason,
                                   const std::string& etag);
  // Its last record, or what stands for one that others may have; of all its generations.
  LedgerRecord take_record(const Version& version);
  Task<void> forget(Version version);
  Task<void> upload_one(Version version);
  Task<Result<ObjectInfo>> upload(Version version);
  Task<Result<ObjectInfo>> upload_whole(Version version, PutOptions options, Context context);
  Task<Result<ObjectInfo>> upload_spread(Version version, PutOptions options, Context context);
  Task<Result<ObjectInfo>> upload_blocks(Version version, PutOptions options, Context context);
  Task<Result<ObjectInfo>> commit_blocks(Version version, std::vector<BlockInfo> blocks,
                                         PutOptions options, Context context);
  Task<Status> replace_holders(Version version);
  Task<Status> resolve_base(Version version);
  Task<Status> pass_gate(Version version);
  Task<Result<std::vector<uint32_t>>> crcs_of(Version version);
  Task<Status> send_block(Version version, uint64_t offset, uint64_t length, std::string* id,
                          const std::set<std::string>* there, Context context);
  Task<Result<ObjectInfo>> settle_conflict(Version version);
  Task<Status> move_aside(Version version);
  Task<void> finish(Version version, ObjectInfo info);
  void requeue(const Version& version, Duration delay);
  Task<Result<BufferPool::Lease>> read_bytes(Version version, uint64_t offset, uint64_t length);

  NodeCore& core_;
  Callbacks callbacks_;
  std::map<std::string, Version> by_name_;
  std::unordered_map<Hash128, std::weak_ptr<StagedVersion>> by_write_;
  std::unordered_set<Hash128> ended_writes_;                // the last ones of this node's own
  std::map<uint64_t, std::weak_ptr<StagedVersion>> large_;  // closed ones, by order
  uint64_t last_order_ = 0;
  // The order of a directory's first file; forgotten when nothing below it waits any more.
  std::map<std::string, uint64_t, std::less<>> directories_;
  struct Kept {
    uint64_t map_version = 0;
    SteadyTime when{};
    bool failed = false;
  };
  Kept kept_;  // the last look of keep_replicated()
  mutable Totals totals_;
  std::map<std::string, std::weak_ptr<StagedVersion>> failing_;  // some of them, by name
  uint64_t queued_count_ = 0;                                    // of all that was ever queued
  uint64_t uploading_ = 0;
  Signal room_;                                     // an upload has ended
  std::map<std::string, SteadyTime> late_commits_;  // by object: may still happen until then
  Lane small_;
  Lane large_lane_;
  Semaphore blocks_;  // blocks in flight
  Gate gate_;
  Cancel stop_;
  bool stopping_ = false;
};

}  // namespace shoal
