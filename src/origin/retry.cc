#include "origin/retry.h"

#include <fmt/format.h>

#include "async/backoff.h"

namespace shoal {

namespace {

// Whether another attempt of the same request may help. Refusals that the tables call retryable,
// and what the network did. A busy blob (a lease, a copy) is for the caller to judge.
bool is_transient(const Error& error) {
  return error.code() == Code::kUnavailable || error.code() == Code::kThrottled;
}

bool is_failure_of_origin(const Error& error) {
  return is_transient(error) || error.code() == Code::kUnauthenticated ||
         error.code() == Code::kPermissionDenied || error.code() == Code::kDeadlineExceeded;
}

}  // namespace

RequestRunner::RequestRunner(World& world, RetryOptions options, OriginProtocol& protocol,
                             OriginMetrics& metrics, const Log& log)
    : world_(world),
      options_(options),
      protocol_(protocol),
      metrics_(metrics),
      log_(log),
      concurrency_(world.executor, options.concurrency_max) {}

Task<Result<HttpResponse>> RequestRunner::run(OriginRequest& request, Context context) {
  Executor& executor = world_.executor;
  SteadyTime began = executor.now();
  SteadyTime limit =
      context.deadline == kNever ? began + options_.retry_limit_time : context.deadline;
  Backoff backoff(world_.random, options_.backoff_base, options_.backoff_cap);
  uint64_t received = 0;  // leading bytes of request.into that are there
  std::optional<Error> last;
  while (true) {
    uint64_t received_before = received;
    Result<HttpResponse> answer = co_await attempt(request, received, context);
    if (answer) {
      concurrency_.on_success();
      co_return std::move(answer);
    }
    Error error = std::move(answer).error();
    if (error.code() == Code::kCancelled) co_return fail(std::move(error));
    if (is_failure_of_origin(error)) metrics_.errors.add();
    if (error.code() == Code::kDeadlineExceeded && last) {
      co_return fail(gave_up(request, std::move(*last), began));
    }
    if (!is_transient(error)) co_return fail(std::move(error));
    if (error.code() == Code::kThrottled) concurrency_.on_throttled();

    if (received > received_before) backoff.reset();  // it moves: begin again with short pauses
    Duration pause = backoff.next(error.retry_after());
    bool out_of_attempts = request.attempts_max != 0 && request.attempts >= request.attempts_max;
    if (out_of_attempts || limit - executor.now() <= pause) {
      co_return fail(gave_up(request, std::move(error), began));
    }
    metrics_.retries.add();
    log_.debug("{}; attempt {} in {:.1f} s", error.message(), request.attempts + 1,
               to_seconds(pause));
    bool unclear = request.uncertain && error.code() != Code::kThrottled;
    last = std::move(error);
    Status slept = co_await sleep_for(executor, pause, context);
    if (!slept && slept.error().code() == Code::kCancelled) co_return fail(slept.error());
    if (unclear && request.was_done && co_await request.was_done()) co_return HttpResponse();
  }
}

Task<Result<HttpResponse>> RequestRunner::attempt(OriginRequest& request, uint64_t& received,
                                                  Context context) {
  SHOAL_ASSERT(world_.executor.on_thread());
  SHOAL_ASSERT(received <= request.into.size());
  Result<Permit> permit = co_await concurrency_.acquire(context);
  if (!permit) co_return fail(std::move(permit).error().with_context(request.what));
  uint64_t begin = received;
  // All bytes came but the answer's end was lost: ask for the last one again, to have an answer.
  if (begin > 0 && begin == request.into.size()) --begin;
  HttpExchange exchange(world_.http, context);
  exchange.request = request.http;
  exchange.body_bytes_max = request.body_bytes_max;
  exchange.stall_timeout = options_.stall_timeout;
  exchange.into = request.into.subspan(begin);
  if (request.range_offset) {
    SHOAL_ASSERT(!exchange.into.empty(), "a range of no bytes cannot be asked for");
    uint64_t first = *request.range_offset + begin;
    exchange.request.headers.emplace_back(
        protocol_.range_header(),
        fmt::format("bytes={}-{}", first, first + exchange.into.size() - 1));
  }
  if (!request.into.empty()) {
    // The frame outlives the call, so these references hold.
    exchange.on_progress = [&request, &received, begin](uint64_t bytes) {
      SHOAL_ASSERT(begin + bytes <= request.into.size());
      received = std::max(received, begin + bytes);
      if (request.progress && received > request.reported) request.progress(received);
      request.reported = std::max(request.reported, received);
    };
  }
  protocol_.sign(exchange.request);
  ++request.attempts;
  Result<HttpResponse> answer = co_await exchange;
  co_return judge(request, std::move(answer), begin, received);
}

Result<HttpResponse> RequestRunner::judge(OriginRequest& request, Result<HttpResponse> answer,
                                          uint64_t begin, uint64_t& received) {
  if (!answer) {
    request.status = 0;
    request.error_code.clear();
    request.uncertain = true;
    return fail(std::move(answer).error().with_context(request.what));
  }
  if (answer->resent) request.uncertain = true;
  if (answer->status < 200 || answer->status >= 300) {
    // The body of a refusal never lands in `into`, so what was received still holds.
    request.status = answer->status;
    request.error_code = protocol_.error_code(*answer);
    if (answer->status >= 500 || answer->status == 408) request.uncertain = true;
    return fail(protocol_.error_of(*answer, request.what));
  }
  if (request.check) {
    uint64_t first = request.range_offset.value_or(0) + begin;
    Status good = request.check(*answer, first, request.into.size() - begin);
    if (!good) {
      received = begin;  // whatever it sent is not what was asked for
      return fail(std::move(good).error().with_context(request.what));
    }
  }
  return answer;
}

Error RequestRunner::gave_up(const OriginRequest& request, Error last, SteadyTime began) const {
  if (request.attempts <= 1) return last;
  double seconds = to_seconds(world_.executor.now() - began);
  Code code = last.code();
  std::chrono::milliseconds retry_after = last.retry_after();
  return Error(code, fmt::format("{} (given up after {} attempts in {:.1f} s)", last.message(),
                                 request.attempts, seconds))
      .with_retry_after(retry_after);
}

}  // namespace shoal
