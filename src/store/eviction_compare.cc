// Compares eviction policies by hit ratio on generated traces, and on a public one:
//   SHOAL_TRACE=/path/mooncake_conversation_trace.jsonl store_eviction_compare
// The figures in docs/decisions/0004-eviction.md come from here.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <list>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "store/internal/sieve.h"
#include "world_sim/sim_random.h"

namespace shoal {
namespace {

using store_internal::Sieve;
using Trace = std::vector<uint64_t>;

class Policy {
 public:
  virtual ~Policy() = default;
  // Whether the item was there; it is afterwards.
  virtual bool access(uint64_t item) = 0;
};

class SievePolicy final : public Policy {
 public:
  explicit SievePolicy(size_t capacity) : capacity_(capacity) {}
  bool access(uint64_t item) override {
    auto found = ids_.find(item);
    if (found != ids_.end()) {
      sieve_.touch(found->second);
      return true;
    }
    if (ids_.size() == capacity_) {
      auto victim = sieve_.victim([](uint64_t) { return true; });
      ids_.erase(sieve_.item(victim));
      sieve_.remove(victim);
    }
    ids_[item] = sieve_.insert(item);
    return false;
  }

 private:
  size_t capacity_;
  Sieve<uint64_t> sieve_;
  std::unordered_map<uint64_t, Sieve<uint64_t>::Id> ids_;
};

// LRU, or FIFO when hits do not move.
class ListPolicy final : public Policy {
 public:
  ListPolicy(size_t capacity, bool move) : capacity_(capacity), move_(move) {}
  bool access(uint64_t item) override {
    auto found = places_.find(item);
    if (found != places_.end()) {
      if (move_) order_.splice(order_.begin(), order_, found->second);
      return true;
    }
    if (places_.size() == capacity_) {
      places_.erase(order_.back());
      order_.pop_back();
    }
    order_.push_front(item);
    places_[item] = order_.begin();
    return false;
  }

 private:
  size_t capacity_;
  bool move_;
  std::list<uint64_t> order_;
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> places_;
};

// S3-FIFO: a small queue of a tenth, a main queue with a counter of two bits, ghosts of what left
// the small one unread.
class S3Policy final : public Policy {
 public:
  explicit S3Policy(size_t capacity)
      : small_max_(std::max<size_t>(1, capacity / 10)), capacity_(capacity) {}
  bool access(uint64_t item) override {
    auto found = items_.find(item);
    if (found != items_.end()) {
      found->second.reads = static_cast<uint8_t>(std::min(3, found->second.reads + 1));
      return true;
    }
    while (items_.size() >= capacity_) evict();
    bool known = ghosts_.erase(item) > 0;
    (known ? main_ : small_).push_back(item);
    items_[item] = {0, known};
    return false;
  }

