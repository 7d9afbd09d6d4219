#include "control/admin_client.h"

#include <gtest/gtest.h>

#include "control/scripted_server_test_support.h"

namespace shoal {
namespace {

using Asker = ScriptedServer::Asker;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

AdminClient client_of(const ScriptedServer& server) { return AdminClient({server.path(), "", ""}); }

JobRequest a_sync() {
  JobRequest request;
  request.paths = {"a b"};
  return request;
}

TEST(AdminClient, asks_and_hears) {
  ScriptedServer server([](Asker& asker) {
    if (asker.request().starts_with("GET /x ")) {
      return asker.say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    }
    EXPECT_TRUE(asker.request().starts_with("POST /v1/sync HTTP/1.1\r\n"));
    EXPECT_NE(asker.request().find("\"a%20b\""), std::string::npos);
    asker.begin_lines();
    asker.say_line(R"({"event":"progress","bytes_done":1})");
    asker.say_line(R"({"event":"progress","bytes_done":2})");
    asker.say_line(R"({"event":"done"})");
    asker.end_lines();
  });
  EXPECT_EQ(*client_of(server).get("/x"), "abc");
  std::vector<uint64_t> heard;
  JobProgress last;
  EXPECT_TRUE(client_of(server).run(
      a_sync(), false,
      [&heard](const JobProgress& progress) { return heard.push_back(progress.bytes_done), true; },
      last));
  EXPECT_EQ(heard, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(last.bytes_done, 2u);
}

TEST(AdminClient, an_answer_that_breaks_off_is_no_success) {
  std::vector<std::string> answers = {"",
                                      "HTTP/1.1 200 OK\r\n",
                                      "garbage\r\n\r\n",
                                      "HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nno\n",
                                      "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                                      "HTTP/1.1 200 OK\r\n\r\n{\"event\":\"done\"}",
                                      "HTTP/1.1 200 OK\r\n\r\n{\"event\":\"what\"}\n"};
  for (const std::string& answer : answers) {
    ScriptedServer server([&answer](Asker& asker) { asker.say(answer); });
    JobProgress last;
    Status status = client_of(server).run(a_sync(), false, nullptr, last);
    ASSERT_FALSE(status) << answer;
    EXPECT_EQ(status.error().code(), Code::kUnavailable) << answer;
  }
  JobProgress last;
  Status status = AdminClient({"/tmp/no/such.sock", "", ""}).run(a_sync(), false, nullptr, last);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message().find("/tmp/no/such.sock"), std::string::npos);
  status = AdminClient({std::string(300, 'x'), "", ""}).run(a_sync(), false, nullptr, last);
  EXPECT_EQ(status.error().code(), Code::kNameTooLong);
  status = AdminClient({"", "nonsense", ""}).run(a_sync(), false, nullptr, last);
  EXPECT_EQ(status.error().code(), Code::kInvalidArgument);
}

TEST(AdminClient, a_silent_node_is_given_up_at_the_timeout) {
  ScriptedServer server([](Asker& asker) {
    asker.begin_lines();
    asker.say_line(R"({"event":"progress","bytes_done":7})");
    asker.wait_until_gone();
  });
  JobRequest request = a_sync();
  request.timeout = milliseconds(100);
  JobProgress last;
  int heard = 0;
  auto begun = steady_clock::now();
  Status status = client_of(server).run(
      request, false, [&heard](const JobProgress&) { return ++heard, true; }, last);
  auto took = steady_clock::now() - begun;
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(last.bytes_done, 7u);
  EXPECT_GE(heard, 2);  // once for the line, and again while nothing came
  EXPECT_GE(took, milliseconds(2100));
}

TEST(AdminClient, can_be_cancelled_while_the_node_is_silent) {
  ScriptedServer server([](Asker& asker) { asker.wait_until_gone(); });
  JobProgress last;
  Status status =
      client_of(server).run(a_sync(), false, [](const JobProgress&) { return false; }, last);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kCancelled);
}

TEST(HostPort, what_people_write) {
  EXPECT_EQ(parse_host_port("[::1]:70")->host, "::1");
  EXPECT_EQ(parse_host_port(":70")->host, "0.0.0.0");
  EXPECT_EQ(parse_host_port("a.b:65535")->port, 65535);
  for (const char* text : {"", "a", "a:", "a:0", "a:65536", "a:7x", "7070"}) {
    EXPECT_FALSE(parse_host_port(text)) << text;
  }
}

}  // namespace
}  // namespace shoal
