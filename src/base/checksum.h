// CRC32C (Castagnoli, reflected 0x82F63B78, RFC 3720), by ISA-L. Check value of "123456789":
// 0xE3069283.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace shoal {

// The CRC of `bytes`; pass the CRC of what came before to continue (0 to begin).
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

// The CRC of A followed by B, from the CRCs of both and B's length in bytes.
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b);

}  // namespace shoal
