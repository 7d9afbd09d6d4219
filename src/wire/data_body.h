// The body of a kData frame: where its payload lies in the answer, and the checksums of its pieces.
// Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "wire/frame.h"

namespace shoal {

inline constexpr size_t kPiecesPerFrame = kPayloadBytesMax / kPieceBytes;

struct DataPart {
  uint64_t offset = 0;  // in the answer, a multiple of kPieceBytes
  uint32_t pieces = 0;
  std::array<uint32_t, kPiecesPerFrame> crcs{};  // the first `pieces` of them
};

// Appends to `out`. `crcs`: at most kPiecesPerFrame.
void append_data_body(std::string& out, uint64_t offset, std::span<const uint32_t> crcs);
// kCorrupt: no such body, or not one checksum for each piece of `payload_length` bytes (1 at
// least).
Result<DataPart> decode_data_body(std::string_view body, uint64_t payload_length);

}  // namespace shoal
