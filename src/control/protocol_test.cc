#include "control/protocol.h"

#include <gtest/gtest.h>

#include "control/running_node.h"

namespace shoal {
namespace {

TEST(Protocol, refuses_bad_bodies) {
  for (const char* body :
       {"", "[]", "{}", "{\"paths\":[]}", "{\"paths\":\"a\"}", "{\"paths\":[1]}",
        "{\"paths\":[\"/a\"]}", "{\"paths\":[\"a\"],\"level\":\"x\"}",
        "{\"paths\":[\"a\"],\"timeout_ms\":-1}", "\xff\xfe", "{\"paths\":[\"a\\u0000b\"]}"}) {
    EXPECT_FALSE(decode_job_request(JobKind::kSync, body)) << body;
  }
  auto job = decode_job_request(JobKind::kWarm, R"({"paths":["a/b/"],"detach":true})");
  ASSERT_TRUE(job);
  EXPECT_EQ(job->request.paths[0], "a/b");
  EXPECT_TRUE(job->detach);
  // Names need not be text.
  job = decode_job_request(
      JobKind::kWarm, encode_job_request({JobKind::kWarm, {"a%\xff/b"}, "durable", {}}, false));
  ASSERT_TRUE(job);
  EXPECT_EQ(job->request.paths[0], "a%\xff/b");
}

TEST(Protocol, tells_progress_and_outcome) {
  JobProgress told{1, 4, 2, 3, 1, "step", "no \xff network", {"a"}};
  auto event = decode_event(encode_progress(told));
  ASSERT_TRUE(event);
  const auto& heard = std::get<JobProgress>(*event);
  EXPECT_EQ(heard.bytes_done, 1u);
  EXPECT_EQ(heard.bytes_total, 4u);
  EXPECT_EQ(heard.objects_done, 2u);
  EXPECT_EQ(heard.objects_total, 3u);
  EXPECT_EQ(heard.failures, 1u);
  EXPECT_EQ(heard.current, "step");
  EXPECT_TRUE(heard.last_error.starts_with("no "));
  EXPECT_EQ(heard.findings, told.findings);
  for (int i = 0; i <= static_cast<int>(Code::kInternal); ++i) {
    auto ended = decode_event(encode_outcome(fail(static_cast<Code>(i), "why")));
    ASSERT_TRUE(ended);
    const Status& outcome = std::get<JobEnded>(*ended).outcome;
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().code(), static_cast<Code>(i));
    EXPECT_EQ(outcome.error().message(), "why");
  }
  EXPECT_TRUE(std::get<JobEnded>(*decode_event(encode_outcome({}))).outcome);
  for (const char* line : {"", "{", "[]", R"({"event":"later"})", R"({"event":7})"}) {
    EXPECT_FALSE(decode_event(line)) << line;
  }
}

TEST(RunningNode, finds_the_innermost_mount) {
  RunningNode outer;
  outer.mountpoint = "/mnt/a";
  RunningNode inner;
  inner.mountpoint = "/mnt/a/b";
  std::vector<RunningNode> nodes = {outer, inner};
  EXPECT_EQ(node_of_path(nodes, "/mnt/a/b/c")->mountpoint, "/mnt/a/b");
  EXPECT_EQ(node_of_path(nodes, "/mnt/a/bc")->mountpoint, "/mnt/a");
  EXPECT_EQ(node_of_path(nodes, "/mnt/a")->mountpoint, "/mnt/a");
  auto missing = node_of_path(nodes, "/mnt/ab");
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message().find("/mnt/a/b"), std::string::npos);
  EXPECT_EQ(object_of_path(outer, "/mnt/a"), "");
  EXPECT_EQ(object_of_path(outer, "/mnt/a/x/y"), "x/y");
  EXPECT_EQ(only_node(nodes).error().code(), Code::kConflict);
  EXPECT_EQ(only_node({}).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace shoal
