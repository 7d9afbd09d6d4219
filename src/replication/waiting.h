// What the origin does not have yet at or below a path, asked of all members: each answers for what
// it writes, and for those whose writers are lost the owners of their ledger records.
//
// Shard's thread.
#pragma once

#include <map>
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

struct WaitingPage {
  std::vector<WaitingItem> items;  // in order of names
  bool more = false;
};

struct Waiting {
  std::map<std::string, WaitingItem> items;  // by object
  std::string silent;  // a member that did not answer, and why; empty: all did
};

// Members that are lost are not asked. Fails only when the context ends.
Task<Result<Waiting>> waiting_below(Replication& replication, std::string path, Push push,
                                    Context context);

// The answer of this node to another's question.
Result<std::string> answer_waiting(Replication& replication, const std::string& body);

}  // namespace shoal
