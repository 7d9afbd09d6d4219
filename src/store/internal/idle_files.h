// IdleFiles: the loaded files that were used last and that nobody uses now. They stay loaded for a
// while: a peer that reads a file range by range would else have its table read and parsed again
// for each of them.
//
// Shard's thread.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <utility>

#include "world/executor.h"

namespace shoal::store_internal {

class File;

class IdleFiles : private Timer {
 public:
  // `leave` hears of each file that has been idle for too long, or that others push out; it may be
  // in use again by then.
  IdleFiles(Executor& executor, std::function<void(std::shared_ptr<File>)> leave)
      : executor_(executor), leave_(std::move(leave)) {}
  ~IdleFiles() { executor_.stop_timer(*this); }

  void add(std::shared_ptr<File> file) {
    files_.remove_if([&](const Idle& idle) { return idle.file == file; });
    files_.push_front({std::move(file), executor_.now()});
    if (files_.size() > kMax) let_go_last();
    if (!armed()) executor_.start_timer(*this, executor_.now() + kFor);
  }
  void clear() {
    files_.clear();
    executor_.stop_timer(*this);
  }

 private:
  static constexpr size_t kMax = 16;  // two descriptors each, and 1 MiB for each 8 GiB of size
  static constexpr Duration kFor = std::chrono::seconds(5);

  struct Idle {
    std::shared_ptr<File> file;
    SteadyTime since;
  };

  void let_go_last() {
    std::shared_ptr<File> last = std::move(files_.back().file);
    files_.pop_back();
    leave_(std::move(last));
  }
  void run() noexcept override {
    while (!files_.empty() && executor_.now() - files_.back().since >= kFor) let_go_last();
    if (!files_.empty()) executor_.start_timer(*this, files_.back().since + kFor);
  }

  Executor& executor_;
  std::function<void(std::shared_ptr<File>)> leave_;
  std::list<Idle> files_;  // the last used first
};

}  // namespace shoal::store_internal
