// The checksums that payload travels with.
#pragma once

#include <vector>

#include "base/bytes.h"

namespace shoal {

// CRC32C of each piece of kPieceBytes, the last of which may be shorter.
std::vector<uint32_t> piece_crcs(ConstByteSpan bytes);

}  // namespace shoal
