#include "rpc/internal/stream.h"

#include <fmt/format.h>

#include <cerrno>

namespace shoal {

Error net_error(const std::string& peer, int64_t result, const char* deed) {
  if (result == -EBADMSG) {
    return {Code::kCorrupt,
            fmt::format("{}: {}: a record was changed on its way, or is none", peer, deed)};
  }
  const char* reason = result == -ETIMEDOUT    ? "no progress in time"
                       : result == -ECANCELED  ? "the connection was closed"
                       : result == -EBADF      ? "the connection was closed"
                       : result == -EPIPE      ? "closed by peer"
                       : result == -ECONNRESET ? "connection reset by peer"
                                               : nullptr;
  std::string text = reason != nullptr ? reason : fmt::format("error {}", -result);
  return {Code::kUnavailable, fmt::format("{}: {}: {}", peer, deed, text)};
}

Stream::Stream(World& world, SocketId socket, std::string peer, TlsContext* tls,
               Handshake::Role role)
    : world(world), socket(socket), peer(std::move(peer)) {
  if (tls != nullptr) tls_ = std::make_unique<TlsSession>(*tls, world, socket, this->peer, role);
}

Task<Status> Stream::secure(Context context) {
  if (tls_ == nullptr) co_return Status();
  co_return co_await tls_->shake(context);
}

StreamCall Stream::receive(ByteSpan into, uint64_t minimum, Context context) {
  if (tls_ != nullptr) {
    return StreamCall(world, NetOp::Kind::kReceive,
                      tls_->receive(into.data(), into.size(), minimum, context));
  }
  return StreamCall(world, NetOp::Kind::kReceive, context, [&](NetCall& call) {
    call.socket = socket;
    call.data = into.data();
    call.length = into.size();
    call.minimum = minimum;
  });
}

StreamCall Stream::send(std::span<const ConstByteSpan> parts, bool more, Context context) {
  if (tls_ != nullptr) return StreamCall(world, NetOp::Kind::kSend, tls_->send(parts, context));
  return StreamCall(world, NetOp::Kind::kSend, context, [&](NetCall& call) {
    call.socket = socket;
    call.parts = parts;
    call.more = more;
  });
}

StreamCall Stream::send_file(FileId file, uint64_t offset, uint64_t length, Context context) {
  if (tls_ != nullptr)
    return StreamCall(world, NetOp::Kind::kSendFile,
                      tls_->send_file(file, offset, length, context));
  return StreamCall(world, NetOp::Kind::kSendFile, context, [&](NetCall& call) {
    call.socket = socket;
    call.file = file;
    call.offset = offset;
    call.length = length;
  });
}

void Stream::release_idle_memory() {
  if (tls_ != nullptr) tls_->release_idle_memory();
}

}  // namespace shoal
