// Counters, gauges and histograms. The Registry comes from main; rooms get a reference and keep
// references to the metrics they made. Reading and adding are safe from any thread.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

// Relaxed: a counter orders nothing; it is only read for display.
class Counter {
 public:
  void add(uint64_t amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Counts of values in powers of two, for latencies in microseconds and sizes in bytes.
class Histogram {
 public:
  void record(uint64_t value) {
    buckets_[static_cast<size_t>(std::bit_width(value))].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
  }
  uint64_t count() const;
  uint64_t sum() const { return sum_.load(std::memory_order_relaxed); }
  // Upper bound of the bucket that holds the quantile (0..1); 0 when empty.
  uint64_t quantile(double q) const;
  // Bucket i counts values of bit width i, that is below 2^i.
  uint64_t bucket(size_t i) const { return buckets_[i].load(std::memory_order_relaxed); }
  static constexpr size_t kBuckets = 65;

 private:
  std::array<std::atomic<uint64_t>, kBuckets> buckets_{};
  std::atomic<uint64_t> sum_{0};
};

// Names follow Prometheus: shoal_origin_bytes_read_total. Made once at start, never removed.
class Registry {
 public:
  Counter& counter(std::string name, std::string help);
  Histogram& histogram(std::string name, std::string help);
  // `read` is called when metrics are shown, from any thread.
  void gauge(std::string name, std::string help, std::function<double()> read);
  // Prometheus text format 0.0.4.
  std::string prometheus_text() const;

 private:
  struct Entry {
    std::string name;
    std::string help;
    std::unique_ptr<Counter> counter;
    std::unique_ptr<Histogram> histogram;
    std::function<double()> gauge;
  };
  mutable std::mutex mutex_;
  std::deque<Entry> entries_;
};

}  // namespace shoal
