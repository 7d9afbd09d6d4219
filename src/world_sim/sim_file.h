// What lies on a simulated disk: files of 4 KiB pages and directories, each in two states: what a
// running process sees and what a power loss must leave. No time and no operations here; that is
// sim_disk.h.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "world_sim/sim_random.h"

namespace shoal {

inline constexpr uint64_t kSimPageBytes = 4096;
inline constexpr uint64_t kSimSectorBytes = 512;  // never torn

using SimPage = std::array<std::byte, kSimPageBytes>;
// Shared by what is seen, what is durable and what a sync in progress writes; never changed.
using SimPagePtr = std::shared_ptr<const SimPage>;
using SimPages = std::map<uint64_t, SimPagePtr>;  // absent: a hole

// Equal pages once: a thousand simulated machines that cache one object hold it once in our memory.
class SimPagePool {
 public:
  // A page of these kSimPageBytes bytes.
  SimPagePtr share(ConstByteSpan bytes);
  size_t size() const { return pages_.size(); }

 private:
  void sweep();
  std::unordered_map<uint64_t, SimPagePtr>
      pages_;  // by hash of their bytes; never walked for output
  size_t sweep_at_ = 4096;
};

// Pages in use on one disk; shared by its files, which outlive their names.
struct SimSpace {
  uint64_t pages = 0;
  uint64_t pages_max = UINT64_MAX;
  std::shared_ptr<SimPagePool> pool;  // shared by all disks of a simulation; may be null
};

// The unsynced changes of a file at the moment a sync began.
struct SimFileSnapshot {
  std::map<uint64_t, SimPagePtr> pages;  // null: became a hole
  uint64_t size = 0;
};

class SimFile {
 public:
  explicit SimFile(std::shared_ptr<SimSpace> space) : space_(std::move(space)) {}
  ~SimFile();
  SimFile(const SimFile&) = delete;
  SimFile& operator=(const SimFile&) = delete;

  uint64_t size() const { return size_; }
  uint64_t allocated() const { return seen_.size() * kSimPageBytes; }
  size_t unsynced_pages() const { return dirty_.size(); }
  // Bytes read: short at the end of the file.
  size_t read(uint64_t offset, ByteSpan into) const;
  // The same as pages, the first one being that of `offset`; bytes, short at the end of the file.
  uint64_t read_pages(uint64_t offset, uint64_t length, std::vector<SimPagePtr>& pages) const;
  // False: the disk is full (nothing was written).
  bool write(uint64_t offset, ConstByteSpan bytes);
  void set_size(uint64_t size);
  bool allocate(uint64_t offset, uint64_t length);
  void punch(uint64_t offset, uint64_t length);
  // Flips one bit of what is stored, seen and durable. False: a hole.
  bool flip_bit(uint64_t offset, unsigned bit);

  SimFileSnapshot begin_sync() const;
  void end_sync(const SimFileSnapshot& snapshot);
  // A failed sync: the kernel marks the pages clean, so that no later sync writes them.
  void fail_sync(const SimFileSnapshot& snapshot);
  // Every unsynced page is kept, lost or torn; so is the size.
  void power_loss(SeededRandom& random);

 private:
  enum class Dirt { kUnsynced, kLost };
  SimPagePtr page(uint64_t index) const;
  void put(uint64_t index, SimPagePtr page);  // null: a hole
  void change(uint64_t index, uint64_t at, ConstByteSpan bytes);
  void zero(uint64_t offset, uint64_t end);
  static uint64_t pages_missing(const SimPages& pages, uint64_t offset, uint64_t length);

  std::shared_ptr<SimSpace> space_;  // shared by all files of the disk
  SimPages seen_;
  SimPages durable_;
  uint64_t size_ = 0;
  uint64_t durable_size_ = 0;
  std::map<uint64_t, Dirt> dirty_;
};

struct SimNode;
using SimNodePtr = std::shared_ptr<SimNode>;  // shared by directories, pending changes, open files
using SimNames = std::map<std::string, SimNodePtr>;

// A file or a directory.
struct SimNode {
  std::unique_ptr<SimFile> file;  // null: a directory
  SimNames seen;
  SimNames durable;
};

// Names, and the changes of names that no kSyncDirectory has covered yet.
class SimTree {
 public:
  SimTree();
  // Null if there is none. Empty components are ignored; ".." is not known.
  SimNodePtr find(std::string_view path) const;
  // The directory that holds `path`, and the last component. Null if the directory is absent.
  SimNodePtr parent(std::string_view path, std::string& leaf) const;

  void link(const SimNodePtr& directory, const std::string& name, const SimNodePtr& node);
  void unlink(const SimNodePtr& directory, const std::string& name);
  void rename(const SimNodePtr& from, const std::string& from_name, const SimNodePtr& to,
              const std::string& to_name);

  // The changes so far; a sync that began now covers them and no later ones.
  uint64_t sequence() const { return sequence_; }
  void sync_directory(const SimNodePtr& directory, uint64_t up_to);
  // What a file system does by itself in the end, or when it is short of space.
  void sync_all() { settle(std::vector<bool>(pending_.size(), true)); }
  size_t unsynced_names() const { return pending_.size(); }
  void power_loss(SeededRandom& random);

 private:
  // One journal entry: some names of some directories, all or nothing.
  struct Edit {
    SimNodePtr directory;
    std::string name;
    SimNodePtr node;  // null: removed
  };
  struct Change {
    uint64_t sequence = 0;
    std::vector<Edit> edits;
  };
  static constexpr size_t kPendingMax = 4096;  // then the oldest half becomes durable by itself
  void record(std::vector<Edit> edits);
  // Makes the chosen changes durable, and the earlier ones on the same names that they build on.
  void settle(std::vector<bool> chosen);

  SimNodePtr root_;
  std::vector<Change> pending_;
  uint64_t sequence_ = 0;
};

}  // namespace shoal
