// Ledger: this node's records of versions that the origin does not have yet: those of objects whose
// slots it owns. A record is on disk before put() returns, and gone from it when remove() does.
//
// Beside them, in memory only: notices of such versions in directories whose slots this node owns,
// for listings. Who keeps the record repeats its notice; one that is not repeated is forgotten.
//
// Shard's thread. Bounded by the store's budget (records) and kNoticesMax.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "async/sync.h"
#include "async/task.h"
#include "observe/log.h"
#include "replication/ledger_record.h"
#include "store/store.h"
#include "world/world.h"

namespace shoal {

// In a staged record's metadata: what is staged is a ledger record, or a replica.
inline constexpr const char* kLedgerMark = "shoalledger";
inline constexpr const char* kReplicaMark = "shoalreplica";

class Ledger {
 public:
  Ledger(World& world, Store& store, const Log& log);

  // Reads what the store recovered. Damaged records are kept by the store and named in the log.
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

  std::vector<LedgerRecord> find(const std::string& object) const;
  // The newest sealed version of the object, or null.
  const LedgerRecord* visible(const std::string& object) const;
  std::vector<LedgerRecord> all() const;
  size_t size() const { return count_; }

  static constexpr Duration kNoticeTtl = std::chrono::seconds(30);
  void note(LedgerRecord record);
  void forget_notice(const std::string& object, const WriteName& write);
  // Visible versions that are known here (records and notices) of names that begin with the prefix
  // and lie after `after`, in order, at most `count_max`.
  std::vector<LedgerRecord> below(const std::string& prefix, const std::string& after,
                                  size_t count_max) const;
  // Of records only, at or below the path: the newest sealed version of each object.
  std::vector<LedgerRecord> records_below(const std::string& path, const std::string& after,
                                          size_t count_max) const;
  // Called with the object's name whenever what is visible of it may have changed.
  void on_change(std::function<void(const std::string&)> listener) {
    listener_ = std::move(listener);
  }

 private:
  struct Notice {
    LedgerRecord record;
    SteadyTime until{};
  };
  static constexpr size_t kNoticesMax = 200'000;
  static constexpr size_t kEndedMax = 100'000;
  static Hash128 key_of(const std::string& object, const Hash128& write_id);
  Task<Status> store_record(const LedgerRecord& record, Hash128 key);
  LedgerRecord* find_write(const std::string& object, const Hash128& write_id);
  Task<void> claim(Hash128 key);
  void release(Hash128 key);
  void changed(const std::string& object);

  World& world_;
  Store& store_;
  const Log& log_;
  std::map<std::string, std::vector<LedgerRecord>> records_;  // by object
  size_t count_ = 0;
  std::map<std::string, Notice> notices_;     // by object
  std::unordered_map<Hash128, Ended> ended_;  // by key
  std::set<Hash128> busy_;                    // keys being written
  Signal freed_;
  std::function<void(const std::string&)> listener_;
};

}  // namespace shoal
