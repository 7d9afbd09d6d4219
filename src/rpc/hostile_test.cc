// Peers that misbehave, over a network in memory: bytes that change on their way, streams that stop
// in the middle of a frame, frames that are not allowed.
#include <gtest/gtest.h>

#include "async/net_io.h"
#include "base/checksum.h"
#include "rpc/internal/frame_reader.h"
#include "rpc/internal/handshake_io.h"
#include "rpc/scenarios_test_support.h"
#include "wire/data_body.h"
#include "wire/error_code.h"

namespace shoal {
namespace {

using scenarios::Pair;
using std::chrono::milliseconds;

// Either end of a connection, frame by frame, by hand.
struct RawPeer {
  RawPeer(World& world, SocketId socket) : stream(world, socket, "raw"), reader(stream) {}
  ~RawPeer() { stream.close(); }
  Context soon() { return scenarios::seconds(stream.world, 20); }

  Task<Status> shake(const RpcIdentity& identity, Handshake::Role role) {
    auto peer = co_await shake_hands(stream, reader, identity, role, 256, soon());
    if (!peer) co_return fail(std::move(peer).error());
    co_return Status();
  }
  Task<Status> send(std::string bytes) { co_return co_await send_bytes(stream, bytes, soon()); }
  Task<Status> send(FrameType type, uint64_t id, std::string body, Method method = Method::kNone) {
    FrameHeader header;
    header.type = type;
    header.method = method;
    header.request_id = id;
    co_return co_await send(encode_frame(header, body));
  }
  // The next frame; its payload is thrown away.
  struct Received {
    FrameHeader header;
    std::string body;
  };
  Task<Result<Received>> next() {
    while (true) {
      SHOAL_CO_ASSIGN_OR_RETURN(auto frame, reader.try_next());
      if (frame.has_value()) {
        Received received{frame->header, std::string(frame->body)};
        Buffer payload(received.header.payload_length);
        if (!payload.empty()) {
          SHOAL_CO_RETURN_IF_ERROR(co_await reader.payload(payload.span()));
        }
        co_return received;
      }
      SHOAL_CO_RETURN_IF_ERROR(co_await reader.fill());
    }
  }
  // Whether the other side ends the stream without a further frame.
  Task<bool> is_ended() {
    auto frame = co_await next();
    co_return !frame && frame.error().code() == Code::kUnavailable;
  }

  Stream stream;
  FrameReader reader;
};

Task<std::unique_ptr<RawPeer>> connect_raw(Pair& pair, bool shake) {
  World& world = pair.bed.caller();
  auto socket = co_await net_io::connect(world.network, world.executor, pair.rpc_server->address(),
                                         pair.soon());
  SHOAL_ASSERT(socket.has_value());
  auto peer = std::make_unique<RawPeer>(world, *socket);
  if (shake)
    EXPECT_OK(co_await peer->shake(pair.caller.context.identity, Handshake::Role::kCaller));
  co_return peer;
}

// A server by hand, and a pool that calls it.
struct RawServer {
  explicit RawServer(MemoryBed& where)
      : bed(where), server(where.server(), 2), caller(where.caller(), 1) {
    pool = RpcPool::create(caller.context, {});
  }
  Task<void> start() {
    World& world = bed.server();
    auto listening = co_await net_io::listen(world.network, world.executor, bed.listen());
    SHOAL_ASSERT(listening.has_value());
    listener = listening->socket;
    address = listening->address;
  }
  Task<std::unique_ptr<RawPeer>> accept() {
    World& world = bed.server();
    auto accepted = co_await net_io::accept(world.network, world.executor, listener, {});
    SHOAL_ASSERT(accepted.has_value());
    auto peer = std::make_unique<RawPeer>(world, accepted->socket);
    EXPECT_OK(co_await peer->shake(server.context.identity, Handshake::Role::kAnswerer));
    co_return peer;
  }
  Task<void> stop() {
    co_await pool->close();
    bed.server().network.close(listener);
  }

