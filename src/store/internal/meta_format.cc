#include "store/internal/meta_format.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/object_name.h"

namespace shoal::store_internal {

namespace {

constexpr uint64_t kHeaderMagic = 0x314154454D4C4853ull;  // "SHLMETA1"
constexpr uint32_t kPageMagic = 0x50544853;               // "SHTP"
constexpr size_t kHeaderCrcAt = 16;
constexpr size_t kHeaderCrcEnd = 20;

constexpr uint8_t kFlagStaged = 1;
constexpr uint8_t kFlagRewriting = 2;
constexpr uint8_t kFlagsKnown = kFlagStaged | kFlagRewriting;

constexpr uint8_t kRecordMustBeAbsent = 1;
constexpr uint8_t kRecordSealed = 2;
constexpr uint8_t kRecordPartial = 4;

uint32_t page_seed(Hash128 file, uint64_t number) {
  std::string seed;
  Writer out(seed);
  out.hash(file);
  out.number(number);
  return crc32c(as_bytes(seed));
}

}  // namespace

std::string encode_page(const TablePage& page, Hash128 file, uint64_t number) {
  std::string bytes;
  bytes.reserve(kPageBytes);
  Writer out(bytes);
  out.number(kPageMagic);
  out.number(uint32_t{0});
  for (const Piece& piece : page.pieces) {
    out.number(piece.crc);
    out.number(piece.bits & Piece::kStored);
  }
  bytes.resize(kPageBytes, '\0');
  put_u32(bytes, 4, crc32c(as_bytes(bytes).subspan(8), page_seed(file, number)));
  return bytes;
}

uint32_t page_crc(std::string_view encoded) {
  Reader in(as_bytes(encoded).subspan(4, 4));
  return in.number<uint32_t>();
}

PageState parse_page(ConstByteSpan bytes, Hash128 file, uint64_t number, TablePage& into,
                     uint32_t& crc) {
  SHOAL_ASSERT(bytes.size() == kPageBytes);
  crc = 0;
  Reader in(bytes);
  uint32_t magic = in.number<uint32_t>();
  uint32_t stored = in.number<uint32_t>();
  if (magic == 0 && std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; })) {
    return PageState::kEmpty;
  }
  if (magic != kPageMagic || stored != crc32c(bytes.subspan(8), page_seed(file, number))) {
    return PageState::kBad;
  }
  for (Piece& piece : into.pieces) {
    piece.crc = in.number<uint32_t>();
    piece.bits = in.number<uint32_t>() & Piece::kStored;
    if (piece.length() > kPieceBytes) return PageState::kBad;
  }
  crc = stored;
  return PageState::kGood;
}

Status check_record(const StagedRecord& record) {
  if (record.object.size() > kObjectNameBytesMax) {
    return fail(Code::kNameTooLong, fmt::format("object name of {} bytes", record.object.size()));
  }
  size_t total = record.object.size() + record.base_etag.size();
  for (const auto& [key, value] : record.metadata) total += key.size() + value.size() + 4;
  if (record.metadata.size() > 1024 || total > kSlotBytes - 512) {
    return fail(Code::kTooLarge,
                fmt::format("{}: name and metadata take {} bytes, {} fit; use less metadata",
                            record.object, total, kSlotBytes - 512));
  }
  return {};
}

void encode_record(Writer& out, const StagedRecord& record) {
  uint8_t flags = 0;
  if (record.must_be_absent) flags |= kRecordMustBeAbsent;
  if (record.sealed) flags |= kRecordSealed;
  if (record.partial) flags |= kRecordPartial;
  out.number(flags);
  out.hash(record.write_id);
  out.number(record.size);
  out.number(static_cast<int64_t>(record.changed.time_since_epoch().count()));
  out.text(record.object);
  out.text(record.base_etag);
  out.number(static_cast<uint16_t>(record.metadata.size()));
  for (const auto& [key, value] : record.metadata) {
    out.text(key);
    out.text(value);
  }
}

