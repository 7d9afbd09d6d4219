#include "apps/node_control.h"

#include "base/assert.h"

namespace shoal {
Job::Snapshot Job::wait(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, limit, [this] { return outcome_.has_value(); });
  return {progress_, outcome_};
}

void Job::cancel() {
  std::lock_guard lock(mutex_);
  cancelled_ = true;
}

void Job::report(JobProgress progress) {
  std::lock_guard lock(mutex_);
  SHOAL_ASSERT(!outcome_.has_value(), "a job reports after its end");
  progress_ = std::move(progress);
}

void Job::finish(Status outcome) {
  std::lock_guard lock(mutex_);
  SHOAL_ASSERT(!outcome_.has_value(), "a job ends once");
  outcome_.emplace(std::move(outcome));
  changed_.notify_all();
}

bool Job::cancelled() const {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

}  // namespace shoal
