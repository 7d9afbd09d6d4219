// SingleFlight: at most one call per key is in flight; later callers wait for its result. Waiters
// keep their own deadlines; the call itself runs in the gate with its own context and is not
// cancelled when one waiter gives up.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>

#include "async/gate.h"
#include "async/sync.h"

namespace shoal {

template <typename Key, typename T>
class SingleFlight {
 public:
  SingleFlight(Executor& executor, Gate& gate) : executor_(executor), gate_(gate) {}
  ~SingleFlight() { SHOAL_ASSERT(flights_.empty()); }

  // `start` makes the task if none is in flight for `key`. T must be copyable. `forgotten`, if
  // given, is set when the call had been forgotten by the time it ended.
  Task<Result<T>> run(Key key, std::function<Task<Result<T>>()> start, Context context,
                      bool* forgotten = nullptr) {
    auto found = flights_.find(key);
    std::shared_ptr<Flight> flight;  // shared by the running task and every waiter
    if (found != flights_.end()) {
      flight = found->second;
    } else {
      flight = std::make_shared<Flight>(executor_);
      flights_.emplace(key, flight);
      if (!gate_.spawn(fly(*this, key, flight, start()))) {
        forget(key);
        co_return fail(Code::kCancelled, "shutting down");
      }
    }
    while (!flight->result.has_value()) {
      Status status = co_await flight->done.wait(context);
      if (!status && !flight->result.has_value()) co_return fail(std::move(status).error());
    }
    if (forgotten != nullptr) *forgotten = flight->forgotten;
    co_return *flight->result;
  }
  // What changes now would be missing from the answer of a call under way: who asks from now on
  // does not share it.
  void forget(const Key& key) {
    auto found = flights_.find(key);
    if (found == flights_.end()) return;
    found->second->forgotten = true;
    flights_.erase(found);
  }
  size_t size() const { return flights_.size(); }

 private:
  struct Flight {
    explicit Flight(Executor& executor) : done(executor) {}
    Signal done;
    std::optional<Result<T>> result;
    bool forgotten = false;
  };
  static Task<void> fly(SingleFlight& self, Key key, std::shared_ptr<Flight> flight,
                        Task<Result<T>> task) {
    flight->result = co_await task;
    if (!flight->forgotten) self.flights_.erase(key);
    flight->done.notify_all();
  }

  Executor& executor_;
  Gate& gate_;
  std::unordered_map<Key, std::shared_ptr<Flight>> flights_;
};

}  // namespace shoal
