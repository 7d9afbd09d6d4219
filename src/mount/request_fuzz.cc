// Any bytes as a message of the kernel: no crash, and every view lies inside the message.
#include "mount/request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  ConstByteSpan message(reinterpret_cast<const std::byte*>(data), size);
  fuse::InitIn init;
  fuse::parse_init(message, init);
  auto parse = [](ConstByteSpan bytes) {
    auto request = fuse::parse_request(bytes);
    if (!request) return;
    auto inside = [&](const void* begin, size_t length) {
      auto* at = static_cast<const std::byte*>(begin);
      return length == 0 || (at >= bytes.data() && at + length <= bytes.data() + bytes.size());
    };
    SHOAL_ASSERT(inside(request->name.data(), request->name.size()));
    SHOAL_ASSERT(inside(request->name2.data(), request->name2.size()));
    SHOAL_ASSERT(inside(request->payload.data(), request->payload.size()));
    SHOAL_ASSERT(request->forgets.size() * sizeof(fuse::ForgetOne) <= bytes.size());
    SHOAL_ASSERT(fuse::refused(*request) >= 0);
  };
  parse(message);
  // The same with an honest length, so that mutations get past the first check.
  if (size >= sizeof(fuse::InHeader)) {
    std::vector<std::byte> copy(message.begin(), message.end());
    auto length = static_cast<uint32_t>(size);
    std::memcpy(copy.data(), &length, sizeof(length));
    parse(copy);
  }
  return 0;
}
