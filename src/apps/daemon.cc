#include "apps/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "base/assert.h"

namespace shoal {
namespace {

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  return set;
}

void write_all(int file, const char* data, size_t size) {
  while (size > 0) {
    ssize_t n = write(file, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // the parent is gone: nobody to tell
    data += n;
    size -= static_cast<size_t>(n);
  }
}

// Waits for the child's word: 'K' or 'E', then text. Never returns.
[[noreturn]] void await_child(pid_t child, int pipe) {
  std::string word;
  char buffer[4096];
  while (true) {
    ssize_t n = read(pipe, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    word.append(buffer, static_cast<size_t>(n));
  }
  if (word.empty()) {
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      fprintf(stderr,
              "shoal: the daemon died at its start by signal %d; see what it says with "
              "--foreground\n",
              WTERMSIG(status));
    } else {
      fprintf(stderr, "shoal: the daemon ended at its start; see what it says with --foreground\n");
    }
    _exit(1);
  }
  bool good = word[0] == 'K';
  if (word.size() > 1) fprintf(good ? stdout : stderr, "%s\n", word.c_str() + 1);
  fflush(nullptr);
  _exit(good ? 0 : 1);
}

}  // namespace

StartReport::~StartReport() {
  if (pipe_ >= 0) close(pipe_);
}

void StartReport::send(char kind, const std::string& message) {
  SHOAL_ASSERT(pipe_ >= 0, "reports once");
  std::string word = kind + message;
  write_all(pipe_, word.data(), word.size());
  close(pipe_);
  pipe_ = -1;
}

void StartReport::succeed(const std::string& message) {
  if (pipe_ < 0) {
    if (!message.empty()) fprintf(stdout, "%s\n", message.c_str());
    fflush(stdout);
    return;
  }
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) {
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    close(null);
  }
  send('K', message);
}

void StartReport::fail(const std::string& message) {
  if (pipe_ < 0) {
    fprintf(stderr, "%s\n", message.c_str());
    return;
  }
  send('E', message);
}

Result<StartReport> daemonize() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return shoal::fail(error_from_errno(errno, "cannot start a daemon: pipe"));
  }
  fflush(nullptr);
  pid_t child = fork();
  if (child < 0) {
    int reason = errno;
    close(ends[0]);
    close(ends[1]);
    return shoal::fail(error_from_errno(reason, "cannot start a daemon: fork"));
  }
  if (child > 0) {
    close(ends[1]);
    await_child(child, ends[0]);
  }
  close(ends[0]);
  setsid();
  if (chdir("/") != 0) return shoal::fail(error_from_errno(errno, "cannot go to /"));
  return StartReport(ends[1]);
}

void forbid_core_dumps() {
  rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

void allow_many_descriptors() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

void block_stop_signals() {
  sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

StopReason wait_for_stop(int event, int timeout_ms) {
  sigset_t set = stop_signals();
  int signals = signalfd(-1, &set, SFD_CLOEXEC);
  SHOAL_ASSERT(signals >= 0, "signalfd");
  pollfd wanted[2] = {{signals, POLLIN, 0}, {event, POLLIN, 0}};  // poll skips -1
  StopReason reason = StopReason::kTimeout;
  while (true) {
    int n = poll(wanted, 2, timeout_ms);
    if (n < 0 && errno == EINTR) continue;
    if (n > 0 && (wanted[0].revents & POLLIN) != 0) {
      signalfd_siginfo info;
      if (read(signals, &info, sizeof info) != sizeof info) continue;
      reason = StopReason::kSignal;
    } else if (n > 0) {
      reason = StopReason::kEvent;
    }
    break;
  }
  close(signals);
  return reason;
}

}  // namespace shoal
