// What a connection's writer keeps; the rest of it is tested through whole connections.
#include "rpc/internal/frame_writer.h"

#include <gtest/gtest.h>

#include "async/net_io.h"
#include "rpc/scenarios_test_support.h"

namespace shoal {
namespace {

constexpr size_t kLarge = 200 * kKiB;  // as a map of some hundred nodes
constexpr size_t kSmall = 8 * kKiB;

Task<void> run_writer(FrameWriter& writer, Status& status) { status = co_await writer.run(); }

Task<void> send_all(FrameWriter& writer, World& world) {
  Status status;
  Gate gate(world.executor);
  gate.spawn(run_writer(writer, status));
  writer.finish();
  co_await gate.close();
  EXPECT_OK(status);
}

Task<void> lets_go_of_large_frames(MemoryBed& bed) {
  World& world = bed.caller();
  bed.network().inbox_bytes_max = kMiB;
  auto listener = co_await net_io::listen(world.network, world.executor, bed.listen());
  SHOAL_ASSERT(listener.has_value());
  auto socket = co_await net_io::connect(world.network, world.executor, listener->address, {});
  SHOAL_ASSERT(socket.has_value());
  TestNode node(world, 1);
  Stream stream(world, *socket, "peer");
  FrameHeader header;
  header.type = FrameType::kReply;
  FrameWriter large(stream, node.context);
  large.push(header, std::string(kLarge, 'b'));
  EXPECT_GE(large.capacity(), kLarge);
  co_await send_all(large, world);
  EXPECT_LT(large.capacity(), kSmall);
  FrameWriter small(stream, node.context);
  small.push(header, std::string(kSmall, 'b'));
  co_await send_all(small, world);
  EXPECT_GE(small.capacity(), kSmall) << "the next small frame finds no memory";
  small.release_idle_memory();
  EXPECT_LT(small.capacity(), kSmall);
  stream.close();
  world.network.close(listener->socket);
}

TEST(FrameWriter, lets_go_of_large_frames) {
  MemoryBed bed;
  bed.run(lets_go_of_large_frames(bed));
}

}  // namespace
}  // namespace shoal
