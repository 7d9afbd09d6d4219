// Copies: what a reader here got from other nodes is kept in the cache too, written behind the
// reader. That is a favour to the next reader and never holds this one up: writing takes the CPU
// that nothing else wants, and when it falls behind, what has been read already is not kept.
//
// Shard's thread.
#pragma once

#include <list>

#include "async/sync.h"
#include "base/bytes.h"
#include "observe/metrics.h"

namespace shoal {

class Copies {
 public:
  // `waiting_max`: bytes that may wait for the disk although they have been read.
  Copies(Executor& executor, Registry& registry, uint64_t waiting_max);

  // One copy on its way; owned by its fetch, which outlives the wait for its turn.
  class Copy {
   public:
    explicit Copy(Executor& executor) : changed_(executor) {}

   private:
    friend class Copies;
    enum class State { kNew, kWaiting, kWriting, kDropped };
    State state_ = State::kNew;
    uint64_t bytes_ = 0;
    SteadyTime since_{};
    bool read_ = false;
    bool wanted_ = false;
    Signal changed_;
  };

  // Waits until the copy may be written: written(copy) has to follow. False: it is not to be kept.
  Task<bool> turn(Copy& copy, uint64_t bytes, Context context);
  void written(Copy& copy);
  // Whoever waited for its bytes has them.
  void was_read(Copy& copy);
  // Somebody waits for it to be in the cache: it is kept.
  void want(Copy& copy) { copy.wanted_ = true; }
  bool dropped(const Copy& copy) const { return copy.state_ == Copy::State::kDropped; }
  // Memory is wanted: lets go of what has been read, and of what nobody came for.
  void make_room(uint64_t bytes);

 private:
  void start();
  void drop(Copy& copy);
  void drop_above_limit();

  Executor& executor_;
  const uint64_t waiting_max_;
  std::list<Copy*> waiting_;  // first in, first out
  uint64_t waiting_bytes_ = 0;
  unsigned writing_ = 0;
  Counter& dropped_bytes_;
};

}  // namespace shoal
