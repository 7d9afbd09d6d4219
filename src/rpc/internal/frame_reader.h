// Cuts a stream into frames. Small frames are received in bulk: one receive may bring hundreds.
// Payload goes to where the caller says; only what came along with a header is copied.
//
// Memory: a connection that waits between frames holds 1 KiB; 64 KiB are taken only while more is
// there than fits into that; a longer body gets its length, which grows only as its bytes arrive.
// Shard's thread; one caller at a time.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "async/context.h"
#include "async/task.h"
#include "rpc/internal/stream.h"
#include "wire/frame.h"

namespace shoal {

class FrameReader {
 public:
  explicit FrameReader(Stream& stream) : stream_(stream) {}
  FrameReader(const FrameReader&) = delete;
  FrameReader& operator=(const FrameReader&) = delete;

  struct Frame {
    FrameHeader header;
    std::string_view body;  // until the next call of anything here
  };
  // The next frame, if its header and body have been received; nothing: fill(). Payload follows
  // with payload(). Errors: what decode_frame_header says, kCorrupt.
  Result<std::optional<Frame>> try_next();
  // Receives something. kUnavailable when the stream ended, broke or was closed, or the context
  // ended. A frame that has begun must go on in time.
  Task<Status> fill(Context context = {});
  // Exactly so many bytes of payload.
  Task<Status> payload(ByteSpan into);

  // For the handshake: what is there, and that so much of it has been used.
  ConstByteSpan buffered() const { return buffer().subspan(begin_, end_ - begin_); }
  void consume(size_t bytes);

  SteadyTime last_received() const { return last_received_; }
  // Memory in use.
  size_t capacity() const { return kSmallBytes + large_.size(); }

 private:
  static constexpr size_t kSmallBytes = kKiB;
  static constexpr size_t kLargeBytes = 64 * kKiB;

  size_t wanted() const;
  void make_room();
  void set_capacity(size_t bytes);
  ByteSpan buffer() { return large_.empty() ? ByteSpan(small_) : large_.span(); }
  ConstByteSpan buffer() const { return large_.empty() ? ConstByteSpan(small_) : large_.span(); }

  Stream& stream_;
  std::array<std::byte, kSmallBytes> small_;
  Buffer large_;  // used while it is there
  size_t begin_ = 0;
  size_t end_ = 0;
  bool busy_ = false;        // the last receive filled the buffer: more was there than it holds
  bool after_data_ = false;  // payload came last: more is to be expected, do not take it along
  SteadyTime last_received_{};
};

}  // namespace shoal
