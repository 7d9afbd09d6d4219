// Header slots and table pages of .meta files: whatever lies on the disk, parsing it must not harm,
// and what parses must survive being written again.
#include <cstdint>

#include "base/assert.h"
#include "base/checksum.h"
#include "store/internal/meta_format.h"

using namespace shoal;
using namespace shoal::store_internal;

namespace {

void check_header(ConstByteSpan bytes) {
  Result<MetaHeader> header = parse_header(bytes);
  if (!header) return;
  Result<std::string> again = encode_header(*header);
  if (!again) return;  // longer than a slot is refused
  Result<MetaHeader> twice = parse_header(as_bytes(*again));
  SHOAL_ASSERT(twice.has_value() && twice->sequence == header->sequence &&
               twice->size == header->size && twice->object == header->object &&
               twice->record.metadata == header->record.metadata);
}

// Puts the right checksum in, so that what lies behind it is reached.
std::string with_checksum(ConstByteSpan bytes) {
  std::string fixed(as_text(bytes));
  if (fixed.size() < 20) return fixed;
  put_u32(fixed, 12, static_cast<uint32_t>(fixed.size()));
  put_u32(fixed, 16, crc32c(as_bytes(fixed).subspan(20), crc32c(as_bytes(fixed).first(16))));
  return fixed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ConstByteSpan bytes(reinterpret_cast<const std::byte*>(data), size);
  check_header(bytes);
  check_header(as_bytes(with_checksum(bytes.first(std::min<size_t>(size, kSlotBytes)))));
  if (size >= kPageBytes) {
    TablePage page;
    uint32_t crc = 0;
    (void)parse_page(bytes.first(kPageBytes), {1, 2}, 3, page, crc);
  }
  Reader in(bytes);
  StagedRecord record;
  (void)parse_record(in, record);
  return 0;
}
