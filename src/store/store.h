// Store: one node's cached and staged bytes at rest, in two tiers under one directory.
//
//   files   objects of 256 KiB or more, one sparse data file each, laid out like the object, beside
//           a .meta file with the piece table (present bits, CRC32C of each 64 KiB piece).
//   small   everything below, in a log of segments with a DRAM cache in front.
//
// A version is either clean (named by its ETag; the origin has it; may be evicted) or staged (named
// by its write id; not in the origin yet; never evicted). What a call promises about durability is
// written at the call. After a crash of the process or the machine, open() finds every staged
// version whose sync had returned, and whatever clean pieces prove intact on their first read.
//
// One shard owns the Store; only ReadView may be used from other threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "world/world.h"

namespace shoal {

inline constexpr uint64_t kChunkBytesDefault = 8 * kMiB;  // unit of eviction and upload
inline constexpr uint64_t kSmallBytesMax = 256 * kKiB;    // below this: small tier

// A range of an object in bytes.
struct Range {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t end() const { return offset + length; }
  auto operator<=>(const Range&) const = default;
};

// What the ledger knows of an un-uploaded version.
struct StagedRecord {
  std::string object;           // name in the origin
  Hash128 write_id;             // names this version until it is committed
  uint64_t size = 0;            // bytes; kept up to date by the store for file versions
  std::string base_etag;        // the origin's version that this one replaces; empty: none
  bool must_be_absent = false;  // the origin must have no such object at commit
  bool sealed = false;          // its writer has closed it: upload it
  // Some chunks of another node's version: what is not here is missing, not zero, also when it
  // grows. base_etag must be set: it names the version that has the rest.
  bool partial = false;
  WallTime changed{};                           // last modification by the user
  std::map<std::string, std::string> metadata;  // to be committed with it
};

struct StoreOptions {
  std::string directory;         // made (mode 0700) if absent
  std::string identity;          // of the origin and cluster; a directory of another is refused
  uint64_t capacity = 0;         // bytes of disk for both tiers together
  uint64_t memory = 0;           // bytes of DRAM for the small tier's cache
  uint64_t disk_reserve = kGiB;  // bytes of the file system to leave free
};

struct StoreStats {
  uint64_t files_bytes = 0;
  uint64_t files_capacity = 0;
  uint64_t files_count = 0;
  uint64_t small_bytes = 0;
  uint64_t small_capacity = 0;
  uint64_t small_count = 0;
  uint64_t staged_objects = 0;
  uint64_t staged_bytes = 0;
  uint64_t evicted_bytes = 0;
  uint64_t corrupt_pieces = 0;
};

// A window on a cached file for threads other than the shard's: which pieces may be read from the
// descriptor without asking the shard. Protocol of a reader: epoch(), covers(), pread(), then
// epoch() again; if the epoch changed, throw the bytes away and ask the shard.
class ReadView {
 public:
  ReadView(int descriptor, uint64_t size);
  int descriptor() const { return descriptor_; }
  uint64_t size() const { return size_.load(std::memory_order_acquire); }
  uint64_t epoch() const { return epoch_.load(std::memory_order_acquire); }
  // Whether all of [offset, offset + length), clipped to size(), is present and verified.
  bool covers(uint64_t offset, uint64_t length) const;

  // The store's side.
  void set_size(uint64_t size);
  void set_present(uint64_t piece,
                   bool present);  // clearing bumps the epoch, after the bit and before the hole
  void bump_epoch() { epoch_.fetch_add(1, std::memory_order_acq_rel); }

 private:
  const int descriptor_;
  std::atomic<uint64_t> size_;
  std::atomic<uint64_t> epoch_{0};
  // Bits in fixed segments so that growing never moves them.
  static constexpr size_t kSegments = 40;  // segment i holds 64 * 2^i words
  std::atomic<std::atomic<uint64_t>*> segments_[kSegments] = {};
  std::vector<std::unique_ptr<std::atomic<uint64_t>[]>> owned_;
  std::atomic<uint64_t>* word(uint64_t index, bool make);
  const std::atomic<uint64_t>* word(uint64_t index) const;
};

// One version in the files tier. Obtained from the Store; the reference keeps it open and in place
// (its chunks may still be evicted unless a Hold exists). Spans are borrowed until the task ends.
class CachedFile {
 public:
  virtual ~CachedFile() = default;

  virtual const std::string& object() const = 0;
  virtual bool staged() const = 0;
  // The ETag of a clean version; of a staged one, the write id in hex.
  virtual std::string version() const = 0;
  virtual const StagedRecord& record() const = 0;  // staged only
  virtual uint64_t size() const = 0;

  // Pieces of [offset, offset+length) that are absent, coalesced, piece-aligned, clipped to size().
  virtual std::vector<Range> missing(Range range) const = 0;
  bool complete() const { return missing({0, size()}).empty(); }
  // Complete and every piece checked since the last unclean start: may be handed to the kernel.
  virtual bool vouched() const = 0;

