#include "one_node/raw_http.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "one_node/child.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace {

constexpr uint64_t kSmallBodyMax = 64 * kMiB;
constexpr size_t kSampleBytes = 64;

std::string request_head(std::string_view method, std::string_view target, std::string_view headers,
                         uint64_t body_bytes) {
  return fmt::format(
      "{} {} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-ms-version: 2021-12-02\r\n{}"
      "content-length: {}\r\n\r\n",
      method, target, headers, body_bytes);
}

Status send_all(int socket, std::string_view bytes, int flags = 0) {
  while (!bytes.empty()) {
    ssize_t n = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | flags);
    if (n < 0 && errno == EINTR && !interrupted()) continue;
    if (n <= 0) return fail(error_from_errno(errno, "sending to the stub"));
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<HttpAnswer> parse_head(std::string_view head) {
  HttpAnswer answer;
  if (!head.starts_with("HTTP/1.1 ") || head.size() < 12) {
    return fail(Code::kUnavailable, "the stub's answer is not HTTP/1.1");
  }
  std::from_chars(head.data() + 9, head.data() + 12, answer.status);
  size_t at = head.find("\r\n");
  while (at != std::string_view::npos && at + 2 < head.size()) {
    std::string_view line = head.substr(at + 2);
    constexpr std::string_view kLength = "content-length:";
    if (line.size() > kLength.size() &&
        std::equal(kLength.begin(), kLength.end(), line.begin(),
                   [](char a, char b) { return a == (b | 0x20) || a == b; })) {
      size_t from = line.find_first_not_of(' ', kLength.size());
      std::from_chars(line.data() + from, line.data() + line.size(), answer.length);
    }
    at = head.find("\r\n", at + 2);
  }
  return answer;
}

}  // namespace

Result<RawHttp> RawHttp::connect(uint16_t port, const std::string& to) {
  int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return fail(error_from_errno(errno, "cannot make a socket"));
  int yes = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (inet_pton(AF_INET, to.c_str(), &address.sin_addr) != 1) {
    close(socket);
    return fail(Code::kInvalidArgument, to + " is no IPv4 address");
  }
  if (::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    int reason = errno;
    close(socket);
    return fail(error_from_errno(reason, fmt::format("cannot connect to {}:{}", to, port)));
  }
  return RawHttp(socket);
}

Result<RawHttp> RawHttp::connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(Code::kInvalidArgument, "too long for the path of a socket: " + path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return fail(error_from_errno(errno, "cannot make a socket"));
  if (::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    int reason = errno;
    close(socket);
    return fail(error_from_errno(reason, "cannot connect to " + path));
  }
  return RawHttp(socket);
}

RawHttp::RawHttp(RawHttp&& other) noexcept
    : socket_(std::exchange(other.socket_, -1)),
      head_(std::move(other.head_)),
      held_(other.held_),
      taken_(other.taken_) {}

RawHttp::~RawHttp() {
  if (socket_ >= 0) close(socket_);
}

Result<HttpAnswer> RawHttp::send(std::string_view method, std::string_view target,
                                 std::string_view headers, std::string_view body) {
  SHOAL_ASSERT(taken_ == held_, "the body before was not read");
  std::string request = request_head(method, target, headers, body.size());
  request += body;
  SHOAL_RETURN_IF_ERROR(send_all(socket_, request));
  return read_head(method);
}

Result<HttpAnswer> RawHttp::send_file(std::string_view method, std::string_view target,
                                      std::string_view headers, int file, uint64_t offset,
                                      uint64_t length) {
  SHOAL_ASSERT(taken_ == held_, "the body before was not read");
  SHOAL_RETURN_IF_ERROR(send_all(socket_, request_head(method, target, headers, length), MSG_MORE));
  auto at = static_cast<off_t>(offset);
  while (length > 0) {
    ssize_t n = sendfile(socket_, file, &at, length);
    if (n < 0 && errno == EINTR && !interrupted()) continue;
    if (n <= 0) return fail(error_from_errno(errno, "sending a file to the stub"));
    length -= static_cast<uint64_t>(n);
  }
  return read_head(method);
}

Result<HttpAnswer> RawHttp::read_head(std::string_view method) {
  size_t held = 0;
  while (true) {
    ssize_t n = recv(socket_, head_.data() + held, head_.size() - held, 0);
    if (n < 0 && errno == EINTR && !interrupted()) continue;
    if (n < 0) return fail(error_from_errno(errno, "reading from the stub"));
    if (n == 0) return fail(Code::kUnavailable, "the stub closed the connection");
    held += static_cast<size_t>(n);
    std::string_view text = as_text(head_.part(0, held));
    size_t end = text.find("\r\n\r\n");
    if (end == std::string_view::npos) {
      if (held == head_.size()) return fail(Code::kUnavailable, "the stub's head is too long");
      continue;
    }
    SHOAL_ASSIGN_OR_RETURN(HttpAnswer answer, parse_head(text.substr(0, end + 2)));
    taken_ = end + 4;
    held_ = held;
    if (method == "HEAD") answer.length = 0;
    return answer;
  }
}

