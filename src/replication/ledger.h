// Ledger: this node's records of versions that the origin does not have yet: those of objects whose
// slots it owns. A record is on disk before put() returns, and gone from it when remove() does.
//
// The content of small objects stays in the store; what is kept in memory of a record is packed,
// some hundred bytes.
//
// Shard's thread. Bounded by the store's budget.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "async/sync.h"
#include "async/task.h"
#include "observe/log.h"
#include "replication/ledger_record.h"
#include "replication/packed_record.h"
#include "store/store.h"
#include "world/world.h"

namespace shoal {

// In a staged record's metadata: what is staged is a ledger record, or a replica.
inline constexpr const char* kLedgerMark = "shoalledger";
inline constexpr const char* kReplicaMark = "shoalreplica";

// Records of names in order, as a listing shows them.
struct LedgerPage {
  enum class What { kRecords, kNames };
  std::vector<LedgerRecord> records;  // the newest sealed version of each object
  std::vector<std::string> names;     // or nothing but its name
  std::vector<std::string> prefixes;  // each ends in '/'; names below are folded into it
  bool more = false;                  // there are others after the last name
  std::string last() const;
  size_t size() const { return records.size() + names.size() + prefixes.size(); }
};

// Names that begin with the prefix and lie after `after`, at most `count_max`.
struct LedgerRange {
  std::string prefix;
  bool recursive = false;  // else names below the next '/' are folded into prefixes
  std::string after;
  size_t count_max = 1;
  LedgerPage::What what = LedgerPage::What::kRecords;
};

class Ledger {
 public:
  Ledger(World& world, Store& store, const Log& log);

  // Of what the store recovered: notes which are records. load() then reads them; damaged ones are
  // kept by the store and named in the log.
  void note_recovered(const Store::Staged& staged);
  Task<Status> load();

  // Durable on return. A record of an older state of the same write only says where others may be;
  // one of a version that has ended is refused with kNotFound.
  Task<Status> put(LedgerRecord record);
  // Other nodes may have the record from now on. kNotFound: there is none.
  Task<Status> add_placed(std::string object, WriteName write, std::vector<NodeId> nodes);
  // Durable on return: the generations of the write before this one, and of this one records up to
  // the sequence. Absent ones are fine. Answers where else they may be.
  Task<Result<std::vector<NodeId>>> remove(std::string object, WriteName write, uint64_t sequence,
                                           EndReason reason, Commits commits = {});
  struct Ended {
    uint32_t generation = 0;
    uint64_t sequence = 0;
    EndReason reason = EndReason::kReplaced;
    bool was_committed = false;  // the origin had some generation of it
    Commits commits;

    bool covers(const WriteName& write, uint64_t up_to) const {
      return std::pair(write.generation, up_to) <= std::pair(generation, sequence);
    }
  };
  // What remove() was called with for this write, as far as that is still known; or null.
  const Ended* find_ended(const std::string& object, const Hash128& write_id) const;

  // Without their contents, like all that follow.
  std::vector<LedgerRecord> find(const std::string& object) const;
  // The newest sealed version of the object.
  std::optional<LedgerRecord> visible(const std::string& object) const;
  // Those of objects after `after`, in order of names: at least one object's, and no more objects
  // than `count_max` records need.
  std::vector<LedgerRecord> all_after(const std::string& after, size_t count_max) const;
  size_t size() const { return count_; }
  // The same record with its content, if it is still the one that is kept here.
  Task<Result<LedgerRecord>> with_content(LedgerRecord record);

  // What is visible.
  LedgerPage below(const LedgerRange& range) const;
  struct RecordsBelow {
    std::vector<LedgerRecord> records;
    std::string reached;  // the last name that was looked at
    bool more = false;    // there may be others after it
  };
  // Of records only, at or below the path: the newest sealed version of each object, but for those
  // of these writers; of a few thousand names, so that other work has its turn between two calls.
  RecordsBelow records_below(const std::string& path, const std::string& after, size_t count_max,
                             const std::set<NodeId>& but_of = {}) const;
  // What is remembered of the name elsewhere on this node is old.
  void outdate(const std::string& object) { changed(object); }
  // Called with the object's name whenever what is visible of it may have changed.
  void on_change(std::function<void(const std::string&)> listener) {
    listener_ = std::move(listener);
  }

 private:
  static constexpr size_t kEndedMax = 100'000;
  static Hash128 key_of(const std::string& object, const Hash128& write_id);
  Task<Status> store_record(const LedgerRecord& record, Hash128 key);
  Task<Result<LedgerRecord>> read_record(std::string object, Hash128 key);
  Task<Status> load_one(std::string object, Hash128 key);
  using Packed = std::vector<PackedRecord>;  // of one object
  PackedRecord* find_write(const std::string& object, const Hash128& write_id);
  // The newest sealed one, or null.
  static const PackedRecord* newest(const Packed& records);
  Task<void> claim(Hash128 key);
  void release(Hash128 key);
  void changed(const std::string& object);

  Executor& executor_;
  Store& store_;
  const Log& log_;
  struct Recovered {
    std::string object;
    Hash128 key;
  };
  std::vector<Recovered> recovered_;       // until load()
  std::map<std::string, Packed> records_;  // by object
  size_t count_ = 0;
  std::unordered_map<Hash128, Ended> ended_;  // by key
  std::set<Hash128> busy_;                    // keys being written
  Signal freed_;
  std::function<void(const std::string&)> listener_;
};

}  // namespace shoal
