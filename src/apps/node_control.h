// NodeControl: all that the admin server knows of a node. node_service.h adapts the real one, tests
// a fake.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "apps/report.h"
#include "base/error.h"
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

// Work in progress on a node. Shared, because the node and whoever asked may each leave first.
// Thread-safe.
class Job {
 public:
  struct Snapshot {
    JobProgress progress;
    std::optional<Status> outcome;
  };

  // The asker's side. Waits until the job ends, at most `limit` (a pause between two reports).
  Snapshot wait(std::chrono::milliseconds limit);
  void cancel();

  // The node's side.
  void report(JobProgress progress);
  void finish(Status outcome);
  bool cancelled() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  JobProgress progress_;
  std::optional<Status> outcome_;
  bool cancelled_ = false;
};

// Called from the admin server's threads.
class NodeControl {
 public:
  virtual ~NodeControl() = default;
  virtual Result<NodeReport> report() = 0;
  // Of the other members that answer; empty without a cluster.
  virtual std::vector<NodeReport> other_reports() { return {}; }
  // kBusy when too many jobs are running.
  virtual Result<std::shared_ptr<Job>> start(JobRequest request) = 0;
};

// "sync", "warm", ...; nothing for other words.
std::optional<JobKind> job_kind(std::string_view name);
std::string_view job_name(JobKind kind);

}  // namespace shoal
