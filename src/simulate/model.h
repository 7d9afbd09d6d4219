// The model: what a correct file system may answer. It knows each file's bytes, what of them was
// acknowledged, and which operations are in doubt because a crash or an error cut them short.
//
// A File is one sequence of versions; a Slot is a path and the Files that may stand there. While an
// operation runs its outcome is in doubt, so every change is noted before it begins and settled
// when it is answered. After a crash observe() tells the model what it finds, and the model says
// whether that was possible.
//
// Lives outside the simulated process: a crash does not touch it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "simulate/content.h"

namespace shoal::simulate {

// A change that may or may not have reached the disk, whole or in part.
struct Patch {
  uint64_t offset = 0;
  uint64_t length = 0;
  WriteId id = kZeros;
  uint64_t size_after = 0;  // of the file, if the change happened
};

// Bytes that may be found after a crash.
struct Candidate {
  std::string bytes;
  std::vector<Patch> patches;  // since; none when they go to another version
  bool current = false;        // changes to the open file go to this one in place
};

struct File {
  uint64_t number = 0;
  std::string live;          // what a read answers now
  bool known = true;         // false: `doubt` may or may not be in `live`
  bool lost = false;         // a crash came: only what is durable counts
  std::vector<Patch> doubt;  // failed changes
  std::vector<Candidate> durable;
  bool may_vanish = true;        // nothing of it was ever acknowledged
  bool in_files_tier = false;    // changes happen in place, so a crash may leave some of them
  bool unlinked = false;         // open without a name: bytes never fetched are gone (ESTALE)
  uint64_t changes = 0;          // readers look whether it moved under them
  uint32_t changing = 0;         // changes in flight
  std::optional<uint32_t> mode;  // permission bits, if known
};
using FilePtr = std::shared_ptr<File>;  // shared by slots and open handles

struct Slot {
  FilePtr now;                    // null: absent, or not yet observed since the crash
  std::vector<FilePtr> possible;  // after a crash; a null stands for absence
  bool observed = true;
  bool moving = false;          // an operation on the name is in flight
  uint64_t changes = 0;         // readers look whether the name moved under them
  std::optional<Hash128> seen;  // what observe() was told last, for the pledges
};

class Model {
 public:
  Slot& slot(const std::string& path) { return slots_[path]; }
  std::map<std::string, Slot>& slots() { return slots_; }
  WriteId next_write() { return ++writes_; }
  FilePtr new_file();

  // An object that stands in the origin from the start.
  FilePtr preload(const std::string& path, std::string bytes);

  // --- names: begin before the call, then settle ---
  void begin_create(const std::string& path, const FilePtr& file);
  void created(const std::string& path, const FilePtr& file);
  void begin_remove(const std::string& path);
  void removed(const std::string& path);
  void begin_rename(const std::string& from, const std::string& to);
  void renamed(const std::string& from, const std::string& to);

  // --- bytes of an open file ---
  void begin_change(File& file, Patch patch);
  void changed(File& file, const Patch& patch);
  void change_failed(File& file, const Patch& patch);
  // O_TRUNC: a new version begins, the old one stays what is acknowledged.
  void begin_discard(File& file);
  void discarded(File& file);
  void discard_failed(File& file);
  // flush, fsync: what is live now may become durable; if it is answered, nothing else may be.
  void begin_seal(File& file);
  void sealed(const std::string& path, const FilePtr& file);
  // The bytes that a read found where they are in doubt. Nothing: possible, and live from now on.
  std::optional<std::string> settle(File& file, const std::string& found);

  // --- after a crash ---
  void crashed();
  // What stands at the path now (null: nothing). Nothing, or why that is wrong.
  std::optional<std::string> observe(const std::string& path, const std::string* found);
  // Pledges of renames that a crash or an error cut short: the bytes must be somewhere.
  std::vector<std::string> check_pledges();

  // Every version that may ever be committed to the origin, by hash.
  bool may_be_committed(const Hash128& hash) const { return versions_.contains(hash); }
  void allow(const std::string& bytes) { versions_.insert(hash_of(bytes)); }

 private:
  struct Pledge {
    std::string from;
    std::string to;
    FilePtr file;  // a copy
  };
  void add_possible(Slot& slot, const FilePtr& file);

  std::map<std::string, Slot> slots_;
  std::vector<Pledge> pledges_;
  std::set<Hash128> versions_;
  WriteId writes_ = 0;
  uint64_t files_ = 0;
};

// Whether `found` may be the candidate after a crash; else what is wrong.
std::optional<std::string> mismatch(const std::string& base, const std::vector<Patch>& patches,
                                    const std::string& found);
// "byte 4096 of 9000: expected 0x12, found 0x34", for equal sizes or not.
std::string first_difference(const std::string& expected, const std::string& found);
// Applies the patch.
void apply_patch(std::string& bytes, const Patch& patch);

// In the small tier changes replace the whole record; above, they happen in place.
inline constexpr uint64_t kSmallMax = 256 * kKiB;
inline constexpr uint64_t kFetchWhole = 128 * kKiB;

}  // namespace shoal::simulate
