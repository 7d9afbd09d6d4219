// Gate: owns spawned tasks, so that nothing is detached. Shutdown closes the gate (no new tasks)
// and waits until the last one has ended.
#pragma once

#include <cstdint>
#include <vector>

#include "async/sync.h"
#include "async/task.h"

namespace shoal {

class Gate {
 public:
  explicit Gate(Executor& executor) : executor_(executor), empty_(executor) {}
  ~Gate() { SHOAL_ASSERT(count_ == 0, "tasks are still running"); }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Starts the task through the run queue. After close() began the task is dropped unstarted and
  // the answer is false. Shard's thread.
  bool spawn(Task<void> task);
  // Stops intake and waits for the running tasks (which the caller has told to stop).
  Task<void> close();
  bool closed() const { return closed_; }
  uint64_t count() const { return count_; }

 private:
  struct Detached;
  static Detached run(Gate& gate, Task<void> task);

  Executor& executor_;
  Signal empty_;
  uint64_t count_ = 0;
  bool closed_ = false;
};

// Runs all tasks, at most `parallel_max` at a time (>= 1); the first error wins, and tasks not yet
// begun when it happened are dropped.
Task<Status> run_all(Executor& executor, std::vector<Task<Status>> tasks, size_t parallel_max);
// For run_all: a task that cannot fail.
Task<Status> as_status(Task<void> task);

}  // namespace shoal
