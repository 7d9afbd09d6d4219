// Progress of long work: a bar on a terminal, else a line now and then.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>

#include "apps/node_control.h"

namespace shoal {

// "warm  [#########-----------]  46%  1.2 GiB of 2.6 GiB  310 MiB/s  4s left  12 of 30 objects".
// `columns` bounds the length; `seconds` since the start.
std::string progress_bar(std::string_view verb, const JobProgress& progress, double seconds,
                         size_t columns);
std::string progress_line(std::string_view verb, const JobProgress& progress, double seconds);

class ProgressPrinter {
 public:
  explicit ProgressPrinter(std::string verb);
  void update(const JobProgress& progress);
  // Takes the bar away.
  void clear();
  double seconds() const;

 private:
  std::string verb_;
  bool terminal_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_line_;
  bool shown_ = false;
};

}  // namespace shoal
