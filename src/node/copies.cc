#include "node/copies.h"

#include <algorithm>
#include <utility>

namespace shoal {

namespace {
constexpr unsigned kWritingMax = 2;  // one is with the disk, one is ready
// What has waited for so long unread was prefetched for a reader that went elsewhere.
constexpr Duration kUnread = std::chrono::seconds(1);
}  // namespace

Copies::Copies(Executor& executor, Registry& registry, uint64_t waiting_max)
    : executor_(executor),
      waiting_max_(waiting_max),
      dropped_bytes_(registry.counter("shoal_node_copies_dropped_bytes_total",
                                      "Bytes read from other nodes that were not kept here too, "
                                      "because the disk was slower than the reader.")) {}

Task<bool> Copies::turn(Copy& copy, uint64_t bytes, Context context) {
  SHOAL_ASSERT(copy.state_ == Copy::State::kNew);
  copy.state_ = Copy::State::kWaiting;
  copy.bytes_ = bytes;
  copy.since_ = executor_.now();
  waiting_.push_back(&copy);
  waiting_bytes_ += bytes;
  start();
  drop_above_limit();
  while (copy.state_ == Copy::State::kWaiting) {
    Status status = co_await copy.changed_.wait(context);
    if (!status && copy.state_ == Copy::State::kWaiting) drop(copy);
  }
  co_return copy.state_ == Copy::State::kWriting;
}

void Copies::written(Copy& copy) {
  SHOAL_ASSERT(copy.state_ == Copy::State::kWriting && writing_ > 0);
  --writing_;
  start();
}

void Copies::was_read(Copy& copy) {
  copy.read_ = true;
  drop_above_limit();
}

void Copies::start() {
  while (writing_ < kWritingMax && !waiting_.empty()) {
    Copy& next = *waiting_.front();
    waiting_.pop_front();
    waiting_bytes_ -= next.bytes_;
    ++writing_;
    next.state_ = Copy::State::kWriting;
    next.changed_.notify_all();
  }
}

void Copies::drop(Copy& copy) {
  waiting_.remove(&copy);
  waiting_bytes_ -= copy.bytes_;
  copy.state_ = Copy::State::kDropped;
  copy.changed_.notify_all();
  dropped_bytes_.add(copy.bytes_);
}

void Copies::drop_above_limit() {
  for (auto at = waiting_.begin(); at != waiting_.end() && waiting_bytes_ > waiting_max_;) {
    Copy& copy = **at++;
    if (copy.read_ && !copy.wanted_) drop(copy);
  }
}

void Copies::make_room(uint64_t bytes) {
  uint64_t enough = waiting_bytes_ - std::min(waiting_bytes_, bytes);
  SteadyTime old = executor_.now() - kUnread;
  for (bool unread : {false, true}) {
    for (auto at = waiting_.begin(); at != waiting_.end() && waiting_bytes_ > enough;) {
      Copy& copy = **at++;
      bool may_go = unread ? copy.since_ < old : copy.read_;
      if (may_go && !copy.wanted_) drop(copy);
    }
  }
}

}  // namespace shoal
