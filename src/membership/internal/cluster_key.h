// The cluster's secret at rest: 64 hexadecimal digits and a line break. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "world/random.h"

namespace shoal {

inline constexpr size_t kClusterKeyBytes = 32;

std::string make_cluster_key(Random& random);  // 32 bytes
std::string format_cluster_key(std::string_view key);
// kCorrupt; never quotes what it was given.
Result<std::string> parse_cluster_key(std::string_view text);

}  // namespace shoal
