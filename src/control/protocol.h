// The bodies of the admin server's POST requests and answers. Text in, structs out: no sockets.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "base/error.h"
#include "control/job.h"

namespace shoal {

std::string encode_job_request(const JobRequest& request, bool detach);
struct DecodedJob {
  JobRequest request;
  bool detach = false;
};
// Never trusts the text: kInvalidArgument says what is wrong.
Result<DecodedJob> decode_job_request(JobKind kind, std::string_view body);

std::string encode_progress(const JobProgress& progress);  // one line with its newline
std::string encode_outcome(const Status& outcome);
std::string encode_started();

struct JobStarted {};
struct JobEnded {
  Status outcome;
};
using JobEvent = std::variant<JobProgress, JobStarted, JobEnded>;
Result<JobEvent> decode_event(std::string_view line);

}  // namespace shoal
