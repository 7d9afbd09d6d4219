// What an INTERRUPT of the kernel means. It comes for every signal that a waiting thread gets, also
// when the process is stopped, frozen with its container or profiled, and an EINTR of ours is not
// taken back when it goes on: programs do not expect one from files. So a request is ended only
// for somebody who is to end.
#pragma once

#include <cstdint>
#include <string_view>

namespace shoal::fuse {

// By /proc/THREAD/status: the thread is being killed, or SIGINT, SIGTERM, SIGHUP, SIGQUIT or
// SIGABRT waits for it. True if nothing can be said of it (it has ended, or /proc does not show
// it).
bool is_asked_to_end(std::string_view status);

// The same of a thread, by the number that requests carry: 0 if our PID namespace does not have it.
bool is_asked_to_end(uint32_t thread);

}  // namespace shoal::fuse
