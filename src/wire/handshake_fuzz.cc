// Both roles of the handshake, fed with a stream of frames: each input is cut into frames by a byte
// of length, and gets headers with right checksums, so that the fuzzer reaches the states behind
// them. Who does not know the key must never be let in.
#include <cstddef>
#include <cstdint>

#include "base/assert.h"
#include "wire/handshake.h"

namespace {

void run(shoal::Handshake::Role role, std::string_view input, bool raw) {
  std::string out;
  shoal::HandshakeIdentity self{"c", "o", {1, 2}, 3, std::string(32, 'k')};
  shoal::Handshake handshake(role, self, {"peer", {5, 6}, 7, 8}, out);
  if (raw) {
    while (true) {
      auto used = handshake.take(shoal::as_bytes(input), out);
      if (!used || *used == 0) return;
      SHOAL_ASSERT(*used <= input.size() && !handshake.done());
      input.remove_prefix(*used);
    }
  }
  while (input.size() >= 2) {
    shoal::FrameHeader header;
    header.type = static_cast<shoal::FrameType>(input[0] & 0x1F);
    header.version = (input[0] & 0x20) != 0 ? 2 : 1;
    size_t length = std::min<size_t>(static_cast<unsigned char>(input[1]), input.size() - 2);
    std::string frame = shoal::encode_frame(header, input.substr(2, length));
    input.remove_prefix(2 + length);
    auto used = handshake.take(shoal::as_bytes(frame), out);
    SHOAL_ASSERT(out.size() < 64 * shoal::kKiB);
    if (!used) return;
    SHOAL_ASSERT(*used == frame.size());
    SHOAL_ASSERT(!handshake.done(), "somebody was let in without the key");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  (void)shoal::decode_refusal(shoal::as_bytes(input), "peer");
  for (bool raw : {false, true}) {
    run(shoal::Handshake::Role::kCaller, input, raw);
    run(shoal::Handshake::Role::kAnswerer, input, raw);
  }
  return 0;
}
