// Addresses of nodes as they come from a peer or a person: HOST:PORT. Pure functions; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace shoal {

// A node's addresses beside its main one: what a message may list.
inline constexpr size_t kFurtherAddressesMax = 7;
inline constexpr size_t kAddressBytesMax = 300;

// "10.0.0.5:7070", "host:7070", "[fd00::5]:7070": printable, with a port that can be dialled.
bool is_peer_address(std::string_view address);
// kCorrupt: too many, one that is none, or one twice.
Status check_further_addresses(const std::vector<std::string>& addresses);

}  // namespace shoal
