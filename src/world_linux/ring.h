// One io_uring and the operations that wait for a place in it. Belongs to one shard's thread, which
// also makes it. Nothing is ever refused: what does not fit waits in a list of the callers'
// structs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/error.h"
#include "world/time.h"

struct io_uring;
struct io_uring_sqe;

namespace shoal {

// One operation of the kernel. Owned by its starter, alive until complete() was called.
class RingOp {
 public:
  // Fills in the entry (but not its user data) when there is a place for it.
  virtual void prepare(io_uring_sqe& entry) noexcept = 0;
  // The kernel's answer. May start further operations, this one too.
  virtual void complete(int32_t result) noexcept = 0;

  // How much the kernel may copy while it takes the entry; bounds the length of one turn.
  uint64_t bytes = 0;
  RingOp* next = nullptr;  // belongs to the ring

 protected:
  RingOp() = default;
  ~RingOp() = default;
  RingOp(const RingOp&) = delete;
  RingOp& operator=(const RingOp&) = delete;
};

class Ring {
 public:
  // `entries` is rounded up to a power of two by the kernel; 8192 operations may be in flight.
  static Result<std::unique_ptr<Ring>> open(unsigned entries);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  void start(RingOp& op);
  // Submits what fits and completes what is done. Makes no system call when there is neither.
  void poll();
  // The same, and blocks until something is done or the time has passed (nothing: no limit).
  void wait(std::optional<Duration> limit);

  // Operations that were started and have not been completed.
  uint64_t under_way() const { return under_way_; }

 private:
  Ring() = default;
  void prepare_pending();
  void reap();

  std::unique_ptr<io_uring> ring_;
  uint64_t under_way_ = 0;
  uint64_t in_flight_ = 0;  // those of them that the kernel holds
  uint64_t in_flight_max_ = 0;
  RingOp* first_ = nullptr;
  RingOp* last_ = nullptr;
};

}  // namespace shoal
