// What the files of a checkpoint simulation may hold, and the programs that write them.
//
// Every file has one machine whose programs change it, one at a time. An operation that was
// acknowledged leaves one state; one that failed, or died with its node, leaves what was before and
// what it was to become.
//
// Simulation's thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "simulate/cluster_ground.h"

namespace shoal::simulate {

struct FileState {
  bool exists = true;
  std::shared_ptr<const std::string> bytes;
  // In doubt: any beginning of at least so many bytes may have come about. Else kWhole.
  static constexpr uint64_t kWhole = UINT64_MAX;
  uint64_t least = kWhole;
  // In doubt, too: each of the bytes may be that of any of these in place of `bytes`.
  std::vector<std::shared_ptr<const std::string>> others = {};

  bool is(const std::string* got) const;  // null: there is no such file
};

struct CheckpointFile {
  std::vector<FileState> possible;  // now
  std::vector<FileState> ever;      // from the beginning
  size_t before_loss = 0;           // of those: until its machine was last destroyed
  uint64_t changes = 0;             // operations begun
  bool busy = false;                // an operation is under way
  std::string etag;                 // last seen in the origin

  bool may_be(const std::string* got) const;
  bool ever_was(const std::string* got) const;
  // Each byte is that of a state that it ever had.
  bool is_mixture(const std::string& got) const;
  bool surely_exists() const;
  // For a failure's message: where the bytes are others than they may be.
  std::string differs(const std::string& got) const;
  void begin(const FileState& becomes);
  void end(const FileState& is);
  // So many bytes of what it is to hold were acknowledged: nothing older is left.
  void synced(const FileState& becomes, uint64_t bytes);
  std::string describe() const;
};

// A path that several nodes write at the same time. Nobody's version is lost to one whose writer
// could not know of it: both are kept.
struct ContestedFile {
  struct Version {
    std::string node;
    std::shared_ptr<const std::string> bytes;
    SteadyTime opened = kNever;   // its writer may know of what was closed before
    SteadyTime closing = kNever;  // others may know of it
    SteadyTime acknowledged = kNever;
    // Read from `since` on: whole if it was acknowledged by then, else any beginning of it.
    bool is(const std::string& got, SteadyTime since) const;
  };
  std::deque<Version> versions;   // in the order in which they were begun
  std::set<std::string> writers;  // nodes, one version at a time

  bool ever_was(const std::string& got, SteadyTime since) const;
  // Acknowledged, and no writer opened the file who may have known of it.
  bool must_be_kept(const Version& version) const;
};

class CheckpointFiles {
 public:
  explicit CheckpointFiles(ClusterGround& ground) : ground_(ground) {}

  CheckpointFile& at(const std::string& path) { return files_[path]; }
  std::map<std::string, CheckpointFile>& all() { return files_; }
  ContestedFile& contested(const std::string& path) { return contested_[path]; }
  // The machine died: what its programs were at is in doubt.
  void crashed(const std::string& machine, bool destroyed);
  // Checker: whatever stands in the origin is one of the versions that there ever were.
  void poll();
  // Checker, at the end: the origin has what was acknowledged.
  void check_origin();
  // Whether the origin has what the file is to be.
  bool is_in_origin(const std::string& path) const;
  // Whether the file was made anew by a node that could not know of what it reads as now, and both
  // are kept: while nodes are cut off from each other, none may be reached that has a record of
  // what a destroyed node wrote, and its successor finds the name free. If the successor takes its
  // own away from there again, what the destroyed node wrote is left.
  bool is_kept_aside(const std::string& path, const std::string& got) const;

  static std::string directory_of(const std::string& machine) { return "ckpt/" + machine + "/"; }
  static constexpr const char* kShared = "shared";  // stands for a machine

 private:
  void check_contested();

  ClusterGround& ground_;
  std::map<std::string, CheckpointFile> files_;
  std::map<std::string, ContestedFile> contested_;
};

// On one machine: creates, rewrites, appends, renames and removes its own files, reads all.
class CheckpointProgram {
 public:
  CheckpointProgram(ClusterGround& ground, CheckpointFiles& files, Daemon& daemon,
                    SeededRandom random)
      : ground_(ground), files_(files), daemon_(daemon), random_(random) {}

  Task<void> run();
  // The whole file anew; true: acknowledged.
  Task<bool> rewrite(std::string path);
  Task<void> remove(std::string path);
  // A new file, synced `syncs` times and written on in between and after, sometimes over what it
  // began with; never closed. Each sync but the first waits until `may_sync` says so.
  Task<bool> write_open(std::string path, uint32_t syncs, std::function<bool(uint32_t)> may_sync);
  // Until the file reads as one of its possible states, or is changed, or the deadline has passed
  // since the last fault: then it is a failure.
  Task<void> verify(std::string path, Duration limit);

 private:
  Task<void> operation();
  Task<Status> write_bytes(std::string path, uint32_t flags, uint64_t offset,
                           std::shared_ptr<const std::string> bytes);
  Task<bool> append(std::string path);
  Task<void> contend();
  Task<Status> write_contested(std::string path, ContestedFile::Version& version);
  Task<void> read_contested(std::string path);
  Task<bool> rename(std::string from, std::string to);
  Task<void> read(std::string path);
  void settle(const std::string& path, const FileState& state, const Status& status,
              const char* what);
  void check_error(const Error& error, const std::string& what);
  std::string mine(bool temporary);
  uint64_t some_size();
  Context limit() const;

  ClusterGround& ground_;
  CheckpointFiles& files_;
  Daemon& daemon_;
  SeededRandom random_;
};

}  // namespace shoal::simulate
