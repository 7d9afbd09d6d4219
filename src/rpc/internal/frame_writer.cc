#include "rpc/internal/frame_writer.h"

#include <algorithm>
#include <array>

#include "wire/data_body.h"

namespace shoal {

FrameWriter::FrameWriter(Stream& stream, RpcContext& context)
    : stream_(stream),
      context_(context),
      work_(stream.world.executor),
      room_(stream.world.executor) {}

FrameWriter::~FrameWriter() {
  SHOAL_ASSERT(first_ == nullptr && !running_, "a writer was destroyed at work");
}

void FrameWriter::push(FrameHeader header, std::string_view body) {
  if (!stream_.is_open()) return;
  header.map_version = context_.versions.current();
  append_frame(pending_, header, body);
  work_.notify_all();
}

Task<Status> FrameWriter::wait_for_room(Context context) {
  while (stream_.is_open() && !has_room()) SHOAL_CO_RETURN_IF_ERROR(co_await room_.wait(context));
  if (!stream_.is_open()) co_return fail(stream_.error(-ECANCELED, "sending"));
  co_return Status();
}

Task<Status> FrameWriter::send(Payload payload, Context context) {
  SHOAL_ASSERT(payload.length > 0 && payload.offset % kPieceBytes == 0);
  SHOAL_ASSERT(payload.crcs.size() == (payload.length + kPieceBytes - 1) / kPieceBytes,
               "one checksum for each piece");
  SHOAL_CO_RETURN_IF_ERROR(context.check(stream_.world.executor));
  if (!stream_.is_open()) co_return fail(stream_.error(-ECANCELED, "sending"));
  Item item(payload, stream_.world.executor);
  enqueue(item);
  work_.notify_all();
  while (!item.finished) {
    Status status = co_await item.done.wait(context);
    if (status || item.finished) continue;
    if (!item.sending) {
      remove(item);
      co_return status;
    }
    // The kernel still reads from the payload; the writer lets it go after this frame.
    item.last = true;
    context = {};
    item.status = std::move(status);
  }
  co_return std::move(item.status);
}

Task<Status> FrameWriter::run() {
  running_ = true;
  Status status;
  while (status && stream_.is_open()) {
    if (pending_.empty() && first_ == nullptr) {
      if (finishing_) break;
      Status woken = co_await work_.wait({});
      SHOAL_ASSERT(woken.has_value());
      continue;
    }
    in_round_ = true;
    status = co_await send_round();
    in_round_ = false;
  }
  running_ = false;
  if (status && stream_.is_open()) co_return Status();
  if (status) status = fail(stream_.error(-ECANCELED, "sending"));
  fail_all();
  co_return status;
}

// All small frames that wait, and one frame of payload.
Task<Status> FrameWriter::send_round() {
  std::swap(pending_, sending_);
  pending_.clear();
  if (room_.has_waiters()) room_.notify_all();
  std::array<ConstByteSpan, 3> parts;
  size_t count = 0;
  if (!sending_.empty()) parts[count++] = as_bytes(sending_);
  Item* item = dequeue();
  if (item == nullptr) {
    Status status = co_await send_parts({parts.data(), count}, false);
    clear_sent();
    co_return status;
  }
  item->sending = true;
  uint64_t length = encode_part(*item);
  bool from_file = item->payload.file != FileId::kNone;
  parts[count++] = as_bytes(head_);
  if (!from_file) parts[count++] = item->payload.bytes.subspan(item->sent, length);
  Status status = co_await send_parts({parts.data(), count}, from_file);
  clear_sent();
  if (status && from_file) status = co_await send_file(item->payload, item->sent, length);
  item->sending = false;
  if (!status) {
    finish_item(*item, status);
    co_return status;
  }
  item->sent += length;
  context_.metrics.bytes_sent.add(length);
  if (item->sent == item->payload.length || item->last) {
    // `last`: its status says why the rest is not sent.
    finish_item(*item, item->sent == item->payload.length ? Status() : std::move(item->status));
  } else {
    enqueue(*item);
  }
  co_return Status();
}

// A frame as large as a map comes seldom, and a node has hundreds of connections.
void FrameWriter::clear_sent() {
  if (sending_.capacity() > kKeptBytes) {
    std::string().swap(sending_);
  } else {
    sending_.clear();
  }
}

// The next frame of this payload: `head_` gets its header and body, the answer is its length.
uint64_t FrameWriter::encode_part(const Item& item) {
  uint64_t length = std::min(item.payload.length - item.sent, kPayloadBytesMax);
  size_t first = item.sent / kPieceBytes;
  size_t pieces = (length + kPieceBytes - 1) / kPieceBytes;
  std::string body;
  append_data_body(body, item.payload.offset + item.sent, item.payload.crcs.subspan(first, pieces));
  FrameHeader header;
  header.type = FrameType::kData;
  header.request_id = item.payload.request_id;
  header.map_version = context_.versions.current();
  head_.clear();
  append_frame(head_, header, body, static_cast<uint32_t>(length));
  return length;
}

Task<Status> FrameWriter::send_parts(std::span<const ConstByteSpan> parts, bool more) {
  Executor& executor = stream_.world.executor;
  int64_t result = co_await stream_.send(parts, more, Context::within(executor, kStallTime));
  if (result < 0) co_return fail(stream_.error(result, "sending"));
  co_return Status();
}

Task<Status> FrameWriter::send_file(const Payload& payload, uint64_t from, uint64_t length) {
  if (!stream_.is_open()) co_return fail(stream_.error(-ECANCELED, "sending"));
  Executor& executor = stream_.world.executor;
  uint64_t offset = payload.file_offset + from;
  int64_t result = co_await stream_.send_file(payload.file, offset, length,
                                              Context::within(executor, kStallTime));
  if (result == -ENODATA) {
    co_return fail(Code::kCorrupt, fmt::format("{}: the file that was being sent ended early at {}",
                                               stream_.peer, offset));
  }
  if (result < 0) co_return fail(stream_.error(result, "sending"));
  co_return Status();
}

void FrameWriter::finish() {
  finishing_ = true;
  work_.notify_all();
}

void FrameWriter::stop() {
  SHOAL_ASSERT(!stream_.is_open());
  pending_.clear();
  work_.notify_all();
  room_.notify_all();
  fail_all();
}

void FrameWriter::release_idle_memory() {
  if (in_round_ || !pending_.empty() || first_ != nullptr) return;
  // An assignment of no characters keeps the memory.
  std::string().swap(pending_);
  std::string().swap(sending_);
  std::string().swap(head_);
}

void FrameWriter::fail_all() {
  while (Item* item = dequeue()) {
    finish_item(*item, fail(stream_.error(-ECANCELED, "sending")));
  }
}

void FrameWriter::finish_item(Item& item, Status status) {
  item.status = std::move(status);
  item.finished = true;
  item.done.notify_all();
}

void FrameWriter::enqueue(Item& item) {
  item.next = nullptr;
  (last_ != nullptr ? last_->next : first_) = &item;
  last_ = &item;
}

FrameWriter::Item* FrameWriter::dequeue() {
  Item* item = first_;
  if (item == nullptr) return nullptr;
  first_ = item->next;
  if (first_ == nullptr) last_ = nullptr;
  return item;
}

void FrameWriter::remove(Item& item) {
  Item* before = nullptr;
  for (Item* at = first_; at != &item; at = at->next) before = at;
  (before != nullptr ? before->next : first_) = item.next;
  if (last_ == &item) last_ = before;
}

}  // namespace shoal
