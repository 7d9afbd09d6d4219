// A server as a child of the test: started, waited for, ended with the test.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "base/error.h"

namespace shoal {

class ChildProcess {
 public:
  ChildProcess() = default;
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // Starts it and returns the first line of its output that contains `marker`.
  Result<std::string> start(const std::vector<std::string>& arguments, std::string_view marker,
                            std::chrono::seconds patience);

 private:
  pid_t pid_ = -1;
  int output_ = -1;
};

// Runs a program to its end and returns the first line of its output; fails with what it wrote to
// stderr.
Result<std::string> first_line_of(const std::string& program);

}  // namespace shoal
