#include <gtest/gtest.h>

#include "base/bytes.h"
#include "base/checksum.h"
#include "membership/internal/cluster_key.h"
#include "membership/map_store.h"

namespace shoal {
namespace {

Member member(uint64_t number) {
  Member out;
  out.id = {number, number * 7 + 1};
  out.name = "node-" + std::to_string(number);
  out.address = "10.0.0." + std::to_string(number) + ":7070";
  out.http = "10.0.0." + std::to_string(number) + ":7071";
  out.weight = static_cast<uint32_t>(100 + number);
  out.zone = "zone-" + std::to_string(number % 3);
  out.incarnation = number * 1000;
  return out;
}

SlotMap map_of(uint64_t members) {
  SlotMap map = placement::first_map("test", {1, 2}, "file:/data", 3, member(1));
  std::vector<Member> others;
  for (uint64_t i = 2; i <= members; ++i) others.push_back(member(i));
  if (!others.empty()) map = placement::join(map, std::move(others));
  return map;
}

void set_u32(std::string& bytes, size_t offset, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) bytes[offset + i] = static_cast<char>(value >> (8 * i) & 0xFF);
}

TEST(MapCodec, keeps_everything) {
  for (uint64_t members : {1, 2, 5, 100}) {
    SlotMap map = map_of(members);
    if (members == 5) {
      map = placement::drain(map, member(2).id);
      Member down = member(3);
      down.state = MemberState::kDown;
      map = placement::update_member(map, down);
    }
    Result<SlotMap> again = decode_map(encode_map(map));
    ASSERT_TRUE(again) << again.error().to_string();
    EXPECT_EQ(*again, map);
  }
}

TEST(MapCodec, a_changed_bit_is_noticed_wherever_it_is) {
  std::string good = encode_map(map_of(4));
  for (size_t bit = 0; bit < good.size() * 8; bit += bit < 400 ? 1 : 997) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    Result<SlotMap> map = decode_map(bad);
    ASSERT_FALSE(map) << "bit " << bit;
    EXPECT_EQ(map.error().code(), Code::kCorrupt);
    EXPECT_NE(map.error().message().find("delete it"), std::string::npos);
  }
}

TEST(MapCodec, a_part_or_too_much_is_corrupt) {
  std::string good = encode_map(map_of(2));
  for (size_t length = 0; length < good.size(); length += length < 64 ? 1 : 1001) {
    EXPECT_EQ(decode_map(good.substr(0, length)).error().code(), Code::kCorrupt);
  }
  EXPECT_EQ(decode_map(good + "x").error().code(), Code::kCorrupt);
}

TEST(MapCodec, a_newer_format_is_not_called_corrupt) {
  std::string bytes = encode_map(map_of(2));
  set_u32(bytes, 8, 7);
  set_u32(bytes, 20, crc32c(as_bytes(std::string_view(bytes).substr(0, 20))));
  Error error = decode_map(bytes).error();
  EXPECT_EQ(error.code(), Code::kNotSupported);
  EXPECT_NE(error.message().find("format 7"), std::string::npos) << error.message();
  EXPECT_NE(error.message().find("format 1"), std::string::npos) << error.message();
}

TEST(MapCodec, whole_bytes_with_a_map_that_breaks_rules_are_corrupt) {
  SlotMap map = map_of(3);
  map.owners[5] = 77;  // no such member
  EXPECT_EQ(decode_map(encode_map(map)).error().code(), Code::kCorrupt);
  map = map_of(3);
  map.members[1].address.clear();
  EXPECT_EQ(decode_map(encode_map(map)).error().code(), Code::kCorrupt);
  map = map_of(3);
  map.members[1].id = map.members[0].id;
  EXPECT_EQ(decode_map(encode_map(map)).error().code(), Code::kCorrupt);
  map = map_of(3);
  map.members[2].weight = 0;
  EXPECT_EQ(decode_map(encode_map(map)).error().code(), Code::kCorrupt);
}

TEST(ClusterName, has_a_narrow_syntax) {
  for (std::string_view good : {"a", "prod-1", "0", "x-"}) {
    EXPECT_TRUE(check_cluster_name(good)) << good;
  }
  EXPECT_TRUE(check_cluster_name(std::string(63, 'a')));
  for (std::string_view bad : {"", "A", "a.b", "a/b", "..", ".directory", "a b", "\xC3\xA9"}) {
    EXPECT_EQ(check_cluster_name(bad).error().code(), Code::kInvalidArgument) << bad;
  }
  EXPECT_FALSE(check_cluster_name(std::string(64, 'a')));
}

TEST(ClusterKey, is_hexadecimal_at_rest) {
  std::string key;
  for (int i = 0; i < 32; ++i) key.push_back(static_cast<char>(i * 9));
  std::string text = format_cluster_key(key);
  EXPECT_EQ(text.size(), 65u);
  EXPECT_EQ(parse_cluster_key(text).value_or(""), key);
  EXPECT_EQ(parse_cluster_key(text.substr(0, 64)).value_or(""), key);
  for (const std::string& bad :
       {std::string(), text.substr(0, 63), text + "00", std::string(64, 'g')}) {
    Result<std::string> parsed = parse_cluster_key(bad);
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().code(), Code::kCorrupt);
  }
}

}  // namespace
}  // namespace shoal
