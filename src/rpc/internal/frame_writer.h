// The sending half of a connection: one task sends what others queue. Small frames are gathered and
// sent as one; they overtake payload at the boundaries of frames; the payloads of several answers
// take turns, one frame each. Bounded: small frames by room(), payload because its sender waits.
//
// Shard's thread.
#pragma once

#include <span>
#include <string>

#include "async/context.h"
#include "async/sync.h"
#include "async/task.h"
#include "rpc/internal/stream.h"
#include "rpc/rpc.h"
#include "wire/frame.h"

namespace shoal {

class FrameWriter {
 public:
  // Payload of one answer, from memory or (file set) from a file. Borrowed until send() returns.
  struct Payload {
    uint64_t request_id = 0;
    uint64_t offset = 0;  // in the answer
    ConstByteSpan bytes = {};
    FileId file = FileId::kNone;
    uint64_t file_offset = 0;
    uint64_t length = 0;
    std::span<const uint32_t> crcs = {};
  };

  FrameWriter(Stream& stream, RpcContext& context);
  ~FrameWriter();

  // Queues a frame without payload. Never refuses: whoever can wait calls wait_for_room() before.
  void push(FrameHeader header, std::string_view body);
  bool has_room() const { return pending_.size() < kPendingBytesMax; }
  Task<Status> wait_for_room(Context context);
  // Returns when the kernel has all of it. Ends at the next boundary of frames when the context
  // ends.
  Task<Status> send(Payload payload, Context context);

  // The writer's task. Ends after finish() when all is sent, or when the stream breaks (the error).
  Task<Status> run();
  // No frame is queued any more; what is there is still sent.
  void finish();
  // The stream was closed.
  void stop();
  // What is queued and not yet with the kernel.
  uint64_t queued_bytes() const { return pending_.size(); }
  // Memory of the buffers for small frames, empty or not.
  size_t capacity() const { return pending_.capacity() + sending_.capacity() + head_.capacity(); }
  void release_idle_memory();

 private:
  static constexpr size_t kPendingBytesMax = 256 * kKiB;
  static constexpr size_t kKeptBytes = 16 * kKiB;  // of a buffer for small frames, for the next

  struct Item {
    Item(Payload what, Executor& executor) : payload(what), done(executor) {}
    Payload payload;
    uint64_t sent = 0;
    bool last = false;     // nobody wants the rest
    bool sending = false;  // the writer holds it
    bool finished = false;
    Status status;
    Signal done;
    Item* next = nullptr;
  };

  Task<Status> send_round();
  Task<Status> send_parts(std::span<const ConstByteSpan> parts, bool more);
  Task<Status> send_file(const Payload& payload, uint64_t from, uint64_t length);
  uint64_t encode_part(const Item& item);
  void clear_sent();
  void finish_item(Item& item, Status status);
  void enqueue(Item& item);
  Item* dequeue();
  void remove(Item& item);
  void fail_all();

  Stream& stream_;
  RpcContext& context_;
  std::string pending_;  // frames that wait
  std::string sending_;  // frames on their way to the kernel
  std::string head_;     // header and body of the payload frame on its way
  Item* first_ = nullptr;
  Item* last_ = nullptr;
  bool finishing_ = false;
  bool running_ = false;
  bool in_round_ = false;  // the kernel may be reading from sending_ and head_
  Signal work_;
  Signal room_;
};

}  // namespace shoal
