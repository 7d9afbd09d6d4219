// What world/network.h promises, as a test that runs on every world that implements it.
//
// EXPECTs inside; `server` and `client` are worlds whose work runs in the caller's loop (they may
// be one). Only tests include this.
#pragma once

#include <gtest/gtest.h>

#include <cerrno>
#include <coroutine>
#include <string>
#include <utility>
#include <vector>

#include "async/disk_io.h"
#include "async/sync.h"
#include "async/task.h"
#include "world/world.h"

namespace shoal::net_contract {

// An operation that is started at one point and waited for at another.
class Probe final : public NetOp {
 public:
  Probe(World& world, Kind operation) : world_(world), starter_(*this) { kind = operation; }
  // Starts it on its world's thread, which in simulation is not that of another world.
  Probe& go() {
    world_.executor.post(starter_);
    return *this;
  }
  bool done() const { return done_; }

  bool await_ready() const noexcept { return done_; }
  void await_suspend(std::coroutine_handle<> handle) { handle_ = handle; }
  int64_t await_resume() const noexcept { return result; }

 private:
  void run() noexcept override {
    SHOAL_ASSERT(!done_, "an operation ended twice");
    done_ = true;
    if (auto handle = std::exchange(handle_, nullptr)) handle.resume();
  }
  struct Starter final : Runnable {
    explicit Starter(Probe& of) : probe(of) {}
    void run() noexcept override { probe.world_.network.start(probe); }
    Probe& probe;
  };
  World& world_;
  Starter starter_;
  bool done_ = false;
  std::coroutine_handle<> handle_;
};

// Goes on on that executor's thread.
struct Hop final : Runnable {
  explicit Hop(World& world) : executor(world.executor) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> awaiter) {
    handle = awaiter;
    executor.post(*this);
  }
  void await_resume() const noexcept {}
  void run() noexcept override { handle.resume(); }
  Executor& executor;
  std::coroutine_handle<> handle;
};

inline void fill(Probe& probe, SocketId socket, ByteSpan into, uint64_t minimum) {
  probe.socket = socket;
  probe.data = into.data();
  probe.length = into.size();
  probe.minimum = minimum;
}

struct Pair {
  SocketId listener = SocketId::kNone;
  std::string address;
  SocketId server = SocketId::kNone;
  SocketId client = SocketId::kNone;
};

// `listen_at`: "10.0.0.1:0" or the like.
inline Task<Pair> make_pair(World& server, World& client, std::string listen_at) {
  Pair pair;
  Probe listen(server, NetOp::Kind::kListen);
  listen.address = listen_at;
  pair.listener = static_cast<SocketId>(co_await listen.go());
  EXPECT_GE(listen.result, 0);
  pair.address = listen.address;
  EXPECT_EQ(pair.address.find(":0"), std::string::npos) << pair.address;
  Probe accept(server, NetOp::Kind::kAccept);
  accept.socket = pair.listener;
  accept.go();
  Probe connect(client, NetOp::Kind::kConnect);
  connect.address = pair.address;
  pair.client = static_cast<SocketId>(co_await connect.go());
  EXPECT_GE(connect.result, 0);
  pair.server = static_cast<SocketId>(co_await accept);
  EXPECT_GE(accept.result, 0);
  EXPECT_FALSE(accept.address.empty());
  co_return pair;
}