bool parse_record(Reader& in, StagedRecord& record) {
  uint8_t flags = in.number<uint8_t>();
  if ((flags & ~(kRecordMustBeAbsent | kRecordSealed | kRecordPartial)) != 0) return false;
  record.must_be_absent = (flags & kRecordMustBeAbsent) != 0;
  record.sealed = (flags & kRecordSealed) != 0;
  record.partial = (flags & kRecordPartial) != 0;
  record.write_id = in.hash();
  record.size = in.number<uint64_t>();
  record.changed = WallTime(Duration(in.number<int64_t>()));
  record.object = in.text();
  record.base_etag = in.text();
  size_t count = in.number<uint16_t>();
  for (size_t i = 0; i < count && in.ok(); ++i) {
    std::string key = in.text();
    record.metadata[std::move(key)] = in.text();
  }
  return in.ok() && record.size <= kObjectSizeMax;
}

Result<std::string> encode_header(const MetaHeader& header) {
  SHOAL_ASSERT(header.table_copy <= 1);
  std::string bytes;
  Writer out(bytes);
  out.number(kHeaderMagic);
  out.number(kMetaFormat);
  out.number(uint32_t{0});  // length
  out.number(uint32_t{0});  // CRC
  out.number(header.sequence);
  out.hash(header.file);
  uint8_t flags = 0;
  if (header.staged) flags |= kFlagStaged;
  if (header.rewriting) flags |= kFlagRewriting;
  out.number(flags);
  out.number(header.table_copy);
  out.number(header.size);
  out.number(header.vouched_at);
  out.number(header.table_digest);
  if (header.staged) {
    SHOAL_RETURN_IF_ERROR(check_record(header.record));
    encode_record(out, header.record);
  } else {
    if (header.object.size() + header.etag.size() > kSlotBytes - 512) {
      return fail(Code::kTooLarge, "object name and ETag are too long to be cached");
    }
    out.text(header.object);
    out.text(header.etag);
  }
  if (bytes.size() > kSlotBytes) {
    return fail(Code::kTooLarge,
                fmt::format("header of {} bytes; use less metadata", bytes.size()));
  }
  put_u32(bytes, 12, static_cast<uint32_t>(bytes.size()));
  uint32_t crc = crc32c(as_bytes(bytes).first(kHeaderCrcAt));
  put_u32(bytes, kHeaderCrcAt, crc32c(as_bytes(bytes).subspan(kHeaderCrcEnd), crc));
  bytes.resize((bytes.size() + kPageBytes - 1) / kPageBytes * kPageBytes, '\0');
  return bytes;
}

Result<MetaHeader> parse_header(ConstByteSpan slot) {
  Reader in(slot);
  if (in.number<uint64_t>() != kHeaderMagic) return fail(Code::kCorrupt, "no header");
  uint32_t format = in.number<uint32_t>();
  size_t length = in.number<uint32_t>();
  uint32_t stored = in.number<uint32_t>();
  if (!in.ok() || length < kHeaderCrcEnd || length > slot.size() || length > kSlotBytes) {
    return fail(Code::kCorrupt, "header length is wrong");
  }
  uint32_t crc = crc32c(slot.first(kHeaderCrcAt));
  if (stored != crc32c(slot.subspan(kHeaderCrcEnd, length - kHeaderCrcEnd), crc)) {
    return fail(Code::kCorrupt, "header checksum is wrong");
  }
  if (format != kMetaFormat) {
    return fail(Code::kNotSupported, fmt::format("header format {}", format));
  }
  in = Reader(slot.first(length));
  for (size_t i = 0; i < kHeaderCrcEnd; ++i) in.number<uint8_t>();
  MetaHeader header;
  header.sequence = in.number<uint64_t>();
  header.file = in.hash();
  uint8_t flags = in.number<uint8_t>();
  header.staged = (flags & kFlagStaged) != 0;
  header.rewriting = (flags & kFlagRewriting) != 0;
  header.table_copy = in.number<uint8_t>();
  header.size = in.number<uint64_t>();
  header.vouched_at = in.number<uint64_t>();
  header.table_digest = in.number<uint32_t>();
  bool good = (flags & ~kFlagsKnown) == 0 && header.table_copy <= 1;
  if (header.staged) {
    good = parse_record(in, header.record) && good;
    header.object = header.record.object;
  } else {
    header.object = in.text();
    header.etag = in.text();
  }
  if (!good || !in.ok() || header.size > kObjectSizeMax) {
    return fail(Code::kCorrupt, "header fields are wrong");
  }
  return header;
}

}  // namespace shoal::store_internal
