// What a failed operation on a stream means to people.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace shoal {

// `result`: of a NetOp or a TlsSession, negative. kCorrupt for a record of TLS that is none.
Error net_error(const std::string& peer, int64_t result, const char* deed);

}  // namespace shoal
