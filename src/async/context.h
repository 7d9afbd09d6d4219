// Context: how long a request may take and whether its caller still wants it. Passed by value down
// every flow. Cancel: the caller's side of it.
#pragma once

#include <algorithm>

#include "base/assert.h"
#include "base/error.h"
#include "world/executor.h"

namespace shoal {

class Cancel;

// Something to be told of a cancellation; unlinks itself when destroyed. Shard's thread.
class CancelHook {
 public:
  virtual void on_cancel() noexcept = 0;
  void attach(Cancel* cancel);
  void detach();

 protected:
  CancelHook() = default;
  ~CancelHook() { detach(); }
  CancelHook(const CancelHook&) = delete;
  CancelHook& operator=(const CancelHook&) = delete;

 private:
  friend class Cancel;
  Cancel* cancel_ = nullptr;
  CancelHook* previous_ = nullptr;
  CancelHook* next_ = nullptr;
};

// Owned by whoever may give up; outlives every Context that points to it.
class Cancel {
 public:
  Cancel() = default;
  Cancel(const Cancel&) = delete;
  Cancel& operator=(const Cancel&) = delete;
  ~Cancel() { SHOAL_ASSERT(first_ == nullptr, "a cancelled flow outlived its Cancel"); }

  bool requested() const { return requested_; }
  // Tells every hook once. Idempotent.
  void request();
  // Ready for the next attempt; nothing may still listen.
  void reset() {
    SHOAL_ASSERT(first_ == nullptr, "a cancelled flow is still running");
    requested_ = false;
  }

 private:
  friend class CancelHook;
  bool requested_ = false;
  CancelHook* first_ = nullptr;
};

struct Context {
  SteadyTime deadline = kNever;
  Cancel* cancel = nullptr;  // may be null

  static Context within(const Executor& executor, Duration limit) {
    return {executor.now() + limit, nullptr};
  }
  // The same request with a deadline at most `limit` from now.
  Context tightened(const Executor& executor, Duration limit) const {
    return {std::min(deadline, executor.now() + limit), cancel};
  }
  // Fails if the deadline has passed or the caller gave up.
  Status check(const Executor& executor) const {
    if (cancel != nullptr && cancel->requested()) return fail(Code::kCancelled, "cancelled");
    if (executor.now() >= deadline) return fail(Code::kDeadlineExceeded, "deadline exceeded");
    return {};
  }
};

}  // namespace shoal
