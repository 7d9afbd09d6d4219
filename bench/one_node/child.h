// Child processes of the benchmark. They die with it, however it ends.
//
// One thread only: the kernel ties a child's life to the thread that made it, and a fork of a
// process with several threads would inherit locks that nobody releases.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace shoal::bench {

// From the first SIGINT or SIGTERM on. A second one ends the process at once.
bool interrupted();
void catch_interrupts();
// kCancelled once interrupted.
Status check_interrupted();

// Where a program runs, other than here.
struct Surroundings {
  int network = -1;  // descriptor of a network namespace; -1: ours
  std::vector<std::pair<std::string, std::string>> environment = {};  // added to ours
};

class Child {
 public:
  Child() = default;
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  ~Child() { kill_now(); }

  // Runs argv[0], looked for on PATH, in a process group of its own, with standard output and error
  // appended to a file and without the variables of Shoal and Azure.
  static Result<Child> execute(const std::vector<std::string>& argv, const std::string& log_file,
                               const Surroundings& around = {});
  // Runs `body` in a fork of this process; its answer is the exit status.
  static Result<Child> fork_off(const std::function<int()>& body, const std::string& log_file);

  pid_t pid() const { return pid_; }
  bool running();
  // Sends the signal (0: none) and waits for the end. False: it still ran and was killed.
  bool stop(int signal, std::chrono::milliseconds patience);
  void kill_now();
  int exit_status() const { return status_; }  // as wait(2) gives it, once it has ended

  // CPU time of the process, user and system, of all its threads.
  Result<double> cpu_seconds() const;
  // A field of /proc/PID/status in kB, as bytes: "VmRSS", "VmHWM".
  Result<uint64_t> memory_field(const std::string& field) const;
  // Lets VmHWM begin anew.
  Status reset_peak_memory() const;

 private:
  explicit Child(pid_t pid) : pid_(pid) {}
  pid_t pid_ = -1;
  int status_ = 0;
};

struct CommandResult {
  int status = 0;      // exit status; 128 + signal
  std::string output;  // of both streams
};
// Runs a command to its end, at most for `patience`.
Result<CommandResult> run_command(const std::vector<std::string>& argv,
                                  std::chrono::milliseconds patience,
                                  const Surroundings& around = {});

// The end of a text file, for error messages.
std::string last_lines(const std::string& path, size_t count);

}  // namespace shoal::bench
