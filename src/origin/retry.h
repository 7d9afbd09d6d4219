// RequestRunner: one logical request to an object store, tried until it is answered, refused for
// good, or out of time. Each attempt is signed anew and holds one permit of the adaptive
// concurrency limit; a pause between attempts holds none. A ranged read goes on at the last byte
// received.
//
// What it does not know: what requests mean (azure_origin.cc) and how they are signed and refused
// (OriginProtocol). Shard's thread.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "async/http_io.h"
#include "observe/log.h"
#include "origin/concurrency_limit.h"
#include "origin/origin.h"
#include "world/world.h"

namespace shoal {

struct RetryOptions {
  Duration backoff_base = std::chrono::milliseconds(100);
  Duration backoff_cap = std::chrono::seconds(60);
  // How long new attempts are begun when the context has no deadline.
  Duration retry_limit_time = std::chrono::seconds(60);
  Duration stall_timeout = std::chrono::seconds(30);
  uint32_t concurrency_max = 64;
};

struct OriginRequest {
  HttpRequest http;  // unsigned; the range header is added by the runner
  std::string what;  // "reading az://account/container/a": begins every error
  size_t body_bytes_max = 64 * kKiB;
  uint32_t attempts_max = 0;  // 0: as many as time allows

  // A ranged read of into.size() bytes at `range_offset`.
  ByteSpan into;
  std::optional<uint64_t> range_offset;
  std::function<void(uint64_t)> progress;  // may be empty
  // Looks at a successful answer to the range [offset, offset + length) that was asked for in this
  // attempt; an error that is retryable() is retried. May be empty.
  std::function<Status(const HttpResponse&, uint64_t offset, uint64_t length)> check;
  // Asked before an attempt that follows one without a clear answer: whether that was carried out.
  // Then there is no further attempt, and the answer is an empty one. May be empty.
  std::function<Task<bool>()> was_done;

  // Set by the runner.
  uint32_t attempts = 0;
  uint64_t reported = 0;  // to `progress`
  // Some attempt ended without a clear answer and may have been carried out all the same.
  bool uncertain = false;
  // The last refusal.
  int status = 0;
  std::string error_code;
};

// One kind of object store.
class OriginProtocol {
 public:
  virtual ~OriginProtocol() = default;
  virtual void sign(HttpRequest& request) = 0;
  virtual std::string_view range_header() const = 0;
  virtual std::string error_code(const HttpResponse& response) const = 0;
  virtual Error error_of(const HttpResponse& response, const std::string& what) const = 0;
};

class RequestRunner {
 public:
  RequestRunner(World& world, RetryOptions options, OriginProtocol& protocol,
                OriginMetrics& metrics, const Log& log);

  // The answer if its status is 2xx, else what the protocol makes of it.
  Task<Result<HttpResponse>> run(OriginRequest& request, Context context);

  const ConcurrencyLimit& concurrency() const { return concurrency_; }

 private:
  Task<Result<HttpResponse>> attempt(OriginRequest& request, uint64_t& received, Context context);
  Result<HttpResponse> judge(OriginRequest& request, Result<HttpResponse> answer, uint64_t begin,
                             uint64_t& received);
  Error gave_up(const OriginRequest& request, Error last, SteadyTime began) const;

  World& world_;
  RetryOptions options_;
  OriginProtocol& protocol_;
  OriginMetrics& metrics_;
  const Log& log_;
  ConcurrencyLimit concurrency_;
};

}  // namespace shoal
