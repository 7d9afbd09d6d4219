// FileTier: the versions of 256 KiB and more, their index, their space and their eviction.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "async/gate.h"
#include "store/internal/file.h"
#include "store/internal/idle_files.h"
#include "store/internal/sieve.h"
#include "store/store.h"

namespace shoal::store_internal {

// Counters shown by the registry; atomics because gauges are read from other threads. Shared by
// the store and the registry's closures, which may outlive it.
struct StoreMetrics {
  explicit StoreMetrics(Registry& registry);
  Counter& evicted_bytes;
  Counter& corrupt_pieces;
  Counter& fills_refused;
  Counter& small_hits;
  Counter& small_misses;
};

struct FileTierOptions {
  std::string directory;  // <cache>/files
  std::string lost;       // <cache>/lost
  uint64_t capacity = 0;
  uint64_t disk_reserve = 0;
  uint64_t generation = 1;       // of this open
  uint64_t unclean_through = 0;  // the last generation that did not end cleanly
};

class FileTier {
 public:
  FileTier(World& world, const Log& log, StoreMetrics& metrics, FileTierOptions options);
  ~FileTier();

  Task<Status> recover();
  Task<Status> close();

  Task<Result<FileRef>> find(std::string object, std::string etag);
  Task<Result<FileRef>> open(std::string object, std::string etag, uint64_t size);
  Task<Result<uint64_t>> evict(std::string object, bool tree);
  Task<Status> rekey(std::string from, std::string etag, std::string to, std::string new_etag);
  uint64_t cached_bytes(const std::string& object, const std::string& etag) const;

  Task<Result<FileRef>> create_staged(StagedRecord record);
  Task<Status> convert_to_staged(FileRef user, StagedRecord record, bool shared);
  Task<Result<FileRef>> clone_staged(FileRef from, StagedRecord record);
  Task<Status> commit_staged(FileRef user, std::string etag);
  Task<Status> drop_staged(FileRef user);
  Task<Result<FileRef>> find_staged(Hash128 write_id);
  void list_staged(std::vector<Store::Staged>& into) const;

  std::vector<Store::CachedChunks> cached_after(const std::string& object, const std::string& etag,
                                                size_t count_max) const;
  void classify(const std::function<bool(const std::string&, uint64_t)>& is_copy);

  void set_pins(const std::vector<std::string>& pins);
  bool is_pinned(const std::string& object) const;
  void add_stats(StoreStats& stats) const;

 private:
  friend class File;

  struct ByName {
    using is_transparent = void;
    using Key = std::pair<std::string_view, std::string_view>;
    static Key key(const std::shared_ptr<File>& file) { return {file->object_, file->etag_}; }
    static Key key(Key name) { return name; }
    bool operator()(const auto& a, const auto& b) const { return key(a) < key(b); }
  };

  Disk& disk() { return world_.disk; }
  Sieve<ChunkRef>& sieve_of(bool copy) { return copy ? copies_ : sieve_; }
  FileRef reference(const std::shared_ptr<File>& file);
  Task<Result<FileRef>> load_reference(std::shared_ptr<File> file);
  Task<Status> make_directory_of(Hash128 id);
  std::shared_ptr<File> new_file(uint64_t size);
  void index(const std::shared_ptr<File>& file);
  void unindex(File& file);
  // Takes a clean file out of the index; its bytes go when nobody uses it.
  Task<uint64_t> discard(std::shared_ptr<File> file);
  void released(std::shared_ptr<File> file);
  void settle_soon(std::shared_ptr<File> file, bool may_idle);
  Task<Status> copy_pieces(File& source, File& copy);
  Task<void> abandon(std::shared_ptr<File> file);

  // Takes `bytes` from the budget, evicting as needed. Bytes are given back by refund().
  Task<Status> reserve(uint64_t bytes);
  void refund(uint64_t bytes);
  Task<Status> evict_until(uint64_t bytes);
  Task<void> check_disk_space();

  // Recovery (file_recovery.cc).
  struct Found {
    bool data = false;
    bool meta = false;
    bool staged = false;
  };
  Task<Status> recover_directory(std::string name);
  Task<Status> recover_file(std::string directory, Hash128 id, Found found);
  Task<Status> recover_meta(std::shared_ptr<File> file, std::string path, bool named_staged);
  void adopt_header(File& file, const MetaHeader& header, unsigned slot);
  Task<Status> enter_recovered(std::shared_ptr<File> file);
  Task<Status> check_staged_data(File& file);
  Task<void> quarantine(std::string path, std::string name, std::string why);
  bool unvouched(const File& file) const;
  Task<Status> close_one(std::shared_ptr<File> file);

  World& world_;
  const Log& log_;
  StoreMetrics& metrics_;
  const FileTierOptions options_;

  std::set<std::shared_ptr<File>, ByName> clean_;                   // shared with users' references
  std::unordered_map<Hash128, std::shared_ptr<File>> staged_;       // by write id
  std::unordered_map<const File*, std::shared_ptr<File>> leaving_;  // out of the index, in use
  Sieve<ChunkRef> sieve_;
  Sieve<ChunkRef> copies_;  // evicted before anything of sieve_
  std::set<std::string, std::less<>> pins_;

  uint64_t used_ = 0;  // bytes of stored pieces and reservations
  uint64_t evicted_bytes_ = 0;
  uint64_t corrupt_pieces_ = 0;
  uint64_t disk_short_ = 0;  // bytes that the file system lacks to keep the reserve
  uint64_t since_space_check_ = 0;
  SteadyTime space_checked_{};
  bool space_known_ = false;
  std::set<unsigned> directories_;  // of the 256, those that exist

  std::shared_ptr<FileTier*> alive_;  // references ask it whether the tier is still there
  Semaphore room_;                    // one at a time makes room
  Gate gate_;
  IdleFiles idle_;
};

}  // namespace shoal::store_internal
