// File: one version in the files tier. The tier's index owns it; users hold FileRefs, whose last
// release lets the tier close it. Two locks order what happens to it: `lifecycle_` (load, settle)
// and `lock_` (writers share it; sync, truncation and changes of state have it alone). Reads and
// clean fills take neither: they mark the range they use, which keeps the evictor away from it.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "async/disk_io.h"
#include "async/sync.h"
#include "store/internal/meta_format.h"
#include "store/internal/piece_table.h"
#include "store/internal/sieve.h"
#include "store/store.h"

namespace shoal::store_internal {

class FileTier;
class File;

struct ChunkRef {
  File* file = nullptr;
  uint64_t chunk = 0;
};

// What is kept of a chunk while its file is not loaded.
struct ChunkState {
  Sieve<ChunkRef>::Id node = Sieve<ChunkRef>::kNone;  // in the sieve that `copy` names
  uint16_t present = 0;                               // pieces, with holes
  uint16_t stored = 0;                                // pieces that take space
  bool vouched = false;  // all present ones are; true only while not loaded
  bool copy = false;     // another node keeps it: evicted first
};

inline constexpr uint64_t kPiecesPerChunk = kChunkBytesDefault / kPieceBytes;

class File final : public CachedFile, public std::enable_shared_from_this<File> {
 public:
  File(FileTier& tier, Hash128 id, uint64_t size);
  ~File() override;

  // CachedFile.
  const std::string& object() const override { return object_; }
  bool staged() const override { return record_ != nullptr; }
  std::string version() const override;
  const StagedRecord& record() const override;
  uint64_t size() const override { return size_; }
  std::vector<Range> missing(Range range) const override;
  bool vouched() const override;
  using CachedFile::fill;
  Task<Status> fill(uint64_t offset, ConstByteSpan bytes, std::span<const uint32_t> crcs,
                    Keep keep) override;
  Task<Result<std::unique_ptr<Loan>>> lend(Range range) override;
  using CachedFile::read;
  Task<Status> read(uint64_t offset, ByteSpan into, Way way) override;
  Task<Result<std::vector<uint32_t>>> read_with_crcs(uint64_t offset, ByteSpan into) override;
  Task<Status> verify() override;
  using CachedFile::write;
  Task<Status> write(uint64_t offset, ConstByteSpan bytes, std::span<const uint32_t> crcs, Way way,
                     std::function<void()> accepted) override;
  Task<Status> set_size(uint64_t size) override;
  Task<Status> zero(Range range) override;
  Task<Status> allocate(Range range) override;
  Task<Status> sync(StagedRecord record) override;
  uint32_t crc(Range range) const override;
  uint64_t allocated() const override;
  Task<Result<uint64_t>> seek(uint64_t offset, bool data) override;
  std::shared_ptr<ReadView> view() override;
  int descriptor() override;
  void hold() override { ++holds_; }
  void unhold() override {
    SHOAL_ASSERT(holds_ > 0);
    --holds_;
  }

 private:
  friend class FileTier;

  // Marks [offset, end) as in use while it lives, so that no hole is punched there.
  class RangeMark {
   public:
    RangeMark(File& file, std::vector<Range>& list, Range range)
        : file_(file), list_(list), range_(range) {
      list_.push_back(range);
    }
    ~RangeMark();
    RangeMark(const RangeMark&) = delete;
    RangeMark& operator=(const RangeMark&) = delete;

   private:
    File& file_;
    std::vector<Range>& list_;
    Range range_;
  };
  class FileLoan;
  static bool overlaps(const std::vector<Range>& list, Range range);

  // --- life (file.cc) ---
  std::string data_path() const;
  std::string meta_path() const;
  Task<Status> create();
  // Opens the files and reads the table. Done once at a time.
  Task<Status> load();
  Task<Status> load_unlocked();
  // Reads the table that header_ state names; false in `matches` when its digest is another.
  Task<Status> load_table(bool& matches);
  void rebuild_table();
  // Makes the chunks' counts and the tier's accounts agree with the table.
  void recount();
  // Nobody uses it any more: writes what must be written, closes, or removes it. `may_idle`: a
  // clean one stays open and loaded for a while (IdleFiles).
  Task<void> settle(bool may_idle = false);
  Task<Status> close_files();
  // The data file with O_DIRECT, opened when first asked for; kNone where that cannot be.
  Task<FileId> direct_file();
  // Bytes of the data file, with what is not fit for kDirect through the page cache.
  Task<Status> move_in(uint64_t offset, ConstByteSpan bytes, Way way);
  Task<Result<size_t>> move_out(uint64_t offset, ByteSpan into, Way way);
  Task<void> remove_files();
  void unload();
  bool in_use() const { return !user_.expired() || internal_refs_ > 0; }

  // --- persistence (file.cc) ---
  MetaHeader header_now() const;
  // Writes the header to the slot that holds no durable one.
  Task<Status> write_header(MetaHeader header);
  Task<Status> sync_meta();
  Task<Status> write_table(unsigned copy);
  // Clean files: table in place, the header when there is none yet. Not synced.
  Task<Status> flush_clean();
  Task<Status> vouch_on_disk(uint64_t generation);
  Task<Status> ensure_commit_durable();
  std::optional<uint32_t> known_crc(Range part) const;
  Task<Status> ensure_rewriting_durable();
  // Makes table and header of a staged state durable (the data is already).
  Task<Status> publish_staged(MetaHeader header);

