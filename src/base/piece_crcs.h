// The checksums that payload travels with.
#pragma once

#include <vector>

#include "base/bytes.h"
#include "base/hash.h"

namespace shoal {

// CRC32C of each piece of kPieceBytes, the last of which may be shorter.
std::vector<uint32_t> piece_crcs(ConstByteSpan bytes);

struct PieceSums {
  std::vector<uint32_t> crcs;
  Hash128 hash;  // hash_bytes() of the whole
};
// Both in one pass: most of what they cost is to bring the bytes from memory.
PieceSums piece_sums(ConstByteSpan bytes);

}  // namespace shoal
