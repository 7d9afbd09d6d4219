#include "cluster/grpc_wire.h"

#include <fmt/format.h>

#include "base/assert.h"

namespace shoal::bench {

namespace {

// RFC 9113, section 6.
enum FrameKind : uint8_t {
  kData = 0,
  kHeaders = 1,
  kReset = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
};
constexpr uint8_t kEndStream = 1;  // of kData and kHeaders
constexpr uint8_t kAck = 1;        // of kSettings and kPing
constexpr uint8_t kEndHeaders = 4;
constexpr size_t kHeadBytes = 9;
constexpr size_t kGrpcPrefixBytes = 5;
constexpr uint32_t kWindowMore = 0x7fff0000 - 65535;
constexpr uint32_t kFrameBytesMax = 1 << 24;

void append_u32(std::string& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

void append_frame(std::string& out, FrameKind kind, uint8_t flags, uint32_t stream,
                  std::string_view payload) {
  SHOAL_ASSERT(payload.size() < kFrameBytesMax);
  auto length = static_cast<uint32_t>(payload.size());
  for (int shift = 16; shift >= 0; shift -= 8) out.push_back(static_cast<char>(length >> shift));
  out.push_back(static_cast<char>(kind));
  out.push_back(static_cast<char>(flags));
  append_u32(out, stream);
  out += payload;
}

// A literal that both sides remember (RFC 7541, 6.2.1); `name`: an index of the static table.
void append_literal(std::string& out, uint8_t name, std::string_view value) {
  SHOAL_ASSERT(value.size() < 127);
  out.push_back(static_cast<char>(0x40 | name));
  out.push_back(static_cast<char>(value.size()));
  out += value;
}

uint32_t read_number(std::string_view bytes) {
  uint32_t value = 0;
  for (char c : bytes) value = value << 8 | static_cast<uint8_t>(c);
  return value;
}

}  // namespace

std::string protobuf_bytes(unsigned field, std::string_view value) {
  SHOAL_ASSERT(field > 0 && field < 16 && value.size() < 16384);
  std::string out(1, static_cast<char>(field << 3 | 2));
  if (value.size() >= 128) out.push_back(static_cast<char>(value.size() | 0x80));
  out.push_back(static_cast<char>(value.size() >= 128 ? value.size() >> 7 : value.size()));
  out += value;
  return out;
}

void GrpcCalls::append_call(std::string& out, std::string_view message) {
  std::string headers = "\x83\x86";  // :method POST, :scheme http
  if (next_stream_ == 1) {
    out += "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    std::string window("\0\x04", 2);  // SETTINGS_INITIAL_WINDOW_SIZE
    append_u32(window, kWindowMore);
    append_frame(out, kSettings, 0, 0, window);
    std::string more;
    append_u32(more, kWindowMore);
    append_frame(out, kWindowUpdate, 0, 0, more);
    append_literal(headers, 4, path_);
    append_literal(headers, 1, authority_);
    append_literal(headers, 31, "application/grpc");
    headers += "\x40";  // a name of its own
    headers += "\x02te";
    headers += "\x08trailers";
  } else {
    headers += "\xc1\xc0\xbf\xbe";  // those four, the oldest first
  }
  append_frame(out, kHeaders, kEndHeaders, next_stream_, headers);
  std::string data(1, '\0');  // not compressed
  append_u32(data, static_cast<uint32_t>(message.size()));
  data += message;
  append_frame(out, kData, kEndStream, next_stream_, data);
  open_[next_stream_] = 0;
  next_stream_ += 2;
}

Result<size_t> GrpcCalls::take_answers(std::string_view bytes, uint64_t& answers,
                                       std::string& out) {
  size_t at = 0;
  while (bytes.size() - at >= kHeadBytes) {
    uint32_t length = read_number(bytes.substr(at, 3));
    if (bytes.size() - at - kHeadBytes < length) break;
    auto type = static_cast<uint8_t>(bytes[at + 3]);
    auto flags = static_cast<uint8_t>(bytes[at + 4]);
    uint32_t stream = read_number(bytes.substr(at + 5, 4)) & 0x7fffffff;
    std::string_view payload = bytes.substr(at + kHeadBytes, length);
    SHOAL_RETURN_IF_ERROR(take_frame(type, flags, stream, payload, answers, out));
    at += kHeadBytes + length;
  }
  return at;
}

Status GrpcCalls::take_frame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload,
                             uint64_t& answers, std::string& out) {
  if (type == kGoAway || type == kReset) {
    return fail(Code::kUnavailable, fmt::format("gRPC call {} was refused", path_));
  }
  if (type == kSettings && (flags & kAck) == 0) append_frame(out, kSettings, kAck, 0, {});
  if (type == kPing && (flags & kAck) == 0) append_frame(out, kPing, kAck, 0, payload);
  if (type != kData && type != kHeaders) return {};
  auto call = open_.find(stream);
  if (call == open_.end()) return fail(Code::kCorrupt, "an answer to no gRPC call");
  if (type == kData) call->second += payload.size();
  if ((flags & kEndStream) == 0) return {};
  if (call->second < kGrpcPrefixBytes + answer_min_) {
    return fail(Code::kUnavailable, fmt::format("gRPC call {} failed", path_));
  }
  open_.erase(call);
  ++answers;
  return {};
}

}  // namespace shoal::bench
