// Memory for requests and answers of up to 1 MiB, reused because first touch is slow on some
// machines, and given back to the system when the mount has been idle. Any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace shoal::fuse {

class BufferPool {
 public:
  // Goes back to the pool when destroyed; the pool outlives it.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)),
          memory_(std::exchange(other.memory_, nullptr)) {}
    Lease& operator=(Lease&& other) noexcept {
      if (this != &other) {
        reset();
        pool_ = std::exchange(other.pool_, nullptr);
        memory_ = std::exchange(other.memory_, nullptr);
      }
      return *this;
    }
    ~Lease() { reset(); }
    void reset();
    bool valid() const { return memory_ != nullptr; }
    ByteSpan span() const { return {memory_, pool_->bytes_each_}; }

   private:
    friend class BufferPool;
    Lease(BufferPool* pool, std::byte* memory) : pool_(pool), memory_(memory) {}
    BufferPool* pool_ = nullptr;
    std::byte* memory_ = nullptr;
  };

  explicit BufferPool(size_t bytes_each) : bytes_each_(bytes_each) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  size_t bytes_each() const { return bytes_each_; }
  // The one used last, so that few are touched. Callers bound how many are out at once.
  Lease get();
  // Gives free buffers back to the system, if none was taken since the last call. Answers whether
  // some are still kept.
  bool trim();
  // How many exist, out or free.
  size_t count() const;

 private:
  const size_t bytes_each_;
  mutable std::mutex mutex_;
  std::vector<std::byte*> free_;
  size_t out_ = 0;
  bool used_ = false;
};

// Bytes of write requests that may be in memory at once; threads wait here when it is full. One
// request may always pass, however large.
class Budget {
 public:
  explicit Budget(uint64_t limit) : limit_(limit) {}
  // False after close(): the caller is to stop.
  bool acquire(uint64_t bytes);
  void release(uint64_t bytes);
  void close();
  uint64_t used() const;

 private:
  const uint64_t limit_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t used_ = 0;
  bool closed_ = false;
};

}  // namespace shoal::fuse
