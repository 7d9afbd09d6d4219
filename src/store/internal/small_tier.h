// SmallTier: values below 256 KiB in a log of segments, with an index and a cache in DRAM.
//
// One writer appends; callers that arrive while it writes share its next write and its next sync.
// The oldest segment is reclaimed when the budget is used up: what is staged, pinned or was read
// since it was written moves to the end of the log, the rest is forgotten.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "async/disk_io.h"
#include "async/gate.h"
#include "store/internal/segment_format.h"
#include "store/internal/small_index.h"
#include "store/internal/value_cache.h"
#include "store/store.h"

namespace shoal::store_internal {

struct StoreMetrics;

struct SmallTierOptions {
  std::string directory;  // <cache>/small
  std::string lost;
  uint64_t capacity = 0;  // bytes of disk
  uint64_t memory = 0;    // bytes of DRAM for values
};

class SmallTier {
 public:
  static constexpr uint64_t kCapacityMin = 8 * kMiB;

  SmallTier(World& world, const Log& log, StoreMetrics& metrics, SmallTierOptions options);
  ~SmallTier();

  Task<Status> recover();
  Task<Status> close();

  Task<Result<Buffer>> get(std::string object, std::string etag);
  Task<Status> put(std::string object, std::string etag, ConstByteSpan bytes);
  // Every clean value on disk (not those still on their way there).
  Task<Result<std::vector<Store::CachedChunks>>> cached();
  Task<Result<uint64_t>> evict(std::string object, bool tree);
  Task<Status> rekey(std::string from, std::string etag, std::string to, std::string new_etag);
  uint64_t cached_bytes(const std::string& object, const std::string& etag);

  Task<Status> stage(StagedRecord record, ConstByteSpan bytes);
  Task<Result<Buffer>> read_staged(Hash128 write_id);
  Task<Status> commit(Hash128 write_id, std::string etag);
  Task<Status> drop(Hash128 write_id);
  void list_staged(std::vector<Store::Staged>& into) const;
  std::vector<Hash128> staged_ids() const;
  std::optional<StagedRecord> staged_record(Hash128 write_id) const;

  // Says whether an object is pinned.
  void set_pinned(std::function<bool(const std::string&)> pinned) { pinned_ = std::move(pinned); }
  void add_stats(StoreStats& stats) const;

 private:
  Task<Result<std::pair<std::string, std::string>>> names_of(SmallPlace place);
  struct Segment {
    uint64_t number = 0;
    Hash128 nonce;
    FileId file = FileId::kNone;
    uint64_t end = 0;  // where the next record goes
    uint64_t readers = 0;
    bool unsynced = false;
  };
  // Kept as it is encoded, which is a quarter of the size: a million files may wait.
  struct StagedValue {
    std::string info;
    SmallPlace place;
    uint64_t sequence = 0;
    bool bad = false;  // its bytes did not survive

    StagedRecord record() const;
    std::string object() const { return record().object; }
  };
  struct Append {
    RecordHeader header;
    std::string info;
    ConstByteSpan value;  // borrowed from the caller, who waits
    bool durable = false;
    bool done = false;
    bool cancelled = false;  // evicted before it was written
    Status status;
  };
  // What a scan of a segment finds. The spans are valid during the call only.
  using Visit = std::function<void(const RecordHeader&, ConstByteSpan info, ConstByteSpan value,
                                   uint64_t offset)>;
  struct Recovery {
    uint64_t synced_through = 0;
    struct Bad {
      Hash128 id;
      std::string info;
      SmallPlace place;
      uint64_t sequence = 0;
    };
    std::vector<Bad> bad;
    std::vector<Hash128> torn;                      // bad ones that nobody was promised
    std::unordered_map<Hash128, uint64_t> dropped;  // by write id, the sequence of the drop
  };

  Disk& disk() { return world_.disk; }
  std::string segment_path(uint64_t number) const;
  static uint64_t object_version(const std::string& etag);
  static Hash128 object_key(const std::string& object);
  Segment* segment_of(const SmallPlace& place);

  Task<Status> append(std::shared_ptr<Append> item);
  Task<Status> outdate_torn(std::vector<Hash128> ids);
  Task<void> write_loop();
  Task<Status> write_batch(std::vector<std::shared_ptr<Append>>& batch);
  void apply(const Append& item, SmallPlace place);
  void forget_clean(Hash128 key);
  void forget_staged(Hash128 write_id);
  Task<Status> open_segment();
  Task<Status> sync_current();
  Task<Status> roll();
  Task<Status> reclaim(uint64_t number, bool keep_pinned);
  Task<Status> reappend(std::vector<std::shared_ptr<Append>> items);
  bool survives(const RecordHeader& header, ConstByteSpan info, SmallPlace place, bool keep_pinned,
                uint64_t& visited_left);
  Task<Result<Buffer>> read_value(SmallPlace place, RecordKind kind, Hash128 key,
                                  std::string object, std::string etag);
  Task<Result<uint64_t>> scan(Segment& segment, uint64_t size, Visit visit);
  Task<Status> recover_segment(uint64_t number, Recovery& recovery, bool last);
  void recover_record(const RecordHeader& header, ConstByteSpan info, ConstByteSpan value,
                      const Segment& segment, uint64_t offset, Recovery& recovery);
  void settle_bad(Recovery& recovery);

  World& world_;
  const Log& log_;
  StoreMetrics& metrics_;
  const SmallTierOptions options_;
  const uint64_t segment_bytes_;
  const uint64_t segments_max_;
  const uint64_t entries_max_;

  std::map<uint64_t, Segment> segments_;
  uint64_t current_ = 0;  // number of the segment that is appended to; 0: none
  uint64_t sequence_ = 0;
  uint64_t synced_through_ = 0;

  SmallIndex index_;
  ValueCache values_;
  std::unordered_map<Hash128, StagedValue> staged_;
  std::function<bool(const std::string&)> pinned_;
  uint64_t clean_bytes_ = 0;    // of live records
  uint64_t staged_bytes_ = 0;   // of live records
  uint64_t staged_values_ = 0;  // of their values
  uint64_t staging_bytes_ = 0;  // of records being staged
  uint64_t evicted_bytes_ = 0;
  uint64_t corrupt_ = 0;

  std::deque<std::shared_ptr<Append>> queue_;  // shared by the caller and the writer
  std::vector<std::shared_ptr<Append>> batch_;
  bool writing_ = false;
  Signal written_;
  Signal readers_gone_;
  Gate gate_;
};

}  // namespace shoal::store_internal
