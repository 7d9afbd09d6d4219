#include "world_linux/thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <system_error>
#include <utility>

#include "base/assert.h"

namespace shoal {

namespace {

// Where the main thread may run: the thread that starts another may be pinned, and its children
// would all share its CPU.
void use_cpus_of_main() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(getpid(), sizeof set, &set) != 0) return;
  (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

}  // namespace

Result<std::thread> start_thread(const std::string& name, std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  SHOAL_ASSERT(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
  Result<std::thread> thread = fail(Code::kInternal, "not started");
  try {
    thread = std::thread([name, body = std::move(body)] {              // inherits the mask
      pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());  // the kernel keeps 15
      use_cpus_of_main();
      body();
    });
  } catch (const std::system_error& error) {
    thread = fail(Code::kBusy, "cannot start thread " + name + ": " + error.what() +
                                   "; raise the limit of processes (ulimit -u)");
  }
  SHOAL_ASSERT(pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
  return thread;
}

Result<int> make_event_descriptor() {
  int descriptor = eventfd(0, EFD_CLOEXEC);
  if (descriptor < 0) return fail(error_from_errno(errno, "making an eventfd"));
  return descriptor;
}

void signal_event(int descriptor) {
  uint64_t one = 1;
  ssize_t written;
  do {
    written = write(descriptor, &one, sizeof one);
  } while (written < 0 && errno == EINTR);
  SHOAL_ASSERT(written == sizeof one, "the eventfd does not take a wake-up");
}

}  // namespace shoal
