// CRC-64/NVME, which Azure calls crc64: reflected polynomial 0x9A6C9329AC4BC9B5, initial value and
// final xor all ones. Check value of "123456789": 0xAE8B14860A799888.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace shoal {

uint64_t crc64_nvme(ConstByteSpan bytes);

}  // namespace shoal
