// A connection to a node's admin server, and where one leads.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace shoal {

struct HostPort {
  std::string host;
  int port = 0;
};
// "127.0.0.1:7071", "[::1]:7071", ":7071".
Result<HostPort> parse_host_port(const std::string& text);

// Where a client finds a node: the socket if it is set, else the port.
struct AdminAddress {
  std::string socket;
  std::string http;   // "host:port"
  std::string token;  // for changes through the port

  const std::string& name() const { return socket.empty() ? http : socket; }
};

// Each wait ends at a point in time, whatever signals arrive meanwhile; no SIGPIPE is ever raised.
// Errors: kUnavailable (refused, reset), kDeadlineExceeded, kBusy (no descriptor is left). Not
// thread-safe.
class Connection {
 public:
  using Clock = std::chrono::steady_clock;

  static Result<Connection> open(const AdminAddress& address, Clock::time_point until);
  Connection(Connection&& other) noexcept;
  Connection& operator=(Connection&&) = delete;
  ~Connection();

  Status send(std::string_view bytes, Clock::time_point until);
  // 0: the other side has ended the connection.
  Result<size_t> receive(std::span<char> buffer, Clock::time_point until);

 private:
  explicit Connection(int descriptor) : descriptor_(descriptor) {}

  int descriptor_;
};

}  // namespace shoal
