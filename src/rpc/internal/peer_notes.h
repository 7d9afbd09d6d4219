// What is logged about a peer once, not for each of its connections. Shard's thread.
#pragma once

#include <string>
#include <string_view>
#include <unordered_set>

#include "observe/log.h"
#include "wire/handshake.h"
#include "world/executor.h"

namespace shoal {

class PeerNotes {
 public:
  explicit PeerNotes(const Log& log) : log_(log) {}

  // The peer sent what no right node sends, or was refused: a warning once per host, then debug
  // lines.
  void broke_rules(const std::string& address, const Error& error);
  // Warns once per peer when its clock differs from ours by more than 30 s.
  void check_clock(const std::string& address, const HandshakePeer& peer, WallTime now);

 private:
  bool is_first(std::string what);

  const Log& log_;
  std::unordered_set<std::string> seen_;  // bounded: forgotten as a whole when it is full
};

// The host of HOST:PORT.
std::string_view host_of(std::string_view address);

}  // namespace shoal
