// For the tests of the network: pairs of connected streams, test data, a fixture that finds sockets
// left open.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/gate.h"
#include "async/net_io.h"
#include "async/sync.h"
#include "world_linux/test_support.h"

namespace shoal {

using std::chrono::milliseconds;
using std::chrono::seconds;

template <typename T>
Task<void> keep(Task<T> task, std::optional<T>& result) {
  result.emplace(co_await task);
}
inline Task<void> some_turns(Executor& executor) {
  for (int i = 0; i < 50; ++i) co_await Yield(executor);
}

inline size_t open_descriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& one : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

// The byte at a place of the test data: no two pieces of it look the same.
inline std::byte byte_at(uint64_t at) {
  return static_cast<std::byte>((at * 0x9E3779B97F4A7C15ull) >> 56);
}
inline Buffer pattern(size_t size, uint64_t from = 0) {
  Buffer bytes(size);
  for (size_t i = 0; i < size; ++i) bytes.data()[i] = byte_at(from + i);
  return bytes;
}
inline bool is_pattern(ConstByteSpan bytes, uint64_t from) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != byte_at(from + i)) return false;
  }
  return true;
}

struct Pair {
  SocketId near = SocketId::kNone;
  SocketId far = SocketId::kNone;
};

inline Context soon(Executor& executor) { return Context::within(executor, seconds(20)); }

inline Task<Pair> connect_pair(World& world, std::string address = "127.0.0.1:0") {
  auto listener = co_await net_io::listen(world.network, world.executor, address);
  SHOAL_ASSERT(listener.has_value());
  auto near = co_await net_io::connect(world.network, world.executor, listener->address,
                                       soon(world.executor));
  SHOAL_ASSERT(near.has_value());
  auto far = co_await net_io::accept(world.network, world.executor, listener->socket,
                                     soon(world.executor));
  SHOAL_ASSERT(far.has_value());
  world.network.close(listener->socket);
  co_return Pair{*near, far->socket};
}

inline void close_pair(World& world, const Pair& pair) {
  world.network.close(pair.near);
  world.network.close(pair.far);
}

inline Task<Status> send_text(World& world, SocketId socket, std::string text) {
  ConstByteSpan part = as_bytes(text);
  co_return co_await net_io::send(world.network, world.executor, socket, {&part, 1}, false,
                                  soon(world.executor));
}

inline Task<Result<std::string>> receive_text(World& world, SocketId socket, size_t minimum,
                                              size_t length, Context context) {
  std::string text(length, '\0');
  auto count = co_await net_io::receive(world.network, world.executor, socket,
                                        std::as_writable_bytes(std::span(text)), minimum, context);
  if (!count) co_return fail(std::move(count).error());
  text.resize(*count);
  co_return text;
}

class NetworkTest : public testing::Test {
 protected:
  NetworkTest() { shard_ = start_test_shard(); }
  ~NetworkTest() override {
    shard_.reset();
    EXPECT_EQ(open_descriptors(), before_) << "a socket was left open";
  }
  template <typename T>
  T run(Task<T> task) {
    return run_blocking(*shard_, std::move(task));
  }
  World& world() { return shard_->world(); }

  size_t before_ = open_descriptors();
  std::unique_ptr<Shard> shard_;
};

}  // namespace shoal
