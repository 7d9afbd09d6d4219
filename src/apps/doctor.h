// `shoal doctor ORIGIN`: looks at everything that a mount needs and says what to do about the rest.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "apps/options.h"

namespace shoal {

struct Finding {
  enum class Verdict { kOk, kWarn, kFail, kSkip };
  Verdict verdict = Verdict::kOk;
  std::string check;      // "origin: write"
  std::string detail;     // what was found
  std::string next_step;  // empty when there is nothing to do
};

std::string_view verdict_name(Finding::Verdict verdict);

// Findings about this machine only.
std::vector<Finding> examine_machine();
// Makes no directory that it does not remove again.
Finding examine_cache_dir(const std::string& dir);
// Pure: from the origin's Date header and our clock.
Finding judge_clock(double skew_seconds);

// All of it.
std::vector<Finding> examine(const std::string& origin, const Options& options);

std::string findings_table(const std::vector<Finding>& findings);
std::string findings_json(const std::vector<Finding>& findings);

}  // namespace shoal
