#include "apps/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "apps/units.h"
#include "base/bytes.h"

namespace shoal {
namespace {

using std::chrono::steady_clock;

std::string amounts(const JobProgress& p, double seconds) {
  double rate = seconds > 0 ? static_cast<double>(p.bytes_done) / seconds : 0;
  std::string out =
      fmt::format("{} of {}  {}", format_size(p.bytes_done),
                  format_size(std::max(p.bytes_total, p.bytes_done)), format_rate(rate));
  if (rate > 0 && p.bytes_total > p.bytes_done) {
    double left = static_cast<double>(p.bytes_total - p.bytes_done) / rate;
    auto whole = std::chrono::seconds(static_cast<int64_t>(std::min(left + 1, 1e8)));
    out += fmt::format("  {} left", format_duration(whole));
  }
  if (p.objects_total > 0)
    out += fmt::format("  {} of {} objects", p.objects_done, p.objects_total);
  if (p.failures > 0) out += fmt::format("  {} failing", p.failures);
  return out;
}

size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20) return size.ws_col;
  return 80;
}

}  // namespace

std::string progress_bar(std::string_view verb, const JobProgress& p, double seconds,
                         size_t columns) {
  constexpr size_t kWidth = 20;
  double share = p.bytes_total > 0
                     ? static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total)
                 : p.objects_total > 0
                     ? static_cast<double>(p.objects_done) / static_cast<double>(p.objects_total)
                     : 0;
  auto filled = static_cast<size_t>(std::clamp(share, 0.0, 1.0) * kWidth);
  std::string out = fmt::format(
      "{}  [{}{}] {:>4}  {}", verb, std::string(filled, '#'), std::string(kWidth - filled, '-'),
      format_share(static_cast<uint64_t>(share * 1e6), 1000000), amounts(p, seconds));
  if (out.size() > columns) out.resize(columns);
  return out;
}

std::string progress_line(std::string_view verb, const JobProgress& p, double seconds) {
  return fmt::format("{}: {}", verb, amounts(p, seconds));
}

ProgressPrinter::ProgressPrinter(std::string verb)
    : verb_(std::move(verb)),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(steady_clock::now()),
      last_line_(start_) {}

double ProgressPrinter::seconds() const {
  return std::chrono::duration<double>(steady_clock::now() - start_).count();
}

void ProgressPrinter::update(const JobProgress& progress) {
  if (terminal_) {
    fmt::print(stderr, "\r{}\x1b[K",
               progress_bar(verb_, progress, seconds(), terminal_columns() - 1));
    fflush(stderr);
    shown_ = true;
  } else if (steady_clock::now() - last_line_ >= std::chrono::seconds(5)) {
    last_line_ = steady_clock::now();
    fmt::print(stderr, "{}\n", progress_line(verb_, progress, seconds()));
  }
}

void ProgressPrinter::clear() {
  if (!shown_) return;
  fmt::print(stderr, "\r\x1b[K");
  fflush(stderr);
  shown_ = false;
}

}  // namespace shoal
