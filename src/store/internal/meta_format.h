// The format of a .meta file: two header slots and two copies of the piece table. Pure functions;
// docs/on-disk-format.md has the picture.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/hash.h"
#include "store/internal/codec.h"
#include "store/store.h"

namespace shoal::store_internal {

inline constexpr uint64_t kPageBytes = 4 * kKiB;
inline constexpr uint64_t kSlotBytes = 16 * kKiB;  // one header slot
inline constexpr uint64_t kTableStart = 2 * kSlotBytes;
inline constexpr uint32_t kMetaFormat = 1;
inline constexpr uint64_t kObjectSizeMax = uint64_t{1} << 48;

// One piece as stored: its CRC32C and bits.
struct Piece {
  uint32_t crc = 0;
  uint32_t bits = 0;

  // On disk and in memory.
  static constexpr uint32_t kLengthMask = 0x1FFFF;  // bytes that the CRC covers
  static constexpr uint32_t kPresent = 1u << 17;
  static constexpr uint32_t kHole = 1u << 18;  // zeros that take no space
  static constexpr uint32_t kStored = kLengthMask | kPresent | kHole;
  // In memory only.
  static constexpr uint32_t kVouched = 1u << 24;  // checked since the last unclean start
  static constexpr uint32_t kStale = 1u << 25;    // the CRC must be computed again before sync
  static constexpr uint32_t kBad = 1u << 26;      // staged bytes that failed their check
  static constexpr uint32_t kSynced = 1u << 27;   // in the durable table

  bool present() const { return (bits & kPresent) != 0; }
  bool hole() const { return (bits & kHole) != 0; }
  bool has(uint32_t bit) const { return (bits & bit) != 0; }
  uint32_t length() const { return bits & kLengthMask; }
};
static_assert(sizeof(Piece) == 8);

inline constexpr uint64_t kPiecesPerPage = 510;
inline uint64_t pieces_of(uint64_t size) { return (size + kPieceBytes - 1) / kPieceBytes; }
inline uint64_t pages_of(uint64_t pieces) { return (pieces + kPiecesPerPage - 1) / kPiecesPerPage; }
// Where page `page` of table copy `copy` lies in the .meta file.
inline uint64_t page_offset(uint64_t page, unsigned copy) {
  return kTableStart + (2 * page + copy) * kPageBytes;
}
inline uint64_t piece_length(uint64_t piece, uint64_t size) {
  uint64_t start = piece * kPieceBytes;
  return start >= size ? 0 : std::min(kPieceBytes, size - start);
}

struct TablePage {
  std::array<Piece, kPiecesPerPage> pieces{};
};

// The page's 4,096 bytes: magic, CRC32C seeded with the file and the page number, entries.
std::string encode_page(const TablePage& page, Hash128 file, uint64_t number);
uint32_t page_crc(std::string_view encoded);
enum class PageState { kGood, kEmpty, kBad };  // kEmpty: never written, all zeros
PageState parse_page(ConstByteSpan bytes, Hash128 file, uint64_t number, TablePage& into,
                     uint32_t& crc);

struct MetaHeader {
  uint64_t sequence = 0;  // the valid slot with the larger one counts
  Hash128 file;           // the same as in the file's name
  bool staged = false;
  bool rewriting = false;  // synced pieces were being overwritten: their CRCs may not match
  uint8_t table_copy = 0;  // 0 or 1
  uint64_t size = 0;
  uint64_t vouched_at = 0;    // generation whose clean end vouches for all present pieces
  uint32_t table_digest = 0;  // staged: CRC32C of the CRCs of the table's pages
  std::string object;
  std::string etag;     // clean only
  StagedRecord record;  // staged only
};

// kTooLarge when names and metadata do not fit a slot.
Result<std::string> encode_header(const MetaHeader& header);
// Errors: kCorrupt, or kNotSupported for a newer format.
Result<MetaHeader> parse_header(ConstByteSpan slot);

void encode_record(Writer& out, const StagedRecord& record);
// False when it is malformed.
bool parse_record(Reader& in, StagedRecord& record);
// Whether every field fits its encoding.
Status check_record(const StagedRecord& record);

}  // namespace shoal::store_internal
