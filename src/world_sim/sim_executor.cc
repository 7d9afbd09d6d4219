#include "world_sim/sim_executor.h"

#include <algorithm>

#include "base/assert.h"

namespace shoal {

namespace {

// More than any honest burst of work at one instant; an endless loop of posts ends here.
constexpr uint64_t kStepsAtOneTimeMax = 50'000'000;
constexpr size_t kCompactAt = 4096;

}  // namespace

SimScheduler::SimScheduler(uint64_t seed, bool shuffle)
    : shuffle_(shuffle), random_(seed), shuffler_(random_.fork()) {}

SimScheduler::~SimScheduler() { SHOAL_ASSERT(current_ == nullptr, "destroyed from within"); }

SimScheduler::EventId SimScheduler::at(SteadyTime when, SimExecutor* owner,
                                       std::function<void()> action) {
  SHOAL_ASSERT(owner == nullptr || owner->alive_);
  EventId id{std::max(when, now_), ++sequence_};
  if (!ended_) events_.emplace(id, Event{owner, nullptr, std::move(action)});
  return id;
}

SteadyTime SimScheduler::next_time() const {
  if (first_ready_ < ready_.size()) return now_;
  return events_.empty() ? kNever : events_.begin()->first.first;
}

void SimScheduler::advance_to(SteadyTime when) {
  SHOAL_ASSERT(when >= now_ && when <= next_time(), "time would jump over an event");
  if (when != now_) steps_at_this_time_ = 0;
  now_ = when;
}

void SimScheduler::note(uint64_t value) {
  trace_ = (trace_ ^ value) * 0x9E3779B97F4A7C15ull;
  trace_ ^= trace_ >> 29;
}

bool SimScheduler::step() {
  SHOAL_ASSERT(current_ == nullptr, "step() from within a step");
  ++steps_;
  SHOAL_ASSERT(++steps_at_this_time_ < kStepsAtOneTimeMax, "the simulation no longer advances");
  if (first_ready_ < ready_.size()) {
    size_t pick = first_ready_;
    if (shuffle_) pick += shuffler_.below(ready_.size() - first_ready_);
    // Swapping rather than shifting: with shuffling the order means nothing anyway.
    std::swap(ready_[pick], ready_[first_ready_]);
    Item item = ready_[first_ready_++];
    if (first_ready_ == ready_.size()) {
      ready_.clear();
      first_ready_ = 0;
    } else if (first_ready_ >= kCompactAt) {
      ready_.erase(ready_.begin(), ready_.begin() + static_cast<ptrdiff_t>(first_ready_));
      first_ready_ = 0;
    }
    note(item.owner->number_ * 4 + 1);
    current_ = item.owner;
    item.runnable->run();
    current_ = nullptr;
    return true;
  }
  if (events_.empty()) return false;
  auto first = events_.begin();
  SteadyTime when = first->first.first;
  Event event = std::move(first->second);
  events_.erase(first);
  SHOAL_ASSERT(when >= now_, "an event in the past");
  if (when != now_) steps_at_this_time_ = 0;
  now_ = when;
  note(static_cast<uint64_t>(when.time_since_epoch().count()));
  note(event.owner == nullptr ? 3 : event.owner->number_ * 4 + 2);
  if (event.timer != nullptr) {
    SHOAL_ASSERT(event.timer->armed_);
    event.timer->armed_ = false;
    current_ = event.owner;
    event.timer->run();
    current_ = nullptr;
  } else {
    event.action();  // the world's side: belongs to no process
  }
  return true;
}

void SimScheduler::drop(SimExecutor& owner, std::vector<Runnable*>& dropped) {
  std::vector<Item> kept;
  for (size_t i = first_ready_; i < ready_.size(); ++i) {
    if (ready_[i].owner == &owner) {
      dropped.push_back(ready_[i].runnable);
    } else {
      kept.push_back(ready_[i]);
    }
  }
  ready_ = std::move(kept);
  first_ready_ = 0;
  for (auto it = events_.begin(); it != events_.end();) {
    if (it->second.owner != &owner) {
      ++it;
      continue;
    }
    if (it->second.timer != nullptr) dropped.push_back(it->second.timer);
    it = events_.erase(it);
  }
}

std::vector<Runnable*> SimScheduler::end() {
  SHOAL_ASSERT(current_ == nullptr, "ended from within");
  ended_ = true;
  std::vector<Runnable*> dropped;
  for (size_t i = first_ready_; i < ready_.size(); ++i) dropped.push_back(ready_[i].runnable);
  ready_.clear();
  first_ready_ = 0;
  for (auto& [id, event] : std::exchange(events_, {})) {
    if (event.timer != nullptr) dropped.push_back(event.timer);
  }
  return dropped;
}

SimExecutor::SimExecutor(SimScheduler& scheduler)
    : scheduler_(scheduler), number_(++scheduler.executors_) {}

SimExecutor::~SimExecutor() {
  if (!alive_) return;
  std::vector<Runnable*> dropped = kill();
  SHOAL_ASSERT(dropped.empty(), "work is left on a simulated thread that ended in good order");
}

void SimExecutor::post(Runnable& item) {
  if (!alive_ || scheduler_.ended_) return;  // the process is gone; whoever waits, waits for ever
  scheduler_.ready_.push_back({this, &item});
}

void SimExecutor::start_timer(Timer& timer, SteadyTime when) {
  SHOAL_ASSERT(!timer.armed_, "the timer is armed already");
  if (!alive_ || scheduler_.ended_) return;
  timer.armed_ = true;
  timer.when_ = std::max(when, scheduler_.now_);
  timer.sequence_ = ++scheduler_.sequence_;
  scheduler_.events_.emplace(SimScheduler::EventId{timer.when_, timer.sequence_},
                             SimScheduler::Event{this, &timer, nullptr});
}

void SimExecutor::stop_timer(Timer& timer) {
  if (!timer.armed_) return;
  timer.armed_ = false;
  if (!alive_ || scheduler_.ended_) return;
  size_t erased = scheduler_.events_.erase({timer.when_, timer.sequence_});
  SHOAL_ASSERT(erased == 1, "an armed timer without its event");
}

std::vector<Runnable*> SimExecutor::kill() {
  SHOAL_ASSERT(alive_);
  SHOAL_ASSERT(scheduler_.current_ != this, "a process cannot kill itself from within its step");
  alive_ = false;
  std::vector<Runnable*> dropped;
  scheduler_.drop(*this, dropped);
  return dropped;
}

}  // namespace shoal
