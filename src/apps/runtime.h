// What a node leaves for others on its machine to find: its file in the private directory
// (control/running_node.h), under a name of its own.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "control/running_node.h"

namespace shoal {

// The private directory. Made with mode 0700; fails if somebody else owns it.
Result<std::string> runtime_dir();

// A name for this node's files in the runtime directory: a hash of mountpoint or cache directory.
std::string runtime_key(const std::string& mountpoint_or_cache_dir);

// Writes <runtime dir>/<key>.json.
Status publish_node(const std::string& dir, const std::string& key, const RunningNode& node);
void withdraw_node(const std::string& dir, const std::string& key);

// Removes what nodes left that are dead.
void forget_dead_nodes(const std::string& dir);

// 32 random bytes in hex, from the kernel.
Result<std::string> random_token();
// Replaces the file, mode 0600.
Status write_private_file(const std::string& path, std::string_view content);

}  // namespace shoal
