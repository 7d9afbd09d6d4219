// The nodes that run on this machine: one small file each (mode 0600) in a private directory, so
// that whoever has a path finds the daemon that serves it. Here they are only looked up;
// apps/runtime.h writes them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace shoal {

struct RunningNode {
  int64_t pid = 0;
  int64_t started = 0;     // process_start(pid): numbers of processes are used again
  std::string mountpoint;  // absolute; empty for `shoal serve`
  std::string origin;      // without secrets
  std::string cache_dir;
  std::string http;    // "127.0.0.1:7071", empty when off
  std::string socket;  // path of the admin socket
  std::string token;   // lets changes in through the http port
  std::string log_file;
};

// $XDG_RUNTIME_DIR/shoal or /run/shoal (root), else /tmp/shoal-<uid>; whether or not it exists.
std::string runtime_dir_path();
// kNotFound if there is no such directory, kPermissionDenied if it is not private to this user:
// what somebody else can write there must not be believed.
Status check_private_dir(const std::string& dir);

// When the process began, in ticks since boot; nothing if it does not live (any more).
std::optional<int64_t> process_start(int64_t pid);

// What was published in `dir`, by processes that live and by dead ones. Touches nothing.
struct PublishedNode {
  RunningNode node;
  std::string file;
  bool alive = false;
};
std::vector<PublishedNode> published_nodes(const std::string& dir);
// Those that live.
std::vector<RunningNode> running_nodes(const std::string& dir);

// The node whose mount holds `path` (absolute), the innermost one. kNotFound with a next step.
Result<RunningNode> node_of_path(const std::vector<RunningNode>& nodes, const std::string& path);
// The only node that runs; kNotFound when there is none, kConflict naming them when several.
Result<RunningNode> only_node(const std::vector<RunningNode>& nodes);

// The part of `path` below the mountpoint: the object name, "" for the mountpoint itself.
std::string object_of_path(const RunningNode& node, const std::string& path);

// Absolute and without a slash at the end, as written: touches no file.
std::string absolute_path(const std::string& path);
// The same with links resolved as far as it exists.
std::string resolved_path(const std::string& path);
// node_of_path for what a user typed: first as written, because looking into a mount that hangs
// would hang too, then with links resolved. Also answers the path that matched.
struct FoundNode {
  RunningNode node;
  std::string path;
};
Result<FoundNode> find_node(const std::vector<RunningNode>& nodes, const std::string& typed);

// At most 64 KiB.
Result<std::string> read_small_file(const std::string& path);

}  // namespace shoal
