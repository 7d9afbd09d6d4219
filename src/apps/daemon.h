// Becoming a daemon and stopping like one.
#pragma once

#include <string>

#include "base/error.h"

namespace shoal {

// The child's line to the parent that waits in the foreground. In the foreground mode it does
// nothing. Used once.
class StartReport {
 public:
  StartReport() = default;
  explicit StartReport(int pipe) : pipe_(pipe) {}
  StartReport(StartReport&& other) noexcept : pipe_(other.pipe_) { other.pipe_ = -1; }
  StartReport& operator=(StartReport&&) = delete;
  ~StartReport();

  bool attached() const { return pipe_ >= 0; }
  // The parent prints `message` (if any) and exits 0; this process lets go of the terminal.
  void succeed(const std::string& message);
  // The parent prints the text on stderr and exits 1.
  void fail(const std::string& message);

 private:
  void send(char kind, const std::string& message);
  int pipe_ = -1;
};

// Forks; must be called before any thread exists. Returns in the child only: the parent waits for
// the child's word and exits with it. A child that dies without a word is an error as well.
Result<StartReport> daemonize();

// No core files: memory holds credentials and other people's data.
void forbid_core_dumps();
// As many descriptors as this user may have: cached files that are open, and connections to peers.
void allow_many_descriptors();

// Blocks SIGINT, SIGTERM and SIGHUP in this thread (so in all that it starts) and ignores SIGPIPE.
void block_stop_signals();

enum class StopReason { kSignal, kEvent, kTimeout };
// Waits for a stop signal, or until `event` (an eventfd, may be -1) can be read.
StopReason wait_for_stop(int event, int timeout_ms);

}  // namespace shoal
