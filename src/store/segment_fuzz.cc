// Segments of the small tier as the recovery scan reads them: a header, then records.
#include <cstdint>

#include "base/assert.h"
#include "base/checksum.h"
#include "store/internal/codec.h"
#include "store/internal/meta_format.h"
#include "store/internal/segment_format.h"

using namespace shoal;
using namespace shoal::store_internal;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ConstByteSpan bytes(reinterpret_cast<const std::byte*>(data), size);
  Result<SegmentHeader> segment = parse_segment_header(bytes);
  Hash128 nonce = segment ? segment->nonce : Hash128{};
  for (uint64_t at = 0; at + kRecordHeaderBytes <= size;) {
    Result<RecordHeader> header = parse_record_header(bytes.subspan(at), nonce);
    if (!header || header->total() > size - at) {
      at += kRecordAlign;
      continue;
    }
    ConstByteSpan info = bytes.subspan(at + kRecordHeaderBytes, header->info_length);
    ConstByteSpan value =
        bytes.subspan(at + kRecordHeaderBytes + header->info_length, header->value_length);
    (void)info_matches(*header, info, nonce);
    (void)value_matches(*header, value, nonce);
    std::string object;
    std::string etag;
    (void)parse_names(info, object, etag);
    StagedRecord record;
    Reader in(info);
    (void)parse_record(in, record);
    SHOAL_ASSERT(header->total() >= kRecordHeaderBytes);
    at += header->total();
  }
  // A record made of the input is found again.
  RecordHeader made;
  made.kind = RecordKind::kClean;
  made.key = {1, size};
  std::string_view text = as_text(bytes.first(std::min<size_t>(size, 1000)));
  std::string encoded =
      encode_segment_record(made, text, bytes.first(std::min<size_t>(size, 5000)), nonce);
  Result<RecordHeader> back = parse_record_header(as_bytes(encoded), nonce);
  SHOAL_ASSERT(back.has_value() && back->total() == encoded.size());
  SHOAL_ASSERT(
      info_matches(*back, as_bytes(encoded).subspan(kRecordHeaderBytes, text.size()), nonce));
  return 0;
}
