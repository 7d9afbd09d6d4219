// The format of a segment of the small tier: a header, then records at multiples of 64 bytes.
// Every checksum is seeded with the segment's random nonce, so that a value that looks like a
// record (somebody caches a segment) is never taken for one. Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/hash.h"
#include "store/store.h"

namespace shoal::store_internal {

inline constexpr uint64_t kRecordAlign = 64;
inline constexpr uint64_t kSegmentHeaderBytes = 64;
inline constexpr uint64_t kRecordHeaderBytes = 64;
inline constexpr uint64_t kRecordInfoMax = 24 * kKiB;
inline constexpr uint64_t kRecordBytesMax = kRecordHeaderBytes + kRecordInfoMax + kSmallBytesMax;
inline constexpr uint32_t kSegmentFormat = 1;

struct SegmentHeader {
  uint64_t number = 0;
  Hash128 nonce;
};
std::string encode_segment_header(const SegmentHeader& header);
// kCorrupt, or kNotSupported for a newer format.
Result<SegmentHeader> parse_segment_header(ConstByteSpan bytes);

enum class RecordKind : uint8_t {
  kClean = 1,   // key: hash of the object's name; version: hash of the ETag
  kStaged = 2,  // key: the write id; info is the StagedRecord
  kDrop = 3,    // key: the write id that is staged no longer
};

struct RecordHeader {
  RecordKind kind = RecordKind::kClean;
  uint64_t sequence = 0;        // grows with every record of the store
  uint64_t synced_through = 0;  // records up to here were durable when this one was written
  Hash128 key;
  uint64_t version = 0;
  uint32_t info_length = 0;
  uint32_t value_length = 0;
  uint32_t info_crc = 0;
  uint32_t value_crc = 0;

  uint64_t total() const {  // with padding
    uint64_t bytes = kRecordHeaderBytes + info_length + value_length;
    return (bytes + kRecordAlign - 1) / kRecordAlign * kRecordAlign;
  }
};

// One record with its padding. Fills in lengths and checksums.
std::string encode_segment_record(RecordHeader header, std::string_view info, ConstByteSpan value,
                                  Hash128 nonce);
// Checks the header's own checksum and bounds; the lengths are then to be trusted.
Result<RecordHeader> parse_record_header(ConstByteSpan bytes, Hash128 nonce);
bool info_matches(const RecordHeader& header, ConstByteSpan info, Hash128 nonce);
bool value_matches(const RecordHeader& header, ConstByteSpan value, Hash128 nonce);

// The info of a clean record: its names.
std::string encode_names(std::string_view object, std::string_view etag);
bool parse_names(ConstByteSpan info, std::string& object, std::string& etag);

}  // namespace shoal::store_internal
