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
#include <vector>

#include "node/attributes.h"
#include "node/node_core.h"
#include "node/tree.h"
#include "replication/replicated_version.h"

namespace shoal {

struct StagedVersion {
  explicit StagedVersion(Executor& executor) : changed(executor) {}

  StagedRecord record;
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
  bool tried = false;   // an upload began: the origin may have it, or an ancestor
  bool reseal = false;  // recovered: its checksums may have to be made again

  // In a cluster, what other nodes have of it.
  std::shared_ptr<ReplicatedVersion> replicated;  // shared with running sends; null: nothing
  std::optional<LedgerRecord> recorded;           // the last record that its owners took
  std::vector<LedgerRecord> earlier;  // of versions that it replaces, until it has a record itself
  uint64_t sequence = 0;              // of its records
  bool ask_ledger = false;            // recovered: there may be a record

  // Upload.
  bool committed = false;
  bool dropped = false;  // given up by its owner (unlinked, replaced)
  bool uploading = false;
  bool committing = false;  // the request that makes it visible is on its way
  bool queued = false;
  uint32_t held = 0;    // UploadHolds
  bool wanted = false;  // was to be queued while held
  bool forced = false;  // somebody waits: no delay
  SteadyTime not_before{};
  uint64_t uploaded_bytes = 0;
  unsigned failures = 0;
  std::string last_error;
  SteadyTime since{};  // when it became dirty
  Cancel cancel;       // of the running upload
  Signal changed;      // committed, dropped, failed

  uint64_t size() const { return file ? file->size() : bytes ? bytes->size() : record.size; }
  std::string write_id_text() const;
  WriteName write() const { return {record.write_id, generation}; }
  // Whether `write_id` (text, as in metadata) names this version's earlier state or an ancestor.
  bool descends_from(const std::string& write_id) const;
  void add_ancestor(const StagedVersion& before);
};

// In a staged record's metadata only; never sent to the origin.
inline constexpr const char* kAncestorsName = "shoalancestors";

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
  };

  WriteBack(NodeCore& core, Callbacks callbacks);
  ~WriteBack() override;

  // Begins the background work, with what the store recovered.
  void start();
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
  // Forgets it, in memory and in the store. halt() first.
  Task<Status> drop(Version version);

  // --- for other nodes ---
  Task<std::optional<Local>> find_written(WriteName write) override;
  bool is_written(const WriteName& write) const override;
  bool upload_now(const WriteName& write) override;
  Task<void> keep_replicated() override;
  // The version can be asked for by its write id from now on.
  void publish(const Version& version) { by_write_[version->record.write_id] = version; }
  // It has ended: tells the other nodes, with the etag under which the origin has it (or empty).
  void end_records(const Version& version, const std::string& etag);

  std::vector<BacklogItem> backlog(size_t items_max) const;
  uint64_t objects() const { return by_name_.size(); }
  uint64_t bytes() const;
  double oldest_seconds() const;

 private:
  Task<void> pump();
  Task<void> forget(Version version);
  Task<void> upload_one(Version version, Permit permit);
  Task<Result<ObjectInfo>> upload(Version version);
  Task<Result<ObjectInfo>> upload_whole(Version version, PutOptions options, Context context);
  Task<Result<ObjectInfo>> upload_spread(Version version, PutOptions options, Context context);
  Task<Result<ObjectInfo>> upload_blocks(Version version, PutOptions options, Context context);
  Task<Status> replace_holders(Version version);
  Task<void> ask_ledger(Version version);
  Task<Status> resolve_base(Version version);
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
  std::multimap<SteadyTime, Version> queue_;
  std::map<std::string, SteadyTime> late_commits_;  // by object: may still happen until then
  Signal queue_changed_;
  Semaphore slots_;   // 1 for a small object, 4 for one in blocks
  Semaphore blocks_;  // blocks in flight
  Gate gate_;
  Cancel stop_;
  bool stopping_ = false;
};

}  // namespace shoal
