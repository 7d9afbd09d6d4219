#include "base/piece_crcs.h"

#include <algorithm>

#include "base/checksum.h"

namespace shoal {

std::vector<uint32_t> piece_crcs(ConstByteSpan bytes) {
  std::vector<uint32_t> crcs;
  crcs.reserve((bytes.size() + kPieceBytes - 1) / kPieceBytes);
  for (uint64_t at = 0; at < bytes.size(); at += kPieceBytes) {
    crcs.push_back(crc32c(bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at))));
  }
  return crcs;
}

}  // namespace shoal
