#include "async/sync.h"

#include <algorithm>

namespace shoal {

bool Waiter::await_suspend(std::coroutine_handle<> handle) {
  if (context_.cancel != nullptr && context_.cancel->requested()) return false;
  if (context_.deadline <= executor_.now()) return false;
  resume_.handle = handle;
  suspended_ = true;
  if (queue_ != nullptr) queue_->push(*this);
  CancelHook::attach(context_.cancel);
  if (context_.deadline != kNever) executor_.start_timer(*this, context_.deadline);
  return true;
}

Status Waiter::await_resume() {
  if (woken_) return {};
  if (context_.cancel != nullptr && context_.cancel->requested()) {
    return fail(Code::kCancelled, "cancelled");
  }
  return fail(Code::kDeadlineExceeded, "deadline exceeded");
}

void Waiter::run() noexcept {  // the deadline
  if (queue_ != nullptr) queue_->remove(*this);
  finish(false);
}

void Waiter::on_cancel() noexcept {
  if (queue_ != nullptr) queue_->remove(*this);
  finish(false);
}

void Waiter::finish(bool woken) {
  SHOAL_ASSERT(suspended_);
  suspended_ = false;
  woken_ = woken;
  executor_.stop_timer(*this);
  CancelHook::detach();
  executor_.post(resume_);
}

void WaitQueue::push(Waiter& waiter) {
  waiter.previous_ = last_;
  waiter.following_ = nullptr;
  if (last_ != nullptr) {
    last_->following_ = &waiter;
  } else {
    first_ = &waiter;
  }
  last_ = &waiter;
}

void WaitQueue::remove(Waiter& waiter) {
  (waiter.previous_ != nullptr ? waiter.previous_->following_ : first_) = waiter.following_;
  (waiter.following_ != nullptr ? waiter.following_->previous_ : last_) = waiter.previous_;
  waiter.previous_ = waiter.following_ = nullptr;
}

void WaitQueue::wake_front() {
  Waiter* waiter = first_;
  SHOAL_ASSERT(waiter != nullptr);
  remove(*waiter);
  waiter->finish(true);
}

void WaitQueue::wake_all() {
  while (first_ != nullptr) wake_front();
}

void Permit::release() {
  if (semaphore_ == nullptr) return;
  Semaphore* semaphore = std::exchange(semaphore_, nullptr);
  semaphore->give_back(std::exchange(amount_, 0));
}

Task<Result<Permit>> Semaphore::acquire(uint64_t amount, Context context) {
  amount = std::min(amount, std::max<uint64_t>(limit_, 1));
  if (queue_.empty() && fits(amount)) {
    used_ += amount;
    co_return Permit(this, amount);
  }
  Status status = co_await Waiter(executor_, &queue_, context, amount);
  if (!status) {
    wake();  // a smaller request behind this one may fit now
    co_return fail(std::move(status).error());
  }
  co_return Permit(this, amount);  // wake() counted it
}

std::optional<Permit> Semaphore::try_acquire(uint64_t amount) {
  amount = std::min(amount, std::max<uint64_t>(limit_, 1));
  if (!queue_.empty() || !fits(amount)) return std::nullopt;
  used_ += amount;
  return Permit(this, amount);
}

void Semaphore::set_limit(uint64_t limit) {
  limit_ = limit;
  wake();
}

void Semaphore::give_back(uint64_t amount) {
  SHOAL_ASSERT(used_ >= amount);
  used_ -= amount;
  wake();
}

void Semaphore::wake() {
  while (!queue_.empty() && fits(queue_.front_amount())) {
    used_ += queue_.front_amount();
    queue_.wake_front();
  }
}

Task<Status> sleep_for(Executor& executor, Duration duration, Context context) {
  SteadyTime wake = executor.now() + duration;
  Context sleep{std::min(wake, context.deadline), context.cancel};
  Status status = co_await Waiter(executor, nullptr, sleep);
  if (!status && status.error().code() == Code::kDeadlineExceeded && wake <= context.deadline) {
    co_return Status();
  }
  co_return status;
}

}  // namespace shoal
