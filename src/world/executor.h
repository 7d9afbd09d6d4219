// One thread's run queue, its timers and its clock.
//
// A shard is one Executor. Everything that belongs to the shard is touched only from its thread;
// other threads hand work over with post_remote(). Work items and timers are intrusive: the caller
// owns them and keeps them alive until they have run (or the timer was stopped).
#pragma once

#include "world/time.h"

namespace shoal {

class Runnable {
 public:
  virtual void run() noexcept = 0;
  Runnable* next = nullptr;  // belongs to the queue that holds the item

 protected:
  Runnable() = default;
  ~Runnable() = default;
  Runnable(const Runnable&) = delete;
  Runnable& operator=(const Runnable&) = delete;
};

class Timer : public Runnable {
 public:
  bool armed() const { return armed_; }

  // For executors only.
  bool armed_ = false;
  SteadyTime when_{};
  uint64_t sequence_ = 0;

 protected:
  ~Timer() = default;
};

class Executor {
 public:
  virtual ~Executor() = default;

  // Steady now. Cheap; may be the time at which the current turn of the loop began.
  virtual SteadyTime now() const = 0;
  virtual WallTime wall_now() const = 0;

  // Runs the item later on this thread, in order of posting (the simulator may shuffle).
  // Call from the executor's thread only.
  virtual void post(Runnable& item) = 0;
  // The same, from any thread.
  virtual void post_remote(Runnable& item) = 0;
  virtual bool on_thread() const = 0;

  // Runs the timer once, at or after `when`. It must not be armed. Executor's thread only.
  virtual void start_timer(Timer& timer, SteadyTime when) = 0;
  // A stopped timer does not run, not even if it was already due. No-op when not armed.
  virtual void stop_timer(Timer& timer) = 0;
};

}  // namespace shoal
