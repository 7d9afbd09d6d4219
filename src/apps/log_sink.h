// Where log lines go: stderr or a file that rotates (10 MiB, three old ones kept), as text or JSON.
#pragma once

#include <string>

#include "apps/options.h"
#include "base/error.h"
#include "observe/log.h"

namespace shoal {

// /var/log/shoal/<name>.log for root, else $XDG_STATE_HOME or ~/.local/state/shoal/<name>.log.
std::string default_log_file(const std::string& name);

// `file` empty: stderr. Each line is on its way to the kernel when write() returns.
Result<Log> open_log(LogLevel level, LogFormat format, const std::string& file);

// One log line as JSON: {"time":...,"level":...,"message":...}. Bytes that are not UTF-8 are
// replaced.
std::string json_log_line(std::string_view time, std::string_view level, std::string_view message);

}  // namespace shoal
