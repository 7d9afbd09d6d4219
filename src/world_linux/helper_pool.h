// Two threads for file operations that io_uring has no opcode for (truncate, copy, list, lock).
// They hold no state of any shard: a job comes in, blocks, and is posted back to its executor.
// Shared by all shards. The threads start with the first job; an unused pool costs nothing.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "world/executor.h"

namespace shoal {

// Owned by its submitter. work() runs on a helper thread, then run() on `home`.
class HelperJob : public Runnable {
 public:
  virtual void work() noexcept = 0;
  Executor* home = nullptr;

 protected:
  ~HelperJob() = default;
};

class HelperPool {
 public:
  static constexpr size_t kThreads = 2;

  HelperPool() = default;
  // Every job must have come back.
  ~HelperPool();
  HelperPool(const HelperPool&) = delete;
  HelperPool& operator=(const HelperPool&) = delete;

  // Any thread. Callers bound how many they have under way (LinuxDisk: 16 per shard).
  void submit(HelperJob& job);

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable changed_;
  Runnable* first_ = nullptr;
  Runnable* last_ = nullptr;
  size_t waiting_ = 0;  // jobs in the list
  size_t idle_ = 0;     // threads without a job
  size_t started_ = 0;
  bool stopping_ = false;
  std::array<std::thread, kThreads> threads_;
};

}  // namespace shoal
