// Dates as HTTP writes them: "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, IMF-fixdate only).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "world/time.h"

namespace shoal {

std::string format_http_date(WallTime time);
std::optional<WallTime> parse_http_date(std::string_view text);

}  // namespace shoal
