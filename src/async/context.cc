#include "async/context.h"

namespace shoal {

void CancelHook::attach(Cancel* cancel) {
  SHOAL_ASSERT(cancel_ == nullptr);
  if (cancel == nullptr) return;
  cancel_ = cancel;
  next_ = cancel->first_;
  previous_ = nullptr;
  if (next_ != nullptr) next_->previous_ = this;
  cancel->first_ = this;
}

void CancelHook::detach() {
  if (cancel_ == nullptr) return;
  if (previous_ != nullptr) {
    previous_->next_ = next_;
  } else {
    cancel_->first_ = next_;
  }
  if (next_ != nullptr) next_->previous_ = previous_;
  cancel_ = nullptr;
  previous_ = next_ = nullptr;
}

void Cancel::request() {
  requested_ = true;
  while (first_ != nullptr) {
    CancelHook* hook = first_;
    hook->detach();
    hook->on_cancel();
  }
}

}  // namespace shoal
