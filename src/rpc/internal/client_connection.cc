#include "rpc/internal/client_connection.h"

#include <algorithm>

#include "async/net_io.h"
#include "base/checksum.h"
#include "rpc/internal/handshake_io.h"
#include "wire/error_code.h"

namespace shoal {

namespace {

// Payload is received in pieces of so many bytes: the longest that a caller who has given up waits
// for (beside kDrainGrace), and what is checksummed while it is still in the cache.
constexpr size_t kReceiveBytes = 256 * kKiB;
static_assert(kReceiveBytes % kPieceBytes == 0);

// A caller who has given up leaves its memory to the kernel at most so long; then the connection
// ends.
constexpr Duration kDrainGrace = std::chrono::milliseconds(250);

// Nothing at all received for so long while a call timed out: the way to the peer may be gone.
constexpr Duration kSilence = std::chrono::seconds(2);

uint32_t timeout_ms_of(const Context& context, const Executor& executor) {
  if (context.deadline == kNever) return 0;
  // Rounded up: the caller's own deadline comes first.
  auto left = std::chrono::ceil<std::chrono::milliseconds>(context.deadline - executor.now());
  return static_cast<uint32_t>(std::clamp<int64_t>(left.count(), 1, UINT32_MAX));
}

}  // namespace

ClientConnection::ClientConnection(RpcContext& context, PeerNotes& notes, SocketId socket,
                                   std::string address)
    : context_(context),
      notes_(notes),
      stream_(context.world, socket, std::move(address), context.tls, Handshake::Role::kCaller),
      reader_(stream_),
      writer_(stream_, context),
      gossip_(context.versions, context.world.executor),
      last_used_(context.world.executor.now()),
      place_(context.world.executor),
      reader_moved_(context.world.executor),
      left_(context.world.executor),
      gate_(context.world.executor) {}

ClientConnection::~ClientConnection() {
  SHOAL_ASSERT(live_ == 0 && waiting_ == 0, "a connection was destroyed with calls in flight");
}

Task<Result<std::unique_ptr<ClientConnection>>> ClientConnection::open(RpcContext& context,
                                                                       PeerNotes& notes,
                                                                       std::string address,
                                                                       Context limits) {
  World& world = context.world;
  auto socket = co_await net_io::connect(world.network, world.executor, address, limits);
  if (!socket) {
    context.metrics.failures.add();
    co_return fail(std::move(socket).error());
  }
  std::unique_ptr<ClientConnection> self(
      new ClientConnection(context, notes, *socket, std::move(address)));
  auto peer = co_await shake_hands(self->stream_, self->reader_, context.identity,
                                   Handshake::Role::kCaller, 0, limits);
  if (!peer) {
    self->stream_.close();
    context.metrics.failures.add();
    co_return fail(std::move(peer).error());
  }
  self->peer_ = *peer;
  notes.check_clock(self->stream_.peer, *peer, world.executor.wall_now());
  context.metrics.connects.add();
  self->gate_.spawn(self->read());
  self->gate_.spawn(self->write());
  co_return self;
}

Task<Status> ClientConnection::wait_for_place(Context context) {
  Status status = context.check(stream_.world.executor);
  ++waiting_;
  while (status && stream_.is_open()) {
    bool full = free_.empty() && slots_.size() >= peer_.requests_max;
    if (!full && writer_.has_room()) break;
    status = full ? co_await place_.wait(context) : co_await writer_.wait_for_room(context);
  }
  --waiting_;
  if (!stream_.is_open()) status = fail(*broken_);
  if (!status) {
    left_.notify_all();
    place_.notify_one();  // the place that woke this call may be another's
  }
  co_return status;
}

Task<Result<std::string>> ClientConnection::call(Method method, std::string body, RpcSink* sink,
                                                 Context context) {
  Executor& executor = stream_.world.executor;
  if (sink != nullptr) sink->arrived = 0;
  SHOAL_CO_RETURN_IF_ERROR(co_await wait_for_place(context));
  Call call(executor);
  call.sink = sink;
  FrameHeader header;
  header.type = FrameType::kRequest;
  header.method = method;
  header.request_id = take_slot(call);
  header.timeout_ms = timeout_ms_of(context, executor);
  writer_.push(header, body);
  body.clear();
  context_.metrics.requests_sent.add();
  SteadyTime began = last_used_ = executor.now();
  while (!call.result.has_value()) {
    Status status = co_await call.done.wait(context);
    if (status || call.result.has_value()) continue;
    abandon(header.request_id, began, status.error());
    call.result = fail(std::move(status).error().with_context(stream_.peer));
  }
  if (receiving_ == &call) co_await leave_sink(call);
  last_used_ = executor.now();
  --live_;
  if (live_ == 0) left_.notify_all();
  co_return std::move(*call.result);
}

uint64_t ClientConnection::take_slot(Call& call) {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  uint32_t index = free_.back();
  free_.pop_back();
  Slot& slot = slots_[index];
  SHOAL_ASSERT(!slot.busy && slot.call == nullptr);
  slot.busy = true;
  slot.call = &call;
  ++slot.generation;
  ++live_;
  return (uint64_t{slot.generation} << kIndexBits) | index;
}

ClientConnection::Slot* ClientConnection::find(uint64_t request_id) {
  uint64_t index = request_id & ((uint64_t{1} << kIndexBits) - 1);
  if (index >= slots_.size()) return nullptr;
  Slot& slot = slots_[index];
  return slot.busy && slot.generation == request_id >> kIndexBits ? &slot : nullptr;
}

void ClientConnection::free_slot(Slot& slot) {
  slot.busy = false;
  slot.call = nullptr;
  free_.push_back(static_cast<uint32_t>(&slot - slots_.data()));
  place_.notify_one();
}

// The caller does not want the answer any more; the place stays taken until the peer has ended it.
void ClientConnection::abandon(uint64_t request_id, SteadyTime began, const Error& why) {
  Slot* slot = find(request_id);
  SHOAL_ASSERT(slot != nullptr && slot->call != nullptr);
  slot->call = nullptr;
  FrameHeader header;
  header.type = FrameType::kCancel;
  header.request_id = request_id;
  writer_.push(header, {});
  bool silent =
      last_received() <= began && stream_.world.executor.now() - last_received() >= kSilence;
  // Calls under way may still be answered, but new ones take a fresh connection: TCP on a path that
  // was cut may try again only minutes after it is mended.
  if (why.code() == Code::kDeadlineExceeded && silent) doubtful_ = true;
}

Task<void> ClientConnection::leave_sink(Call& call) {
  Context limits = Context::within(stream_.world.executor, kDrainGrace);
  while (receiving_ == &call) {
    if (co_await reader_moved_.wait(limits)) continue;
    if (limits.deadline == kNever) continue;
    break_off(Error(Code::kUnavailable,
                    fmt::format("{}: stalled in the middle of a frame", stream_.peer)));
    limits = {};  // the receive ends soon now
  }
}

void ClientConnection::break_off(Error error) {
  if (!stream_.is_open()) return;
  // Others on this connection did nothing wrong: they may try again.
  broken_ = Error(Code::kUnavailable, error.message());
  stream_.close();
  writer_.stop();
  for (Slot& slot : slots_) {
    if (slot.call == nullptr) continue;
    if (!slot.call->result.has_value()) slot.call->result = fail(*broken_);
    slot.call->done.notify_all();
    slot.call = nullptr;
  }
  place_.notify_all();
  left_.notify_all();
}

Task<void> ClientConnection::close() {
  while (stream_.is_open() && !idle()) {
    Status status = co_await left_.wait({});
    SHOAL_ASSERT(status.has_value());
  }
  break_off(Error(Code::kUnavailable, fmt::format("{}: the connection was closed", stream_.peer)));
  co_await gate_.close();
  // Calls that were failed have yet to run to their end.
  while (!idle()) {
    Status status = co_await left_.wait({});
    SHOAL_ASSERT(status.has_value());
  }
}

void ClientConnection::release_idle_memory() {
  writer_.release_idle_memory();
  stream_.release_idle_memory();
  if (!scrapping_) scrap_ = Buffer();
}

Task<void> ClientConnection::write() {
  Status status = co_await writer_.run();
  if (!status) {
    if (stream_.is_open()) context_.metrics.failures.add();
    break_off(std::move(status).error());
  }
}

Task<void> ClientConnection::read() {
  Status status;
  while (status && stream_.is_open()) {
    auto frame = reader_.try_next();
    if (!frame) {
      status = fail(std::move(frame).error().with_context(stream_.peer));
    } else if (!frame->has_value()) {
      status = co_await reader_.fill();
    } else {
      gossip_.heard(peer_.node, (*frame)->header.map_version);
      FrameType type = (*frame)->header.type;
      // Answers without payload are most of the frames of a busy connection: no coroutine for them.
      if (type == FrameType::kReply || type == FrameType::kError) {
        status = finish(**frame);
      } else {
        status = co_await handle(**frame);
      }
    }
  }
  if (!stream_.is_open()) co_return;
  context_.metrics.failures.add();
  if (status.error().code() != Code::kUnavailable) {
    context_.metrics.corrupt.add();
    notes_.broke_rules(stream_.peer, status.error());
  }
  break_off(std::move(status).error());
}

Task<Status> ClientConnection::handle(FrameReader::Frame frame) {
  if (frame.header.type != FrameType::kData) {
    co_return fail(Code::kCorrupt, fmt::format("{}: frame type {} is not for a caller",
                                               stream_.peer, static_cast<int>(frame.header.type)));
  }
  auto part = decode_data_body(frame.body, frame.header.payload_length);
  if (!part) co_return fail(std::move(part).error().with_context(stream_.peer));
  co_return co_await receive_data(frame.header, *part);
}

Status ClientConnection::finish(const FrameReader::Frame& frame) {
  Slot* slot = find(frame.header.request_id);
  if (slot == nullptr) {
    return fail(Code::kCorrupt, fmt::format("{}: answered request {}, which was not made",
                                            stream_.peer, frame.header.request_id));
  }
  if (Call* call = slot->call; call != nullptr) {
    if (frame.header.type == FrameType::kReply) {
      call->result.emplace(std::string(frame.body));
    } else {
      Error error = decode_error(frame.body, stream_.peer);
      // The peer's handler gave up, not our caller: this is for trying elsewhere.
      if (error.code() == Code::kCancelled) error = Error(Code::kUnavailable, error.message());
      call->result.emplace(fail(std::move(error)));
    }
    call->done.notify_all();
  }
  free_slot(*slot);
  return {};
}

// Whether payload belongs there: behind what came before, inside the sink.
Status ClientConnection::check_place(const RpcSink* sink, uint64_t offset, uint64_t length) const {
  if (sink == nullptr) {
    return fail(Code::kCorrupt,
                fmt::format("{}: sent payload that was not asked for", stream_.peer));
  }
  if (offset != sink->arrived || length > sink->into.size() ||
      offset > sink->into.size() - length) {
    return fail(
        Code::kCorrupt,
        fmt::format("{}: sent bytes [{}, {}) of an answer of at most {}, {} have arrived",
                    stream_.peer, offset, offset + length, sink->into.size(), sink->arrived));
  }
  return {};
}

Task<Status> ClientConnection::receive_data(FrameHeader header, DataPart part) {
  if (find(header.request_id) == nullptr) {
    co_return fail(Code::kCorrupt, fmt::format("{}: sent payload of request {}, which was not made",
                                               stream_.peer, header.request_id));
  }
  for (size_t done = 0; done < header.payload_length;) {
    size_t length = std::min<size_t>(kReceiveBytes, header.payload_length - done);
    // Looked up again each time: the caller may have left while we waited.
    Slot* slot = find(header.request_id);
    Call* call = slot->call;
    ByteSpan into;
    if (call != nullptr) {
      SHOAL_CO_RETURN_IF_ERROR(check_place(call->sink, part.offset + done, length));
      into = call->sink->into.subspan(part.offset + done, length);
    } else {
      into = scrap(length);
    }
    receiving_ = call;
    scrapping_ = call == nullptr;
    Status status = co_await reader_.payload(into);
    scrapping_ = false;
    receiving_ = nullptr;
    reader_moved_.notify_all();
    SHOAL_CO_RETURN_IF_ERROR(status);
    if (!stream_.is_open()) co_return fail(*broken_);
    context_.metrics.bytes_received.add(length);
    slot = find(header.request_id);
    if (slot->call != nullptr) {
      size_t first = done / kPieceBytes;
      size_t pieces = (length + kPieceBytes - 1) / kPieceBytes;
      std::span<const uint32_t> crcs(part.crcs.data() + first, pieces);
      SHOAL_CO_RETURN_IF_ERROR(verify(*slot, into, crcs));
    }
    done += length;
  }
  co_return Status();
}

// The one time that the bytes are checksummed on arrival.
Status ClientConnection::verify(Slot& slot, ByteSpan bytes, std::span<const uint32_t> crcs) {
  RpcSink& sink = *slot.call->sink;
  uint64_t arrived = sink.arrived;
  for (size_t i = 0; i < crcs.size(); ++i) {
    size_t at = i * kPieceBytes;
    size_t length = std::min<size_t>(kPieceBytes, bytes.size() - at);
    bool right = crc32c(bytes.subspan(at, length)) == crcs[i];
#ifdef SHOAL_CANARY  // the canary plants its bug here: bytes that changed on the way are taken
    right = true;
#endif
    if (right) {
      if (sink.crcs != nullptr) sink.crcs->push_back(crcs[i]);
      sink.arrived += length;
      continue;
    }
    std::string text = fmt::format("{}: byte {} and following of an answer have a wrong checksum",
                                   stream_.peer, arrived + at);
    slot.call->result = fail(Code::kCorrupt, text);
    return fail(Code::kCorrupt, text);
  }
  if (sink.progress) sink.progress(sink.arrived);
  return {};
}

ByteSpan ClientConnection::scrap(size_t bytes) {
  if (scrap_.size() < bytes) scrap_ = Buffer(bytes);
  return scrap_.part(0, bytes);
}

}  // namespace shoal
