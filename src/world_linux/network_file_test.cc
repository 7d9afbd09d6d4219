#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "async/disk_io.h"
#include "world_linux/network_test_support.h"

namespace shoal {
namespace {

using NetworkFileTest = NetworkTest;

bool is_cached(FileId file, uint64_t size) {
  uint64_t range[2] = {0, size};
  uint64_t found[5] = {};
  long answer = syscall(451, static_cast<int>(file), range, found, 0);
  return answer != 0 || found[0] > 0;
}

Task<Status> read_file_off(World& world, SocketId socket, uint64_t from, uint64_t length) {
  Buffer into(length);
  SHOAL_CO_ASSIGN_OR_RETURN(
      size_t count, co_await net_io::receive(world.network, world.executor, socket, into.span(),
                                             length, soon(world.executor)));
  SHOAL_ASSERT(count == length);
  if (!is_pattern(into.span(), from)) co_return fail(Code::kCorrupt, "wrong bytes");
  co_return Status();
}

struct Piece {
  uint64_t offset;
  uint64_t length;
};
constexpr uint64_t kFileSize = 12 * kMiB + 1234;

// Each piece has a file of its own: pages that a socket has sent stay in memory for a while.
Task<void> send_piece(World& world, std::string path, Piece piece, bool cold) {
  Buffer bytes = pattern(kFileSize);
  auto file = co_await disk_io::open(world.disk, path, DiskOp::kOpenWrite | DiskOp::kOpenCreate);
  SHOAL_ASSERT(file.has_value());
  SHOAL_ASSERT((co_await disk_io::write(world.disk, *file, 0, bytes.span())).has_value());
  SHOAL_ASSERT((co_await disk_io::sync(world.disk, *file)).has_value());
  if (cold) {
    SHOAL_ASSERT(posix_fadvise(static_cast<int>(*file), 0, 0, POSIX_FADV_DONTNEED) == 0);
    EXPECT_FALSE(is_cached(*file, kFileSize));
  }
  Pair pair = co_await connect_pair(world);
  Gate gate(world.executor);
  std::optional<Status> sent;
  gate.spawn(keep(net_io::send_file(world.network, world.executor, pair.near, *file, piece.offset,
                                    piece.length, soon(world.executor)),
                  sent));
  uint64_t there = std::min(piece.length, kFileSize - piece.offset);
  if (there > 0) {
    Status status = co_await read_file_off(world, pair.far, piece.offset, there);
    EXPECT_TRUE(status) << status.error().to_string();
  }
  co_await gate.close();
  if (there == piece.length) {
    EXPECT_TRUE(*sent);
  } else {
    EXPECT_EQ(code_of(*sent), Code::kCorrupt);
  }
  close_pair(world, pair);
  EXPECT_TRUE(co_await disk_io::close(world.disk, *file));
  EXPECT_TRUE(co_await disk_io::remove(world.disk, path));
}

Task<void> send_files(World& world, std::string path, bool cold) {
  for (Piece piece :
       {Piece{0, kFileSize}, Piece{4095, 2}, Piece{kMiB - 1, 3 * kMiB + 2}, Piece{kFileSize - 1, 1},
        Piece{5, 0}, Piece{kFileSize - 10, 11}, Piece{kFileSize - 3 * kMiB, 5 * kMiB}}) {
    co_await send_piece(world, path, piece, cold);
  }
}
TEST_F(NetworkFileTest, sends_files_that_are_in_memory) {
  TemporaryDirectory directory;
  run(send_files(world(), directory / "warm", false));
}
TEST_F(NetworkFileTest, sends_files_that_are_not_in_memory) {
  TemporaryDirectory directory;
  run(send_files(world(), directory / "cold", true));
}

Task<void> stop_sending_file(World& world, std::string path, bool by_close) {
  Buffer bytes(48 * kMiB);
  auto file = co_await disk_io::open(world.disk, path, DiskOp::kOpenWrite | DiskOp::kOpenCreate);
  SHOAL_ASSERT(file.has_value());
  SHOAL_ASSERT((co_await disk_io::write(world.disk, *file, 0, bytes.span())).has_value());
  Pair pair = co_await connect_pair(world);
  Cancel cancel;
  Gate gate(world.executor);
  std::optional<Status> sent;
  // Nobody receives, so that it gets stuck.
  gate.spawn(keep(net_io::send_file(world.network, world.executor, pair.near, *file, 0,
                                    bytes.size(), {kNever, &cancel}),
                  sent));
  co_await some_turns(world.executor);
  EXPECT_FALSE(sent.has_value());
  if (by_close) {
    world.network.close(pair.near);
  } else {
    cancel.request();
  }
  co_await gate.close();
  EXPECT_EQ(code_of(*sent), Code::kCancelled);
  close_pair(world, pair);
  EXPECT_TRUE(co_await disk_io::close(world.disk, *file));
}
TEST_F(NetworkFileTest, stops_sending_a_file) {
  TemporaryDirectory directory;
  run(stop_sending_file(world(), directory / "a", false));
  run(stop_sending_file(world(), directory / "b", true));
}

}  // namespace
}  // namespace shoal