  // Whether chunks belong to this node, or are copies of what another one keeps; copies are the
  // first to be evicted. Remembered per chunk until the process ends. A spare copy is written with
  // the CPU that nothing else wants.
  enum class Keep { kOwned, kCopy, kSpareCopy };

  // Stores bytes of the base version (clean: of this version). offset is piece-aligned; the length
  // whole pieces, or up to size(). Pieces already present are left as they are. Not synced. Makes
  // room by eviction; kNoSpace when only staged, pinned or held bytes are left (a clean caller then
  // goes on without the cache).
  // `crcs`: CRC32C of each piece, already verified; empty: computed here.
  virtual Task<Status> fill(uint64_t offset, ConstByteSpan bytes, std::span<const uint32_t> crcs,
                            Keep keep) = 0;
  Task<Status> fill(uint64_t offset, ConstByteSpan bytes) {
    return fill(offset, bytes, {}, Keep::kOwned);
  }

  // How bytes move between memory and the disk. kDirect (O_DIRECT) spares the copy and the page
  // cache, for what is not soon read again here; used for the whole blocks of 4 KiB at the start of
  // a range, where offset and memory are aligned to them and the file system can.
  enum class Way { kPageCache, kDirect };

  // Reads present bytes; the range must lie inside size(). Pieces not yet vouched for are checked;
  // kCorrupt: the bad pieces of a clean version were dropped (missing() names them, fetch again);
  // bad pieces of a staged version stay and every read of them fails.
  virtual Task<Status> read(uint64_t offset, ByteSpan into, Way way) = 0;
  Task<Status> read(uint64_t offset, ByteSpan into) { return read(offset, into, Way::kPageCache); }
  // The same, for who passes them on: answers the CRC32C of each piece of `into`, as it was when
  // the bytes entered; as read, of a piece that is read or was written in part, or changes
  // meanwhile.
  virtual Task<Result<std::vector<uint32_t>>> read_with_crcs(uint64_t offset, ByteSpan into) = 0;
  // Present bytes of a clean version as they lie in the file, for sendfile. While the loan lives,
  // its range stays. Checked like read(), with the same errors. `range.offset` is piece-aligned.
  class Loan {
   public:
    virtual ~Loan() = default;
    FileId file = FileId::kNone;
    std::vector<uint32_t> crcs;  // of each piece

   protected:
    Loan() = default;
  };
  virtual Task<Result<std::unique_ptr<Loan>>> lend(Range range) = 0;
  // Checks everything not yet vouched for, with the same outcome as read().
  virtual Task<Status> verify() = 0;

  // --- staged versions only; each is refused (kInvalidArgument) on a clean one ---
  // Pieces that a write touches only partly must be present or lie past the end (else kInternal).
  // kNoSpace when the budget or disk is full. `crcs` as for fill(); `offset` is then piece-aligned.
  // Writes that overlap go one after the other.
  //
  // `accepted`, if not empty, is called once when the write appends to the file and has its room:
  // from then on size() has it, and what is asked for later (reads, changes, sync()) comes after
  // it, so its author may go on; the bytes are borrowed to the end all the same. Should it fail
  // after that, a copy is kept, which reads find, and every later change or sync() tries again
  // first and fails as long as that fails.
  virtual Task<Status> write(uint64_t offset, ConstByteSpan bytes, std::span<const uint32_t> crcs,
                             Way way, std::function<void()> accepted) = 0;
  Task<Status> write(uint64_t offset, ConstByteSpan bytes) {
    return write(offset, bytes, {}, Way::kPageCache, {});
  }
  // Growing makes a hole of zeros (present; missing in a partial version); shrinking drops the
  // rest.
  virtual Task<Status> set_size(uint64_t size) = 0;
  // Zeros without changing the size (a hole where pieces are whole). Same rule as write().
  virtual Task<Status> zero(Range range) = 0;
  // Reserves disk space so that later writes cannot fail; the size does not change.
  virtual Task<Status> allocate(Range range) = 0;
  // Makes data, piece table and record durable. The record given replaces the old one (its size is
  // taken from the file). When it returns, the version survives power loss. Pieces may be missing
  // only when record.base_etag is set (they are the base's).
  virtual Task<Status> sync(StagedRecord record) = 0;

  // Whole-object CRC32C of a range of whole pieces, combined from the table (sealed versions).
  virtual uint32_t crc(Range range) const = 0;
  // Allocated bytes on disk: for st_blocks.
  virtual uint64_t allocated() const = 0;
  // For lseek: next data or hole at or after `offset`; size() when there is none.
  virtual Task<Result<uint64_t>> seek(uint64_t offset, bool data) = 0;

  // For threads outside the shard; null in simulation.
  virtual std::shared_ptr<ReadView> view() = 0;
  virtual int descriptor() = 0;  // read-only use by the kernel (passthrough); -1 in simulation
  // While held (counted), no chunk of this file is evicted and no hole is punched.
  virtual void hold() = 0;
  virtual void unhold() = 0;
};
// Shared by the Store's table and the users; the last user's release lets the store close the file.
using FileRef = std::shared_ptr<CachedFile>;

class Store {
 public:
  virtual ~Store() = default;

