#include "one_node/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/assert.h"
#include "base/bytes.h"

extern char** environ;

namespace shoal::bench {

namespace {

using std::chrono::milliseconds;

constexpr size_t kOutputBytesMax = 4 * kMiB;

volatile sig_atomic_t g_interrupted = 0;

void note_interrupt(int) { g_interrupted = 1; }

// In the child, between fork and its work.
void settle_child(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  // Ctrl-C is for the benchmark alone: it ends its children in good order.
  setpgid(0, 0);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
}

void drop_variables() {
  std::vector<std::string> names;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    std::string name(*entry, std::strcspn(*entry, "="));
    if (name.starts_with("SHOAL_") || name.starts_with("AZURE_")) names.push_back(name);
  }
  for (const std::string& name : names) unsetenv(name.c_str());
}

[[noreturn]] void become(const std::vector<std::string>& argv, const Surroundings& around) {
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  drop_variables();
  for (const auto& [name, value] : around.environment) setenv(name.c_str(), value.c_str(), 1);
  if (around.network >= 0 && setns(around.network, CLONE_NEWNET) != 0) {
    dprintf(2, "cannot enter the network namespace: %s\n", strerror(errno));
    _exit(127);
  }
  execvp(words[0], words.data());
  dprintf(2, "cannot run %s: %s\n", words[0], strerror(errno));
  _exit(127);
}

bool wait_for_end(pid_t pid, milliseconds patience) {
  int descriptor = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (descriptor < 0) return errno == ESRCH;
  auto until = std::chrono::steady_clock::now() + patience;
  int ready = 0;
  while (ready == 0) {
    auto left = std::chrono::duration_cast<milliseconds>(until - std::chrono::steady_clock::now());
    if (left < milliseconds(0)) break;
    pollfd wanted{descriptor, POLLIN, 0};
    int n = poll(&wanted, 1, static_cast<int>(left.count()) + 1);
    if (n > 0) ready = 1;
    if (n < 0 && errno != EINTR) break;
  }
  close(descriptor);
  return ready == 1;
}

}  // namespace

bool interrupted() { return g_interrupted != 0; }

void catch_interrupts() {
  struct sigaction action{};
  action.sa_handler = note_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // no SA_RESTART: blocked calls must return
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

Status check_interrupted() {
  if (interrupted()) return fail(Code::kCancelled, "interrupted");
  return {};
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), status_(other.status_) {}

Child& Child::operator=(Child&& other) noexcept {
  if (this != &other) {
    kill_now();
    pid_ = std::exchange(other.pid_, -1);
    status_ = other.status_;
  }
  return *this;
}

Result<Child> Child::fork_off(const std::function<int()>& body, const std::string& log_file) {
  int log = open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return fail(error_from_errno(errno, "cannot write " + log_file));
  fflush(nullptr);
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid < 0) {
    int reason = errno;
    close(log);
    return fail(error_from_errno(reason, "cannot start a process"));
  }
  if (pid == 0) {
    settle_child(parent);
    dup2(log, 1);
    dup2(log, 2);
    _exit(body());
  }
  close(log);
  return Child(pid);
}

Result<Child> Child::execute(const std::vector<std::string>& argv, const std::string& log_file,
                             const Surroundings& around) {
  SHOAL_ASSERT(!argv.empty());
  return fork_off([&argv, &around]() -> int { become(argv, around); }, log_file);
}

bool Child::running() {
  if (pid_ < 0) return false;
  pid_t ended = waitpid(pid_, &status_, WNOHANG);
  if (ended == pid_) pid_ = -1;
  return pid_ >= 0;
}

bool Child::stop(int signal, milliseconds patience) {
  if (!running()) return true;
  if (signal != 0) kill(pid_, signal);
  bool ended = wait_for_end(pid_, patience);
  if (!ended) kill(pid_, SIGKILL);
  while (waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return ended;
}

void Child::kill_now() {
  if (pid_ >= 0) stop(SIGKILL, milliseconds(10'000));
}

Result<double> Child::cpu_seconds() const {
  SHOAL_ASSERT(pid_ >= 0);
  std::ifstream in(fmt::format("/proc/{}/stat", pid_));
  std::string text(std::istreambuf_iterator<char>(in), {});
  size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return fail(Code::kNotFound, "the process has ended");
  std::istringstream fields(text.substr(name_end + 2));
  std::string skipped;
  // Field 3 (the state) comes first here; utime is field 14, stime field 15.
  for (int field = 3; field < 14; ++field) fields >> skipped;
  uint64_t user = 0;
  uint64_t system = 0;
  if (!(fields >> user >> system))
    return fail(Code::kNotFound, "/proc/PID/stat is not as expected");
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

Result<uint64_t> Child::memory_field(const std::string& field) const {
  SHOAL_ASSERT(pid_ >= 0);
  std::ifstream in(fmt::format("/proc/{}/status", pid_));
  std::string line;
  while (std::getline(in, line)) {
    if (line.starts_with(field + ":")) {
      return std::strtoull(line.c_str() + field.size() + 1, nullptr, 10) * kKiB;
    }
  }
  return fail(Code::kNotFound, fmt::format("process {} has no {}", pid_, field));
}

Status Child::reset_peak_memory() const {
  std::ofstream out(fmt::format("/proc/{}/clear_refs", pid_));
  out << "5" << std::flush;
  if (!out) return fail(Code::kNotSupported, "cannot reset the peak memory of the daemon");
  return {};
}

Result<CommandResult> run_command(const std::vector<std::string>& argv, milliseconds patience,
                                  const Surroundings& around) {
  SHOAL_ASSERT(!argv.empty());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail(error_from_errno(errno, "cannot make a pipe"));
  fflush(nullptr);
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid < 0) {
    int reason = errno;
    close(ends[0]);
    close(ends[1]);
    return fail(error_from_errno(reason, "cannot start " + argv[0]));
  }
  if (pid == 0) {
    settle_child(parent);
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    become(argv, around);
  }
  close(ends[1]);
  CommandResult result;
  auto until = std::chrono::steady_clock::now() + patience;
  bool late = false;
  char buffer[16 * 1024];
  while (true) {
    auto left = std::chrono::duration_cast<milliseconds>(until - std::chrono::steady_clock::now());
    late = left <= milliseconds(0) || interrupted();
    if (late) break;
    pollfd wanted{ends[0], POLLIN, 0};
    int n = poll(&wanted, 1, static_cast<int>(left.count()));
    if (n <= 0) continue;
    ssize_t got = read(ends[0], buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (result.output.size() < kOutputBytesMax) {
      result.output.append(buffer, static_cast<size_t>(got));
    }
  }
  close(ends[0]);
  if (late) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  SHOAL_RETURN_IF_ERROR(check_interrupted());
  if (late) {
    return fail(Code::kDeadlineExceeded,
                fmt::format("{} {} did not end within {} s", argv[0],
                            argv.size() > 1 ? argv[1] : "", patience.count() / 1000));
  }
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

std::string last_lines(const std::string& path, size_t count) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  std::string line;
  while (std::getline(in, line)) {
    lines.push_back(line);
    if (lines.size() > count) lines.erase(lines.begin());
  }
  std::string out;
  for (const std::string& one : lines) out += "\n    " + one;
  return out;
}

}  // namespace shoal::bench
