// Addresses of TCP sockets as text and as the kernel wants them, and how this program's sockets are
// set up.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

struct HostAndPort {
  std::string host;  // without brackets
  std::string port;  // decimal, 0 .. 65535
};

// "10.0.0.5:7070", "[fd00::5]:7070", "node-5:7070". False when it is nothing of the kind.
bool split_address(std::string_view text, HostAndPort& into);

// The addresses of a host, at least one; 0 or -errno: -ENOENT for a name nobody knows, -EAGAIN when
// the name server does not answer. With `numeric` only addresses are understood (names are -ENOENT)
// and it never blocks; else it may ask name servers for many seconds.
int64_t look_up(const HostAndPort& what, bool numeric, std::vector<SocketAddress>& into);

// "10.0.0.5:7070", "[fd00::5]:7070"; IPv4 in an IPv6 coat is shown as IPv4.
std::string to_text(const SocketAddress& address);
// Without the port: "10.0.0.5", "fd00::5".
std::string host_text(const SocketAddress& address);
bool is_link_local(const SocketAddress& address);
// The address that a socket is bound to.
std::string bound_address(int descriptor);

// What every stream of ours wants: no delay, a dead peer is noticed. Of a stream or, before
// listen(), of the listener whose streams inherit it. 0 or -errno.
int64_t set_stream_options(int descriptor, const std::string& congestion);

}  // namespace shoal
