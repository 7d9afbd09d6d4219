#include "rpc/internal/handshake_io.h"

#include <array>

namespace shoal {

Task<Status> send_bytes(Stream& stream, const std::string& bytes, Context context) {
  if (!stream.is_open()) co_return fail(stream.error(-ECANCELED, "sending"));
  std::array<ConstByteSpan, 1> parts = {as_bytes(bytes)};
  int64_t result = co_await stream.send(parts, false, context);
  if (result < 0) co_return fail(stream.error(result, "sending"));
  co_return Status();
}

Task<Result<HandshakePeer>> shake_hands(Stream& stream, FrameReader& reader,
                                        const RpcIdentity& identity, Handshake::Role role,
                                        uint32_t requests_max, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await stream.secure(context));
  World& world = stream.world;
  HandshakeOptions options;
  options.peer = stream.peer;
  options.nonce = world.random.id128();
  options.wall_ms = world.executor.wall_now().time_since_epoch() / std::chrono::milliseconds(1);
  options.requests_max = requests_max;
  std::string out;
  Handshake handshake(role,
                      {identity.cluster, identity.origin, identity.node, identity.incarnation,
                       identity.key, identity.further},
                      std::move(options), out);
  while (true) {
    if (!out.empty()) {
      SHOAL_CO_RETURN_IF_ERROR(co_await send_bytes(stream, out, context));
      out.clear();
    }
    if (handshake.done()) co_return handshake.peer();
    auto used = handshake.take(reader.buffered(), out);
    if (!used) {
      Error error = std::move(used).error();
      if (!out.empty()) (void)co_await send_bytes(stream, out, context);
      co_return fail(std::move(error));
    }
    reader.consume(*used);
    if (*used > 0) continue;
    Status status = co_await reader.fill(context);
    if (!status) {
      co_return fail(std::move(status).error().with_context("during the handshake"));
    }
  }
}

}  // namespace shoal
