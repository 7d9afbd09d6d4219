#include "async/gate.h"

namespace shoal {

struct Gate::Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

Gate::Detached Gate::run(Gate& gate, Task<void> task) {
  co_await Yield(gate.executor_);
  {
    Task<void> owned = std::move(task);
    co_await owned;
  }
  SHOAL_ASSERT(gate.count_ > 0);
  if (--gate.count_ == 0) gate.empty_.notify_all();
}

bool Gate::spawn(Task<void> task) {
  SHOAL_ASSERT(executor_.on_thread());
  if (closed_) return false;
  ++count_;
  run(*this, std::move(task));
  return true;
}

Task<void> Gate::close() {
  closed_ = true;
  while (count_ > 0) {
    Status status = co_await empty_.wait({});
    SHOAL_ASSERT(status.has_value());
  }
}

namespace {

struct Batch {
  std::vector<Task<Status>> tasks;
  size_t next = 0;
  Status status;
};

Task<void> work_through(Batch& batch) {
  while (batch.next < batch.tasks.size() && batch.status) {
    Task<Status> task = std::move(batch.tasks[batch.next++]);
    Status status = co_await task;
    if (!status && batch.status) batch.status = std::move(status);
  }
}

}  // namespace

Task<Status> run_all(Executor& executor, std::vector<Task<Status>> tasks, size_t parallel_max) {
  SHOAL_ASSERT(parallel_max >= 1);
  Batch batch{std::move(tasks), 0, {}};
  Gate gate(executor);
  size_t workers = std::min(parallel_max, batch.tasks.size());
  for (size_t i = 0; i < workers; ++i) gate.spawn(work_through(batch));
  co_await gate.close();
  co_return std::move(batch.status);
}

Task<Status> as_status(Task<void> task) {
  Task<void> mine = std::move(task);
  co_await mine;
  co_return Status();
}

}  // namespace shoal
