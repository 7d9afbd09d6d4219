#include "rpc/internal/server_connection.h"

#include <fmt/format.h>

#include "rpc/internal/handshake_io.h"
#include "wire/error_code.h"

namespace shoal {

namespace {

// Requests under way when the server stops may go on for so long before they are cancelled.
constexpr Duration kDrainTime = std::chrono::milliseconds(500);

}  // namespace

// One request and its answer.
struct ServerConnection::Request final : RpcResponder {
  explicit Request(FrameWriter& to) : writer(to) {}

  Task<Status> send(uint64_t offset, ConstByteSpan bytes, std::span<const uint32_t> crcs) override {
    FrameWriter::Payload payload;
    payload.bytes = bytes;
    payload.length = bytes.size();
    return send_payload(offset, payload, crcs);
  }
  Task<Status> send_file(uint64_t offset, FileId file, uint64_t file_offset, uint64_t length,
                         std::span<const uint32_t> crcs) override {
    FrameWriter::Payload payload;
    payload.file = file;
    payload.file_offset = file_offset;
    payload.length = length;
    return send_payload(offset, payload, crcs);
  }
  Task<Status> send_payload(uint64_t offset, FrameWriter::Payload payload,
                            std::span<const uint32_t> crcs) {
    SHOAL_ASSERT(offset == sent, "an answer's payload is sent in order, without gaps");
    sent += payload.length;
    payload.request_id = id;
    payload.offset = offset;
    payload.crcs = crcs;
    if (payload.length == 0) co_return Status();
    co_return co_await writer.send(payload, {deadline, &cancel});
  }

