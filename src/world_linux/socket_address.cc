#include "world_linux/socket_address.h"

#include <netdb.h>
#include <netinet/tcp.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace shoal {

namespace {

// A peer that acknowledges nothing for so long, or does not take a byte, is dead to us.
constexpr int kUserTimeoutMs = 10'000;
// Probes on a silent stream: the first after 4 s, then every 2 s; the user timeout ends it.
constexpr int kKeepIdleSeconds = 4;
constexpr int kKeepIntervalSeconds = 2;
constexpr int kKeepProbes = 3;
// SYNs after the first: 1 + 2 + 4 s, then the next address of the host has its turn.
constexpr int kSynRetries = 2;
constexpr size_t kHostLengthMax = 255;

int64_t error_of_lookup(int answer, int system_error) {
  switch (answer) {
    case 0:
      return 0;
    case EAI_NONAME:
#ifdef EAI_NODATA
    case EAI_NODATA:
#endif
    case EAI_FAIL:
      return -ENOENT;
    case EAI_AGAIN:
      return -EAGAIN;
    case EAI_MEMORY:
      return -ENOMEM;
    case EAI_SYSTEM:
      return system_error > 0 ? -system_error : -EIO;
    default:
      return -EINVAL;
  }
}

int64_t set_option(int descriptor, int level, int name, int value) {
  return setsockopt(descriptor, level, name, &value, sizeof value) == 0 ? 0 : -errno;
}

}  // namespace

bool split_address(std::string_view text, HostAndPort& into) {
  if (text.find('\0') != std::string_view::npos) return false;  // would cut the name short
  size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return false;
  std::string_view host = text.substr(0, colon);
  std::string_view port = text.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":[]") != std::string_view::npos) {
    return false;
  }
  uint16_t number = 0;
  auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size()) return false;
  if (host.empty() || host.size() > kHostLengthMax) return false;
  into.host = host;
  into.port = std::to_string(number);
  return true;
}

int64_t look_up(const HostAndPort& what, bool numeric, std::vector<SocketAddress>& into) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (numeric ? AI_NUMERICHOST : 0);
  addrinfo* first = nullptr;
  int answer = getaddrinfo(what.host.c_str(), what.port.c_str(), &hints, &first);
  if (answer != 0) return error_of_lookup(answer, errno);
  for (const addrinfo* one = first; one != nullptr; one = one->ai_next) {
    if (one->ai_addrlen > sizeof(sockaddr_storage)) continue;
    SocketAddress& address = into.emplace_back();
    std::memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
    address.length = one->ai_addrlen;
  }
  freeaddrinfo(first);
  return into.empty() ? -ENOENT : 0;
}

std::string to_text(const SocketAddress& address) {
  SocketAddress shown = address;
  if (address.storage.ss_family == AF_INET6) {
    sockaddr_in6 wide{};
    std::memcpy(&wide, &address.storage, sizeof wide);
    if (IN6_IS_ADDR_V4MAPPED(&wide.sin6_addr)) {
      sockaddr_in narrow{};
      narrow.sin_family = AF_INET;
      narrow.sin_port = wide.sin6_port;
      std::memcpy(&narrow.sin_addr, &wide.sin6_addr.s6_addr[12], sizeof narrow.sin_addr);
      shown = {};
      std::memcpy(&shown.storage, &narrow, sizeof narrow);
      shown.length = sizeof narrow;
    }
  }
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getnameinfo(shown.get(), shown.length, host.data(), host.size(), port.data(), port.size(),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "?";
  }
  std::string text = host.data();
  if (shown.storage.ss_family == AF_INET6) text = "[" + text + "]";
  return text + ":" + port.data();
}

std::string host_text(const SocketAddress& address) {
  std::array<char, NI_MAXHOST> host{};
  int answer = getnameinfo(address.get(), address.length, host.data(), host.size(), nullptr, 0,
                           NI_NUMERICHOST);
  return answer == 0 ? host.data() : "?";
}

bool is_link_local(const SocketAddress& address) {
  if (address.storage.ss_family != AF_INET6) return false;
  sockaddr_in6 wide{};
  std::memcpy(&wide, &address.storage, sizeof wide);
  return IN6_IS_ADDR_LINKLOCAL(&wide.sin6_addr);
}

std::string bound_address(int descriptor) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (getsockname(descriptor, address.get(), &address.length) != 0) return "?";
  return to_text(address);
}

int64_t set_stream_options(int descriptor, const std::string& congestion) {
  struct Option {
    int level;
    int name;
    int value;
  };
  constexpr Option kOptions[] = {
      {IPPROTO_TCP, TCP_NODELAY, 1},
      {SOL_SOCKET, SO_KEEPALIVE, 1},
      {IPPROTO_TCP, TCP_KEEPIDLE, kKeepIdleSeconds},
      {IPPROTO_TCP, TCP_KEEPINTVL, kKeepIntervalSeconds},
      {IPPROTO_TCP, TCP_KEEPCNT, kKeepProbes},
      {IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs},
      {IPPROTO_TCP, TCP_SYNCNT, kSynRetries},
  };
  for (const Option& option : kOptions) {
    int64_t answer = set_option(descriptor, option.level, option.name, option.value);
    if (answer != 0) return answer;
  }
  if (!congestion.empty() && setsockopt(descriptor, IPPROTO_TCP, TCP_CONGESTION, congestion.data(),
                                        static_cast<socklen_t>(congestion.size())) != 0) {
    return -errno;
  }
  return 0;
}

}  // namespace shoal
