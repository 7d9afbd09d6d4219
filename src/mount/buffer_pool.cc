#include "mount/buffer_pool.h"

#include <sys/mman.h>

#include "base/assert.h"

namespace shoal::fuse {

void BufferPool::Lease::reset() {
  if (memory_ == nullptr) return;
  std::lock_guard lock(pool_->mutex_);
  SHOAL_ASSERT(pool_->out_ > 0);
  --pool_->out_;
  pool_->free_.push_back(memory_);
  memory_ = nullptr;
  pool_ = nullptr;
}

BufferPool::~BufferPool() {
  SHOAL_ASSERT(out_ == 0, "buffers are still out");
  for (std::byte* memory : free_) ::munmap(memory, bytes_each_);
}

BufferPool::Lease BufferPool::get() {
  {
    std::lock_guard lock(mutex_);
    used_ = true;
    ++out_;
    if (!free_.empty()) {
      std::byte* memory = free_.back();
      free_.pop_back();
      return Lease(this, memory);
    }
  }
  // Straight from the kernel: malloc would keep it for good.
  void* memory =
      ::mmap(nullptr, bytes_each_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  SHOAL_ASSERT(memory != MAP_FAILED, "out of memory");
  return Lease(this, static_cast<std::byte*>(memory));
}

bool BufferPool::trim() {
  std::lock_guard lock(mutex_);
  if (std::exchange(used_, false)) return true;
  for (std::byte* memory : free_) ::munmap(memory, bytes_each_);
  free_.clear();
  return false;
}

size_t BufferPool::count() const {
  std::lock_guard lock(mutex_);
  return out_ + free_.size();
}

bool Budget::acquire(uint64_t bytes) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || used_ == 0 || used_ + bytes <= limit_; });
  if (closed_) return false;
  used_ += bytes;
  return true;
}

void Budget::release(uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    SHOAL_ASSERT(used_ >= bytes);
    used_ -= bytes;
  }
  changed_.notify_all();
}

void Budget::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

uint64_t Budget::used() const {
  std::lock_guard lock(mutex_);
  return used_;
}

}  // namespace shoal::fuse
