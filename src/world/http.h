// HTTP client calls. The caller owns the HttpCall and keeps it (and the memory it points to) alive
// until it is run; the Http posts it to the executor exactly once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "world/executor.h"

namespace shoal {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // "GET", "PUT", "HEAD", "DELETE", "POST"
  std::string url;     // absolute, already percent-encoded; sent as it is
  HttpHeaders headers;
  ConstByteSpan body;  // borrowed
};

struct HttpResponse {
  int status = 0;
  HttpHeaders headers;      // names in lower case
  std::string body;         // whatever did not go to HttpCall::into; at most body_bytes_max
  uint64_t into_bytes = 0;  // body bytes written to HttpCall::into
  // The request was sent more than once, since a kept connection died under it: an earlier sending
  // may have been executed.
  bool resent = false;

  // The first value of a header (name in lower case), or nullptr.
  const std::string* header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return &value;
    }
    return nullptr;
  }
};

struct HttpCall : Runnable {
  HttpRequest request;
  // Bodies of 2xx answers go here if it is not empty; a body longer than it is kUnavailable.
  ByteSpan into;
  size_t body_bytes_max = 64 * kKiB;
  // Limits: the whole call, and a stall (no byte in either direction for this long).
  SteadyTime deadline = kNever;
  Duration stall_timeout = std::chrono::seconds(30);
  // Told on the executor's thread, now and then, how many bytes of `into` are filled so far (each
  // call at least 64 KiB more than the last, or `progress_step` if that is less). Never called
  // after the HttpCall has run. It may cancel the call.
  std::function<void(uint64_t)> on_progress;
  // With 1 every piece is told as it comes: for answers that are events and never end.
  uint64_t progress_step = 256 * kKiB;

  // Set when run. The error is kUnavailable (connect, reset, stall, short body, bad answer),
  // kDeadlineExceeded, kCancelled or kTooLarge (body above body_bytes_max).
  Result<HttpResponse> result = fail(Code::kInternal, "not finished");

  void* transport = nullptr;  // belongs to the Http

 protected:
  ~HttpCall() = default;
};

class Http {
 public:
  virtual ~Http() = default;
  virtual void start(HttpCall& call) = 0;
  // The call ends soon with kCancelled, unless it has ended already. It still runs, once.
  virtual void cancel(HttpCall& call) = 0;
};

}  // namespace shoal