  // --- pieces (file_pieces.cc) ---
  // Enters, replaces or removes a piece, with all accounting.
  void put_piece(uint64_t piece, Piece value);
  void drop_piece(uint64_t piece);
  void mark_hole(uint64_t piece, uint64_t length);
  void enter_sieve();
  void set_copy(uint64_t chunk, bool copy);
  void note_filled(Range range, Keep keep);
  // Makes sure that the pieces [first, end) are present and checked.
  Task<Status> ensure_checked(uint64_t first, uint64_t end);
  void leave_sieve();
  void touch(Range range);
  Task<Status> check(uint64_t first, uint64_t end);
  Status check_one(uint64_t piece, Piece before, ConstByteSpan bytes);
  Task<bool> evict_chunk(uint64_t chunk);
  bool chunk_evictable(uint64_t chunk) const;
  Range chunk_range(uint64_t chunk) const;

  // --- staged (file_staged.cc) ---
  Status check_writable() const;
  bool partial_ok(Range range) const;
  bool overwrites_synced(Range range) const;
  bool edges_unchecked(Range range) const;
  uint64_t uncharged(Range range) const;
  // Gets room, the rewriting mark, and the lock (`amount` of it) for changing `range`.
  Task<Result<Permit>> prepare(Range range, uint64_t amount, bool charge);
  // Some write has not brought its bytes there yet.
  bool is_under_way(Range range) const;
  // Until no write into it is in flight; what accepted ones could not write may be left.
  Task<void> wait_written(Range range);
  // Writes again what accepted writes could not.
  Task<Status> write_again();
  // Puts what they could not into what was read of the file.
  void add_unwritten(uint64_t offset, ByteSpan into) const;
  void accept(Range range);
  void undo_write(Range range, const std::vector<uint64_t>& absent);
  void show(Range range);
  void note_write(Range range, ConstByteSpan bytes, std::span<const uint32_t> crcs, uint64_t size);
  void fill_gap(uint64_t offset);
  Task<Status> recompute();
  void start_writeback(Range range, Way way);
  Task<void> sync_early();
  Task<Status> undo_growth();

  static constexpr uint64_t kAlone = 64;  // permits of lock_

  FileTier& tier_;
  const Hash128 id_;
  std::string object_;
  std::string etag_;                      // clean
  std::unique_ptr<StagedRecord> record_;  // staged
  uint64_t size_;
  std::vector<ChunkState> chunks_;
  uint64_t present_ = 0;   // pieces, with holes
  uint64_t stored_ = 0;    // pieces that take space
  uint64_t reserved_ = 0;  // bytes reserved by allocate() and not yet used

  // Header on disk.
  uint64_t sequence_ = 0;
  unsigned slot_ = 0;            // of the header last written
  bool header_written_ = false;  // there is one
  bool header_durable_ = false;  // and it has been synced
  uint8_t table_copy_ = 0;       // that the header names
  uint32_t table_digest_ = 0;
  uint64_t vouched_at_ = 0;
  bool staged_name_ = false;      // the file is called .staged
  bool name_synced_ = false;      // and the directory knows it for good
  bool commit_unsynced_ = false;  // clean by a header that may not be durable, staged before
  bool rewriting_ = false;        // the durable header says so
  bool loose_ = false;            // recovered while rewriting: CRCs are recomputed, not checked
  bool never_synced_ = true;
  uint64_t synced_size_ = 0;

  bool created_ = false;    // its files exist
  bool recovered_ = false;  // the header came from disk and has not been synced by us
  bool flushing_ = false;   // a clean table is being written
  bool loaded_ = false;
  bool in_index_ = false;
  bool dropped_ = false;  // removed as soon as nobody uses it
  bool removed_ = false;
  bool data_unsynced_ = false;  // bytes were stored since the last sync of the data
  bool table_changed_ = false;  // staged: pieces changed since the last sync
  bool sync_failed_ = false;
  bool pinned_ = false;
  FileId data_ = FileId::kNone;
  FileId direct_ = FileId::kNone;  // data_ once more, with O_DIRECT
  bool no_direct_ = false;         // the file system refused it
  FileId meta_ = FileId::kNone;
  PieceTable table_;
  std::shared_ptr<ReadView> view_;  // shared with threads of the mount

  std::weak_ptr<CachedFile> user_;
  uint64_t internal_refs_ = 0;
  uint64_t holds_ = 0;
  std::vector<Range> in_use_;    // being read or filled
  std::vector<Range> punching_;  // being evicted
  std::vector<Range> writing_;   // staged writes in flight
  struct Unwritten {
    uint64_t offset = 0;
    Buffer bytes;
    Range range() const { return {offset, bytes.size()}; }
  };
  std::list<Unwritten> unwritten_;  // by accepted writes that failed
  bool writing_again_ = false;
  uint64_t accepted_bytes_ = 0;    // of writes that were accepted and go on
  std::vector<uint32_t> written_;  // per chunk, bytes since its last write-back
  uint64_t writebacks_ = 0;        // early syncs counted
  uint64_t written_since_sync_ = 0;
  bool syncing_early_ = false;

  Signal changed_;  // a mark went away
  Semaphore lifecycle_;
  Semaphore lock_;
};

}  // namespace shoal::store_internal
