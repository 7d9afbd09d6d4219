#include "mount/interrupts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <optional>
#include <system_error>

#include "mount/descriptor.h"

namespace shoal::fuse {

namespace {

constexpr uint64_t bit(int signal) { return uint64_t{1} << (signal - 1); }
// A signal that ends a process by default shows as SIGKILL.
constexpr uint64_t kEnding =
    bit(SIGKILL) | bit(SIGINT) | bit(SIGTERM) | bit(SIGHUP) | bit(SIGQUIT) | bit(SIGABRT);

std::optional<uint64_t> mask_of(std::string_view status, std::string_view label) {
  size_t at = status.find(label);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view digits = status.substr(at + label.size());
  uint64_t mask = 0;
  auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), mask, 16);
  if (parsed.ec != std::errc()) return std::nullopt;
  return mask;
}

}  // namespace

bool is_asked_to_end(std::string_view status) {
  auto own = mask_of(status, "\nSigPnd:\t");
  auto shared = mask_of(status, "\nShdPnd:\t");
  auto blocked = mask_of(status, "\nSigBlk:\t");
  if (!own || !shared || !blocked) return true;
  return ((*own | *shared) & ~*blocked & kEnding) != 0;
}

bool is_asked_to_end(uint32_t thread) {
  if (thread == 0) return true;
  Descriptor file(::open(fmt::format("/proc/{}/status", thread).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return true;
  std::array<char, 16384> text;  // a list of groups goes before what is looked for
  ssize_t got = ::read(file.get(), text.data(), text.size());
  if (got <= 0) return true;
  return is_asked_to_end(std::string_view(text.data(), static_cast<size_t>(got)));
}

}  // namespace shoal::fuse
