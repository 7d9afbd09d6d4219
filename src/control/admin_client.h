// Asks a running node, through its admin server (apps/admin.h tells what that answers).
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "base/error.h"
#include "control/connection.h"
#include "control/job.h"

namespace shoal {

// Every call makes its own connection, so any thread may call at any time. A node that cannot be
// reached, dies in mid-call or falls silent is kUnavailable, in a message that names it.
class AdminClient {
 public:
  explicit AdminClient(AdminAddress address) : address_(std::move(address)) {}

  Result<std::string> get(const std::string& path) const;
  // Runs a job to its end. `on_progress` hears of it about five times a second, and once a second
  // while the node is silent, and answers whether to go on: kCancelled if not. `last` keeps what it
  // heard last. With `detach` returns when the job has begun. The request's timeout is the node's
  // to keep, which can say what is left; if it does not within two seconds more,
  // kDeadlineExceeded comes from here.
  Status run(const JobRequest& request, bool detach,
             const std::function<bool(const JobProgress&)>& on_progress, JobProgress& last) const;

 private:
  AdminAddress address_;
};

}  // namespace shoal
