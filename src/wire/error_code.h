// Errors on the wire: numbers of our own, so that the enum Code may change. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace shoal {

// Longer messages are cut, on both sides.
inline constexpr size_t kErrorMessageBytesMax = 1024;

// Never 0.
uint32_t wire_code(Code code);
// A number that this version does not know becomes kUnavailable: a newer peer failed in a way that
// we have no word for, and another peer or a later attempt may do better.
Code code_of_wire(uint32_t number);

// The body of a kError or kRefused frame.
std::string encode_error(const Error& error);
// What the peer said, as "PEER: message". A body that cannot be read is an Error too (kCorrupt).
Error decode_error(std::string_view body, std::string_view peer);

// Text from a peer for a log line or message: control characters and what is no UTF-8 replaced by
// '?', at most `bytes_max` bytes.
std::string printable(std::string_view text, size_t bytes_max);

}  // namespace shoal
