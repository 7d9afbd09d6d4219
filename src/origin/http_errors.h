// What an origin's refusal means: status and error code to Error.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "world/http.h"
#include "world/time.h"

namespace shoal {

// Who was asked and for what, for messages. No secrets in it.
struct ErrorPlace {
  std::string what;  // "reading az://account/container/a/b"
  std::string account;
  std::string container;
  bool uses_sas = false;
  bool anonymous = false;
};

// The x-ms-error-code header, or the code of the XML body (HEAD has no body), or empty.
std::string azure_error_code(const HttpResponse& response);

// An Error for a response that is not a success. `now` finds clocks that are wrong.
Error azure_error(const HttpResponse& response, const ErrorPlace& place, WallTime now);

// Retry-After (seconds or a date), retry-after-ms, x-ms-retry-after-ms; at most 10 minutes.
std::chrono::milliseconds retry_after_of(const HttpResponse& response, WallTime now);

}  // namespace shoal
