// What a node can be asked to do, and what it tells of it meanwhile.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "world/time.h"

namespace shoal {

enum class JobKind { kSync, kWarm, kPin, kUnpin, kEvict, kDrain, kPublish, kScrub };

struct JobRequest {
  JobKind kind = JobKind::kSync;
  std::vector<std::string> paths;   // object names or prefixes; "" is everything. kDrain: one node
  std::string level = "durable";    // kSync, kPublish
  std::optional<Duration> timeout;  // nothing: as long as it takes
  bool everywhere = false;          // kWarm: into every member's cache
  std::string pointer = "latest";   // kPublish
  uint32_t keep_last = 0;           // kPublish; 0: all
  uint64_t rate = 0;                // kScrub: bytes per second; 0: no limit
  bool all = false;                 // kScrub: tell of what is as it should be, too
};

struct JobProgress {
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  uint64_t objects_done = 0;
  uint64_t objects_total = 0;
  uint64_t failures = 0;  // objects that could not be done
  std::string current;
  std::string last_error;
  std::vector<std::string> findings = {};  // kScrub: one line each
};

// "sync", "warm", ...; nothing for other words.
std::optional<JobKind> job_kind(std::string_view name);
std::string_view job_name(JobKind kind);

}  // namespace shoal
