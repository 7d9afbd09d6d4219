// A simulated disk behind world/disk.h: latency, bandwidth, faults, and exactly the durability that
// disk.h promises. SimDiskState is the hardware and what lies on it and outlives crashes; SimDisk
// is one process's view of it and dies with the process.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "world/disk.h"
#include "world_sim/blob_faults.h"
#include "world_sim/sim_executor.h"
#include "world_sim/sim_file.h"

namespace shoal {

struct SimDiskFaults {
  double read_error = 0;   // EIO, per operation
  double write_error = 0;  // EIO, perhaps after writing a part
  double sync_error = 0;   // EIO; what it should have covered is lost at the next power loss
  double bit_flip = 0;     // per read: one stored bit of what is read changes first
  double slow = 0;         // per operation: takes slow_time more
  Duration slow_time = std::chrono::milliseconds(500);
};

struct SimDiskOptions {
  uint64_t capacity = kTiB;
  Duration latency = std::chrono::microseconds(80);
  Duration sync_latency = std::chrono::microseconds(500);
  uint64_t bytes_per_second = 2'000'000'000;  // 0: unlimited
  uint64_t read_bytes_per_second = 0;         // 0: reads share the above
  uint64_t free_bytes =
      0;  // transfers of fewer bytes pass at once: in forecasts, what is not scaled
  // O_DIRECT moves multiples of it, a multiple of 4 KiB. 0: the file system has no O_DIRECT.
  uint64_t direct_block = 4 * kKiB;
  SimDiskFaults faults;
};

enum class CrashKind {
  kProcess,    // kill -9: everything written stays
  kPowerLoss,  // unsynced data and names may be lost, kept or torn
};

// One machine's disk. Simulation's thread.
class SimDiskState {
 public:
  explicit SimDiskState(SimDiskOptions options);

  SimDiskOptions& options() { return options_; }
  void set_capacity(uint64_t bytes);
  // Bytes per second from now on, as in the options.
  void set_rates(uint64_t write, uint64_t read);
  // An empty disk, as new. Only while no process uses it.
  void wipe();
  // Holds pages together with other disks.
  void share_pages(std::shared_ptr<SimPagePool> pool) { space_->pool = std::move(pool); }
  uint64_t used() const { return space_->pages * kSimPageBytes; }
  SimTree& tree() { return tree_; }
  std::shared_ptr<SimNode> make_file();
  // For tests and checkers, past every process. Null if there is no such file.
  SimFile* file(std::string_view path) const;
  std::string content(std::string_view path) const;
  uint64_t unsynced_names() const { return tree_.unsynced_names(); }
  uint64_t operations() const { return operations_; }

 private:
  friend class SimDisk;
  SimDiskOptions options_;
  std::shared_ptr<SimSpace> space_;  // shared by all files, which unlinking does not end at once
  SimTree tree_;
  std::set<SimNode*> locked_;
  Pacer pacer_;
  Pacer read_pacer_;
  uint64_t operations_ = 0;
};

class SimDisk final : public Disk {
 public:
  SimDisk(SimDiskState& state, SimExecutor& executor, SeededRandom random);
  ~SimDisk() override;

  void submit(DiskOp& op) override;
  int native_descriptor(FileId) const override { return -1; }
  uint64_t open_files() const { return files_.size(); }
  uint64_t in_flight() const { return in_flight_.size(); }

  // For sending a file from within the kernel: when the next bytes will have been read, and then
  // the bytes, as they are at that moment. -errno, or fewer than asked at the end of the file.
  SteadyTime begin_read_for_send(uint64_t length);
  int64_t read_for_send(FileId file, uint64_t offset, uint64_t length,
                        std::vector<SimPagePtr>& pages);

  // The process or the machine died: operations in flight happen or do not, and none ever ends.
  // Returns them, to be kept reachable.
  std::vector<DiskOp*> crash(CrashKind kind);

 private:
  struct Open {
    SimNodePtr node;
    uint32_t flags = 0;
    bool lock = false;
  };
  struct Flight {
    DiskOp* op = nullptr;
    SimNodePtr node;           // of a sync
    SimFileSnapshot snapshot;  // of a file sync
    uint64_t names_up_to = 0;  // of a directory sync
  };
  // `reads`, `writes`: bytes to or from the disk.
  SteadyTime end_of(Duration base, uint64_t reads, uint64_t writes);

  void begin(Flight& flight);
  int64_t execute(Flight& flight);
  int64_t execute_on_path(DiskOp& op);
  int64_t execute_on_file(DiskOp& op, Flight& flight);
  bool with_space(const std::function<bool()>& change);
  int64_t open(DiskOp& op);
  int64_t lock(DiskOp& op);
  int64_t rename(const DiskOp& op);
  int64_t remove(const DiskOp& op);
  int64_t make_directory(const DiskOp& op);
  int64_t list(DiskOp& op);
  bool read_fails(SimFile& file, uint64_t offset, uint64_t length);
  int64_t write(const DiskOp& op, SimFile& file);
  int64_t copy(const DiskOp& op, SimFile& from);
  Open* opened(FileId id);
  FileId remember(Open open);

  SimDiskState& state_;
  SimExecutor& executor_;
  SeededRandom random_;
  int32_t next_file_ = 3;
  std::unordered_map<int32_t, Open> files_;
  std::map<uint64_t, Flight> in_flight_;  // by number of submission
  uint64_t submitted_ = 0;
};

}  // namespace shoal
