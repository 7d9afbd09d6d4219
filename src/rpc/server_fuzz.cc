// A whole server on one connection, fed with anything. The first byte says how: raw bytes from the
// start; or, after a right handshake, raw bytes, or frames with right checksums that are cut from
// the input; with TLS or without (then raw bytes are records); and how many bytes come at once. The
// server must end the connection or answer, and nothing may be left over when it stops.
#include <array>
#include <cstddef>
#include <cstdint>

#include "async/net_io.h"
#include "rpc/internal/frame_reader.h"
#include "rpc/internal/handshake_io.h"
#include "rpc/rpc_test_support.h"

namespace shoal {
namespace {

constexpr unsigned char kTlsFrom = 192;

// Cut by a byte of type and one of length; ids are small, so that they meet.
std::string frames_of(std::string_view input) {
  std::string out;
  while (input.size() >= 3) {
    FrameHeader header;
    header.type = static_cast<FrameType>(input[0] & 0x1F);
    header.method = static_cast<Method>(input[0] & 0x20 ? 16 : 17);
    header.request_id = static_cast<unsigned char>(input[1]) % 8;
    header.timeout_ms = input[0] & 0x40 ? 5 : 0;
    size_t length = std::min<size_t>(static_cast<unsigned char>(input[2]), input.size() - 3);
    append_frame(out, header, input.substr(3, length));
    input.remove_prefix(3 + length);
  }
  return out;
}

Task<void> drain_answers(Stream& stream, FrameReader& reader) {
  while (stream.is_open()) {
    reader.consume(reader.buffered().size());
    if (!co_await reader.fill()) co_return;
  }
}

Task<void> attack(MemoryBed& bed, std::string address, TestNode& node, std::string_view input) {
  World& world = bed.caller();
  unsigned char mode = input.empty() ? 0 : static_cast<unsigned char>(input[0]);
  input = input.substr(std::min<size_t>(1, input.size()));
  auto socket = co_await net_io::connect(world.network, world.executor, address, {});
  SHOAL_ASSERT(socket.has_value());
  bool tls = mode >= kTlsFrom;
  if (tls) mode = static_cast<unsigned char>(mode - kTlsFrom);
  bool shakes = mode % 3 != 0;
  Stream stream(world, *socket, "fuzzer", tls && shakes ? node.context.tls : nullptr);
  FrameReader reader(stream);
  if (shakes) {
    auto peer = co_await shake_hands(stream, reader, node.context.identity,
                                     Handshake::Role::kCaller, 0, {});
    SHOAL_ASSERT(peer.has_value());
  }
  Gate gate(world.executor);
  gate.spawn(drain_answers(stream, reader));
  std::string bytes = mode % 3 == 2 ? frames_of(input) : std::string(input);
  size_t step = 1 + mode / 3 * 7;
  Context limits = Context::within(world.executor, std::chrono::minutes(2));
  for (size_t at = 0; at < bytes.size(); at += step) {
    std::string some = bytes.substr(at, step);
    std::array<ConstByteSpan, 1> parts = {as_bytes(some)};
    Status sent;
    if (tls && mode % 3 != 2) {
      sent = co_await net_io::send(world.network, world.executor, *socket, parts, false, limits);
    } else {
      sent = co_await send_bytes(stream, some, limits);
    }
    if (!sent) break;
  }
  // Long enough for every time limit of the server.
  (void)co_await sleep_for(world.executor, std::chrono::seconds(40), {});
  stream.close();
  co_await gate.close();
}

Task<void> scenario(MemoryBed& bed, std::string_view input) {
  TestNode node(bed.server(), 2);
  if (!input.empty() && static_cast<unsigned char>(input[0]) >= kTlsFrom) node.use_tls();
  RpcServerOptions options;
  options.listen = bed.listen();
  options.requests_max = 4;
  auto server = co_await RpcServer::start(node.context, node.handler, options);
  SHOAL_ASSERT(server.has_value());
  co_await attack(bed, (*server)->address(), node, input);
  co_await (*server)->stop();
  SHOAL_ASSERT(node.handler.running == 0 && (*server)->connections() == 0);
  SHOAL_ASSERT(node.handler.running_max <= 5, "more handlers than requests_max and one");
}

}  // namespace
}  // namespace shoal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  shoal::MemoryBed bed;
  bed.run(shoal::scenario(bed, {reinterpret_cast<const char*>(data), size}));
  SHOAL_ASSERT(bed.network().open_ends() == 0);
  return 0;
}
