// One HTTP/1.1 answer, taken apart as it arrives. Bytes in, bytes out: no socket.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace shoal {

// The body may be counted, chunked, or go on until the connection ends. Never trusts the bytes:
// kUnavailable says that they are no HTTP.
class HttpReply {
 public:
  // Takes the next bytes of the connection and appends what they hold of the body. What follows the
  // end of the answer is passed over.
  Status feed(std::string_view bytes, std::string& body);
  // The connection has ended. Fails if the answer has not.
  Status end();

  // 0 until the first line is complete.
  int status() const { return status_; }
  bool complete() const { return step_ == Step::kComplete; }

 private:
  enum class Step {
    kStatusLine,
    kHeader,
    kCounted,
    kUntilEnd,
    kChunkSize,
    kChunk,
    kChunkEnd,
    kTrailer,
    kComplete
  };

  Status take_line(std::string_view line);
  Status take_status_line(std::string_view line);
  Status take_header(std::string_view line);
  Status take_chunk_size(std::string_view line);

  Step step_ = Step::kStatusLine;
  int status_ = 0;
  bool counted_ = false;
  bool chunked_ = false;
  uint64_t left_ = 0;        // bytes of the counted body or of the chunk
  uint64_t head_bytes_ = 0;  // lines so far
  std::string line_;         // as far as it has arrived
};

}  // namespace shoal
