// Frames: everything that passes between nodes, and between clients and nodes, is a sequence of
// them on one stream. A frame is a fixed header, a body (a protobuf message of messages.proto,
// which one is told by type and method) and raw payload.
//
//   offset bytes  field                          (little-endian)
//        0     4  magic "SHOL"
//        4     1  protocol version
//        5     1  type (FrameType)
//        6     2  method (Method) of a request; of other types 0
//        8     8  request id: chosen by the caller, unique among its requests in flight
//       16     8  slot map version that the sender knows; 0: none
//       24     4  body length, at most kBodyBytesMax
//       28     4  payload length, at most kPayloadBytesMax; only kData has payload
//       32     4  of a request: how many milliseconds the caller will wait, 0: for ever; else 0
//       36     4  reserved: written as 0, not looked at
//       40     4  CRC32C of the body
//       44     4  CRC32C of the 44 bytes before
//
// The header's layout, and the bodies of kHello and kRefused, stay the same in all versions to
// come, so that nodes of different versions can tell each other why they do not talk.
//
// The payload's checksums (one CRC32C per piece of 64 KiB) are part of the body: they were made
// when the bytes entered Shoal and travel with them.
//
// Bytes in, bytes out; no sockets. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/error.h"

namespace shoal {

inline constexpr uint8_t kProtocolVersion = 1;
inline constexpr size_t kFrameHeaderBytes = 48;
inline constexpr uint64_t kBodyBytesMax = 4 * kMiB;
inline constexpr uint64_t kPayloadBytesMax = 1 * kMiB;
// Payload is checksummed in pieces of kPieceBytes, counted from the answer's beginning.
// Before a connection is authenticated, no frame may be longer.
inline constexpr uint64_t kHandshakeBytesMax = 4 * kKiB;

enum class FrameType : uint8_t {
  // Handshake, in this order: see handshake.h.
  kHello = 1,
  kChallenge = 2,
  kProof = 3,
  kWelcome = 4,
  kRefused = 5,  // body: ErrorBody; the stream then ends
  // After it.
  kRequest = 16,
  kCancel = 17,  // the caller lost interest; the answer may still come
  kData = 18,    // part of an answer's payload; body: DataBody
  kReply = 19,   // the end of an answer; body: the method's reply
  kError = 20,   // the end of a failed answer; body: ErrorBody
};

enum class Method : uint16_t {
  kNone = 0,
  // membership
  kPing = 1,
  kProbe = 2,  // "ping that member for me"
  kGetMap = 3,
  kPushMap = 4,
  kJoin = 5,  // to any member: put me into the map
  // data
  kRead = 16,  // bytes of one chunk
  kHead = 17,
  kList = 18,
  kForget = 19,  // an object changed: what is remembered about it is old
  kWarm = 20,    // fill chunks of yours
  kStatus = 21,
  kDrain = 22,  // give your slots and chunks away
  // versions that the origin does not have yet
  kLedgerPut = 32,      // keep this record
  kLedgerRemove = 33,   // the version has ended: committed or given up
  kLedgerGet = 34,      // the records of an object
  kReplicate = 35,      // fetch these chunks from that member and keep them until the end
  kReplicaState = 36,   // what do you hold of it?
  kReplicaUpload = 37,  // send these chunks to the origin as blocks
  kReplicaEnd = 38,     // the version has ended
  kUploadNow = 39,      // to the writer: somebody waits for it to be in the origin
  kWaiting = 40,        // what do you have below this path that the origin does not?
  kLedgerKeepers = 41,  // who has records of names in directories of yours
  kLedgerBelow = 42,    // names with this prefix that you have records of
};

struct FrameHeader {
  FrameType type{};
  Method method = Method::kNone;
  uint64_t request_id = 0;
  uint64_t map_version = 0;
  uint32_t body_length = 0;
  uint32_t payload_length = 0;
  uint32_t timeout_ms = 0;
  uint32_t body_crc = 0;
  uint8_t version = kProtocolVersion;
};

std::array<std::byte, kFrameHeaderBytes> encode_frame_header(const FrameHeader& header);
// kCorrupt: no magic, wrong CRC, a length above its limit, an unknown type. kNotSupported: another
// protocol version (the message names both), unless it is kHello or kRefused: look at `version`.
Result<FrameHeader> decode_frame_header(std::span<const std::byte, kFrameHeaderBytes> bytes);
// The first bytes of a frame, be they ever so few: kCorrupt if none begins like that. So a peer
// that speaks something else, and waits for an answer after a few bytes, is known at once.
Status check_beginning(ConstByteSpan bytes);
// kCorrupt on a mismatch.
Status check_body(const FrameHeader& header, ConstByteSpan body);

// One whole frame without payload (the payload's length is only noted), ready to be sent. Lengths
// and checksum are filled in. The body must not be longer than kBodyBytesMax.
std::string encode_frame(FrameHeader header, std::string_view body, uint32_t payload_length = 0);
// The same, behind what `out` has already: many small frames are sent as one.
void append_frame(std::string& out, FrameHeader header, std::string_view body,
                  uint32_t payload_length = 0);

}  // namespace shoal
