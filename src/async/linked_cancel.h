// A Cancel of one's own that follows another: for a call that its caller may give up, and whoever
// watches over it too.
#pragma once

#include "async/context.h"

namespace shoal {

class LinkedCancel final : private CancelHook {
 public:
  // `outer` may be null; it must outlive this.
  explicit LinkedCancel(Cancel* outer) {
    if (outer != nullptr && outer->requested()) inner.request();
    CancelHook::attach(outer);
  }
  ~LinkedCancel() { CancelHook::detach(); }

  Cancel inner;
  bool given_up = false;  // set by the watcher that requests `inner`

 private:
  void on_cancel() noexcept override { inner.request(); }
};

}  // namespace shoal
