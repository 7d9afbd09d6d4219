// Answers as a broken or foreign server might give them, whole and byte by byte.
#include <cstddef>
#include <cstdint>

#include "base/assert.h"
#include "control/http_reply.h"
#include "control/protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  shoal::HttpReply whole;
  std::string body;
  bool ok = whole.feed(text, body).has_value();
  SHOAL_ASSERT(body.size() <= text.size());
  shoal::HttpReply pieces;
  std::string same;
  bool same_ok = true;
  for (size_t i = 0; i < size && same_ok; ++i) {
    same_ok = pieces.feed(text.substr(i, 1), same).has_value();
  }
  SHOAL_ASSERT(ok == same_ok && body == same);
  SHOAL_ASSERT(whole.status() == pieces.status() && whole.complete() == pieces.complete());
  size_t end = body.find('\n');
  (void)shoal::decode_event(std::string_view(body).substr(0, end));
  (void)shoal::decode_job_request(shoal::JobKind::kPublish, text);
  return 0;
}
