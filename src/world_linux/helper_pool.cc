#include "world_linux/helper_pool.h"

#include <sys/resource.h>

#include <utility>

#include "base/assert.h"
#include "world_linux/thread.h"

namespace shoal {

HelperPool::~HelperPool() {
  {
    std::lock_guard lock(mutex_);
    SHOAL_ASSERT(first_ == nullptr, "jobs are still waiting");
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void HelperPool::start_one() {
  auto thread = start_thread(options_.name, [this] {
    // Of this thread only, in Linux. A failure costs fairness, nothing else.
    if (options_.nice > 0) setpriority(PRIO_PROCESS, 0, options_.nice);
    serve();
  });
  if (thread) threads_.push_back(std::move(*thread));
}

void HelperPool::submit(HelperJob& job) {
  SHOAL_ASSERT(job.home != nullptr);
  bool alone = false;
  {
    std::lock_guard lock(mutex_);
    SHOAL_ASSERT(!stopping_);
    if (waiting_ >= idle_ && threads_.size() < options_.threads) start_one();
    alone = threads_.empty();  // no thread to be had: slow, but still right
    if (!alone) {
      job.next = nullptr;
      (last_ != nullptr ? last_->next : first_) = &job;
      last_ = &job;
      ++waiting_;
    }
  }
  if (alone) {
    job.work();
    job.home->post_remote(job);
  } else {
    changed_.notify_one();
  }
}

void HelperPool::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    changed_.wait(lock, [this] { return stopping_ || first_ != nullptr; });
    --idle_;
    if (first_ == nullptr) return;
    auto* job = static_cast<HelperJob*>(first_);
    first_ = job->next;
    if (first_ == nullptr) last_ = nullptr;
    SHOAL_ASSERT(waiting_ > 0);
    --waiting_;
    lock.unlock();
    job->work();
    job->home->post_remote(*job);  // the job may be gone after this
    lock.lock();
  }
}

}  // namespace shoal