  // Errors: kBusy (another daemon has the directory), kPermissionDenied, kInvalidArgument (the
  // directory holds something else, or the cache of another origin), kNotSupported (a newer
  // format).
  static Task<Result<std::unique_ptr<Store>>> open(World& world, Registry& registry, const Log& log,
                                                   StoreOptions options);
  // Syncs what vouches for the clean pieces, so that a restart need not check them. Every FileRef
  // must have been released. Must be called before destruction.
  virtual Task<Status> close() = 0;

  // --- clean versions ---
  // The cached file, or null. Small objects are never here.
  virtual Task<Result<FileRef>> find_file(std::string object, std::string etag) = 0;
  // Finds or makes (empty). size is the object's, any size >= 0.
  virtual Task<Result<FileRef>> open_file(std::string object, std::string etag, uint64_t size) = 0;
  // kNotFound on a miss (or a mismatch of the checksum, which is counted and dropped).
  virtual Task<Result<Buffer>> get_small(std::string object, std::string etag) = 0;
  // Best effort: not synced. Bytes at most kSmallBytesMax.
  virtual Task<Status> put_small(std::string object, std::string etag, ConstByteSpan bytes) = 0;
  // Drops clean versions of the object (all etags), or of everything below "object/" if tree.
  // Answers the bytes freed. Files in use keep their bytes until released.
  virtual Task<Result<uint64_t>> evict(std::string object, bool tree) = 0;
  // Gives every clean cached version of `from`@etag the name `to`@new_etag (a rename or a metadata
  // change in the origin that left the bytes alone).
  virtual Task<Status> rekey(std::string from, std::string etag, std::string to,
                             std::string new_etag) = 0;
  // Bytes cached of a version, for status and warm.
  virtual uint64_t cached_bytes(const std::string& object, const std::string& etag) const = 0;

  // --- a cluster's view of clean versions in the files tier ---
  struct CachedChunks {
    std::string object;
    std::string etag;
    uint64_t size = 0;
    std::vector<uint64_t> chunks;  // complete ones
  };
  // At most `count_max` versions after (object, etag) in the order of names; empty at the end.
  virtual std::vector<CachedChunks> cached_after(const std::string& object, const std::string& etag,
                                                 size_t count_max) const = 0;
  // The clean versions in the small tier; reads the disk for each.
  virtual Task<Result<std::vector<CachedChunks>>> cached_small() = 0;
  // Says anew of every clean chunk whether it is a copy.
  virtual void classify(
      const std::function<bool(const std::string& object, uint64_t chunk)>& is_copy) = 0;

  // --- staged versions, files tier ---
  // A new empty one. Durable only after its sync().
  virtual Task<Result<FileRef>> create_staged(StagedRecord record) = 0;
  // Turns a clean file that nobody else uses (this FileRef and the Store's are the only ones) into
  // a staged one in place; missing pieces stay missing (record.base_etag must be its etag). Durable
  // (record and state) on return, so that a later crash cannot take the change for corruption.
  virtual Task<Status> convert_to_staged(const FileRef& file, StagedRecord record) = 0;
  // A new staged file with a copy of the present pieces of `from` (clean or staged).
  virtual Task<Result<FileRef>> clone_staged(const FileRef& from, StagedRecord record) = 0;
  // The origin has it now: the same bytes become the clean version `etag`. Not synced: if that is
  // lost in a crash, the staged version is found again and its upload recognised as done.
  virtual Task<Status> commit_staged(const FileRef& file, std::string etag) = 0;
  // Forgets it, durably; open users keep reading until they release it.
  virtual Task<Status> drop_staged(const FileRef& file) = 0;
  virtual Task<Result<FileRef>> find_staged(Hash128 write_id) = 0;

  // --- staged versions, small tier ---
  // Durable on return (concurrent calls share one sync). Replaces the same write_id. bytes.size()
  // at most kSmallBytesMax. kNoSpace when full.
  virtual Task<Status> stage_small(StagedRecord record, ConstByteSpan bytes) = 0;
  virtual Task<Result<Buffer>> read_staged_small(Hash128 write_id) = 0;
  virtual Task<Status> commit_small(Hash128 write_id, std::string etag) = 0;
  virtual Task<Status> drop_staged_small(Hash128 write_id) = 0;

  // All staged versions, both tiers: what open() recovered plus what was staged since.
  struct Staged {
    StagedRecord record;
    bool small = false;
  };
  virtual std::vector<Staged> staged() const = 0;
  // The same one by one, where there may be a million: other work runs between them. What is staged
  // meanwhile may be left out.
  virtual Task<void> visit_staged(std::function<void(const Staged&)> visit) const = 0;

  // --- pins ---
  // Objects (and all below "object/") that are never evicted. Durable.
  virtual Task<Status> set_pins(std::vector<std::string> objects) = 0;
  virtual const std::vector<std::string>& pins() const = 0;

  // Random, made with the directory and kept in it: who this node is to others.
  virtual const Hash128& node_id() const = 0;
  // How often the directory has been opened.
  virtual uint64_t generation() const = 0;

  virtual StoreStats stats() const = 0;
};

}  // namespace shoal
