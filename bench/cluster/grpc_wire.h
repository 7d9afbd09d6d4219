// As much of gRPC as a load of equal small calls needs: HTTP/2 in the clear, one connection, one
// stream per call, unary messages. Bytes in, bytes out. Answers' headers are not decoded; a call
// that failed is told by its missing or short message.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/error.h"

namespace shoal::bench {

// A length-delimited field of protobuf. `field`: 1 to 15; at most 16,383 bytes.
std::string protobuf_bytes(unsigned field, std::string_view value);

class GrpcCalls {
 public:
  // `answer_bytes_min`: a shorter message is a failed call.
  GrpcCalls(std::string path, std::string authority, size_t answer_bytes_min)
      : path_(std::move(path)), authority_(std::move(authority)), answer_min_(answer_bytes_min) {}

  // The first one begins with what opens a connection.
  void append_call(std::string& out, std::string_view message);
  // Takes whole frames from the front; how many bytes. Ended calls are added to `answers`; what the
  // other side must be told at once (settings, pings) goes to `out`. kUnavailable: a call or the
  // connection failed; kCorrupt: no HTTP/2.
  Result<size_t> take_answers(std::string_view bytes, uint64_t& answers, std::string& out);

 private:
  Status take_frame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload,
                    uint64_t& answers, std::string& out);

  std::string path_;
  std::string authority_;
  size_t answer_min_;
  uint32_t next_stream_ = 1;
  std::unordered_map<uint32_t, size_t> open_;  // streams, and bytes of data that came on each
};

}  // namespace shoal::bench