inline Task<void> check_opening(World& server, World& client, std::string listen_at) {
  Pair pair = co_await make_pair(server, client, listen_at);
  Probe again(server, NetOp::Kind::kListen);
  again.address = pair.address;
  EXPECT_EQ(co_await again.go(), -EADDRINUSE);
  Probe foreign(server, NetOp::Kind::kListen);
  foreign.address = "203.0.113.77:0";
  EXPECT_LT(co_await foreign.go(), 0);
  for (const char* wrong : {"", "10.0.0.1", "10.0.0.1:x", "10.0.0.1:99999", "[::1:7"}) {
    Probe bad(client, NetOp::Kind::kConnect);
    bad.address = wrong;
    EXPECT_EQ(co_await bad.go(), -EINVAL) << wrong;
  }
  // An accept under way ends with its listener; then nobody listens.
  Probe accept(server, NetOp::Kind::kAccept);
  accept.socket = pair.listener;
  accept.go();
  while (accept.transport == nullptr) co_await Hop(server);  // until it has begun
  server.network.close(pair.listener);
  EXPECT_EQ(co_await accept, -ECANCELED);
  Probe refused(client, NetOp::Kind::kConnect);
  refused.address = pair.address;
  EXPECT_EQ(co_await refused.go(), -ECONNREFUSED);
  Probe late(client, NetOp::Kind::kConnect);
  late.address = pair.address;
  late.deadline = client.executor.now();
  EXPECT_LT(co_await late.go(), 0);
  co_await Hop(server);
  server.network.close(pair.server);
  co_await Hop(client);
  client.network.close(pair.client);
  auto interfaces = client.network.interfaces();
  EXPECT_TRUE(interfaces.has_value());
  bool loopback = false;
  for (const NetworkInterface& each : *interfaces) loopback = loopback || each.loopback;
  EXPECT_TRUE(loopback);
}

inline Task<void> check_bytes(World& server, World& client, std::string listen_at) {
  Pair pair = co_await make_pair(server, client, listen_at);
  // Bytes that came before the receive, in several parts.
  std::vector<ConstByteSpan> parts = {as_bytes("one "), as_bytes(""), as_bytes("two "),
                                      as_bytes("three")};
  Probe send(client, NetOp::Kind::kSend);
  send.socket = pair.client;
  send.parts = parts;
  EXPECT_EQ(co_await send.go(), 13);
  std::string text(13, '\0');
  Probe receive(server, NetOp::Kind::kReceive);
  fill(receive, pair.server, std::as_writable_bytes(std::span(text)), 13);
  EXPECT_EQ(co_await receive.go(), 13);
  EXPECT_EQ(text, "one two three");
  // A receive that waits first, and takes what there is above its minimum.
  std::string piece(100, '\0');
  Probe waiting(client, NetOp::Kind::kReceive);
  fill(waiting, pair.client, std::as_writable_bytes(std::span(piece)), 5);
  waiting.go();
  std::vector<ConstByteSpan> hello = {as_bytes("hello")};
  Probe reply(server, NetOp::Kind::kSend);
  reply.socket = pair.server;
  reply.parts = hello;
  EXPECT_EQ(co_await reply.go(), 5);
  EXPECT_EQ(co_await waiting, 5);
  EXPECT_EQ(piece.substr(0, 5), "hello");
  // The end: what came before it, then nothing.
  Probe last(server, NetOp::Kind::kSend);
  last.socket = pair.server;
  last.parts = hello;
  EXPECT_EQ(co_await last.go(), 5);
  co_await Hop(server);
  server.network.close(pair.server);
  Probe cut(client, NetOp::Kind::kReceive);
  fill(cut, pair.client, std::as_writable_bytes(std::span(piece)), 50);
  EXPECT_EQ(co_await cut.go(), 5);
  Probe end(client, NetOp::Kind::kReceive);
  fill(end, pair.client, std::as_writable_bytes(std::span(piece)), 50);
  EXPECT_EQ(co_await end.go(), 0);
  // Nobody takes what is sent now: soon an error.
  int64_t result = 0;
  for (int i = 0; i < 1000 && result >= 0; ++i) {
    co_await Hop(client);
    EXPECT_TRUE(
        (co_await sleep_for(client.executor, std::chrono::milliseconds(1), {})).has_value());
    Probe lost(client, NetOp::Kind::kSend);
    lost.socket = pair.client;
    lost.parts = hello;
    result = co_await lost.go();
  }
  EXPECT_TRUE(result == -ECONNRESET || result == -EPIPE) << result;
  co_await Hop(client);
  client.network.close(pair.client);
  co_await Hop(server);
  server.network.close(pair.listener);
}

