#include "world_sim/sim_nic.h"

#include <algorithm>

#include "base/assert.h"

namespace shoal {

Duration SimNicPort::time_of(uint64_t bytes) const {
  if (rate_ == 0) return Duration(0);
  return Duration(
      static_cast<int64_t>(static_cast<double>(bytes) / static_cast<double>(rate_) * 1e9));
}

void SimNicPort::submit(Turn turn) {
  turns_.push_back(std::move(turn));
  if (!busy_) serve();
}

void SimNicPort::serve() {
  SHOAL_ASSERT(!busy_ && !turns_.empty());
  busy_ = true;
  Turn& turn = turns_.front();
  serving_ = std::min(turn.left, quantum_);
  bytes_ += serving_;
  scheduler_->at(scheduler_->now() + time_of(serving_), nullptr, [this] { served(); });
  // Last, since what begins may submit.
  if (auto begun = std::exchange(turn.begun, nullptr)) begun();
}

void SimNicPort::served() {
  SHOAL_ASSERT(busy_ && !turns_.empty());
  Turn turn = std::move(turns_.front());
  turns_.pop_front();
  SHOAL_ASSERT(turn.left >= serving_);
  turn.left -= serving_;
  busy_ = false;
  if (turn.left > 0) {
    turns_.push_back(std::move(turn));
    return serve();
  }
  // The next one starts before this one's owner is told, who comes again behind the others.
  if (!turns_.empty()) serve();
  turn.passed();
}

}  // namespace shoal
