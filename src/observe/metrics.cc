#include "observe/metrics.h"

#include <fmt/format.h>

namespace shoal {

uint64_t Histogram::count() const {
  uint64_t total = 0;
  for (const auto& bucket : buckets_) total += bucket.load(std::memory_order_relaxed);
  return total;
}

uint64_t Histogram::quantile(double q) const {
  uint64_t total = count();
  if (total == 0) return 0;
  auto rank = static_cast<uint64_t>(q * static_cast<double>(total - 1));
  uint64_t seen = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    seen += bucket(i);
    if (seen > rank) return i == 0 ? 0 : i >= 64 ? UINT64_MAX : (uint64_t{1} << i) - 1;
  }
  return UINT64_MAX;
}

Counter& Registry::counter(std::string name, std::string help) {
  std::lock_guard lock(mutex_);
  for (Entry& entry : entries_) {
    if (entry.name == name && entry.counter) return *entry.counter;
  }
  entries_.push_back({std::move(name), std::move(help), std::make_unique<Counter>(), nullptr, {}});
  return *entries_.back().counter;
}

Histogram& Registry::histogram(std::string name, std::string help) {
  std::lock_guard lock(mutex_);
  for (Entry& entry : entries_) {
    if (entry.name == name && entry.histogram) return *entry.histogram;
  }
  entries_.push_back(
      {std::move(name), std::move(help), nullptr, std::make_unique<Histogram>(), {}});
  return *entries_.back().histogram;
}

void Registry::gauge(std::string name, std::string help, std::function<double()> read) {
  std::lock_guard lock(mutex_);
  entries_.push_back({std::move(name), std::move(help), nullptr, nullptr, std::move(read)});
}

std::string Registry::prometheus_text() const {
  std::lock_guard lock(mutex_);
  std::string out;
  auto to = std::back_inserter(out);
  for (const Entry& entry : entries_) {
    const char* type = entry.counter ? "counter" : entry.histogram ? "histogram" : "gauge";
    fmt::format_to(to, "# HELP {} {}\n# TYPE {} {}\n", entry.name, entry.help, entry.name, type);
    if (entry.counter) {
      fmt::format_to(to, "{} {}\n", entry.name, entry.counter->value());
    } else if (entry.gauge) {
      fmt::format_to(to, "{} {}\n", entry.name, entry.gauge());
    } else {
      uint64_t below = 0;
      for (size_t i = 0; i < 40; ++i) {
        below += entry.histogram->bucket(i);
        fmt::format_to(to, "{}_bucket{{le=\"{}\"}} {}\n", entry.name, (uint64_t{1} << i) - 1,
                       below);
      }
      uint64_t count = entry.histogram->count();
      fmt::format_to(to, "{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", entry.name, count,
                     entry.name, entry.histogram->sum(), entry.name, count);
    }
  }
  return out;
}

}  // namespace shoal
