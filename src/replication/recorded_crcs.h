// The CRC32Cs of an object's content, kept in its metadata by the commit, so that anybody can
// compare what the origin holds with what was written. At most kCrcsMax of them: for large objects
// each covers several chunks.
//
// No I/O; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "origin/origin.h"

namespace shoal {

// Metadata: "<bytes that each covers, decimal>:<base64 of the CRCs, little-endian, 4 bytes each>".
inline constexpr const char* kCrcsName = "shoalcrcs";
inline constexpr size_t kCrcsMax = 128;

struct RecordedCrcs {
  uint64_t block_bytes = 0;    // the last one may cover less
  std::vector<uint32_t> crcs;  // none of an empty object

  uint32_t whole(uint64_t size) const;  // CRC32C of all
};

// Puts them into the metadata; only that of the whole where others do not fit. `crcs` are those of
// consecutive blocks of `block_bytes` of an object of `size` bytes.
void record_crcs(Metadata& metadata, uint64_t size, uint64_t block_bytes,
                 std::vector<uint32_t> crcs);
// Nothing if they are not there, or cannot be those of an object of that size.
std::optional<RecordedCrcs> recorded_crcs(const Metadata& metadata, uint64_t size);

}  // namespace shoal
