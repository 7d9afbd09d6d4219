#include "wire/error_code.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/assert.h"
#include "wire/messages.pb.h"

namespace shoal {

namespace {

struct Row {
  Code code;
  uint32_t number;
};
// Numbers are never used again for something else.
constexpr std::array kRows = {
    Row{Code::kCancelled, 1},       Row{Code::kDeadlineExceeded, 2},
    Row{Code::kNotFound, 3},        Row{Code::kAlreadyExists, 4},
    Row{Code::kConflict, 5},        Row{Code::kStale, 6},
    Row{Code::kInvalidArgument, 7}, Row{Code::kPermissionDenied, 8},
    Row{Code::kUnauthenticated, 9}, Row{Code::kUnavailable, 10},
    Row{Code::kThrottled, 11},      Row{Code::kCorrupt, 12},
    Row{Code::kNoSpace, 13},        Row{Code::kBusy, 14},
    Row{Code::kDiskError, 15},      Row{Code::kIsDirectory, 16},
    Row{Code::kNotDirectory, 17},   Row{Code::kNotEmpty, 18},
    Row{Code::kNameTooLong, 19},    Row{Code::kNotSupported, 20},
    Row{Code::kReadOnly, 21},       Row{Code::kTooLarge, 22},
    Row{Code::kNoData, 23},         Row{Code::kInternal, 24},
};

constexpr uint32_t kRetryAfterMax = 3'600'000;  // an hour: more is nonsense

// Length of the UTF-8 sequence that begins here, 0 if there is none. Overlong forms and surrogates
// pass: this is for readable text, not for comparing.
size_t sequence_length(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  size_t length = byte(0) < 0x80 ? 1 : byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) >= 0xF8 || (byte(0) >= 0x80 && byte(0) < 0xC2) || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

uint32_t wire_code(Code code) {
  for (const Row& row : kRows) {
    if (row.code == code) return row.number;
  }
  SHOAL_ASSERT(false, "a Code has no number on the wire");
  return 0;
}

Code code_of_wire(uint32_t number) {
  for (const Row& row : kRows) {
    if (row.number == number) return row.code;
  }
  return Code::kUnavailable;
}

std::string printable(std::string_view text, size_t bytes_max) {
  std::string out;
  while (!text.empty()) {
    size_t length = sequence_length(text);
    bool control = length == 1 && (text[0] < 0x20 || text[0] == 0x7F);
    if (out.size() + std::max<size_t>(length, 1) > bytes_max) break;
    if (length == 0 || control) {
      out += '?';
    } else {
      out.append(text.substr(0, length));
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

std::string encode_error(const Error& error) {
  wire::ErrorBody body;
  body.set_code(wire_code(error.code()));
  body.set_message(printable(error.message(), kErrorMessageBytesMax));
  auto retry_after = std::clamp<int64_t>(error.retry_after().count(), 0, kRetryAfterMax);
  body.set_retry_after_ms(static_cast<uint32_t>(retry_after));
  return body.SerializeAsString();
}

Error decode_error(std::string_view bytes, std::string_view peer) {
  wire::ErrorBody body;
  if (!body.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Error(Code::kCorrupt, fmt::format("{}: sent an error that cannot be read", peer));
  }
  Error error(code_of_wire(body.code()),
              fmt::format("{}: {}", peer, printable(body.message(), kErrorMessageBytesMax)));
  auto retry_after = std::chrono::milliseconds(std::min(body.retry_after_ms(), kRetryAfterMax));
  return std::move(error).with_retry_after(retry_after);
}

}  // namespace shoal
