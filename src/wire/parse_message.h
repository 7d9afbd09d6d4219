// Reading a protobuf message that came from somewhere else.
#pragma once

#include <string>

#include "base/error.h"

namespace shoal {

// kCorrupt when the bytes are no such message.
template <typename Message>
Result<Message> parse_message(const std::string& bytes, const char* what) {
  Message message;
  if (!message.ParseFromString(bytes)) {
    return fail(Code::kCorrupt, std::string(what) + " that cannot be read");
  }
  return message;
}

}  // namespace shoal
