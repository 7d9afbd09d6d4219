// Result and Error: how every room reports failure.
//
// An Error is a code (what a caller can react to), a message (thing, reason, next step) that grows
// context on its way up, and optionally a retry hint. No exception leaves a room.
#pragma once

#include <chrono>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace shoal {

// Add a code only if some caller reacts to it differently.
enum class Code {
  kCancelled,         // the caller gave up; neither retried nor logged as a failure
  kDeadlineExceeded,  // the caller's deadline passed
  kNotFound,          // no such object, container, file
  kAlreadyExists,     // create-once lost
  kConflict,          // a condition (If-Match, version) did not hold: somebody else changed it
  kStale,             // the version that was being read is gone from the origin
  kInvalidArgument,   // the caller's mistake; a retry cannot help
  kPermissionDenied,  // authenticated but not allowed (403)
  kUnauthenticated,   // credentials are missing, wrong or expired (401, expired SAS)
  kUnavailable,       // network, peer or origin failed; retryable
  kThrottled,         // origin asks to slow down (429, 503); retryable after a pause
  kCorrupt,           // checksum or format mismatch
  kNoSpace,           // disk or space budget is full
  kBusy,              // a limit is reached or the resource is in use; try later
  kDiskError,         // EIO and friends from the local disk
  kIsDirectory,
  kNotDirectory,
  kNotEmpty,
  kNameTooLong,
  kNotSupported,  // deliberately not offered
  kReadOnly,
  kTooLarge,
  kNoData,    // no such extended attribute
  kInternal,  // a bug of ours
};

std::string_view code_name(Code code);

class [[nodiscard]] Error {
 public:
  Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // "message (code)": what a user sees.
  std::string to_string() const;

  // Prepends context: "reading az://a/c/x: <message>".
  Error with_context(std::string_view context) &&;

  // The origin's Retry-After, zero if it gave none.
  std::chrono::milliseconds retry_after() const { return retry_after_; }
  Error with_retry_after(std::chrono::milliseconds delay) &&;

  // Whether the same request, sent again, may succeed.
  bool retryable() const {
    return code_ == Code::kUnavailable || code_ == Code::kThrottled || code_ == Code::kBusy;
  }

 private:
  Code code_;
  std::chrono::milliseconds retry_after_{0};
  std::string message_;
};

// Builds an Error from an errno value of a local file operation.
Error error_from_errno(int error_number, std::string_view what);

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

inline std::unexpected<Error> fail(Code code, std::string message) {
  return std::unexpected<Error>(Error(code, std::move(message)));
}
inline std::unexpected<Error> fail(Error error) { return std::unexpected<Error>(std::move(error)); }

}  // namespace shoal

#define SHOAL_CONCAT_INNER(a, b) a##b
#define SHOAL_CONCAT(a, b) SHOAL_CONCAT_INNER(a, b)

// Returns the error of a Result-valued expression, if it has one.
#define SHOAL_RETURN_IF_ERROR(expression)                                      \
  do {                                                                         \
    if (auto shoal_status = (expression); !shoal_status)                       \
      return std::unexpected<::shoal::Error>(std::move(shoal_status).error()); \
  } while (false)

#define SHOAL_ASSIGN_OR_RETURN_INNER(name, target, expression)                \
  auto name = (expression);                                                   \
  if (!name) return std::unexpected<::shoal::Error>(std::move(name).error()); \
  target = std::move(name).value()
// SHOAL_ASSIGN_OR_RETURN(auto x, f());
#define SHOAL_ASSIGN_OR_RETURN(target, expression) \
  SHOAL_ASSIGN_OR_RETURN_INNER(SHOAL_CONCAT(shoal_result_, __LINE__), target, expression)

// The twins for coroutines: the expression contains its own co_await.
#define SHOAL_CO_RETURN_IF_ERROR(expression)                                      \
  do {                                                                            \
    if (auto shoal_status = (expression); !shoal_status)                          \
      co_return std::unexpected<::shoal::Error>(std::move(shoal_status).error()); \
  } while (false)

#define SHOAL_CO_ASSIGN_OR_RETURN_INNER(name, target, expression)                \
  auto name = (expression);                                                      \
  if (!name) co_return std::unexpected<::shoal::Error>(std::move(name).error()); \
  target = std::move(name).value()
#define SHOAL_CO_ASSIGN_OR_RETURN(target, expression) \
  SHOAL_CO_ASSIGN_OR_RETURN_INNER(SHOAL_CONCAT(shoal_result_, __LINE__), target, expression)
