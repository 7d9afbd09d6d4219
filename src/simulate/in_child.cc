#include "simulate/in_child.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "base/assert.h"

namespace shoal::simulate {

namespace {

// First byte of what comes through the pipe: numbers follow, or a code and a text.
constexpr char kNumbers = 'n';
constexpr char kFailure = 'f';

std::string encode(const Result<std::vector<double>>& answer) {
  if (!answer) {
    return std::string{kFailure, static_cast<char>(answer.error().code())} +
           answer.error().message();
  }
  std::string text(1 + answer->size() * sizeof(double), kNumbers);
  std::memcpy(text.data() + 1, answer->data(), answer->size() * sizeof(double));
  return text;
}

Result<std::vector<double>> decode(const std::string& text) {
  if (text.size() >= 2 && text[0] == kFailure) {
    return fail(static_cast<Code>(text[1]), text.substr(2));
  }
  SHOAL_ASSERT(!text.empty() && text[0] == kNumbers && (text.size() - 1) % sizeof(double) == 0);
  std::vector<double> numbers((text.size() - 1) / sizeof(double));
  std::memcpy(numbers.data(), text.data() + 1, text.size() - 1);
  return numbers;
}

[[noreturn]] void answer_and_exit(int pipe, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    ssize_t count = ::write(pipe, text.data() + at, text.size() - at);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) ::_exit(1);
    at += static_cast<size_t>(count);
  }
  ::_exit(0);  // what crashed machines left is not for destructors
}

std::string read_all(int pipe) {
  std::string text;
  char buffer[4096];
  while (true) {
    ssize_t count = ::read(pipe, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(buffer, static_cast<size_t>(count));
  }
}

}  // namespace

Result<std::vector<double>> in_child(const std::function<Result<std::vector<double>>()>& work) {
  int answer[2];
  if (::pipe(answer) != 0) return fail(Code::kInternal, "no pipe for a child process");
  std::fflush(nullptr);
  pid_t child = ::fork();
  if (child == 0) {
    ::close(answer[0]);
    answer_and_exit(answer[1], encode(work()));
  }
  ::close(answer[1]);
  std::string text = child > 0 ? read_all(answer[0]) : std::string();
  ::close(answer[0]);
  if (child < 0) return fail(Code::kInternal, "cannot start a child process");
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return decode(text);
  if (WIFSIGNALED(status) && WTERMSIG(status) == 9) {
    return fail(Code::kInternal, "the simulation was killed; most likely memory ran out");
  }
  return fail(Code::kInternal, fmt::format("the simulation ended with status {:#x}", status));
}

}  // namespace shoal::simulate
