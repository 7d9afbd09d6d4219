#include "control/job.h"

#include <array>
#include <utility>

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
