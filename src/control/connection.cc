#include "control/connection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

namespace shoal {
namespace {

using Clock = Connection::Clock;

constexpr int kPauseMs = 5;  // while the backlog of a Unix socket is full, which cannot be polled

Error no_answer(std::string_view reason) { return Error(Code::kUnavailable, std::string(reason)); }

Error of_errno(int number) { return no_answer(std::generic_category().message(number)); }

int ms_until(Clock::time_point until) {
  auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

// Waits until `descriptor` is ready for `events`.
Status wait_for(int descriptor, short events, Clock::time_point until) {
  while (true) {
    int ms = ms_until(until);
    pollfd wanted{descriptor, events, 0};
    int n = poll(&wanted, 1, ms);
    if (n > 0) return {};
    if (n < 0 && errno != EINTR) return fail(of_errno(errno));
    if (n == 0 && Clock::now() >= until) return fail(Code::kDeadlineExceeded, "no answer in time");
  }
}

// Connects a descriptor that does not block.
Status finish_connecting(int descriptor, const sockaddr* address, socklen_t size,
                         Clock::time_point until) {
  while (connect(descriptor, address, size) != 0) {
    if (errno == EISCONN) return {};
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      if (Clock::now() >= until) return fail(Code::kDeadlineExceeded, "it takes no connections");
      poll(nullptr, 0, kPauseMs);
      continue;
    }
    if (errno != EINPROGRESS && errno != EALREADY) return fail(of_errno(errno));
    SHOAL_RETURN_IF_ERROR(wait_for(descriptor, POLLOUT, until));
    int reason = 0;
    socklen_t reason_size = sizeof reason;
    getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &reason, &reason_size);
    if (reason != 0) return fail(of_errno(reason));
    return {};
  }
  return {};
}

Result<int> new_socket(int family) {
  int descriptor = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return fail(error_from_errno(errno, "cannot make a socket"));
  return descriptor;
}

}  // namespace

Result<HostPort> parse_host_port(const std::string& text) {
  size_t colon = text.rfind(':');
  HostPort out;
  if (colon != std::string::npos) {
    out.host = text.substr(0, colon);
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data() + colon + 1, end, out.port);
    if (error == std::errc() && stop == end && out.port > 0 && out.port < 65536) {
      if (out.host.size() > 2 && out.host.front() == '[') {
        out.host = out.host.substr(1, out.host.size() - 2);
      }
      if (out.host.empty()) out.host = "0.0.0.0";
      return out;
    }
  }
  return fail(Code::kInvalidArgument,
              fmt::format("\"{}\" is not ADDR:PORT; write it like 127.0.0.1:7071", text));
}

Connection::Connection(Connection&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

Connection::~Connection() {
  if (descriptor_ >= 0) close(descriptor_);
}

Result<Connection> Connection::open(const AdminAddress& address, Clock::time_point until) {
  if (!address.socket.empty()) {
    sockaddr_un target{};
    target.sun_family = AF_UNIX;
    if (address.socket.size() >= sizeof target.sun_path) {
      return fail(Code::kNameTooLong, fmt::format("{} is too long for a socket", address.socket));
    }
    std::memcpy(target.sun_path, address.socket.c_str(), address.socket.size() + 1);
    SHOAL_ASSIGN_OR_RETURN(int descriptor, new_socket(AF_UNIX));
    Connection connection(descriptor);
    SHOAL_RETURN_IF_ERROR(
        finish_connecting(descriptor, reinterpret_cast<sockaddr*>(&target), sizeof target, until));
    return connection;
  }
  SHOAL_ASSIGN_OR_RETURN(HostPort place, parse_host_port(address.http));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  int failure = getaddrinfo(place.host.c_str(), std::to_string(place.port).c_str(), &hints, &found);
  if (failure != 0) return fail(no_answer(gai_strerror(failure)));
  std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, &freeaddrinfo);
  Error last = no_answer("it has no address");
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    SHOAL_ASSIGN_OR_RETURN(int descriptor, new_socket(one->ai_family));
    Connection connection(descriptor);
    Status status = finish_connecting(descriptor, one->ai_addr, one->ai_addrlen, until);
    if (status) return connection;
    last = std::move(status).error();
  }
  return fail(std::move(last));
}

Status Connection::send(std::string_view bytes, Clock::time_point until) {
  while (!bytes.empty()) {
    ssize_t n = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      SHOAL_RETURN_IF_ERROR(wait_for(descriptor_, POLLOUT, until));
    } else if (errno != EINTR) {
      return fail(of_errno(errno));
    }
  }
  return {};
}

Result<size_t> Connection::receive(std::span<char> buffer, Clock::time_point until) {
  while (true) {
    ssize_t n = recv(descriptor_, buffer.data(), buffer.size(), 0);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == EAGAIN) {
      SHOAL_RETURN_IF_ERROR(wait_for(descriptor_, POLLIN, until));
    } else if (errno != EINTR) {
      return fail(of_errno(errno));
    }
  }
}

}  // namespace shoal
