#include "apps/log_sink.h"

#include <fmt/format.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/bytes.h"

namespace shoal {
namespace {

constexpr size_t kFileBytesMax = 10 * kMiB;
constexpr size_t kFilesKept = 3;

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return spdlog::level::trace;
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& line, spdlog::memory_buf_t& out) override {
    using namespace std::chrono;
    auto us = duration_cast<microseconds>(line.time.time_since_epoch()).count();
    std::time_t s = us / 1000000;
    std::tm utc{};
    gmtime_r(&s, &utc);
    char date[32];
    std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
    auto level = spdlog::level::to_string_view(line.level);
    std::string text =
        json_log_line(fmt::format("{}.{:06}Z", date, us % 1000000), {level.data(), level.size()},
                      {line.payload.data(), line.payload.size()});
    text.push_back('\n');
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

// A message is one line: a file name with a newline must not forge a second.
std::string one_line(std::string_view message) {
  std::string out;
  for (char c : message) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", byte);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace

std::string default_log_file(const std::string& name) {
  std::string base = "/var/log/shoal";
  if (geteuid() != 0) {
    const char* state = std::getenv("XDG_STATE_HOME");
    const char* home = std::getenv("HOME");
    if (state != nullptr && *state == '/') {
      base = std::string(state) + "/shoal";
    } else {
      base = std::string(home != nullptr ? home : "/tmp") + "/.local/state/shoal";
    }
  }
  return base + "/" + name + ".log";
}

std::string json_log_line(std::string_view time, std::string_view level, std::string_view message) {
  nlohmann::ordered_json json = {{"time", time}, {"level", level}, {"message", message}};
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

Result<Log> open_log(LogLevel level, LogFormat format, const std::string& file) {
  std::shared_ptr<spdlog::sinks::sink> sink;
  try {
    if (file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    } else {
      std::filesystem::create_directories(std::filesystem::path(file).parent_path());
      sink =
          std::make_shared<spdlog::sinks::rotating_file_sink_mt>(file, kFileBytesMax, kFilesKept);
    }
  } catch (const std::exception& error) {  // foreign code
    return fail(Code::kDiskError,
                fmt::format("cannot open the log file {}: {}; name another with --log-file", file,
                            error.what()));
  }
  // Shared: the Log is copied, and its sink with it.
  auto logger = std::make_shared<spdlog::logger>("shoal", sink);
  logger->set_level(spdlog_level(level));
  logger->flush_on(spdlog::level::trace);
  if (format == LogFormat::kJson) {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v", spdlog::pattern_time_type::utc);
  }
  return Log(level, [logger, format](LogLevel at, std::string_view message) {
    std::string line = format == LogFormat::kJson ? std::string(message) : one_line(message);
    logger->log(spdlog_level(at), spdlog::string_view_t(line.data(), line.size()));
  });
}

}  // namespace shoal
