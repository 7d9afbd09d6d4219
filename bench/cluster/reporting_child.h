// A load in a process of its own, because the benchmark forks children meanwhile: it says that it
// has begun, and at its end one line of JSON.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "one_node/child.h"
#include "one_node/stage.h"

namespace shoal::bench {

class ReportingChild {
 public:
  // Runs `body` in a fork of this process, which has begun on return. `name`: of its log in the
  // work directory. `body` ends by itself or once interrupted(), and answers the report.
  static Result<ReportingChild> start(const WorkDirectory& work, const std::string& name,
                                      const std::function<nlohmann::json()>& body);

  // Sends the signal (0: none), waits for the end and answers the report. kDeadlineExceeded: it
  // hung and was killed.
  Result<nlohmann::json> stop(int signal, std::chrono::milliseconds patience);
  void kill_now() { child_.kill_now(); }

 private:
  ReportingChild(Child child, std::string log) : child_(std::move(child)), log_(std::move(log)) {}
  Child child_;
  std::string log_;
};

}  // namespace shoal::bench
