#include "wire/frame.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/checksum.h"
#include "wire/data_body.h"
#include "wire/error_code.h"

namespace shoal {
namespace {

FrameHeader sample() {
  FrameHeader header;
  header.type = FrameType::kRequest;
  header.method = Method::kHead;
  header.request_id = 0x0102030405060708;
  header.map_version = 77;
  header.timeout_ms = 1500;
  return header;
}

Result<FrameHeader> decode(std::string_view bytes) {
  return decode_frame_header(as_bytes(bytes).first<kFrameHeaderBytes>());
}

// Puts the header's checksum right again after a change.
void seal(std::string& frame) {
  uint32_t crc = crc32c(as_bytes(frame).first(44));
  std::memcpy(frame.data() + 44, &crc, sizeof crc);
}

TEST(Frame, reads_back_what_was_written) {
  std::string frame = encode_frame(sample(), "body");
  ASSERT_EQ(frame.size(), kFrameHeaderBytes + 4);
  auto header = decode(frame);
  ASSERT_TRUE(header) << header.error().to_string();
  EXPECT_EQ(header->type, FrameType::kRequest);
  EXPECT_EQ(header->method, Method::kHead);
  EXPECT_EQ(header->request_id, 0x0102030405060708u);
  EXPECT_EQ(header->map_version, 77u);
  EXPECT_EQ(header->timeout_ms, 1500u);
  EXPECT_EQ(header->body_length, 4u);
  EXPECT_EQ(header->payload_length, 0u);
  EXPECT_TRUE(check_body(*header, as_bytes("body")));
  EXPECT_EQ(check_body(*header, as_bytes("bodz")).error().code(), Code::kCorrupt);
  EXPECT_EQ(check_body(*header, as_bytes("bod")).error().code(), Code::kCorrupt);
}

TEST(Frame, layout_is_the_documented_one) {
  std::string frame = encode_frame(sample(), "body");
  EXPECT_EQ(frame.substr(0, 4), "SHOL");
  EXPECT_EQ(frame[4], 1);
  EXPECT_EQ(frame[5], 16);
  EXPECT_EQ(frame.substr(6, 2), std::string("\x11\0", 2));
  EXPECT_EQ(frame.substr(8, 8), "\x08\x07\x06\x05\x04\x03\x02\x01");
  EXPECT_EQ(frame[16], 77);
  EXPECT_EQ(frame[24], 4);
}

TEST(Frame, every_flipped_bit_of_the_header_is_found) {
  std::string frame = encode_frame(sample(), "body");
  for (size_t bit = 0; bit < kFrameHeaderBytes * 8; ++bit) {
    std::string broken = frame;
    broken[bit / 8] = static_cast<char>(broken[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(decode(broken)) << "bit " << bit;
  }
}

TEST(Frame, lengths_and_types_have_limits) {
  auto changed = [](size_t at, uint32_t value, FrameType type) {
    FrameHeader header = sample();
    header.type = type;
    std::string frame = encode_frame(header, "");
    std::memcpy(frame.data() + at, &value, sizeof value);
    seal(frame);
    return decode(frame);
  };
  EXPECT_TRUE(changed(24, kBodyBytesMax, FrameType::kReply));
  EXPECT_EQ(changed(24, kBodyBytesMax + 1, FrameType::kReply).error().code(), Code::kCorrupt);
  EXPECT_TRUE(changed(28, kPayloadBytesMax, FrameType::kData));
  EXPECT_EQ(changed(28, kPayloadBytesMax + 1, FrameType::kData).error().code(), Code::kCorrupt);
  EXPECT_EQ(changed(28, 1, FrameType::kReply).error().code(), Code::kCorrupt);
  for (int type : {0, 6, 15, 21, 255}) {
    std::string frame = encode_frame(sample(), "");
    frame[5] = static_cast<char>(type);
    seal(frame);
    EXPECT_EQ(decode(frame).error().code(), Code::kCorrupt) << type;
  }
}

TEST(Frame, other_versions_may_only_greet_and_refuse) {
  FrameHeader header = sample();
  header.version = 2;
  auto refused = decode(encode_frame(header, ""));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kNotSupported);
  EXPECT_NE(refused.error().message().find("version 2"), std::string::npos);
  for (FrameType type : {FrameType::kHello, FrameType::kRefused}) {
    header.type = type;
    auto read = decode(encode_frame(header, ""));
    ASSERT_TRUE(read);
    EXPECT_EQ(read->version, 2);
  }
}

TEST(DataBody, one_checksum_per_piece) {
  std::vector<uint32_t> crcs = {1, 2, 0xFFFFFFFF};
  std::string body;
  append_data_body(body, 5 * kPieceBytes, crcs);
  auto part = decode_data_body(body, 2 * kPieceBytes + 1);
  ASSERT_TRUE(part) << part.error().to_string();
  EXPECT_EQ(part->offset, 5 * kPieceBytes);
  ASSERT_EQ(part->pieces, 3u);
  EXPECT_EQ(part->crcs[2], 0xFFFFFFFF);
  EXPECT_FALSE(decode_data_body(body, 2 * kPieceBytes));
  EXPECT_FALSE(decode_data_body(body, 3 * kPieceBytes + 1));
  EXPECT_FALSE(decode_data_body(body, 0));
  EXPECT_FALSE(decode_data_body(std::string(1000, 'x'), kPieceBytes));
  // The longest one that there is.
  std::string longest;
  append_data_body(longest, uint64_t{1} << 60, std::vector<uint32_t>(kPiecesPerFrame, ~0u));
  EXPECT_TRUE(decode_data_body(longest, kPayloadBytesMax));
}

TEST(ErrorCode, every_code_goes_there_and_back) {
  for (int i = 0; i <= static_cast<int>(Code::kInternal); ++i) {
    Code code = static_cast<Code>(i);
    uint32_t number = wire_code(code);
    EXPECT_NE(number, 0u);
    EXPECT_EQ(code_of_wire(number), code);
  }
  EXPECT_EQ(code_of_wire(0), Code::kUnavailable);
  EXPECT_EQ(code_of_wire(4711), Code::kUnavailable);
}

TEST(ErrorCode, messages_are_cut_and_printable) {
  Error error(Code::kThrottled, std::string(5000, 'x') + "\n");
  error = std::move(error).with_retry_after(std::chrono::milliseconds(250));
  Error read = decode_error(encode_error(error), "10.0.0.5:7070");
  EXPECT_EQ(read.code(), Code::kThrottled);
  EXPECT_EQ(read.retry_after(), std::chrono::milliseconds(250));
  EXPECT_TRUE(read.message().starts_with("10.0.0.5:7070: xxx"));
  EXPECT_LE(read.message().size(), 15 + kErrorMessageBytesMax);
  EXPECT_EQ(decode_error("\xFF\xFF", "p").code(), Code::kCorrupt);
  EXPECT_EQ(printable("a\nb\x1b[0m \xc3\xa4 \xff \xc3", 100), "a?b?[0m \xc3\xa4 ? ?");
  EXPECT_EQ(printable("\xc3\xa4\xc3\xa4", 3), "\xc3\xa4");
}

}  // namespace
}  // namespace shoal
