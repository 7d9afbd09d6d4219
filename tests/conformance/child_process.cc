#include "child_process.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

namespace shoal {

ChildProcess::~ChildProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (output_ >= 0) close(output_);
}

Result<std::string> ChildProcess::start(const std::vector<std::string>& arguments,
                                        std::string_view marker, std::chrono::seconds patience) {
  int ends[2];
  if (pipe(ends) != 0) return fail(Code::kInternal, "no pipe");
  pid_ = fork();
  if (pid_ < 0) return fail(Code::kInternal, "no process");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    std::vector<char*> raw;
    for (const std::string& argument : arguments)
      raw.push_back(const_cast<char*>(argument.c_str()));
    raw.push_back(nullptr);
    execv(raw[0], raw.data());
    _exit(127);
  }
  close(ends[1]);
  output_ = ends[0];
  std::string seen;
  auto until = std::chrono::steady_clock::now() + patience;
  while (true) {
    size_t found = seen.find(marker);
    size_t end = found == std::string::npos ? found : seen.find('\n', found);
    if (end != std::string::npos) {
      size_t begin = seen.rfind('\n', found);
      begin = begin == std::string::npos ? 0 : begin + 1;
      return seen.substr(begin, end - begin);
    }
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - std::chrono::steady_clock::now());
    pollfd ready{output_, POLLIN, 0};
    if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count())) <= 0) {
      return fail(Code::kUnavailable, fmt::format("{} did not say '{}' in time; it said: {}",
                                                  arguments[0], marker, seen));
    }
    char buffer[4096];
    ssize_t count = ::read(output_, buffer, sizeof buffer);
    if (count <= 0) {
      return fail(Code::kUnavailable,
                  fmt::format("{} ended early; it said: {}", arguments[0], seen));
    }
    seen.append(buffer, static_cast<size_t>(count));
  }
}

Result<std::string> first_line_of(const std::string& program) {
  FILE* pipe = popen((program + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return fail(Code::kUnavailable, "cannot run " + program);
  std::string text;
  char buffer[512];
  while (size_t count = fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, count);
  int status = pclose(pipe);
  std::string line = text.substr(0, text.find('\n'));
  if (status != 0) return fail(Code::kUnavailable, line.empty() ? program + " failed" : line);
  return line;
}

}  // namespace shoal
