// NodeControl: all that the admin server knows of a node. node_service.h adapts the real one, tests
// a fake.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "apps/report.h"
#include "base/error.h"
#include "control/job.h"

namespace shoal {

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

}  // namespace shoal
