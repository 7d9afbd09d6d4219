// Threads for file operations that io_uring has no opcode for (truncate, copy, list, lock), or that
// are to take only the CPU that is left over. They hold no state of any shard: a job comes in,
// blocks, and is posted back to its executor. Any number of shards may share a pool. The threads
// start with the first job; an unused pool costs nothing.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

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
  struct Options {
    const char* name = "shoal-helper";  // of its threads
    size_t threads = 2;
    int nice = 0;  // 0 to 19, of its threads
  };

  explicit HelperPool(Options options) : options_(options) {}
  HelperPool() : HelperPool(Options{}) {}
  // Every job must have come back.
  ~HelperPool();
  HelperPool(const HelperPool&) = delete;
  HelperPool& operator=(const HelperPool&) = delete;

  // Any thread. Callers bound how many they have under way (LinuxDisk: 16 per shard).
  void submit(HelperJob& job);

 private:
  void start_one();
  void serve();

  const Options options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Runnable* first_ = nullptr;
  Runnable* last_ = nullptr;
  size_t waiting_ = 0;  // jobs in the list
  size_t idle_ = 0;     // threads without a job
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace shoal
