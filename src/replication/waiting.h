// What the origin does not have yet at or below a path, asked of all members: each answers for what
// it writes, and for those whose writers are lost the owners of their ledger records.
//
// Shard's thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "replication/ledger_record.h"

namespace shoal {

class Replication;

struct WaitingItem {
  std::string object;
  WriteName write;
  uint64_t size = 0;
  enum class State { kOpen, kClosed, kReplicated } state = State::kOpen;
  uint64_t uploaded = 0;  // bytes, of the attempt that runs
  uint32_t crc = 0;       // of the whole; only of a replicated one
  WallTime changed{};     // when it was closed
  NodeId writer;
  std::string last_error;
};

// What to do about what is found.
enum class Push { kNothing, kReplicate, kUpload };

// What has not come as far as it should: a million files are counted, not listed. Manifests do not
// count, and one name that two nodes write counts twice.
struct Behind {
  enum class Goal { kReplicated, kDurable };
  static constexpr size_t kNamed = 3;

  uint64_t files = 0;
  uint64_t bytes = 0;              // that are not uploaded yet
  uint64_t open = 0;               // of the files, those that somebody writes
  std::vector<WaitingItem> named;  // open ones first, then those with an error

  static bool covers(Goal goal, WaitingItem::State state) {
    return goal == Goal::kDurable || state != WaitingItem::State::kReplicated;
  }
  // Whether one like this would be named; then count() wants the item itself, else null.
  bool would_name(WaitingItem::State state, const std::string& error) const;
  void count(WaitingItem::State state, uint64_t bytes_left, const WaitingItem* item);
  void add(Behind other);
};

struct WaitingQuestion {
  std::string path;
  std::string after;  // names after this one
  std::string until;  // and up to this one; empty: all
  size_t items_max = 2000;
  Push push = Push::kNothing;
  std::optional<Behind::Goal> behind;  // instead of items
};

struct WaitingPage {
  std::vector<WaitingItem> items;  // in order of names
  Behind behind;
  std::string reached;  // the last name that was looked at
  bool more = false;
};

struct Waiting {
  std::map<std::string, WaitingItem> items;  // by object
  Behind behind;                             // instead of items
  std::string silent;  // a member that did not answer, and why; empty: all did
};

// Members that are lost are not asked. Fails only when the context ends.
Task<Result<Waiting>> waiting_below(Replication& replication, std::string path, Push push,
                                    Context context);
Task<Result<Waiting>> behind_below(Replication& replication, std::string path, Behind::Goal goal,
                                   Push push, Context context);

// The answer of this node to another's question.
Result<std::string> answer_waiting(Replication& replication, const std::string& body);

}  // namespace shoal
