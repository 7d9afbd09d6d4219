#include "wire/data_body.h"

#include <fmt/format.h>

#include "wire/messages.pb.h"

namespace shoal {

void append_data_body(std::string& out, uint64_t offset, std::span<const uint32_t> crcs) {
  SHOAL_ASSERT(crcs.size() <= kPiecesPerFrame && offset % kPieceBytes == 0);
  wire::DataBody body;
  body.set_offset(offset);
  body.mutable_crc()->Add(crcs.begin(), crcs.end());
  bool done = body.AppendToString(&out);
  SHOAL_ASSERT(done, "a data body can always be written");
}

Result<DataPart> decode_data_body(std::string_view bytes, uint64_t payload_length) {
  wire::DataBody body;
  // A frame has at most 16 checksums; a body that claims more is not even read.
  constexpr size_t kBytesMax = 2 * (16 + kPiecesPerFrame * sizeof(uint32_t));
  if (bytes.size() > kBytesMax ||
      !body.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return fail(Code::kCorrupt, "a data frame's body cannot be read");
  }
  uint64_t pieces = (payload_length + kPieceBytes - 1) / kPieceBytes;
  if (payload_length == 0 || pieces > kPiecesPerFrame ||
      static_cast<uint64_t>(body.crc_size()) != pieces) {
    return fail(Code::kCorrupt, fmt::format("a data frame of {} bytes has {} checksums",
                                            payload_length, body.crc_size()));
  }
  if (body.offset() % kPieceBytes != 0) {
    return fail(Code::kCorrupt,
                fmt::format("a data frame begins inside a piece, at byte {}", body.offset()));
  }
  DataPart part;
  part.offset = body.offset();
  part.pieces = static_cast<uint32_t>(pieces);
  for (uint32_t i = 0; i < part.pieces; ++i) part.crcs[i] = body.crc(static_cast<int>(i));
  return part;
}

}  // namespace shoal
