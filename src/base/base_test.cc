#include <gtest/gtest.h>

#include <cerrno>
#include <random>

#include "base/bytes.h"
#include "base/checksum.h"
#include "base/hash.h"
#include "base/object_name.h"
#include "base/piece_crcs.h"

namespace shoal {
namespace {

TEST(Checksum, matches_the_published_check_value) {
  EXPECT_EQ(crc32c(as_bytes("123456789")), 0xE3069283u);
  EXPECT_EQ(crc32c({}), 0u);
}

TEST(Checksum, combines_and_continues) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::string text(random() % 5000, 0);
    for (char& c : text) c = static_cast<char>(random());
    size_t cut = text.empty() ? 0 : random() % text.size();
    auto a = as_bytes(text).first(cut);
    auto b = as_bytes(text).subspan(cut);
    EXPECT_EQ(crc32c_combine(crc32c(a), crc32c(b), b.size()), crc32c(as_bytes(text)));
    EXPECT_EQ(crc32c(b, crc32c(a)), crc32c(as_bytes(text)));
  }
}

TEST(Checksum, of_each_piece_and_hash_of_all_in_one_pass) {
  std::mt19937 random(8);
  for (size_t size : {size_t{0}, size_t{1}, size_t{kPieceBytes}, size_t{5 * kPieceBytes + 17}}) {
    std::string text(size, 0);
    for (char& c : text) c = static_cast<char>(random());
    PieceSums sums = piece_sums(as_bytes(text));
    EXPECT_EQ(sums.hash, hash_bytes(as_bytes(text)));
    EXPECT_EQ(sums.crcs, piece_crcs(as_bytes(text)));
    uint32_t whole = 0;
    for (size_t i = 0; i < sums.crcs.size(); ++i) {
      size_t length = std::min<size_t>(kPieceBytes, size - i * kPieceBytes);
      EXPECT_EQ(sums.crcs[i], crc32c(as_bytes(text).subspan(i * kPieceBytes, length)));
      whole = crc32c_combine(whole, sums.crcs[i], length);
    }
    EXPECT_EQ(whole, crc32c(as_bytes(text)));
  }
}

TEST(Size, parses_what_people_write) {
  EXPECT_EQ(parse_size("4096").value(), 4096u);
  EXPECT_EQ(parse_size("64KiB").value(), 65536u);
  EXPECT_EQ(parse_size("1.5 GiB").value(), 1610612736u);
  EXPECT_EQ(parse_size("1MB").value(), 1000000u);
  EXPECT_EQ(parse_size("2T").value(), 2 * kTiB);
  for (const char* bad : {"", "x", "-1", "1 parsec", "1e30", "nan", "MiB"}) {
    EXPECT_FALSE(parse_size(bad)) << bad;
  }
}

TEST(Size, formats_for_people) {
  EXPECT_EQ(format_size(17), "17 B");
  EXPECT_EQ(format_size(1536), "1.50 KiB");
  EXPECT_EQ(format_size(500 * kGiB), "500 GiB");
}

TEST(ObjectName, knows_what_a_path_can_show) {
  EXPECT_TRUE(is_representable("a/b/c.bin"));
  EXPECT_TRUE(is_representable("\xf0\x9f\x90\x9f/\xc3\xa9"));
  EXPECT_TRUE(is_representable("odd \x80 bytes"));
  for (const char* bad : {"", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b"}) {
    EXPECT_FALSE(is_representable(bad)) << bad;
  }
  EXPECT_FALSE(is_representable(std::string(256, 'x')));
  EXPECT_EQ(validate_object_name(std::string(1025, 'x')).error().code(), Code::kNameTooLong);
  EXPECT_EQ(parent_of("a/b/c"), "a/b");
  EXPECT_EQ(leaf_of("a/b/c"), "c");
  EXPECT_EQ(parent_of("c"), "");
  EXPECT_EQ(join_path("", "c"), "c");
}

TEST(ObjectName, percent_and_base64_round_trip) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::string text(random() % 40, 0);
    for (char& c : text) c = static_cast<char>(random());
    EXPECT_EQ(percent_decode(percent_encode(text, round % 2)).value(), text);
    EXPECT_EQ(base64_decode(base64_encode(text)).value(), text);
  }
  EXPECT_EQ(percent_encode("a b/c", true), "a%20b/c");
  EXPECT_EQ(base64_encode("any"), "YW55");
  for (const char* bad : {"a", "ab=c", "====", "YW5*"}) EXPECT_FALSE(base64_decode(bad)) << bad;
  EXPECT_FALSE(percent_decode("%4"));
}

TEST(Hash, has_a_stable_text_form) {
  Hash128 hash = hash_string("shoal");
  EXPECT_EQ(Hash128::from_hex(hash.to_hex()).value(), hash);
  EXPECT_FALSE(Hash128::from_hex("12"));
  EXPECT_FALSE(Hash128::from_hex(std::string(32, 'g')));
}

TEST(Error, carries_context_and_errno) {
  Error error = error_from_errno(ENOSPC, "writing /cache/x").with_context("staging a/b");
  EXPECT_EQ(error.code(), Code::kNoSpace);
  EXPECT_EQ(error.to_string(), "staging a/b: writing /cache/x: No space left on device (no space)");
}

}  // namespace
}  // namespace shoal
