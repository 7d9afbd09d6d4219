#include "apps/node_control.h"

#include <array>

#include "base/assert.h"

namespace shoal {
namespace {
constexpr std::array<std::pair<std::string_view, JobKind>, 8> kJobs = {
    {{"sync", JobKind::kSync},
     {"warm", JobKind::kWarm},
     {"pin", JobKind::kPin},
     {"unpin", JobKind::kUnpin},
     {"evict", JobKind::kEvict},
     {"drain", JobKind::kDrain},
     {"publish", JobKind::kPublish},
     {"scrub", JobKind::kScrub}}};
}  // namespace

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

std::optional<JobKind> job_kind(std::string_view name) {
  for (auto [known, kind] : kJobs) {
    if (known == name) return kind;
  }
  return std::nullopt;
}

std::string_view job_name(JobKind kind) {
  for (auto [name, known] : kJobs) {
    if (known == kind) return name;
  }
  return "unknown";
}

}  // namespace shoal
