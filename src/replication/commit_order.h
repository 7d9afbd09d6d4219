// The order in which a writer's files become visible in the origin. Programs write data first and
// last a small file that says that all of it is there (".metadata", "latest", a tracker): such a
// marker is committed after everything that was closed before it in its directory and below, on
// whatever node. Uploads of data are not held back, only commits.
//
// Shard's thread.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "async/context.h"
#include "async/task.h"
#include "replication/ledger_record.h"

namespace shoal {

class Replication;

// Whether the file's name (without directories) is that of a marker: .metadata*, *latest*,
// *manifest*, *metadata*, *.index.json, *_iteration.txt, _success*, *complete*, commit_success*,
// *.done, checkpoint.
bool is_marker(std::string_view leaf);

// Whether nothing waits on other nodes that was closed before the marker at or below its directory.
// kBusy names what does.
Task<Status> check_earlier(Replication& replication, std::string marker, WallTime closed,
                           NodeId writer, Context context);

// What a look at all that a commit waits for costs grows with it: after one that took so long, the
// next one may come after this.
inline Duration pause_after_look(Duration took) {
  return std::max<Duration>(std::chrono::seconds(1), 10 * took);
}

// check_gate() (manifest.h); what the object waits for is told to hurry, wherever it is.
Task<Status> pass_gate(Replication& replication, std::string object, std::string gate,
                       std::string content, Context context);

}  // namespace shoal
