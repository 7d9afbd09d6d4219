#include <fmt/format.h>

#include <array>
#include <cstring>

#include "base/bytes.h"
#include "base/checksum.h"
#include "membership/internal/map_body.h"
#include "membership/map_store.h"

namespace shoal {
namespace {

// The header, little-endian. These 24 bytes stay what they are in every later format, so that an
// older program can tell a newer map from a damaged one.
//
//   offset bytes  field
//        0     8  magic "SHOALMAP"
//        8     4  format version
//       12     4  length of the body
//       16     4  CRC32C of the body
//       20     4  CRC32C of the 20 bytes before
//       24        the body: MapBody (wire/messages.proto)
constexpr std::string_view kMagic = "SHOALMAP";
constexpr uint32_t kFormat = 1;
constexpr size_t kHeaderBytes = 24;
static_assert(kMagic.size() + 4 * sizeof(uint32_t) == kHeaderBytes);

uint32_t u32_at(std::string_view bytes, size_t offset) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) {
    value |= uint32_t{static_cast<unsigned char>(bytes[offset + i])} << (8 * i);
  }
  return value;
}
void append_u32(std::string& out, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
}

std::unexpected<Error> corrupt(std::string_view why) {
  return fail(Code::kCorrupt,
              fmt::format("this is no whole slot map ({}); delete it: a running node writes it "
                          "again, else the next start begins with an empty cluster",
                          why));
}

}  // namespace

std::string encode_map(const SlotMap& map) {
  wire::MapBody body;
  put_map(map, body);
  std::string bytes = body.SerializeAsString();
  SHOAL_ASSERT(bytes.size() < kMapBytesMax - kHeaderBytes, "a map above its limit");
  std::string out(kMagic);
  append_u32(out, kFormat);
  append_u32(out, static_cast<uint32_t>(bytes.size()));
  append_u32(out, crc32c(as_bytes(bytes)));
  append_u32(out, crc32c(as_bytes(out)));
  SHOAL_ASSERT(out.size() == kHeaderBytes);
  return out + bytes;
}

Result<SlotMap> decode_map(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes) {
    return corrupt(fmt::format("{} bytes are fewer than its header has", bytes.size()));
  }
  if (!bytes.starts_with(kMagic)) return corrupt("it does not begin with SHOALMAP");
  if (u32_at(bytes, 20) != crc32c(as_bytes(bytes.substr(0, 20)))) {
    return corrupt("its header has a wrong checksum");
  }
  uint32_t format = u32_at(bytes, 8);
  if (format != kFormat) {
    return fail(
        Code::kNotSupported,
        fmt::format("the slot map has format {}, this program knows format {}; {}", format, kFormat,
                    format > kFormat ? "run the version of shoal that the other nodes run"
                                     : "delete it when no node runs"));
  }
  uint32_t length = u32_at(bytes, 12);
  std::string_view body_bytes = bytes.substr(kHeaderBytes);
  if (body_bytes.size() != length) {
    return corrupt(fmt::format("{} bytes instead of {}", body_bytes.size(), length));
  }
  if (u32_at(bytes, 16) != crc32c(as_bytes(body_bytes))) return corrupt("wrong checksum");
  wire::MapBody body;
  if (!body.ParseFromArray(body_bytes.data(), static_cast<int>(body_bytes.size()))) {
    return corrupt("its body is no protobuf message");
  }
  Result<SlotMap> map = take_map(body);
  if (!map) return corrupt(map.error().message());
  return map;
}

Result<SlotMap> map_from_reply(const std::string& body) {
  wire::GetMapReply reply;
  if (!reply.ParseFromString(body)) {
    return fail(Code::kCorrupt, "an answer that cannot be read");
  }
  return take_map(reply.map());
}

}  // namespace shoal
