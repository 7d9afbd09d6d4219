#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <random>
#include <vector>

#include "async/disk_io.h"
#include "world_linux/linux_network.h"
#include "world_linux/network_test_support.h"

namespace shoal {
namespace {

Task<void> echo(World& world, std::string address) {
  Pair pair = co_await connect_pair(world, address);
  std::string text = "head";
  std::vector<ConstByteSpan> parts{as_bytes(text), {}, as_bytes(text)};
  EXPECT_TRUE(co_await net_io::send(world.network, world.executor, pair.near, parts, true,
                                    soon(world.executor)));
  EXPECT_TRUE(co_await send_text(world, pair.near, "tail"));
  auto heard = co_await receive_text(world, pair.far, 12, 12, soon(world.executor));
  EXPECT_TRUE(heard && *heard == "headheadtail");
  EXPECT_TRUE(co_await send_text(world, pair.far, "back"));
  heard = co_await receive_text(world, pair.near, 1, 100, soon(world.executor));
  EXPECT_TRUE(heard && *heard == "back");
  close_pair(world, pair);
}

TEST_F(NetworkTest, echoes_over_ipv4) { run(echo(world(), "127.0.0.1:0")); }
TEST_F(NetworkTest, looks_host_names_up) { run(echo(world(), "localhost:0")); }

bool has_ipv6() {
  int made = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (made < 0) return false;
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  bool works = bind(made, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  close(made);
  return works;
}
TEST_F(NetworkTest, echoes_over_ipv6) {
  if (!has_ipv6()) GTEST_SKIP() << "this machine has no IPv6";
  run(echo(world(), "[::1]:0"));
}

Task<void> meet_on_any_address(World& world) {
  auto listener = co_await net_io::listen(world.network, world.executor, "[::]:0");
  SHOAL_ASSERT(listener.has_value());
  std::string port = listener->address.substr(listener->address.rfind(':'));
  auto near = co_await net_io::connect(world.network, world.executor, "127.0.0.1" + port,
                                       soon(world.executor));
  EXPECT_TRUE(near);
  auto far = co_await net_io::accept(world.network, world.executor, listener->socket,
                                     soon(world.executor));
  EXPECT_TRUE(far && far->peer.starts_with("127.0.0.1:")) << far->peer;
  if (near && far) close_pair(world, {*near, far->socket});
  world.network.close(listener->socket);
}
TEST_F(NetworkTest, any_ipv6_address_takes_ipv4_peers) {
  if (!has_ipv6()) GTEST_SKIP() << "this machine has no IPv6";
  run(meet_on_any_address(world()));
}

Task<void> send_randomly(World& world, SocketId socket, uint64_t total, uint64_t seed,
                         Status& result) {
  std::mt19937_64 chance(seed);
  Buffer bytes = pattern(total);
  for (uint64_t at = 0; at < total && result;) {
    std::vector<ConstByteSpan> parts;
    size_t count = 1 + chance() % NetOp::kPartsMax;
    uint64_t size_max = uint64_t{1} << (chance() % 19);
    for (size_t i = 0; i < count && at < total; ++i) {
      uint64_t size = std::min(total - at, chance() % size_max);
      parts.push_back(bytes.part(at, size));
      at += size;
    }
    result = co_await net_io::send(world.network, world.executor, socket, parts, chance() % 2 == 0,
                                   soon(world.executor));
  }
}

Task<Status> receive_randomly(World& world, SocketId socket, uint64_t total, uint64_t seed) {
  std::mt19937_64 chance(seed);
  Buffer into(3 * kMiB);
  for (uint64_t at = 0; at < total;) {
    uint64_t length = 1 + chance() % (uint64_t{1} << (chance() % 22));
    length = std::min({length, total - at, uint64_t{into.size()}});
    uint64_t minimum = chance() % 3 == 0 ? 1 + chance() % length : length;
    SHOAL_CO_ASSIGN_OR_RETURN(
        size_t count,
        co_await net_io::receive(world.network, world.executor, socket, into.part(0, length),
                                 minimum, soon(world.executor)));
    if (count < minimum) co_return fail(Code::kInternal, "fewer than the minimum");
    if (!is_pattern(into.part(0, count), at)) co_return fail(Code::kCorrupt, "wrong bytes");
    at += count;
  }
  co_return Status();
}

Task<void> transfer_both_ways(World& world, uint64_t total, uint64_t seed) {
  Pair pair = co_await connect_pair(world);
  Gate gate(world.executor);
  Status near;
  Status far;
  gate.spawn(send_randomly(world, pair.near, total, seed, near));
  gate.spawn(send_randomly(world, pair.far, total, seed + 1, far));
  std::vector<Task<Status>> receivers;
  receivers.push_back(receive_randomly(world, pair.far, total, seed + 2));
  receivers.push_back(receive_randomly(world, pair.near, total, seed + 3));
  Status received = co_await run_all(world.executor, std::move(receivers), 2);
  EXPECT_TRUE(received) << received.error().to_string();
  close_pair(world, pair);
  co_await gate.close();
  EXPECT_TRUE(near && far);
}

TEST_F(NetworkTest, every_byte_arrives_in_order_whatever_the_chunks) {
  for (uint64_t seed = 0; seed < 24; seed += 4) {
    run(transfer_both_ways(world(), 12 * kMiB, seed));
  }
}

Task<void> minimum_counts(World& world) {
  Pair pair = co_await connect_pair(world);
  Context context = soon(world.executor);
  SHOAL_ASSERT((co_await send_text(world, pair.near, "12345")).has_value());
  auto text = co_await receive_text(world, pair.far, 5, 100, context);
  EXPECT_TRUE(text && *text == "12345");
  // Not more than is wanted.
  SHOAL_ASSERT((co_await send_text(world, pair.near, "67890")).has_value());
  text = co_await receive_text(world, pair.far, 1, 2, context);
  EXPECT_TRUE(text && text->size() <= 2 && text->starts_with("6"));
  // Too few: it waits, and its deadline ends it.
  text = co_await receive_text(world, pair.far, 100, 100,
                               Context::within(world.executor, milliseconds(20)));
  EXPECT_EQ(code_of(text), Code::kDeadlineExceeded);
  close_pair(world, pair);
}
TEST_F(NetworkTest, a_receive_waits_for_its_minimum) { run(minimum_counts(world())); }

// The kernel's mark is raised for a payload and must be lowered for what follows it: otherwise the
// last bytes, or the next message, are never handed over.
Task<void> mark_is_lowered(World& world) {
  Pair pair = co_await connect_pair(world);
  Gate gate(world.executor);
  Buffer into(2 * kMiB);
  uint64_t at = 0;
  for (uint64_t size : {uint64_t{1}, 512 * kKiB + 7, kMiB, uint64_t{3}, 40 * kKiB, kMiB + 1,
                        600 * kKiB, uint64_t{1}, 33 * kKiB, 32 * kKiB}) {
    Buffer bytes = pattern(size, at);
    Status sent;
    Gate sender(world.executor);
    std::vector<ConstByteSpan> parts{bytes.span()};
    auto send = [](World& in, SocketId socket, std::span<const ConstByteSpan> what,
                   Status& result) -> Task<void> {
      result =
          co_await net_io::send(in.network, in.executor, socket, what, false, soon(in.executor));
    };
    sender.spawn(send(world, pair.near, parts, sent));
    auto count = co_await net_io::receive(world.network, world.executor, pair.far,
                                          into.part(0, size), size, soon(world.executor));
    EXPECT_TRUE(count && *count == size && is_pattern(into.part(0, size), at)) << size;
    co_await sender.close();
    EXPECT_TRUE(sent);
    at += size;
  }
  co_await gate.close();
  close_pair(world, pair);
}
TEST_F(NetworkTest, large_and_small_messages_alternate) { run(mark_is_lowered(world())); }

Task<void> peer_closes(World& world) {
  for (size_t large : {size_t{10}, size_t{2 * kMiB}}) {
    Pair pair = co_await connect_pair(world);
    SHOAL_ASSERT((co_await send_text(world, pair.near, "1234")).has_value());
    world.network.close(pair.near);
    std::string text(large, '\0');
    NetCall call(world.network, world.executor, NetOp::Kind::kReceive, soon(world.executor));
    call.socket = pair.far;
    call.data = reinterpret_cast<std::byte*>(text.data());
    call.length = call.minimum = large;
    EXPECT_EQ(co_await call, 4);
    auto after = co_await receive_text(world, pair.far, 1, 1, soon(world.executor));
    EXPECT_EQ(code_of(after), Code::kUnavailable);
    EXPECT_NE(after.error().message().find("closed by peer"), std::string::npos);
    // The first send may still go out; the peer's reset ends one of the next.
    Status status;
    for (int i = 0; i < 1000 && status; ++i) {
      status = co_await send_text(world, pair.far, std::string(100'000, 'x'));
    }
    EXPECT_EQ(code_of(status), Code::kUnavailable);
    world.network.close(pair.far);
  }
}
TEST_F(NetworkTest, a_peer_that_leaves_is_noticed) { run(peer_closes(world())); }

Task<void> cannot_open(World& world) {
  auto listener = co_await net_io::listen(world.network, world.executor, "127.0.0.1:0");
  SHOAL_ASSERT(listener.has_value());
  auto second = co_await net_io::listen(world.network, world.executor, listener->address);
  EXPECT_EQ(code_of(second), Code::kBusy);
  world.network.close(listener->socket);
  auto refused = co_await net_io::connect(world.network, world.executor, listener->address,
                                          soon(world.executor));
  EXPECT_EQ(code_of(refused), Code::kUnavailable);
  EXPECT_NE(refused.error().message().find(listener->address), std::string::npos);
  // The port is free again at once.
  listener = co_await net_io::listen(world.network, world.executor, listener->address);
  EXPECT_TRUE(listener);
  if (listener) world.network.close(listener->socket);
  for (std::string address : {"", "7070", "host", "host:", ":7070", "1.2.3.4:70000", "::1:70",
                              "[::1:70", "a:b:70", "[::1]70", "host:7x", "host:-1"}) {
    auto wrong =
        co_await net_io::connect(world.network, world.executor, address, soon(world.executor));
    EXPECT_EQ(code_of(wrong), Code::kInvalidArgument) << address;
  }
  // No name can look like this, so no name server is asked.
  auto unknown =
      co_await net_io::connect(world.network, world.executor, "a..b:70", soon(world.executor));
  EXPECT_EQ(code_of(unknown), Code::kUnavailable) << unknown.error().to_string();
}
TEST_F(NetworkTest, says_why_it_cannot_open) { run(cannot_open(world())); }

// A listener whose queue is full: further connections hang, as to a machine that is switched off.
class FullListener {
 public:
  FullListener() {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    SHOAL_ASSERT(bind(listener_, generic, length) == 0 && listen(listener_, 0) == 0);
    SHOAL_ASSERT(getsockname(listener_, generic, &length) == 0);
    port_ = ntohs(address.sin_port);
    for (int i = 0; i < 8; ++i) {
      int guest = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      (void)connect(guest, generic, length);
      guests_.push_back(guest);
    }
  }
  ~FullListener() {
    for (int guest : guests_) close(guest);
    close(listener_);
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  int listener_ = -1;
  uint16_t port_ = 0;
  std::vector<int> guests_;
};

Task<void> connect_late(World& world, std::string address) {
  SteadyTime begin = world.executor.now();
  auto late = co_await net_io::connect(world.network, world.executor, address,
                                       Context::within(world.executor, milliseconds(50)));
  EXPECT_EQ(code_of(late), Code::kDeadlineExceeded);
  EXPECT_GE(world.executor.now() - begin, milliseconds(50));
  EXPECT_LT(world.executor.now() - begin, seconds(5));
  // Without the awaitable form's own timer: the network keeps the deadline of the operation.
  NetCall call(world.network, world.executor, NetOp::Kind::kConnect, {});
  call.address = address;
  call.deadline = world.executor.now() + milliseconds(20);
  EXPECT_EQ(co_await call, -ETIMEDOUT);
}
TEST_F(NetworkTest, connecting_ends_at_the_deadline) {
  FullListener full;
  run(connect_late(world(), full.address()));
}

// Starts the task, cancels it `at_once` or when the kernel has it, and gives its answer back.
template <typename T>
Task<Code> cancelled_code(World& world, Cancel& cancel, Task<T> task, bool at_once) {
  Gate gate(world.executor);
  std::optional<T> result;
  gate.spawn(keep(std::move(task), result));
  if (!at_once) co_await some_turns(world.executor);
  EXPECT_FALSE(result.has_value());
  cancel.request();
  co_await gate.close();
  cancel.reset();
  co_return code_of(*result);
}

Task<void> cancel_everything(World& world, std::string hanging, bool at_once) {
  Pair pair = co_await connect_pair(world);
  Network& network = world.network;
  Executor& executor = world.executor;
  Cancel cancel;
  Context context{kNever, &cancel};
  auto listener = co_await net_io::listen(network, executor, "127.0.0.1:0");
  SHOAL_ASSERT(listener.has_value());
  EXPECT_EQ(
      co_await cancelled_code(
          world, cancel, net_io::accept(network, executor, listener->socket, context), at_once),
      Code::kCancelled);
  network.close(listener->socket);
  EXPECT_EQ(co_await cancelled_code(world, cancel,
                                    net_io::connect(network, executor, hanging, context), at_once),
            Code::kCancelled);
  EXPECT_EQ(co_await cancelled_code(
                world, cancel, net_io::connect(network, executor, "localhost:1", context), true),
            Code::kCancelled);
  for (size_t size : {size_t{1}, size_t{kMiB}}) {
    EXPECT_EQ(co_await cancelled_code(world, cancel,
                                      receive_text(world, pair.far, size, size, context), at_once),
              Code::kCancelled);
  }
  // Nothing was lost by it.
  EXPECT_TRUE(co_await send_text(world, pair.near, "still"));
  auto text = co_await receive_text(world, pair.far, 5, 5, soon(executor));
  EXPECT_TRUE(text && *text == "still");
  Buffer much(64 * kMiB);
  ConstByteSpan part = much.span();
  EXPECT_EQ(co_await cancelled_code(
                world, cancel,
                net_io::send(network, executor, pair.near, {&part, 1}, false, context), at_once),
            Code::kCancelled);
  close_pair(world, pair);
}
TEST_F(NetworkTest, cancels_what_is_under_way) {
  FullListener full;
  run(cancel_everything(world(), full.address(), false));
  run(cancel_everything(world(), full.address(), true));
}

// An operation without a coroutine, for what must happen in one turn.
class BareOp final : public NetOp {
 public:
  explicit BareOp(Executor& executor) : ended(executor) {}
  void run() noexcept override {
    ++runs;
    ended.notify_all();
  }
  int runs = 0;
  Signal ended;
};

Task<int64_t> cancel_at_once(World& world, BareOp& op, bool by_close) {
  world.network.start(op);
  EXPECT_EQ(op.runs, 0);
  if (by_close) {
    world.network.close(op.socket);
  } else {
    world.network.cancel(op);
    world.network.cancel(op);
  }
  while (op.runs == 0) SHOAL_ASSERT((co_await op.ended.wait(soon(world.executor))).has_value());
  world.network.cancel(op);  // it has ended: nothing happens
  co_await some_turns(world.executor);
  EXPECT_EQ(op.runs, 1);
  co_return op.result;
}

Task<void> end_in_the_turn_of_the_start(World& world, std::string hanging) {
  Executor& executor = world.executor;
  for (const std::string& address : {hanging, std::string("localhost:1")}) {
    BareOp op(executor);
    op.kind = NetOp::Kind::kConnect;
    op.address = address;
    EXPECT_EQ(co_await cancel_at_once(world, op, false), -ECANCELED);
  }
  std::vector<std::byte> bytes(16 * kMiB);
  ConstByteSpan part = bytes;
  for (bool by_close : {false, true}) {
    auto listener = co_await net_io::listen(world.network, executor, "127.0.0.1:0");
    SHOAL_ASSERT(listener.has_value());
    BareOp accept(executor);
    accept.kind = NetOp::Kind::kAccept;
    accept.socket = listener->socket;
    EXPECT_EQ(co_await cancel_at_once(world, accept, by_close), -ECANCELED);
    world.network.close(listener->socket);
    for (NetOp::Kind kind : {NetOp::Kind::kReceive, NetOp::Kind::kSend}) {
      Pair pair = co_await connect_pair(world);
      BareOp op(executor);
      op.kind = kind;
      op.socket = pair.near;
      op.data = bytes.data();
      op.length = op.minimum = bytes.size();
      op.parts = {&part, 1};
      EXPECT_EQ(co_await cancel_at_once(world, op, by_close), -ECANCELED);
      close_pair(world, pair);
    }
  }
}
TEST_F(NetworkTest, ends_what_has_only_just_begun) {
  FullListener full;
  run(end_in_the_turn_of_the_start(world(), full.address()));
}

Task<void> close_under_way(World& world) {
  Pair pair = co_await connect_pair(world);
  Network& network = world.network;
  Executor& executor = world.executor;
  auto listener = co_await net_io::listen(network, executor, "127.0.0.1:0");
  SHOAL_ASSERT(listener.has_value());
  Gate gate(executor);
  std::optional<Status> sent;
  std::optional<Result<std::string>> received;
  std::optional<Result<net_io::Accepted>> accepted;
  Buffer much(64 * kMiB);
  ConstByteSpan part = much.span();
  gate.spawn(keep(net_io::send(network, executor, pair.near, {&part, 1}, false, {}), sent));
  gate.spawn(keep(receive_text(world, pair.near, 1, 1, {}), received));
  gate.spawn(keep(net_io::accept(network, executor, listener->socket, {}), accepted));
  co_await some_turns(executor);
  EXPECT_FALSE(sent || received || accepted);
  network.close(pair.near);
  network.close(pair.near);  // once is enough, twice does no harm
  network.close(listener->socket);
  co_await gate.close();
  EXPECT_EQ(code_of(*sent), Code::kCancelled);
  EXPECT_EQ(code_of(*received), Code::kCancelled);
  EXPECT_EQ(code_of(*accepted), Code::kCancelled);
  // The name of the closed stream means nothing now, not even when its place is used again.
  Pair other = co_await connect_pair(world);
  auto after = co_await receive_text(world, pair.near, 1, 1, {});
  EXPECT_EQ(code_of(after), Code::kUnavailable);
  close_pair(world, other);
  network.close(pair.far);
}
TEST_F(NetworkTest, close_ends_what_is_under_way) { run(close_under_way(world())); }

Task<void> serve_one(World& world, SocketId socket) {
  while (true) {
    auto text = co_await receive_text(world, socket, 8, 8, soon(world.executor));
    if (!text) break;
    if (!co_await send_text(world, socket, *text)) break;
  }
  world.network.close(socket);
}
Task<void> ask(World& world, std::string address, int number, int& good) {
  auto socket =
      co_await net_io::connect(world.network, world.executor, address, soon(world.executor));
  if (!socket) co_return;
  for (int i = 0; i < 10; ++i) {
    std::string text = std::to_string(10'000'000 + number * 100 + i);
    if (!co_await send_text(world, *socket, text)) break;
    auto heard = co_await receive_text(world, *socket, 8, 8, soon(world.executor));
    if (heard && *heard == text) ++good;
  }
  world.network.close(*socket);
}
Task<void> many_connections(World& world, int count) {
  auto listener = co_await net_io::listen(world.network, world.executor, "127.0.0.1:0");
  SHOAL_ASSERT(listener.has_value());
  Gate gate(world.executor);
  int good = 0;
  for (int i = 0; i < count; ++i) gate.spawn(ask(world, listener->address, i, good));
  for (int i = 0; i < count; ++i) {
    auto one = co_await net_io::accept(world.network, world.executor, listener->socket,
                                       soon(world.executor));
    EXPECT_TRUE(one);
    if (!one) break;
    gate.spawn(serve_one(world, one->socket));
  }
  co_await gate.close();
  EXPECT_EQ(good, count * 10);
  world.network.close(listener->socket);
}
bool allow_files(rlim_t count) {
  rlimit limit{};
  SHOAL_ASSERT(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = std::max(limit.rlim_cur, std::min(limit.rlim_max, count));
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= count;
}
TEST_F(NetworkTest, serves_500_connections) {
  if (!allow_files(1200)) GTEST_SKIP() << "the limit of open files is too low";
  run(many_connections(world(), 500));
}

Task<void> hold_idle(World& world, std::vector<Pair>& pairs, Gate& gate, int& ended) {
  auto wait = [](World& in, SocketId socket, int& count) -> Task<void> {
    auto text = co_await receive_text(in, socket, 1, 1, {});
    EXPECT_EQ(code_of(text), Code::kCancelled);
    ++count;
  };
  for (int i = 0; i < 400; ++i) {
    pairs.push_back(co_await connect_pair(world));
    gate.spawn(wait(world, pairs.back().near, ended));
    gate.spawn(wait(world, pairs.back().far, ended));
  }
  co_await some_turns(world.executor);
}
// More idle receives than the ring has entries, and a stop that ends them.
TEST_F(NetworkTest, idle_streams_leave_room_and_end_at_the_stop) {
  if (!allow_files(1200)) GTEST_SKIP() << "the limit of open files is too low";
  std::vector<Pair> pairs;
  Gate gate(*shard_);
  int ended = 0;
  run(hold_idle(world(), pairs, gate, ended));
  TemporaryDirectory directory;
  EXPECT_TRUE(run(disk_io::replace_file(world().disk, directory / "file", "works")));
  shard_->stop();
  EXPECT_EQ(ended, 800);
}

Task<void> fill_the_table(World& world) {
  Network& network = world.network;
  Executor& executor = world.executor;
  auto first = co_await net_io::listen(network, executor, "127.0.0.1:0");
  SHOAL_ASSERT(first.has_value());
  std::vector<SocketId> sockets;
  Status status;
  while (status && sockets.size() < LinuxNetwork::kSocketsMax) {
    auto one = co_await net_io::listen(network, executor, "127.0.0.1:0");
    if (one) {
      sockets.push_back(one->socket);
    } else {
      status = fail(std::move(one).error());
    }
  }
  EXPECT_EQ(sockets.size() + 1, LinuxNetwork::kSocketsMax);
  EXPECT_EQ(code_of(status), Code::kBusy);
  EXPECT_EQ(code_of(co_await net_io::accept(network, executor, first->socket, {})), Code::kBusy);
  EXPECT_EQ(code_of(co_await net_io::connect(network, executor, first->address, {})), Code::kBusy);
  network.close(sockets.back());
  sockets.pop_back();
  auto near = co_await net_io::connect(network, executor, first->address, soon(executor));
  EXPECT_TRUE(near);
  network.close(sockets.back());
  sockets.pop_back();
  auto far = co_await net_io::accept(network, executor, first->socket, soon(executor));
  EXPECT_TRUE(far);
  if (near && far) close_pair(world, {*near, far->socket});
  for (SocketId socket : sockets) network.close(socket);
  network.close(first->socket);
}
TEST_F(NetworkTest, says_busy_when_there_are_too_many_sockets) {
  if (!allow_files(LinuxNetwork::kSocketsMax + 100)) {
    GTEST_SKIP() << "the limit of open files is too low";
  }
  run(fill_the_table(world()));
}

TEST_F(NetworkTest, lists_interfaces) {
  auto found = world().network.interfaces();
  ASSERT_TRUE(found);
  bool loopback = false;
  for (const NetworkInterface& one : *found) {
    loopback |= one.loopback && one.address == "127.0.0.1" && !one.name.empty();
  }
  EXPECT_TRUE(loopback);
}

TEST(NetworkOptions, congestion_control_is_checked_at_the_start) {
  ShardOptions options;
  options.tcp_congestion = "reno";
  auto shard = start_test_shard(options);
  ASSERT_NE(shard, nullptr);
  run_blocking(*shard, echo(shard->world(), "127.0.0.1:0"));
  options.tcp_congestion = "no-such-thing";
  EXPECT_EQ(code_of(Shard::start(options)), Code::kInvalidArgument);
}

}  // namespace
}  // namespace shoal
