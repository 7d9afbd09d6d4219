#include "replication/manifest.h"

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "base/checksum.h"
#include "replication/commit_order.h"
#include "replication/recorded_crcs.h"

namespace shoal {
namespace {

Manifest sample() {
  Manifest manifest;
  manifest.directory = "run/\"step\" 1";
  manifest.published = WallTime(std::chrono::seconds(1'700'000'000));
  manifest.files = {{"a/b", 3, 0x364b3fb7, "00112233445566778899aabbccddeeff.0"},
                    {"caf\xc3\xa9 \"x\"", 0, 0, "0x8D1"},
                    {"bad\xff%", uint64_t{1} << 46, 0xFFFFFFFF, "e"}};
  return manifest;
}

TEST(Manifest, survives_its_text) {
  Manifest manifest = sample();
  auto back = parse_manifest(encode_manifest(manifest));
  ASSERT_TRUE(back.has_value()) << back.error().to_string();
  EXPECT_EQ(back->directory, manifest.directory);
  ASSERT_EQ(back->files.size(), manifest.files.size());
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    EXPECT_EQ(back->files[i].name, manifest.files[i].name);
    EXPECT_EQ(back->files[i].size, manifest.files[i].size);
    EXPECT_EQ(back->files[i].crc, manifest.files[i].crc);
    EXPECT_EQ(back->files[i].version, manifest.files[i].version);
  }
}

TEST(Manifest, of_no_files) {
  Manifest manifest;
  manifest.directory = "d";
  auto back = parse_manifest(encode_manifest(manifest));
  ASSERT_TRUE(back.has_value()) << back.error().to_string();
  EXPECT_TRUE(back->files.empty());
}

TEST(Manifest, members_of_later_versions_are_passed_over) {
  auto back = parse_manifest(
      R"({"format": "shoal-manifest 1", "tags": [{"size": 1}, [[1]]], "count": 1, "files":
      [{"name": "x", "size": 1, "crc32c": "ff", "more": {"name": "y", "size": 7}, "version": "v"}]})");
  ASSERT_TRUE(back.has_value()) << back.error().to_string();
  ASSERT_EQ(back->files.size(), 1u);
  EXPECT_EQ(back->files[0].name, "x");
  EXPECT_EQ(back->files[0].size, 1u);
  EXPECT_EQ(back->files[0].crc, 0xffu);
}

TEST(Manifest, refuses_what_cannot_be) {
  std::string good = encode_manifest(sample());
  for (size_t cut = 0; cut + 1 < good.size(); cut += 7) {
    EXPECT_FALSE(parse_manifest(std::string_view(good).substr(0, cut)).has_value()) << cut;
  }
  for (const char* text : {
           R"({})",
           R"({"format": "shoal-manifest 2", "count": 0, "files": []})",
           R"({"format": "shoal-manifest 1", "count": 2, "files": []})",
           R"({"format": "shoal-manifest 1", "count": 1, "files": [{"name": "x", "size": 1}]})",
           R"({"format": "shoal-manifest 1", "count": 1, "files": [{"name": "x", "crc32c": "1"}]})",
           R"({"format": "shoal-manifest 1", "count": 1,
               "files": [{"name": "x", "size": 1, "crc32c": "no"}]})",
           R"({"format": "shoal-manifest 1", "count": 1,
               "files": [{"name": "", "size": 1, "crc32c": "1"}]})",
       }) {
    EXPECT_FALSE(parse_manifest(text).has_value()) << text;
  }
}

std::vector<uint32_t> crcs_of(const std::string& content, uint64_t block) {
  std::vector<uint32_t> crcs;
  for (uint64_t at = 0; at < content.size(); at += block) {
    crcs.push_back(crc32c(as_bytes(content).subspan(at, std::min(block, content.size() - at))));
  }
  return crcs;
}

TEST(CommitOrder, knows_markers_by_name) {
  for (const char* leaf :
       {".metadata", ".metadata.tmp", "latest", "latest_checkpointed_iteration.txt", "_SUCCESS",
        "model.safetensors.index.json", "Manifest", "checkpoint", "step_iteration.txt",
        "_CHECKPOINT_METADATA", "commit_success.txt", "upload.done"}) {
    EXPECT_TRUE(is_marker(leaf)) << leaf;
  }
  for (const char* leaf : {"", "__0_0.distcp", "model-00001-of-00002.safetensors", "config.json",
                           "checkpoint-100.pt", "optimizer.pt", "rng_state_0.pth"}) {
    EXPECT_FALSE(is_marker(leaf)) << leaf;
  }
}

TEST(RecordedCrcs, are_those_of_the_content) {
  for (size_t size : {0u, 1u, 10u, 11u, 1280u, 1281u, 5000u, 123'457u}) {
    std::string content;
    for (size_t i = 0; i < size; ++i) content += static_cast<char>(i * 7 + i / 255);
    Metadata metadata{{"shoalmode", "644"}};
    record_crcs(metadata, size, 10, crcs_of(content, 10));
    auto found = recorded_crcs(metadata, size);
    ASSERT_TRUE(found.has_value()) << size;
    EXPECT_LE(found->crcs.size(), kCrcsMax);
    EXPECT_EQ(found->crcs, crcs_of(content, found->block_bytes)) << size;
    EXPECT_EQ(found->whole(size), crc32c(as_bytes(content))) << size;
    EXPECT_FALSE(recorded_crcs(metadata, size + 10'000'000).has_value());
  }
}

TEST(RecordedCrcs, leave_room_for_other_metadata) {
  std::string content(100'000, 'x');
  Metadata metadata{{"shoalxaa", std::string(7'900, 'a')}};
  record_crcs(metadata, content.size(), 1000, crcs_of(content, 1000));
  auto found = recorded_crcs(metadata, content.size());
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->crcs.size(), 25u);
  EXPECT_EQ(found->whole(content.size()), crc32c(as_bytes(content)));
}

TEST(RecordedCrcs, refuses_what_cannot_be) {
  for (const char* text : {"", ":", "8", "8:", "0:AAAAAA==", "8:AAAAAAAA", "8:?",
                           "-8:AAAAAA==", "99999999999999999999999:AAAAAA=="}) {
    EXPECT_FALSE(recorded_crcs({{kCrcsName, text}}, 5).has_value()) << text;
  }
  EXPECT_TRUE(recorded_crcs({{kCrcsName, "8:AAAAAA=="}}, 5).has_value());
}

}  // namespace
}  // namespace shoal
