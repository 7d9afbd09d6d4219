// The handshake (wire/handshake.h) over a stream.
#pragma once

#include "rpc/internal/frame_reader.h"
#include "rpc/rpc.h"
#include "wire/handshake.h"

namespace shoal {

// Ends within the context. An error has been told to the peer where it can understand it; the
// stream is then to be closed. `requests_max`: the answerer's.
Task<Result<HandshakePeer>> shake_hands(Stream& stream, FrameReader& reader,
                                        const RpcIdentity& identity, Handshake::Role role,
                                        uint32_t requests_max, Context context);

// Sends a few bytes; they stay the caller's until the end.
Task<Status> send_bytes(Stream& stream, const std::string& bytes, Context context);

}  // namespace shoal
