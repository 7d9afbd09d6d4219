// The benchmark's own parts, without a daemon: what it computes, prints and refuses, and that its
// ceilings (plain download, minimal FUSE server) deliver the right bytes.
#include "one_node/one_node.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <set>

namespace shoal::bench {
namespace {

TEST(Median, TakesTheMiddle) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(median({7}), 7);
}

TEST(Row, RatioIsTheMedianOfTheRoundsOwn) {
  Pairs pairs;
  pairs.add(90, 100);
  pairs.add(10, 20);
  pairs.add(190, 200);
  Row row = pairs.row("x", "MB/s", Goal::kRatioAtLeast, 0.9);
  EXPECT_EQ(row.value, 90);
  EXPECT_EQ(row.ceiling, 100);
  EXPECT_EQ(row.ratio, 0.9);
  EXPECT_EQ(row.met(), true);
  row.target = 0.91;
  EXPECT_EQ(row.met(), false);
}

TEST(Row, GoalsLookAtTheRightNumber) {
  Row row{"x", "B", 100.0, std::nullopt, std::nullopt, Goal::kValueAtMost, 100};
  EXPECT_EQ(row.met(), true);
  row.value = 101;
  EXPECT_EQ(row.met(), false);
  row.value.reset();
  EXPECT_EQ(row.met(), false) << "what was not measured is not met";
  row.goal = Goal::kNone;
  EXPECT_FALSE(row.met().has_value());
  row = {"x", "s", 1.0, 1.0, 1.3, Goal::kRatioAtMost, 1.2};
  EXPECT_EQ(row.met(), false);
}

TEST(Report, JsonHasExactlyTheAgreedKeys) {
  Report report{"one-node", {{"rounds", "5"}, {"mode", "passthrough"}}, {{"cores", "2"}}, {}};
  report.rows.push_back({"a", "B", 5.0, std::nullopt, std::nullopt, Goal::kNone, 0});
  report.rows.push_back({"b", "MB/s", 9.0, 10.0, 0.9, Goal::kRatioAtLeast, 0.9});
  auto json = nlohmann::ordered_json::parse(report.to_json());
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"scenario", "parameters", "machine", "rows"}));
  keys.clear();
  for (const auto& [key, value] : json["rows"][0].items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"name", "value", "unit", "ceiling", "ratio", "target",
                                            "met"}));
  EXPECT_EQ(json["parameters"]["rounds"], 5);
  EXPECT_TRUE(json["rows"][0]["met"].is_null());
  EXPECT_EQ(json["rows"][1]["met"], true);
  EXPECT_NE(report.to_table().find("ratio >= 0.9"), std::string::npos);
}

TEST(Settings, QuickComesBeforeTheOthers) {
  auto settings = parse_settings({{"rounds", "7"}, {"quick", "yes"}});
  ASSERT_TRUE(settings) << settings.error().message();
  EXPECT_TRUE(settings->quick);
  EXPECT_EQ(settings->rounds, 7u);
  EXPECT_LT(settings->size, kGiB);
}

TEST(Settings, RefusesWhatItDoesNotKnow) {
  for (auto [name, value] : std::vector<std::pair<std::string, std::string>>{{"rounds", "0"},
                                                                             {"rounds", "x"},
                                                                             {"seconds", "-1"},
                                                                             {"size", "1KiB"},
                                                                             {"quick", "maybe"},
                                                                             {"colour", "red"}}) {
    auto settings = parse_settings({{name, value}});
    ASSERT_FALSE(settings) << name;
    EXPECT_EQ(settings.error().code(), Code::kInvalidArgument);
    EXPECT_NE(settings.error().message().find(name), std::string::npos);
  }
}

TEST(Groups, RowNamesAreUnique) {
  std::set<std::string> names;
  for (const Group& group : groups()) {
    for (const std::string& row : group.rows) EXPECT_TRUE(names.insert(row).second) << row;
  }
  EXPECT_GE(names.size(), 35u);
}

class Staged : public testing::Test {
 protected:
  void SetUp() override {
    auto made = WorkDirectory::make("/var/tmp", false);
    ASSERT_TRUE(made) << made.error().message();
    work_ = std::move(*made);
  }
  std::unique_ptr<WorkDirectory> work_;
};

TEST_F(Staged, DownloadChecksItsBytes) {
  auto stub = Stub::start(*work_, 0);
  ASSERT_TRUE(stub) << stub.error().message();
  ASSERT_TRUE((*stub)->add_blob("big", 20 * kMiB + 5, 3));
  Download wanted{.port = (*stub)->port(),
                  .target = (*stub)->target("big"),
                  .size = 20 * kMiB + 5,
                  .connections = 3,
                  .file = *work_ / "copy",
                  .seed = 3};
  auto took = download(wanted);
  ASSERT_TRUE(took) << took.error().message();
  EXPECT_TRUE(verify_file(*work_ / "copy", 20 * kMiB + 5, 3));
  EXPECT_FALSE(verify_file(*work_ / "copy", 20 * kMiB + 5, 4));
  wanted.seed = 4;
  EXPECT_EQ(download(wanted).error().code(), Code::kCorrupt);
  wanted.target = (*stub)->target("absent");
  EXPECT_FALSE(download(wanted));
}

TEST_F(Staged, MinimalServerDeliversTheFile) {
  if (geteuid() != 0 || access("/dev/fuse", W_OK) != 0) GTEST_SKIP() << "needs root and /dev/fuse";
  ASSERT_TRUE(make_native_file(*work_ / "native", 5 * kMiB + 7, 9));
  auto mount = MinimalMount::start(*work_, *work_ / "native");
  ASSERT_TRUE(mount) << mount.error().message();
  EXPECT_TRUE(verify_file((*mount)->file(), 5 * kMiB + 7, 9));
  auto rate = read_for_a_while({.path = (*mount)->file(),
                                .size = 4 * kMiB,
                                .jobs = 4,
                                .block = 4 * kKiB,
                                .random = true,
                                .seconds = 0.05,
                                .seed = 9});
  ASSERT_TRUE(rate) << rate.error().message();
  EXPECT_GT(rate->bytes_per_second, 0);
}

TEST_F(Staged, LoadsNoticeWrongBytes) {
  ASSERT_TRUE(make_native_file(*work_ / "native", 4 * kMiB, 9));
  EXPECT_TRUE(read_once(*work_ / "native", 4 * kMiB, 9));
  EXPECT_EQ(read_once(*work_ / "native", 4 * kMiB, 8).error().code(), Code::kCorrupt);
  EXPECT_EQ(read_once(*work_ / "native", 5 * kMiB, 9).error().code(), Code::kCorrupt);
  SmallFiles files{.directory = *work_ / "small", .count = 10};
  ASSERT_TRUE(create_small(files, false));
  EXPECT_TRUE(stat_small(files));
  EXPECT_TRUE(read_small(files));
  EXPECT_TRUE(list_directory(files.directory, 10));
  EXPECT_FALSE(list_directory(files.directory, 11));
}

TEST_F(Staged, CommandThatHangsIsKilled) {
  auto result = run_command({"sleep", "100"}, std::chrono::milliseconds(50));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
  result = run_command({"sh", "-c", "echo out; echo err >&2; exit 3"}, std::chrono::seconds(20));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 3);
  EXPECT_EQ(result->output, "out\nerr\n");
}

}  // namespace
}  // namespace shoal::bench
