// The files that the kernel has open: from the number it knows to the FileSystem's handle, and to
// the ReadView with which a thread may read by itself. Any thread; each look-up takes one of a few
// short locks, which costs nanoseconds beside a request's microseconds.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "node/file_system.h"

namespace shoal::fuse {

struct OpenFile {
  HandleId handle = HandleId::kNone;
  InodeId inode = InodeId::kNone;
  bool directory = false;
  bool backed = false;          // counts one in the BackingTable
  bool privileges_kept = true;  // no write has looked at the set-id bits yet
  // Shared with the store, which keeps it while the file is open.
  std::shared_ptr<ReadView> view;
};

class HandleTable {
 public:
  // The number for the kernel; never 0, never given twice.
  uint64_t add(OpenFile file);
  std::optional<OpenFile> find(uint64_t number) const;
  // Just the view; null if there is none.
  std::shared_ptr<ReadView> view(uint64_t number) const;
  std::optional<OpenFile> remove(uint64_t number);
  // True for the first caller after add() or keep_privileges(): it has to look at the set-id bits.
  bool take_privileges(uint64_t number);
  // The inode got new permission bits.
  void keep_privileges(InodeId inode);
  // Empties the table.
  std::vector<OpenFile> take_all();
  size_t size() const;

 private:
  static constexpr size_t kStripes = 16;
  struct Stripe {
    mutable std::mutex mutex;
    std::unordered_map<uint64_t, OpenFile> files;
  };
  Stripe& stripe(uint64_t number) { return stripes_[number % kStripes]; }
  const Stripe& stripe(uint64_t number) const { return stripes_[number % kStripes]; }

  std::array<Stripe, kStripes> stripes_;
  std::atomic<uint64_t> next_{1};
};

}  // namespace shoal::fuse
