// Starts this room's threads: named, and with every signal blocked, so that signals reach only the
// threads that main keeps for them and a broken connection is EPIPE instead of SIGPIPE. They may
// run wherever the main thread may.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "base/error.h"

namespace shoal {

Result<std::thread> start_thread(const std::string& name, std::function<void()> body);

// An eventfd (blocking, close on exec), or why there is none.
Result<int> make_event_descriptor();
// Adds one to it. Never blocks in practice: it would have to be added to 2^64 - 2 times.
void signal_event(int descriptor);

}  // namespace shoal
