// What the workload writes: bytes that say where they come from, so that a wrong one can be named.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/hash.h"

namespace shoal::simulate {

// Names one write. Byte i of a file, written by it, is a pure function of (id, i).
using WriteId = uint64_t;
inline constexpr WriteId kZeros = 0;  // a hole

std::byte byte_of(WriteId id, uint64_t offset);
void fill_content(WriteId id, uint64_t offset, ByteSpan into);
std::string make_content(WriteId id, uint64_t size);

inline Hash128 hash_of(const std::string& bytes) { return hash_bytes(as_bytes(bytes)); }

}  // namespace shoal::simulate
