#include "rpc/internal/frame_reader.h"

#include <algorithm>

namespace shoal {

Result<std::optional<FrameReader::Frame>> FrameReader::try_next() {
  size_t there = end_ - begin_;
  ConstByteSpan bytes = buffered();
  if (there < kFrameHeaderBytes) {
    SHOAL_RETURN_IF_ERROR(check_beginning(bytes));
    return std::nullopt;
  }
  SHOAL_ASSIGN_OR_RETURN(FrameHeader header, decode_frame_header(bytes.first<kFrameHeaderBytes>()));
  if (header.version != kProtocolVersion) {
    return fail(Code::kCorrupt, "the protocol version changed in the middle of a connection");
  }
  if (there < kFrameHeaderBytes + header.body_length) return std::nullopt;
  ConstByteSpan body = bytes.subspan(kFrameHeaderBytes, header.body_length);
  SHOAL_RETURN_IF_ERROR(check_body(header, body));
  consume(kFrameHeaderBytes + header.body_length);
  return Frame{header, as_text(body)};
}

void FrameReader::consume(size_t bytes) {
  SHOAL_ASSERT(bytes <= end_ - begin_);
  begin_ += bytes;
}

// Length of the frame that has begun, without payload; 0 when that is not known yet.
size_t FrameReader::wanted() const {
  if (end_ - begin_ < kFrameHeaderBytes) return 0;
  auto header = decode_frame_header(buffered().first<kFrameHeaderBytes>());
  return header ? kFrameHeaderBytes + header->body_length : 0;
}

void FrameReader::set_capacity(size_t bytes) {
  Buffer larger;
  if (bytes > kSmallBytes) larger = Buffer(bytes);
  ByteSpan into = larger.empty() ? ByteSpan(small_) : larger.span();
  size_t there = end_ - begin_;
  SHOAL_ASSERT(there <= into.size());
  if (there > 0) std::memmove(into.data(), buffer().data() + begin_, there);
  large_ = std::move(larger);
  begin_ = 0;
  end_ = there;
}

void FrameReader::make_room() {
  size_t there = end_ - begin_;
  if (there == 0) {
    // What waits for the next frame is small. There is room for more only if more is there already.
    begin_ = end_ = 0;
    size_t capacity = busy_ ? kLargeBytes : kSmallBytes;
    if (buffer().size() != capacity) set_capacity(capacity);
    return;
  }
  if (busy_ && buffer().size() < kLargeBytes) return set_capacity(kLargeBytes);
  // A long body gets memory as it arrives, not because a header claims it.
  size_t needed = std::max(wanted(), kFrameHeaderBytes);
  size_t grown = std::min(std::max(needed, kLargeBytes), std::max(2 * there, kLargeBytes));
  if (needed > buffer().size() && (there >= buffer().size() || buffer().size() < kLargeBytes)) {
    set_capacity(grown);
  } else if (buffer().size() - begin_ < needed || end_ == buffer().size()) {
    std::memmove(buffer().data(), buffer().data() + begin_, there);
    begin_ = 0;
    end_ = there;
  }
}

Task<Status> FrameReader::fill(Context context) {
  if (!stream_.is_open()) co_return fail(stream_.error(-ECANCELED, "receiving"));
  make_room();
  bool inside = end_ > begin_;
  Executor& executor = stream_.world.executor;
  if (inside) context = context.tightened(executor, kStallTime);
  size_t room = buffer().size() - end_;
  SHOAL_ASSERT(room > 0);
  // Behind payload comes more of it: what is taken along with its header must be copied.
  if (after_data_ && !inside) room = std::min<size_t>(room, 512);
  int64_t result = co_await stream_.receive(buffer().subspan(end_, room), 1, context);
  if (result == 0) result = -EPIPE;
  if (result < 0) co_return fail(stream_.error(result, "receiving"));
  SHOAL_ASSERT(static_cast<uint64_t>(result) <= room);
  end_ += static_cast<size_t>(result);
  // A buffer made for a long body is filled by it and says nothing about what follows.
  bool filled = static_cast<size_t>(result) == room && buffer().size() <= kLargeBytes;
  busy_ = filled && !after_data_;
  after_data_ = false;
  last_received_ = executor.now();
  co_return Status();
}

Task<Status> FrameReader::payload(ByteSpan into) {
  size_t copied = std::min(into.size(), end_ - begin_);
  if (copied > 0) {
    std::memcpy(into.data(), buffer().data() + begin_, copied);
    consume(copied);
  }
  after_data_ = true;
  ByteSpan rest = into.subspan(copied);
  if (rest.empty()) co_return Status();
  if (!stream_.is_open()) co_return fail(stream_.error(-ECANCELED, "receiving"));
  Executor& executor = stream_.world.executor;
  int64_t result =
      co_await stream_.receive(rest, rest.size(), Context::within(executor, kStallTime));
  if (result < 0) co_return fail(stream_.error(result, "receiving"));
  last_received_ = executor.now();
  if (static_cast<uint64_t>(result) < rest.size()) {
    co_return fail(stream_.error(-EPIPE, "receiving"));
  }
  co_return Status();
}

}  // namespace shoal