  MemoryBed& bed;
  TestNode server;
  TestNode caller;
  SocketId listener{};
  std::string address;
  std::unique_ptr<RpcPool> pool;
};

Task<void> call_raw(RawServer& raw, RpcSink* sink, Context context, Result<std::string>& result) {
  result = co_await raw.pool->call(raw.address, {}, Method::kRead, "r", sink, 0, context);
}

// --- what a caller sees ---

Task<void> stalls_in_the_middle_of_a_frame(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  EXPECT_OK(
      co_await read_and_check(*pair.pool, pair.rpc_server->address(), 100, 1, 0, pair.soon()));
  MemoryNetwork& network = bed.network();
  network.to_callers_max = network.to_callers + kMiB + 300'000;
  Buffer into(4 * kMiB);
  RpcSink sink;
  sink.into = into.span();
  SteadyTime began = bed.executor().now();
  auto result = co_await pair.pool->call(pair.rpc_server->address(), {}, Method::kRead,
                                         read_request(4 * kMiB, 3), &sink, 0,
                                         Context::within(bed.executor(), milliseconds(200)));
  EXPECT_CODE(result, Code::kDeadlineExceeded);
  EXPECT_LE(bed.executor().now() - began, milliseconds(500));
  EXPECT_GE(sink.arrived, kMiB);
  EXPECT_EQ(sink.arrived % kPieceBytes, 0u);
  std::string right = make_payload(4 * kMiB, 3);
  EXPECT_TRUE(as_text(into.part(0, sink.arrived)) == right.substr(0, sink.arrived));
  std::memset(into.data(), 0x55, into.size());
  network.to_callers_max = UINT64_MAX;
  network.resume();
  EXPECT_OK(
      co_await read_and_check(*pair.pool, pair.rpc_server->address(), kMiB, 1, 0, pair.soon()));
  bool untouched = true;
  for (std::byte byte : into.span()) untouched = untouched && byte == std::byte{0x55};
  EXPECT_TRUE(untouched) << "somebody wrote to memory that was given back";
  co_await pair.stop();
}

Task<void> cancels_in_the_middle_of_payload(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  Cancel cancel;
  Buffer into(16 * kMiB);
  RpcSink sink;
  sink.into = into.span();
  sink.progress = [&cancel](uint64_t arrived) {
    if (arrived > 2 * kMiB && !cancel.requested()) cancel.request();
  };
  Context context = pair.soon();
  context.cancel = &cancel;
  auto result = co_await pair.pool->call(pair.rpc_server->address(), {}, Method::kRead,
                                         read_request(16 * kMiB, 3), &sink, 0, context);
  EXPECT_CODE(result, Code::kCancelled);
  EXPECT_LT(sink.arrived, 4 * kMiB);
  std::memset(into.data(), 0x55, into.size());
  co_await scenarios::wait_for_cancelled(pair, 1);
  // The server has stopped sending, the connection goes on, and the rest went nowhere.
  EXPECT_LT(pair.server.metrics.bytes_sent.value(), 8 * kMiB);
  EXPECT_OK(
      co_await read_and_check(*pair.pool, pair.rpc_server->address(), kMiB, 1, 0, pair.soon()));
  EXPECT_EQ(pair.caller.metrics.connects.value(), 1u);
  bool untouched = true;
  for (std::byte byte : into.span()) untouched = untouched && byte == std::byte{0x55};
  EXPECT_TRUE(untouched);
  co_await pair.stop();
}

// The first half of a frame, then nothing any more.
Task<void> peer_dies_in_the_middle_of_payload(MemoryBed& bed) {
  RawServer raw(bed);
  co_await raw.start();
  Buffer into(kMiB);
  RpcSink sink;
  sink.into = into.span();
  Result<std::string> result;
  Gate gate(bed.executor());
  SteadyTime began = bed.executor().now();
  gate.spawn(call_raw(raw, &sink, scenarios::seconds(bed.caller(), 20), result));
  auto peer = co_await raw.accept();
  auto request = co_await peer->next();
  EXPECT_OK(request);
  std::string payload = make_payload(kMiB, 1);
  std::string body;
  append_data_body(body, 0, piece_crcs(as_bytes(payload)));
  FrameHeader header;
  header.type = FrameType::kData;
  header.request_id = request->header.request_id;
  EXPECT_OK(co_await peer->send(encode_frame(header, body, kMiB) + payload.substr(0, 700'000)));
  peer->stream.close();
  co_await gate.close();
  EXPECT_CODE(result, Code::kUnavailable);
  EXPECT_LT(bed.executor().now() - began, milliseconds(100));
  EXPECT_EQ(sink.arrived, 512 * kKiB);
  EXPECT_TRUE(as_text(into.part(0, sink.arrived)) == payload.substr(0, sink.arrived));
  EXPECT_EQ(raw.caller.metrics.failures.value(), 1u);
  co_await raw.stop();
}

// What a server may not send: each ends the connection, and the call at once.
Task<void> rejects_wrong_answers(MemoryBed& bed) {
  RawServer raw(bed);
  co_await raw.start();
  auto data = [](uint64_t id, uint64_t offset, uint64_t length) {
    std::string payload = make_payload(length, 1);
    std::string body;
    append_data_body(body, offset, piece_crcs(as_bytes(payload)));
    FrameHeader header;
    header.type = FrameType::kData;
    header.request_id = id;
    return encode_frame(header, body, static_cast<uint32_t>(length)) + payload;
  };
  auto frame = [](FrameType type, uint64_t id) {
    FrameHeader header;
    header.type = type;
    header.request_id = id;
    return encode_frame(header, "");
  };
  for (int wrong = 0; wrong < 8; ++wrong) {
    Buffer into(2 * kPieceBytes);
    RpcSink sink;
    sink.into = into.span();
    Result<std::string> result;
    Gate gate(bed.executor());
    gate.spawn(call_raw(raw, &sink, scenarios::seconds(bed.caller(), 20), result));
    auto peer = co_await raw.accept();
    auto request = co_await peer->next();
    EXPECT_OK(request);
    uint64_t id = request->header.request_id;
    std::string bytes;
    if (wrong == 0) bytes = "this is not a frame, and never was, as long as it may be";
    if (wrong == 1) bytes = data(id, kPieceBytes, kPieceBytes);  // a gap
    if (wrong == 2) bytes = data(id, 0, 2 * kPieceBytes + 1);    // too much
    if (wrong == 3) bytes = data(id + 1, 0, kPieceBytes);        // of nobody
    if (wrong == 4) bytes = frame(FrameType::kReply, id + (1 << 20));
    if (wrong == 5) bytes = frame(FrameType::kRequest, id);
    if (wrong == 6) bytes = frame(FrameType::kHello, id);
    if (wrong == 7) bytes = frame(FrameType::kData, id);  // empty
    (void)co_await peer->send(bytes);                     // the caller may leave before it has all
    co_await gate.close();
    EXPECT_CODE(result, Code::kUnavailable);
    EXPECT_EQ(raw.caller.metrics.corrupt.value(), static_cast<uint64_t>(wrong + 1));
    EXPECT_TRUE(co_await peer->is_ended());
  }
  uint64_t warnings = 0;
  for (const std::string& line : raw.caller.lines) warnings += line.starts_with("peer 10.0.0.2:");
  EXPECT_EQ(warnings, 1u) << "one line per peer";
  co_await raw.stop();
}

// A path that was cut: no answer, no error. New calls take a new connection.
Task<void> silence_leads_to_a_new_connection(MemoryBed& bed) {
  RawServer raw(bed);
  co_await raw.start();
  Gate gate(bed.executor());
  Result<std::string> first;
  Result<std::string> second;
  gate.spawn(call_raw(raw, nullptr, scenarios::seconds(bed.caller(), 3), first));
  auto silent = co_await raw.accept();
  EXPECT_OK(co_await silent->next());
  auto cancelled = co_await silent->next();
  EXPECT_OK(cancelled);
  EXPECT_EQ(cancelled->header.type, FrameType::kCancel);
  gate.spawn(call_raw(raw, nullptr, scenarios::seconds(bed.caller(), 3), second));
  auto fresh = co_await raw.accept();
  auto request = co_await fresh->next();
  EXPECT_OK(request);
  EXPECT_GE(request->header.timeout_ms, 2900u);
  EXPECT_LE(request->header.timeout_ms, 3000u);
  EXPECT_OK(co_await fresh->send(FrameType::kReply, request->header.request_id, "here"));
  co_await gate.close();
  EXPECT_CODE(first, Code::kDeadlineExceeded);
  EXPECT_OK(second);
  EXPECT_EQ(raw.caller.metrics.connects.value(), 2u);
  EXPECT_TRUE(co_await silent->is_ended());
  co_await raw.stop();
}

Task<void> a_changed_bit_is_found(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  MemoryNetwork& network = bed.network();
  std::string address = pair.rpc_server->address();
  for (uint64_t at : {10, 60, 200, 70'000, 900'000}) {
    EXPECT_OK(co_await read_and_check(*pair.pool, address, 100, 1, 0, pair.soon()));
    uint64_t corrupt = pair.caller.metrics.corrupt.value();
    uint64_t seen = 0;
    network.tamper = [&seen, at](bool to_server, std::string& bytes) {
      if (to_server) return;
      if (seen <= at && at < seen + bytes.size()) {
        bytes[at - seen] = static_cast<char>(bytes[at - seen] ^ 0x10);
      }
      seen += bytes.size();
    };
    Status status = co_await read_and_check(*pair.pool, address, kMiB, 1, 0, pair.soon());
    EXPECT_FALSE(status) << at;
    EXPECT_EQ(pair.caller.metrics.corrupt.value(), corrupt + 1) << at;
    if (at > 200) EXPECT_CODE(status, Code::kCorrupt);
    network.tamper = nullptr;
  }
  co_await pair.stop();
}

// --- what a server sees ---

Task<void> server_outlives_garbage(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  EXPECT_OK(co_await pair.call(Method::kHead, "x", pair.soon()));
  auto mute = co_await connect_raw(pair, false);  // never says anything
  for (std::string_view bytes :
       {std::string_view(
            "GET / HTTP/1.1\r\nHost: shoal\r\nConnection: close\r\nAccept: */*\r\n\r\n"),
        std::string_view(
            "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and more of what TLS begins with")}) {
    auto peer = co_await connect_raw(pair, false);
    EXPECT_OK(co_await peer->send(std::string(bytes)));
    if (bytes[0] == '\x16') {  // another node, perhaps: it is told why
      auto told = co_await peer->next();
      EXPECT_TRUE(told.has_value() && told->header.type == FrameType::kRefused);
    }
    EXPECT_TRUE(co_await peer->is_ended());
  }
  EXPECT_EQ(pair.server.metrics.refused.value(), 2u);
  FrameHeader giant;
  giant.type = FrameType::kRequest;
  for (int wrong = 0; wrong < 6; ++wrong) {
    auto peer = co_await connect_raw(pair, true);
    EXPECT_OK(co_await peer->send(FrameType::kRequest, 1, "", Method::kPing));
    std::string bytes = "not a frame, not a frame, not a frame, not a frame, not";
    if (wrong == 1) {  // a length of nearly 4 GiB, with the right checksum
      std::string header = encode_frame(giant, "");
      std::memset(header.data() + 24, 0xFF, 4);
      uint32_t crc = crc32c(as_bytes(header).first(44));
      std::memcpy(header.data() + 44, &crc, sizeof crc);
      bytes = header;
    }
    FrameHeader header;
    header.request_id = 1;
    header.type = wrong == 2   ? FrameType::kReply
                  : wrong == 3 ? FrameType::kHello
                               : FrameType::kRequest;
    if (wrong == 2 || wrong == 3) bytes = encode_frame(header, "");
    if (wrong == 4) bytes = encode_frame(header, "");  // an id that is in use
    if (wrong == 5) bytes = encode_frame(header, "body").substr(0, 50) + std::string(2, 'x');
    EXPECT_OK(co_await peer->send(bytes));
    EXPECT_TRUE(co_await peer->is_ended()) << wrong;
    EXPECT_EQ(pair.server.metrics.corrupt.value(), static_cast<uint64_t>(wrong + 1));
  }
  co_await scenarios::wait_for_cancelled(pair, 6);  // their handlers were told
  EXPECT_OK(co_await pair.call(Method::kHead, "x", pair.soon()));
  EXPECT_EQ(pair.caller.metrics.connects.value(), 1u);
  uint64_t warnings = 0;
  for (const std::string& line : pair.server.lines) warnings += line.starts_with("peer 10.0.0.1:");
  EXPECT_EQ(warnings, 1u);
  // The mute one is given up in time.
  SteadyTime began = bed.executor().now();
  EXPECT_TRUE(co_await mute->is_ended());
  EXPECT_LE(bed.executor().now() - began, std::chrono::seconds(6));
  co_await pair.stop();
}

Task<void> another_version_is_told_why(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  auto peer = co_await connect_raw(pair, false);
  wire::Hello hello;
  hello.set_version(2);
  hello.set_node_low(77);
  FrameHeader header;
  header.type = FrameType::kHello;
  header.version = 2;
  EXPECT_OK(co_await peer->send(encode_frame(header, hello.SerializeAsString())));
  auto answer = co_await peer->next();
  EXPECT_OK(answer);
  EXPECT_EQ(answer->header.type, FrameType::kRefused);
  Error error = decode_error(answer->body, "server");
  EXPECT_EQ(error.code(), Code::kNotSupported);
  EXPECT_NE(error.message().find("speaks protocol version 2"), std::string::npos);
  EXPECT_NE(error.message().find("upgrade"), std::string::npos);
  EXPECT_TRUE(co_await peer->is_ended());
  co_await pair.stop();
}

// A reader that asks for a lot and takes nothing: the server keeps to its bounds.
Task<void> slow_reader_is_bounded(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  auto slow = co_await connect_raw(pair, true);
  for (uint64_t id = 1; id <= 300; ++id) {
    EXPECT_OK(co_await slow->send(FrameType::kRequest, id, read_request(kMiB, id), Method::kRead));
  }
  for (uint64_t id = 301; id <= 400; ++id) {
    EXPECT_OK(co_await slow->send(FrameType::kRequest, id, std::string(100, 'x'), Method::kHead));
  }
  (void)co_await sleep_for(bed.executor(), std::chrono::seconds(2), {});
  // One frame is on its way, the rest waits in handlers, of which there are as many as allowed.
  EXPECT_LE(pair.server.metrics.bytes_sent.value(), 2 * kMiB);
  EXPECT_LE(pair.server.handler.running, 257u);
  EXPECT_GE(pair.server.handler.running, 256u);
  EXPECT_OK(co_await pair.call(Method::kHead, "others are served", pair.soon()));
  // Now it reads: everything comes, each answer once.
  uint64_t ends = 0;
  while (ends < 400) {
    auto frame = co_await slow->next();
    EXPECT_OK(frame);
    if (!frame) break;
    ends += frame->header.type == FrameType::kReply;
  }
  EXPECT_EQ(pair.server.metrics.bytes_sent.value(), 300 * kMiB);
  // Again, but it never reads: it is given up when nothing moves for 30 s.
  for (uint64_t id = 1; id <= 10; ++id) {
    EXPECT_OK(co_await slow->send(FrameType::kRequest, id, read_request(kMiB, id), Method::kRead));
  }
  SteadyTime began = bed.executor().now();
  while (pair.rpc_server->connections() > 1) {
    (void)co_await sleep_for(bed.executor(), milliseconds(100), {});
  }
  EXPECT_LE(bed.executor().now() - began, std::chrono::seconds(32));
  co_await pair.stop();
}

// Two long payloads take turns, and a small answer does not wait for them.
Task<void> answers_take_turns(MemoryBed& bed) {
  Pair pair(bed);
  co_await pair.start();
  auto peer = co_await connect_raw(pair, true);
  EXPECT_OK(co_await peer->send(FrameType::kRequest, 1, read_request(8 * kMiB, 1), Method::kRead));
  EXPECT_OK(co_await peer->send(FrameType::kRequest, 2, read_request(8 * kMiB, 2), Method::kRead));
  EXPECT_OK(co_await peer->next());  // both are under way
  EXPECT_OK(co_await peer->next());
  EXPECT_OK(co_await peer->send(FrameType::kRequest, 3, "small", Method::kHead));
  int64_t balance = 0;
  int64_t balance_max = 0;
  uint64_t data_before_small = 0;
  bool small = false;
  for (int ends = 0; ends < 3;) {
    auto frame = co_await peer->next();
    EXPECT_OK(frame);
    if (!frame) break;
    if (frame->header.type == FrameType::kReply) {
      ++ends;
      small = small || frame->header.request_id == 3;
      continue;
    }
    data_before_small += !small;
    balance += frame->header.request_id == 1 ? 1 : -1;
    balance_max = std::max(balance_max, std::abs(balance));
  }
  EXPECT_LE(balance_max, 3);
  EXPECT_LE(data_before_small, 4u);
  co_await pair.stop();
}

Task<void> more_connections_than_allowed(MemoryBed& bed) {
  Pair pair(bed);
  RpcServerOptions options;
  options.connections_max = 2;
  co_await pair.start(options);
  auto one = co_await connect_raw(pair, true);
  auto two = co_await connect_raw(pair, true);
  auto answer = co_await pair.call(Method::kHead, "", pair.soon());
  EXPECT_CODE(answer, Code::kBusy);
  one = nullptr;
  while (pair.rpc_server->connections() > 1) {
    (void)co_await sleep_for(bed.executor(), milliseconds(1), {});
  }
  EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
  co_await pair.stop();
}

Task<void> a_wrong_clock_is_named_once(MemoryBed& bed) {
  Pair pair(bed);
  pair.server.context.identity.key.clear();
  co_await pair.start();
  for (int i = 0; i < 3; ++i) {
    auto peer = co_await connect_raw(pair, false);
    wire::Hello hello;
    hello.set_version(1);
    hello.set_cluster("blue");
    hello.set_origin("file:///data");
    hello.set_node_high(1);
    hello.set_node_low(9);
    hello.set_nonce(std::string(16, 'n'));
    hello.set_wall_ms(i == 2 ? INT64_MIN : 1000);
    FrameHeader header;
    header.type = FrameType::kHello;
    EXPECT_OK(co_await peer->send(encode_frame(header, hello.SerializeAsString())));
    EXPECT_OK(co_await peer->next());
    EXPECT_OK(co_await peer->send(FrameType::kProof, 0, ""));
    EXPECT_OK(co_await peer->next());
  }
  uint64_t lines = 0;
  for (const std::string& line : pair.server.lines) lines += line.find("clock is") != line.npos;
  EXPECT_EQ(lines, 1u);
  co_await pair.stop();
}

// --- the reader's memory ---

Task<void> fill_once(FrameReader& reader, Status& status) { status = co_await reader.fill(); }

Task<void> memory_grows_only_with_bytes(MemoryBed& bed) {
  World& world = bed.server();
  auto listener = co_await net_io::listen(world.network, world.executor, bed.listen());
  auto near = co_await net_io::connect(world.network, world.executor, listener->address, {});
  auto far = co_await net_io::accept(world.network, world.executor, listener->socket, {});
  {
    RawPeer sender(world, *near);
    RawPeer receiver(world, far->socket);
    FrameHeader header;
    header.type = FrameType::kReply;
    std::string frame = encode_frame(header, std::string(kBodyBytesMax, 'b'));
    Status status;
    Gate gate(world.executor);
    gate.spawn(fill_once(receiver.reader, status));
    (void)co_await sleep_for(world.executor, milliseconds(1), {});
    EXPECT_LE(receiver.reader.capacity(), kKiB);
    EXPECT_OK(co_await sender.send(frame.substr(0, 100)));  // claims 4 MiB
    co_await gate.close();
    Gate second(world.executor);
    second.spawn(fill_once(receiver.reader, status));
    (void)co_await sleep_for(world.executor, milliseconds(1), {});
    EXPECT_LE(receiver.reader.capacity(), 65 * kKiB);
    EXPECT_OK(co_await sender.send(frame.substr(100, 10'000)));
    co_await second.close();
    EXPECT_LE(receiver.reader.capacity(), 65 * kKiB);
    // All of it arrives; afterwards the long buffer goes.
    Gate third(world.executor);
    Status sent;
    auto send_rest = [](RawPeer& peer, std::string bytes, Status& result) -> Task<void> {
      result = co_await peer.send(std::move(bytes));
    };
    third.spawn(send_rest(sender, frame.substr(10'100), sent));
    auto whole = co_await receiver.next();
    EXPECT_OK(whole);
    EXPECT_EQ(whole->body.size(), kBodyBytesMax);
    co_await third.close();
    Gate fourth(world.executor);
    fourth.spawn(fill_once(receiver.reader, status));
    (void)co_await sleep_for(world.executor, milliseconds(1), {});
    EXPECT_LE(receiver.reader.capacity(), kKiB);
    EXPECT_OK(co_await sender.send(FrameType::kReply, 5, "still there"));
    co_await fourth.close();
    auto last = co_await receiver.next();
    EXPECT_OK(last);
    EXPECT_EQ(last->body, "still there");
  }
  world.network.close(listener->socket);
}

struct Case {
  const char* name;
  Task<void> (*run)(MemoryBed&);
};
class Hostile : public testing::TestWithParam<Case> {};

TEST_P(Hostile, is_borne) {
  MemoryBed bed;
  bed.run(GetParam().run(bed));
  EXPECT_EQ(bed.network().open_ends(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Rpc, Hostile,
                         testing::Values(Case{"stall", stalls_in_the_middle_of_a_frame},
                                         Case{"cancel", cancels_in_the_middle_of_payload},
                                         Case{"death", peer_dies_in_the_middle_of_payload},
                                         Case{"wrong_answers", rejects_wrong_answers},
                                         Case{"silence", silence_leads_to_a_new_connection},
                                         Case{"changed_bit", a_changed_bit_is_found},
                                         Case{"garbage", server_outlives_garbage},
                                         Case{"version", another_version_is_told_why},
                                         Case{"slow_reader", slow_reader_is_bounded},
                                         Case{"turns", answers_take_turns},
                                         Case{"connections", more_connections_than_allowed},
                                         Case{"memory", memory_grows_only_with_bytes}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Clock, a_wrong_one_is_named_once) {
  MemoryBed bed;
  bed.run(a_wrong_clock_is_named_once(bed));
}

}  // namespace
}  // namespace shoal
