// Log lines. Rooms say what happened; main decides where it goes (apps set the sink). Never log
// secrets: pass URLs through redact_url() first.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>

namespace shoal {

enum class LogLevel { kTrace, kDebug, kInfo, kWarning, kError };

// Shared by reference; write() is called from any thread, so the sink must be thread-safe.
class Log {
 public:
  using Sink = std::function<void(LogLevel, std::string_view message)>;
  Log() = default;  // says nothing
  Log(LogLevel level, Sink sink) : level_(level), sink_(std::move(sink)) {}

  bool enabled(LogLevel level) const { return sink_ && level >= level_; }
  void write(LogLevel level, std::string_view message) const {
    if (enabled(level)) sink_(level, message);
  }
  template <typename... Args>
  void debug(fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(LogLevel::kDebug)) {
      write(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
    }
  }
  template <typename... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(LogLevel::kInfo)) {
      write(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
    }
  }
  template <typename... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(LogLevel::kWarning)) {
      write(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
    }
  }
  template <typename... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(LogLevel::kError)) {
      write(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
    }
  }

 private:
  LogLevel level_ = LogLevel::kError;
  Sink sink_;
};

// The URL with the values of sig, se and other SAS parameters and any user:password replaced.
std::string redact_url(std::string_view url);

}  // namespace shoal
