// The plainest HTTP client that can be: blocking sockets to an IPv4 address (or a Unix socket),
// keep-alive, answers with a Content-Length. It is the ceiling that the mount is compared with, and
// it steers the Blob stub.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/error.h"

namespace shoal::bench {

struct HttpAnswer {
  int status = 0;
  uint64_t length = 0;  // of the body
};

// One connection. One thread at a time. After an error it must not be used again.
class RawHttp {
 public:
  static Result<RawHttp> connect(uint16_t port, const std::string& address = "127.0.0.1");
  static Result<RawHttp> connect_unix(const std::string& path);
  RawHttp(RawHttp&& other) noexcept;
  RawHttp& operator=(RawHttp&&) = delete;
  ~RawHttp();

  // Sends a request and reads the head of its answer; the body must be read next, whole.
  Result<HttpAnswer> send(std::string_view method, std::string_view target,
                          std::string_view headers = {}, std::string_view body = {});
  Status read_body(ByteSpan into);
  // For small bodies; fails if the status is not 200.
  Result<std::string> call(std::string_view method, std::string_view target,
                           std::string_view body = {});
  // Sends bytes [offset, offset + length) of an open file as the body, by sendfile.
  Result<HttpAnswer> send_file(std::string_view method, std::string_view target,
                               std::string_view headers, int file, uint64_t offset,
                               uint64_t length);
  // GET of a range into memory; fails if the answer is not exactly that.
  Status get_range(std::string_view target, uint64_t offset, ByteSpan into);

 private:
  Result<HttpAnswer> read_head(std::string_view method);

  explicit RawHttp(int socket) : socket_(socket), head_(16 * kKiB) {}
  int socket_ = -1;
  Buffer head_;
  size_t held_ = 0;   // bytes in head_ behind the head: the body's first
  size_t taken_ = 0;  // of which taken
};

struct Download {
  uint16_t port = 0;
  std::string target;
  uint64_t size = 0;
  unsigned connections = 16;
  uint64_t range_bytes = 8 * kMiB;
  std::string file = {};              // empty: to memory
  std::optional<uint64_t> seed = {};  // samples of the bytes are compared with the synthetic ones
};
// A plain parallel download, as a copy tool does it: every connection takes the next range. Answers
// the seconds from the first connection to the last byte.
Result<double> download(const Download& wanted);

}  // namespace shoal::bench
