// Awaitable HTTP.
#pragma once

#include <coroutine>

#include "async/context.h"
#include "async/task.h"
#include "world/http.h"

namespace shoal {

// Fill in the fields of HttpCall, then await it: the answer is Result<HttpResponse>. The context's
// deadline and cancellation apply.
class [[nodiscard]] HttpExchange : public HttpCall, private CancelHook {
 public:
  HttpExchange(Http& http, Context context) : http_(http), cancel_(context.cancel) {
    deadline = context.deadline;
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    if (cancel_ != nullptr && cancel_->requested()) deadline = SteadyTime::min();
    CancelHook::attach(cancel_);
    http_.start(*this);
  }
  Result<HttpResponse> await_resume() {
    if (cancel_ != nullptr && cancel_->requested()) return fail(Code::kCancelled, "cancelled");
    return std::move(result);
  }

 private:
  void run() noexcept override {
    CancelHook::detach();
    handle_.resume();
  }
  void on_cancel() noexcept override { http_.cancel(*this); }

  Http& http_;
  Cancel* cancel_;
  std::coroutine_handle<> handle_;
};

}  // namespace shoal
