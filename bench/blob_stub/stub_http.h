// HTTP/1.1 heads: parsing requests, formatting answers. Bytes in, bytes out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "world_sim/blob_service.h"

namespace shoal::stub {

inline constexpr size_t kHeadBytesMax = 64 * kKiB;
inline constexpr uint64_t kBodyBytesMax = 5000 * kMiB;

struct RequestHead {
  BlobRequest request;  // without body
  uint64_t body_bytes = 0;
  bool close = false;  // the client wants the connection closed after the answer
  bool expects_continue = false;
};

// Parses a whole head, its empty line included. The error's message is for the client.
Result<RequestHead> parse_head(std::string_view head);
// The status line and headers of an answer, with the empty line.
std::string format_head(const BlobReply& reply, bool close);

}  // namespace shoal::stub