  FrameWriter& writer;
  uint64_t id = 0;
  RpcRequest request;
  SteadyTime deadline = kNever;
  Cancel cancel;
  uint64_t sent = 0;
};

ServerConnection::ServerConnection(RpcContext& context, PeerNotes& notes, RpcHandler& handler,
                                   const RpcServerOptions& options, SocketId socket,
                                   std::string address)
    : context_(context),
      notes_(notes),
      handler_(handler),
      options_(options),
      stream_(context.world, socket, std::move(address), context.tls, Handshake::Role::kAnswerer),
      reader_(stream_),
      writer_(stream_, context),
      gossip_(context.versions, context.world.executor),
      changed_(context.world.executor),
      handlers_(context.world.executor),
      writing_(context.world.executor),
      reading_(context.world.executor) {}

ServerConnection::~ServerConnection() { SHOAL_ASSERT(requests_.empty()); }

Task<void> ServerConnection::run() {
  Status status = co_await shake();
  if (status) {
    writing_.spawn(write());
    reading_.spawn(read());
    while (stream_.is_open() && !draining_) {
      Status woken = co_await changed_.wait({});
      SHOAL_ASSERT(woken.has_value());
    }
    co_await wait_for_handlers();
    writer_.finish();
    co_await writing_.close();
  }
  break_off();
  co_await reading_.close();
}

Task<Status> ServerConnection::shake() {
  Context limits = Context::within(stream_.world.executor, options_.handshake_timeout);
  limits.cancel = &handshake_cancel_;
  auto peer = co_await shake_hands(stream_, reader_, context_.identity, Handshake::Role::kAnswerer,
                                   options_.requests_max, limits);
  if (peer) {
    peer_ = *peer;
    notes_.check_clock(stream_.peer, peer_, stream_.world.executor.wall_now());
    co_return Status();
  }
  if (draining_ || !stream_.is_open()) co_return fail(std::move(peer).error());
  // Who connects and leaves without a word (a port scan, a health check) is not worth a warning.
  Code code = peer.error().code();
  if (code == Code::kUnavailable || code == Code::kDeadlineExceeded) {
    context_.log.debug("peer {}: {}", stream_.peer, peer.error().to_string());
  } else {
    notes_.broke_rules(stream_.peer, peer.error());
    context_.metrics.refused.add();
  }
  co_return fail(std::move(peer).error());
}

Task<void> ServerConnection::read() {
  Status status;
  while (status && stream_.is_open()) {
    auto frame = reader_.try_next();
    if (!frame) {
      status = fail(std::move(frame).error().with_context(stream_.peer));
    } else if (!frame->has_value()) {
      status = co_await reader_.fill();
    } else {
      status = co_await handle(**frame);
    }
  }
  if (!stream_.is_open()) co_return;
  if (status.error().code() != Code::kUnavailable) {
    context_.metrics.corrupt.add();
    context_.metrics.failures.add();
    notes_.broke_rules(stream_.peer, status.error());
  } else if (!requests_.empty()) {
    context_.metrics.failures.add();
    context_.log.debug("peer {} left with {} requests under way: {}", stream_.peer,
                       requests_.size(), status.error().message());
  }
  break_off();
}

Task<void> ServerConnection::write() {
  Status status = co_await writer_.run();
  if (status || !stream_.is_open()) co_return;
  context_.metrics.failures.add();
  context_.log.debug("peer {}: {}", stream_.peer, status.error().to_string());
  break_off();
}

Task<Status> ServerConnection::handle(FrameReader::Frame frame) {
  gossip_.heard(peer_.node, frame.header.map_version);
  if (frame.header.type == FrameType::kCancel) {
    // Unknown: the answer and the cancellation have crossed.
    if (auto found = requests_.find(frame.header.request_id); found != requests_.end()) {
      found->second->cancel.request();
    }
    co_return Status();
  }
  if (frame.header.type != FrameType::kRequest) {
    co_return fail(Code::kCorrupt, fmt::format("{}: frame type {} is not for a server",
                                               stream_.peer, static_cast<int>(frame.header.type)));
  }
  if (requests_.contains(frame.header.request_id)) {
    co_return fail(Code::kCorrupt, fmt::format("{}: request id {} is in use already", stream_.peer,
                                               frame.header.request_id));
  }
  if (draining_) {
    turn_away(frame.header.request_id);
    // One that never stops asking is not read any further.
    while (stream_.is_open() && !writer_.has_room()) (void)co_await writer_.wait_for_room({});
    co_return Status();
  }
  begin(frame);
  // The peer knows the limit; one that goes beyond it is not read until there is room. (A peer that
  // keeps to it never makes us wait here, so cancellations are not held up.)
  while (requests_.size() > options_.requests_max && stream_.is_open() && !draining_) {
    Status status = co_await changed_.wait({});
    SHOAL_ASSERT(status.has_value());
  }
  co_return Status();
}

void ServerConnection::begin(const FrameReader::Frame& frame) {
  auto request = std::make_unique<Request>(writer_);
  request->id = frame.header.request_id;
  request->request.method = frame.header.method;
  request->request.body = std::string(frame.body);
  request->request.peer = peer_.node;
  request->request.address = stream_.peer;
  if (frame.header.timeout_ms != 0) {
    request->deadline =
        stream_.world.executor.now() + std::chrono::milliseconds(frame.header.timeout_ms);
  }
  requests_.emplace(request->id, request.get());
  bool spawned = handlers_.spawn(serve(std::move(request)));
  SHOAL_ASSERT(spawned, "requests are read only while handlers may start");
}

void ServerConnection::turn_away(uint64_t request_id) {
  FrameHeader header;
  header.type = FrameType::kError;
  header.request_id = request_id;
  writer_.push(header, encode_error(Error(Code::kUnavailable, "this node is shutting down")));
}

Task<void> ServerConnection::serve(std::unique_ptr<Request> request) {
  Context limits{request->deadline, &request->cancel};
  auto result = co_await handler_.handle(std::move(request->request), *request, limits);
  if (result && result->size() > kBodyBytesMax) {
    result = fail(Code::kTooLarge, fmt::format("the answer has {} bytes, at most {} fit",
                                               result->size(), kBodyBytesMax));
  }
  // Waiting here, with the place in the table still taken, is what bounds the queue of answers.
  if (!writer_.has_room()) (void)co_await writer_.wait_for_room({});
  FrameHeader header;
  header.type = result ? FrameType::kReply : FrameType::kError;
  header.request_id = request->id;
  if (result) {
    writer_.push(header, *result);
  } else {
    writer_.push(header, encode_error(result.error()));
  }
  context_.metrics.requests_served.add();
  requests_.erase(request->id);
  changed_.notify_all();
}

Task<void> ServerConnection::wait_for_handlers() {
  Context limits = Context::within(stream_.world.executor, kDrainTime);
  while (stream_.is_open() && !requests_.empty()) {
    if (!co_await changed_.wait(limits)) break;
  }
  for (auto& [id, request] : requests_) {
    if (!request->cancel.requested()) request->cancel.request();
  }
  co_await handlers_.close();
}

void ServerConnection::drain() {
  if (draining_) return;
  draining_ = true;
  if (!handshake_cancel_.requested()) handshake_cancel_.request();
  changed_.notify_all();
}

void ServerConnection::break_off() {
  if (!stream_.is_open()) return;
  stream_.close();
  writer_.stop();
  for (auto& [id, request] : requests_) request->cancel.request();
  changed_.notify_all();
}

void ServerConnection::release_idle_memory() {
  writer_.release_idle_memory();
  stream_.release_idle_memory();
}

}  // namespace shoal
