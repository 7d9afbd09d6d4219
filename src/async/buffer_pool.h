// BufferPool: big buffers that are used again. The first touch of fresh memory costs more than the
// copy into it (docs/benchmarks.md), so fetches and uploads take theirs from here. What lies idle
// is given back to the system after a while, so that an idle node is small.
//
// Shard's thread. Bounded by who takes: every taker holds a permit for its bytes.
#pragma once

#include <array>
#include <bit>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "world/executor.h"

namespace shoal {

class BufferPool : private Timer {
 public:
  explicit BufferPool(Executor& executor) : executor_(executor) {}
  ~BufferPool() { executor_.stop_timer(*this); }

  // Given back when destroyed. The pool outlives it.
  class Lease {
   public:
    Lease() = default;
    Lease(BufferPool* pool, Buffer buffer, size_t size)
        : pool_(pool), buffer_(std::move(buffer)), size_(size) {}
    Lease(Lease&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)),
          buffer_(std::move(other.buffer_)),
          size_(other.size_) {}
    Lease& operator=(Lease&& other) noexcept {
      if (this != &other) {
        release();
        pool_ = std::exchange(other.pool_, nullptr);
        buffer_ = std::move(other.buffer_);
        size_ = other.size_;
      }
      return *this;
    }
    ~Lease() { release(); }
    ByteSpan span() { return buffer_.span().first(size_); }
    ConstByteSpan span() const { return buffer_.span().first(size_); }
    std::byte* data() { return buffer_.data(); }
    size_t size() const { return size_; }

   private:
    void release() {
      if (pool_ != nullptr) std::exchange(pool_, nullptr)->give_back(std::move(buffer_));
    }
    BufferPool* pool_ = nullptr;
    Buffer buffer_;
    size_t size_ = 0;
  };

  // Contents are whatever was there. Sizes are rounded up to powers of two inside.
  Lease take(size_t size) {
    size_t shelf = shelf_of(size);
    if (shelf >= kShelves) return Lease(nullptr, Buffer(size), size);
    std::vector<Buffer>& free = shelves_[shelf];
    if (free.empty()) return Lease(this, Buffer(kSmallest << shelf), size);
    Buffer buffer = std::move(free.back());
    free.pop_back();
    return Lease(this, std::move(buffer), size);
  }

 private:
  static constexpr size_t kSmallest = 64 * kKiB;
  static constexpr size_t kShelves = 8;  // 64 KiB to 8 MiB
  static constexpr Duration kIdle = std::chrono::seconds(5);

  static size_t shelf_of(size_t size) {
    size_t units = (size + kSmallest - 1) / kSmallest;
    return units <= 1 ? 0 : static_cast<size_t>(std::bit_width(units - 1));
  }
  void give_back(Buffer buffer) {
    shelves_[shelf_of(buffer.size())].push_back(std::move(buffer));
    used_ = true;
    if (!armed()) executor_.start_timer(*this, executor_.now() + kIdle);
  }
  // Nothing came back since the last look: let it go.
  void run() noexcept override {
    if (std::exchange(used_, false)) {
      executor_.start_timer(*this, executor_.now() + kIdle);
      return;
    }
    for (auto& shelf : shelves_) std::vector<Buffer>().swap(shelf);
  }

  Executor& executor_;
  std::array<std::vector<Buffer>, kShelves> shelves_;
  bool used_ = false;
};

}  // namespace shoal