 private:
  struct Item {
    uint8_t reads = 0;
    bool main = false;
  };
  void evict() {
    if (small_.size() >= small_max_ || main_.empty()) {
      while (!small_.empty()) {
        uint64_t item = small_.front();
        small_.pop_front();
        Item& state = items_[item];
        if (state.reads > 1) {
          state = {0, true};
          main_.push_back(item);
          continue;
        }
        items_.erase(item);
        remember(item);
        return;
      }
    }
    while (!main_.empty()) {
      uint64_t item = main_.front();
      main_.pop_front();
      Item& state = items_[item];
      if (state.reads == 0) {
        items_.erase(item);
        return;
      }
      --state.reads;
      main_.push_back(item);
    }
  }
  void remember(uint64_t item) {
    ghosts_.insert(item);
    ghost_order_.push_back(item);
    while (ghost_order_.size() > capacity_) {
      ghosts_.erase(ghost_order_.front());
      ghost_order_.pop_front();
    }
  }
  size_t small_max_;
  size_t capacity_;
  std::deque<uint64_t> small_;
  std::deque<uint64_t> main_;
  std::unordered_map<uint64_t, Item> items_;
  std::unordered_set<uint64_t> ghosts_;
  std::deque<uint64_t> ghost_order_;
};

const char* const kNames[] = {"SIEVE", "S3-FIFO", "LRU", "FIFO"};

std::unique_ptr<Policy> make(size_t which, size_t capacity) {
  switch (which) {
    case 0:
      return std::make_unique<SievePolicy>(capacity);
    case 1:
      return std::make_unique<S3Policy>(capacity);
    case 2:
      return std::make_unique<ListPolicy>(capacity, true);
    default:
      return std::make_unique<ListPolicy>(capacity, false);
  }
}

double hit_ratio(size_t which, size_t capacity, const Trace& trace) {
  std::unique_ptr<Policy> policy = make(which, capacity);
  size_t hits = 0;
  for (uint64_t item : trace) hits += policy->access(item) ? 1 : 0;
  return static_cast<double>(hits) / static_cast<double>(trace.size());
}

// Rows of hit ratios in percent for caches of several sizes; answers those of the 10% cache.
std::vector<double> compare(const char* name, const Trace& trace) {
  size_t unique = std::unordered_set<uint64_t>(trace.begin(), trace.end()).size();
  std::printf("%s: %zu accesses, %zu items\n  cache", name, trace.size(), unique);
  for (const char* policy : kNames) std::printf("%9s", policy);
  std::printf("\n");
  std::vector<double> middle;
  for (double part : {0.01, 0.05, 0.1, 0.25, 0.5}) {
    auto capacity = std::max<size_t>(10, static_cast<size_t>(part * static_cast<double>(unique)));
    std::printf("  %4.0f%%", part * 100);
    for (size_t which = 0; which < std::size(kNames); ++which) {
      double ratio = hit_ratio(which, capacity, trace);
      std::printf("%8.1f%%", ratio * 100);
      if (part == 0.1) middle.push_back(ratio);
    }
    std::printf("\n");
  }
  return middle;
}

Trace zipf(uint64_t seed, size_t length, size_t items, double skew) {
  std::vector<double> sums;
  double sum = 0;
  for (size_t i = 1; i <= items; ++i) {
    sum += std::pow(static_cast<double>(i), -skew);
    sums.push_back(sum);
  }
  SeededRandom random(seed);
  Trace trace;
  for (size_t i = 0; i < length; ++i) {
    auto at = std::lower_bound(sums.begin(), sums.end(), random.unit() * sum);
    trace.push_back(static_cast<uint64_t>(at - sums.begin()));
  }
  return trace;
}

// Readers of popular data, and now and then a job that reads a new data set once.
Trace with_scans(Trace trace, size_t every, size_t length) {
  Trace mixed;
  uint64_t fresh = uint64_t{1} << 40;
  for (size_t i = 0; i < trace.size(); ++i) {
    mixed.push_back(trace[i]);
    if (i % every != every - 1) continue;
    for (size_t j = 0; j < length; ++j) mixed.push_back(fresh++);
  }
  return mixed;
}

// Epochs over one data set that does not fit, beside popular files.
Trace with_epochs(Trace trace, size_t items) {
  Trace mixed;
  for (size_t i = 0; i < trace.size(); ++i) {
    mixed.push_back(trace[i]);
    mixed.push_back((uint64_t{1} << 41) + i % items);
  }
  return mixed;
}

constexpr size_t kSieve = 0;
constexpr size_t kLru = 2;
constexpr size_t kFifo = 3;

TEST(Eviction, zipf) {
  auto ratios = compare("zipf 1.0", zipf(1, 300000, 20000, 1.0));
  EXPECT_GT(ratios[kSieve], ratios[kLru]);
  EXPECT_GT(ratios[kSieve], ratios[kFifo]);
}
TEST(Eviction, zipf_flat) {
  auto ratios = compare("zipf 0.7", zipf(2, 300000, 20000, 0.7));
  EXPECT_GT(ratios[kSieve], ratios[kLru]);
}
TEST(Eviction, scans_do_not_push_out_what_is_used) {
  auto ratios = compare("zipf 1.0 with scans", with_scans(zipf(3, 200000, 10000, 1.0), 5000, 3000));
  EXPECT_GT(ratios[kSieve], ratios[kLru] + 0.02);
}
TEST(Eviction, epochs_over_a_data_set_that_does_not_fit) {
  auto ratios = compare("zipf 1.0 with epochs", with_epochs(zipf(4, 150000, 10000, 1.0), 15000));
  EXPECT_GT(ratios[kSieve], ratios[kLru]);
}

TEST(Eviction, public_trace) {
  const char* path = std::getenv("SHOAL_TRACE");
  if (path == nullptr) GTEST_SKIP() << "set SHOAL_TRACE to a trace with hash_ids";
  std::ifstream in(path);
  ASSERT_TRUE(in) << path;
  Trace trace;
  std::string line;
  while (std::getline(in, line)) {
    size_t at = line.find("\"hash_ids\": [");
    if (at == std::string::npos) continue;
    const char* text = line.c_str() + at + 13;
    while (*text >= '0' && *text <= '9') {
      char* end = nullptr;
      trace.push_back(std::strtoull(text, &end, 10));
      text = *end == ',' ? end + 2 : end;
    }
  }
  ASSERT_FALSE(trace.empty());
  compare("public trace", trace);
}

}  // namespace
}  // namespace shoal
