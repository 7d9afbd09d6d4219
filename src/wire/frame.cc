#include "wire/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/checksum.h"

namespace shoal {

namespace {

static_assert(std::endian::native == std::endian::little, "fields are copied as they are");

constexpr std::string_view kMagic = "SHOL";
constexpr size_t kHeaderCrcAt = 44;

template <typename T>
void put(std::byte* header, size_t at, T value) {
  std::memcpy(header + at, &value, sizeof value);
}
template <typename T>
T get(const std::byte* header, size_t at) {
  T value;
  std::memcpy(&value, header + at, sizeof value);
  return value;
}

bool is_known(uint8_t type) {
  return (type >= static_cast<uint8_t>(FrameType::kHello) &&
          type <= static_cast<uint8_t>(FrameType::kRefused)) ||
         (type >= static_cast<uint8_t>(FrameType::kRequest) &&
          type <= static_cast<uint8_t>(FrameType::kError));
}

// What every version, past and future, can read.
bool is_frozen(FrameType type) { return type == FrameType::kHello || type == FrameType::kRefused; }

void write_header(std::byte* out, const FrameHeader& header) {
  std::memcpy(out, kMagic.data(), kMagic.size());
  put<uint8_t>(out, 4, header.version);
  put<uint8_t>(out, 5, static_cast<uint8_t>(header.type));
  put<uint16_t>(out, 6, static_cast<uint16_t>(header.method));
  put<uint64_t>(out, 8, header.request_id);
  put<uint64_t>(out, 16, header.map_version);
  put<uint32_t>(out, 24, header.body_length);
  put<uint32_t>(out, 28, header.payload_length);
  put<uint32_t>(out, 32, header.timeout_ms);
  put<uint32_t>(out, 36, 0);
  put<uint32_t>(out, 40, header.body_crc);
  put<uint32_t>(out, kHeaderCrcAt, crc32c({out, kHeaderCrcAt}));
}

}  // namespace

std::array<std::byte, kFrameHeaderBytes> encode_frame_header(const FrameHeader& header) {
  std::array<std::byte, kFrameHeaderBytes> bytes;
  write_header(bytes.data(), header);
  return bytes;
}

Status check_beginning(ConstByteSpan bytes) {
  size_t length = std::min(bytes.size(), kMagic.size());
  if (as_text(bytes.first(length)) == kMagic.substr(0, length)) return {};
  return fail(Code::kCorrupt,
              "these bytes are no frame of Shoal's: is the port another service's?");
}

Result<FrameHeader> decode_frame_header(std::span<const std::byte, kFrameHeaderBytes> bytes) {
  const std::byte* at = bytes.data();
  SHOAL_RETURN_IF_ERROR(check_beginning(bytes));
  if (crc32c(bytes.first(kHeaderCrcAt)) != get<uint32_t>(at, kHeaderCrcAt)) {
    return fail(Code::kCorrupt, "a frame's header has a wrong checksum");
  }
  FrameHeader header;
  header.version = get<uint8_t>(at, 4);
  uint8_t type = get<uint8_t>(at, 5);
  header.type = static_cast<FrameType>(type);
  if (header.version != kProtocolVersion && !is_frozen(header.type)) {
    return fail(Code::kNotSupported,
                fmt::format("a frame is of protocol version {}, this node speaks {}",
                            header.version, kProtocolVersion));
  }
  if (!is_known(type)) return fail(Code::kCorrupt, fmt::format("frame type {} is unknown", type));
  header.method = static_cast<Method>(get<uint16_t>(at, 6));
  header.request_id = get<uint64_t>(at, 8);
  header.map_version = get<uint64_t>(at, 16);
  header.body_length = get<uint32_t>(at, 24);
  header.payload_length = get<uint32_t>(at, 28);
  header.timeout_ms = get<uint32_t>(at, 32);
  header.body_crc = get<uint32_t>(at, 40);
  if (header.body_length > kBodyBytesMax) {
    return fail(Code::kCorrupt,
                fmt::format("a frame's body is {} bytes long, at most {} are allowed",
                            header.body_length, kBodyBytesMax));
  }
  uint64_t payload_max = header.type == FrameType::kData ? kPayloadBytesMax : 0;
  if (header.payload_length > payload_max) {
    return fail(Code::kCorrupt,
                fmt::format("a frame of type {} has {} bytes of payload, at most {} are allowed",
                            type, header.payload_length, payload_max));
  }
  return header;
}

Status check_body(const FrameHeader& header, ConstByteSpan body) {
  if (body.size() != header.body_length || crc32c(body) != header.body_crc) {
    return fail(Code::kCorrupt, "a frame's body has a wrong checksum");
  }
  return {};
}

void append_frame(std::string& out, FrameHeader header, std::string_view body,
                  uint32_t payload_length) {
  SHOAL_ASSERT(body.size() <= kBodyBytesMax && payload_length <= kPayloadBytesMax);
  SHOAL_ASSERT(payload_length == 0 || header.type == FrameType::kData);
  header.body_length = static_cast<uint32_t>(body.size());
  header.payload_length = payload_length;
  header.body_crc = crc32c(as_bytes(body));
  size_t at = out.size();
  out.resize(at + kFrameHeaderBytes);
  write_header(reinterpret_cast<std::byte*>(out.data() + at), header);
  out.append(body);
}

std::string encode_frame(FrameHeader header, std::string_view body, uint32_t payload_length) {
  std::string out;
  out.reserve(kFrameHeaderBytes + body.size());
  append_frame(out, header, body, payload_length);
  return out;
}

}  // namespace shoal
