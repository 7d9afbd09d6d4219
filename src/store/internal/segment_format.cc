#include "store/internal/segment_format.h"

#include <fmt/format.h>

#include "base/checksum.h"
#include "store/internal/codec.h"

namespace shoal::store_internal {

namespace {

constexpr uint64_t kSegmentMagic = 0x3147455334534853ull;  // "SHS4SEG1"
constexpr uint32_t kRecordMagic = 0x00434552;              // "REC", then the kind

uint32_t seed_of(Hash128 nonce, uint32_t purpose) {
  std::string bytes;
  Writer out(bytes);
  out.hash(nonce);
  out.number(purpose);
  return crc32c(as_bytes(bytes));
}
uint32_t header_seed(Hash128 nonce) { return seed_of(nonce, 1); }
uint32_t body_seed(Hash128 nonce) { return seed_of(nonce, 2); }

}  // namespace

std::string encode_segment_header(const SegmentHeader& header) {
  std::string bytes;
  Writer out(bytes);
  out.number(kSegmentMagic);
  out.number(kSegmentFormat);
  out.number(uint32_t{0});  // CRC
  out.number(header.number);
  out.hash(header.nonce);
  bytes.resize(kSegmentHeaderBytes, '\0');
  put_u32(bytes, 12, crc32c(as_bytes(bytes).subspan(16), crc32c(as_bytes(bytes).first(12))));
  return bytes;
}

Result<SegmentHeader> parse_segment_header(ConstByteSpan bytes) {
  if (bytes.size() < kSegmentHeaderBytes) return fail(Code::kCorrupt, "no segment header");
  bytes = bytes.first(kSegmentHeaderBytes);
  Reader in(bytes);
  if (in.number<uint64_t>() != kSegmentMagic) return fail(Code::kCorrupt, "not a segment");
  uint32_t format = in.number<uint32_t>();
  if (in.number<uint32_t>() != crc32c(bytes.subspan(16), crc32c(bytes.first(12)))) {
    return fail(Code::kCorrupt, "segment header checksum is wrong");
  }
  if (format != kSegmentFormat) {
    return fail(Code::kNotSupported, fmt::format("segment format {}", format));
  }
  SegmentHeader header;
  header.number = in.number<uint64_t>();
  header.nonce = in.hash();
  return header;
}

std::string encode_segment_record(RecordHeader header, std::string_view info, ConstByteSpan value,
                                  Hash128 nonce) {
  SHOAL_ASSERT(info.size() <= kRecordInfoMax && value.size() <= kSmallBytesMax);
  header.info_length = static_cast<uint32_t>(info.size());
  header.value_length = static_cast<uint32_t>(value.size());
  std::string bytes;
  bytes.reserve(header.total());
  Writer out(bytes);
  out.number(kRecordMagic | static_cast<uint32_t>(header.kind) << 24);
  out.number(uint32_t{0});  // CRC
  out.number(header.sequence);
  out.hash(header.key);
  out.number(header.version);
  out.number(header.synced_through);
  out.number(header.info_length);
  out.number(header.value_length);
  out.number(crc32c(as_bytes(info), body_seed(nonce)));
  out.number(crc32c(value, body_seed(nonce)));
  SHOAL_ASSERT(bytes.size() == kRecordHeaderBytes);
  uint32_t crc = crc32c(as_bytes(bytes).first(4), header_seed(nonce));
  put_u32(bytes, 4, crc32c(as_bytes(bytes).subspan(8), crc));
  bytes.append(info);
  bytes.append(as_text(value));
  bytes.resize(header.total(), '\0');
  return bytes;
}

Result<RecordHeader> parse_record_header(ConstByteSpan bytes, Hash128 nonce) {
  if (bytes.size() < kRecordHeaderBytes) return fail(Code::kCorrupt, "record header is cut off");
  bytes = bytes.first(kRecordHeaderBytes);
  Reader in(bytes);
  uint32_t magic = in.number<uint32_t>();
  if ((magic & 0xFFFFFF) != kRecordMagic) return fail(Code::kCorrupt, "no record");
  uint32_t stored = in.number<uint32_t>();
  if (stored != crc32c(bytes.subspan(8), crc32c(bytes.first(4), header_seed(nonce)))) {
    return fail(Code::kCorrupt, "record header checksum is wrong");
  }
  RecordHeader header;
  header.kind = static_cast<RecordKind>(magic >> 24);
  header.sequence = in.number<uint64_t>();
  header.key = in.hash();
  header.version = in.number<uint64_t>();
  header.synced_through = in.number<uint64_t>();
  header.info_length = in.number<uint32_t>();
  header.value_length = in.number<uint32_t>();
  header.info_crc = in.number<uint32_t>();
  header.value_crc = in.number<uint32_t>();
  bool known = header.kind == RecordKind::kClean || header.kind == RecordKind::kStaged ||
               header.kind == RecordKind::kDrop;
  if (!known || header.info_length > kRecordInfoMax || header.value_length > kSmallBytesMax) {
    return fail(Code::kCorrupt, "record header fields are wrong");
  }
  return header;
}

bool info_matches(const RecordHeader& header, ConstByteSpan info, Hash128 nonce) {
  return info.size() == header.info_length && crc32c(info, body_seed(nonce)) == header.info_crc;
}

bool value_matches(const RecordHeader& header, ConstByteSpan value, Hash128 nonce) {
  return value.size() == header.value_length && crc32c(value, body_seed(nonce)) == header.value_crc;
}

std::string encode_names(std::string_view object, std::string_view etag) {
  std::string bytes;
  Writer out(bytes);
  out.text(object);
  out.text(etag);
  return bytes;
}

bool parse_names(ConstByteSpan info, std::string& object, std::string& etag) {
  Reader in(info);
  object = in.text();
  etag = in.text();
  return in.ok() && in.left() == 0;
}

}  // namespace shoal::store_internal
