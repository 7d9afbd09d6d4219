// Frames as a hostile or broken peer might send them: the header, then the body by its type. Raw
// bytes rarely have a right checksum, so the same bytes are also tried with the checksums put
// right.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/assert.h"
#include "base/checksum.h"
#include "wire/data_body.h"
#include "wire/error_code.h"
#include "wire/frame.h"
#include "wire/messages.pb.h"

namespace {

template <typename Message>
void parse(std::string_view body) {
  Message message;
  (void)message.ParseFromArray(body.data(), static_cast<int>(body.size()));
}

void look_at(std::string_view frame) {
  auto header =
      shoal::decode_frame_header(shoal::as_bytes(frame).first<shoal::kFrameHeaderBytes>());
  if (!header) return;
  SHOAL_ASSERT(header->body_length <= shoal::kBodyBytesMax);
  SHOAL_ASSERT(header->payload_length <= shoal::kPayloadBytesMax);
  std::string_view body = frame.substr(shoal::kFrameHeaderBytes);
  (void)shoal::check_body(*header, shoal::as_bytes(body));
  switch (header->type) {
    case shoal::FrameType::kData:
      if (auto part = shoal::decode_data_body(body, header->payload_length)) {
        SHOAL_ASSERT(part->pieces <= shoal::kPiecesPerFrame);
      }
      break;
    case shoal::FrameType::kError:
    case shoal::FrameType::kRefused:
      SHOAL_ASSERT(shoal::decode_error(body, "peer").message().size() <=
                   shoal::kErrorMessageBytesMax + 64);
      break;
    case shoal::FrameType::kRequest:
      parse<shoal::wire::ReadRequest>(body);
      parse<shoal::wire::HeadRequest>(body);
      parse<shoal::wire::ListRequest>(body);
      parse<shoal::wire::JoinRequest>(body);
      break;
    default:
      parse<shoal::wire::GetMapReply>(body);
      parse<shoal::wire::HeadReply>(body);
      parse<shoal::wire::ListReply>(body);
      break;
  }
  // What is written from it reads back the same.
  auto again = shoal::decode_frame_header(shoal::encode_frame_header(*header));
  SHOAL_ASSERT(again && again->type == header->type && again->request_id == header->request_id);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string frame(reinterpret_cast<const char*>(data), size);
  if (frame.size() < shoal::kFrameHeaderBytes) return 0;
  look_at(frame);
  std::memcpy(frame.data(), "SHOL", 4);
  uint32_t length = static_cast<uint32_t>(frame.size() - shoal::kFrameHeaderBytes);
  uint32_t crc = shoal::crc32c(shoal::as_bytes(frame).subspan(shoal::kFrameHeaderBytes));
  std::memcpy(frame.data() + 24, &length, sizeof length);
  std::memcpy(frame.data() + 40, &crc, sizeof crc);
  crc = shoal::crc32c(shoal::as_bytes(frame).first(44));
  std::memcpy(frame.data() + 44, &crc, sizeof crc);
  look_at(frame);
  return 0;
}
