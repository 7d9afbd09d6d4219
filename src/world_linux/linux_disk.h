// The real Disk: io_uring for everything it has an opcode for, helper threads for the rest (set
// size, copy, list, space, lock), one of low priority for writes in the background. A FileId is the
// kernel's descriptor.
//
// The last component of a path is never followed if it is a symbolic link (callers resolve the
// roots they are given). Files are made with mode 0600, directories with 0700, descriptors are
// closed on exec. Short reads and writes are continued here.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "world/disk.h"
#include "world/executor.h"
#include "world_linux/helper_pool.h"

namespace shoal {

class Ring;

class LinuxDisk final : public Disk {
 public:
  // Operations under way at once; what is above waits, first in first out, in the callers' structs.
  static constexpr size_t kRingOpsMax = 256;
  static constexpr size_t kHelperOpsMax = 16;

  LinuxDisk(Executor& executor, Ring& ring, HelperPool& helpers);
  ~LinuxDisk() override;

  void submit(DiskOp& op) override;
  int native_descriptor(FileId file) const override { return static_cast<int>(file); }
  bool is_idle() const { return under_way_ == 0; }

 private:
  class FileOp;
  class BlockingOp;
  struct WaitList {
    Runnable* first = nullptr;
    Runnable* last = nullptr;
    void push(DiskOp& op);
    DiskOp* pop();
  };

  void end(DiskOp& op, int64_t result);
  void start_on_ring(DiskOp& op);
  void start_on_helper(DiskOp& op);
  HelperPool& pool_for(const DiskOp& op);
  void finish(FileOp& op, int64_t result);
  void finish(BlockingOp& op);

  Executor& executor_;
  Ring& ring_;
  HelperPool& helpers_;
  HelperPool background_{{.name = "shoal-copier", .threads = 1, .nice = 19}};
  uint64_t under_way_ = 0;  // accepted and not yet posted back
  // Made when first needed, then kept.
  std::vector<std::unique_ptr<FileOp>> ring_ops_;
  std::vector<FileOp*> ring_ops_free_;
  std::vector<std::unique_ptr<BlockingOp>> helper_ops_;
  std::vector<BlockingOp*> helper_ops_free_;
  WaitList ring_waiting_;
  WaitList helper_waiting_;
};

}  // namespace shoal
