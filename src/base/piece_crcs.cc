#include "base/piece_crcs.h"

#include <algorithm>
#include <memory>

#include "base/checksum.h"
#include "base/internal/xxh3.h"

namespace shoal {

std::vector<uint32_t> piece_crcs(ConstByteSpan bytes) {
  std::vector<uint32_t> crcs;
  crcs.reserve((bytes.size() + kPieceBytes - 1) / kPieceBytes);
  for (uint64_t at = 0; at < bytes.size(); at += kPieceBytes) {
    crcs.push_back(crc32c(bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at))));
  }
  return crcs;
}

PieceSums piece_sums(ConstByteSpan bytes) {
  PieceSums sums;
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> hash(XXH3_createState(),
                                                                &XXH3_freeState);
  SHOAL_ASSERT(hash != nullptr, "out of memory");
  XXH3_128bits_reset(hash.get());
  sums.crcs.reserve((bytes.size() + kPieceBytes - 1) / kPieceBytes);
  for (uint64_t at = 0; at < bytes.size(); at += kPieceBytes) {
    ConstByteSpan piece = bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at));
    sums.crcs.push_back(crc32c(piece));
    XXH3_128bits_update(hash.get(), piece.data(), piece.size());
  }
  XXH128_hash_t whole = XXH3_128bits_digest(hash.get());
  sums.hash = {whole.high64, whole.low64};
  return sums;
}

}  // namespace shoal