Status RawHttp::read_body(ByteSpan into) {
  size_t ready = std::min(held_ - taken_, into.size());
  std::memcpy(into.data(), head_.data() + taken_, ready);
  taken_ += ready;
  size_t at = ready;
  while (at < into.size()) {
    ssize_t n = recv(socket_, into.data() + at, into.size() - at, MSG_WAITALL);
    if (n < 0 && errno == EINTR && !interrupted()) continue;
    if (n < 0) return fail(error_from_errno(errno, "reading from the stub"));
    if (n == 0) return fail(Code::kUnavailable, "the stub ended the body early");
    at += static_cast<size_t>(n);
  }
  return {};
}

Result<std::string> RawHttp::call(std::string_view method, std::string_view target,
                                  std::string_view body) {
  SHOAL_ASSIGN_OR_RETURN(HttpAnswer answer, send(method, target, {}, body));
  if (answer.length > kSmallBodyMax) return fail(Code::kTooLarge, "the stub's answer is too long");
  std::string text(answer.length, '\0');
  SHOAL_RETURN_IF_ERROR(read_body(std::as_writable_bytes(std::span(text))));
  if (answer.status != 200) {
    return fail(Code::kUnavailable,
                fmt::format("{} {}: {} {}", method, target, answer.status, text.substr(0, 200)));
  }
  return text;
}

Status RawHttp::get_range(std::string_view target, uint64_t offset, ByteSpan into) {
  SHOAL_ASSERT(!into.empty());
  auto range = fmt::format("x-ms-range: bytes={}-{}\r\n", offset, offset + into.size() - 1);
  SHOAL_ASSIGN_OR_RETURN(HttpAnswer answer, send("GET", target, range));
  if (answer.status != 206 || answer.length != into.size()) {
    return fail(Code::kUnavailable,
                fmt::format("GET {}: {} with {} bytes", target, answer.status, answer.length));
  }
  return read_body(into);
}

namespace {

struct DownloadState {
  const Download& wanted;
  int file = -1;
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  Status outcome;

  void note(Status status) {
    std::lock_guard lock(mutex);
    if (outcome) outcome = std::move(status);
  }
};

Status write_at(int file, ConstByteSpan bytes, uint64_t offset) {
  while (!bytes.empty()) {
    ssize_t n = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR && !interrupted()) continue;
    if (n <= 0) return fail(error_from_errno(errno, "writing the downloaded file"));
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

Status fetch_ranges(DownloadState& state, Buffer& buffer) {
  const Download& wanted = state.wanted;
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect(wanted.port));
  while (true) {
    uint64_t offset = state.next.fetch_add(wanted.range_bytes);
    if (offset >= wanted.size) return {};
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    ByteSpan part = buffer.part(0, std::min(wanted.range_bytes, wanted.size - offset));
    SHOAL_RETURN_IF_ERROR(http.get_range(wanted.target, offset, part));
    if (wanted.seed &&
        !synthetic_equal(*wanted.seed, offset, part.first(std::min(kSampleBytes, part.size())))) {
      return fail(Code::kCorrupt, "the download has wrong bytes");
    }
    if (state.file >= 0) SHOAL_RETURN_IF_ERROR(write_at(state.file, part, offset));
  }
}

}  // namespace

Result<double> download(const Download& wanted) {
  SHOAL_ASSERT(wanted.connections > 0 && wanted.range_bytes > 0);
  DownloadState state{.wanted = wanted, .file = -1, .next = 0, .mutex = {}, .outcome = {}};
  if (!wanted.file.empty()) {
    state.file = open(wanted.file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (state.file < 0) return fail(error_from_errno(errno, "cannot write " + wanted.file));
  }
  std::vector<Buffer> buffers;
  for (unsigned i = 0; i < wanted.connections; ++i) {
    buffers.emplace_back(wanted.range_bytes);
    std::memset(buffers.back().data(), 1, wanted.range_bytes);  // the first touch is slow
  }
  auto begun = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> threads;
    for (Buffer& buffer : buffers) {
      threads.emplace_back([&state, &buffer] { state.note(fetch_ranges(state, buffer)); });
    }
  }
  std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  if (state.file >= 0) close(state.file);
  SHOAL_RETURN_IF_ERROR(state.outcome);
  return took.count();
}

}  // namespace shoal::bench