inline Task<void> check_back_pressure_and_cancel(World& server, World& client,
                                                 std::string listen_at) {
  Pair pair = co_await make_pair(server, client, listen_at);
  std::string piece(10, '\0');
  Probe receive(client, NetOp::Kind::kReceive);
  fill(receive, pair.client, std::as_writable_bytes(std::span(piece)), 1);
  receive.go();
  while (receive.transport == nullptr) co_await Hop(client);  // until it has begun
  client.network.cancel(receive);
  EXPECT_EQ(co_await receive, -ECANCELED);
  client.network.cancel(receive);  // too late, no matter
  // Nobody reads: the sender stops.
  Buffer much(64 * kMiB);
  for (size_t i = 0; i < much.size(); ++i) much.data()[i] = static_cast<std::byte>(i * 7 / 3);
  std::vector<ConstByteSpan> parts = {much.span()};
  Probe send(client, NetOp::Kind::kSend);
  send.socket = pair.client;
  send.parts = parts;
  send.go();
  EXPECT_TRUE(
      (co_await sleep_for(client.executor, std::chrono::milliseconds(100), {})).has_value());
  EXPECT_FALSE(send.done());
  // Read half, then the sender gives up.
  Buffer half(32 * kMiB);
  Probe read(server, NetOp::Kind::kReceive);
  fill(read, pair.server, half.span(), half.size());
  EXPECT_EQ(co_await read.go(), static_cast<int64_t>(half.size()));
  EXPECT_EQ(std::memcmp(half.data(), much.data(), half.size()), 0);
  EXPECT_FALSE(send.done());
  co_await Hop(client);
  client.network.cancel(send);
  EXPECT_EQ(co_await send, -ECANCELED);
  // close() ends what is under way.
  Probe closing(client, NetOp::Kind::kReceive);
  fill(closing, pair.client, std::as_writable_bytes(std::span(piece)), 1);
  closing.go();
  while (closing.transport == nullptr) co_await Hop(client);
  client.network.close(pair.client);
  EXPECT_EQ(co_await closing, -ECANCELED);
  Probe after(client, NetOp::Kind::kReceive);
  fill(after, pair.client, std::as_writable_bytes(std::span(piece)), 1);
  EXPECT_EQ(co_await after.go(), -EBADF);
  co_await Hop(server);
  server.network.close(pair.server);
  server.network.close(pair.listener);
}

// `path`: a file to make on the server's disk.
inline Task<void> check_send_file(World& server, World& client, std::string listen_at,
                                  std::string path) {
  Pair pair = co_await make_pair(server, client, listen_at);
  Buffer content(3 * kMiB + 17);
  for (size_t i = 0; i < content.size(); ++i) content.data()[i] = static_cast<std::byte>(i * 5 / 3);
  auto file = co_await disk_io::open(server.disk, path, DiskOp::kOpenWrite | DiskOp::kOpenCreate);
  EXPECT_TRUE(file.has_value());
  EXPECT_TRUE((co_await disk_io::write(server.disk, *file, 0, content.span())).has_value());
  uint64_t offset = 1001;
  Buffer got(content.size() - offset);
  Probe receive(client, NetOp::Kind::kReceive);
  fill(receive, pair.client, got.span(), got.size());
  receive.go();
  Probe send(server, NetOp::Kind::kSendFile);
  send.socket = pair.server;
  send.file = *file;
  send.offset = offset;
  send.length = got.size();
  EXPECT_EQ(co_await send.go(), static_cast<int64_t>(got.size()));
  EXPECT_EQ(co_await receive, static_cast<int64_t>(got.size()));
  EXPECT_EQ(std::memcmp(got.data(), content.data() + offset, got.size()), 0);
  Probe beyond(server, NetOp::Kind::kSendFile);
  beyond.socket = pair.server;
  beyond.file = *file;
  beyond.offset = content.size() - 100;
  beyond.length = 200;
  EXPECT_EQ(co_await beyond.go(), -ENODATA);
  co_await Hop(server);
  EXPECT_TRUE((co_await disk_io::close(server.disk, *file)).has_value());
  server.network.close(pair.server);
  co_await Hop(client);
  client.network.close(pair.client);
  co_await Hop(server);
  server.network.close(pair.listener);
}

}  // namespace shoal::net_contract
