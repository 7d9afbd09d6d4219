#include "apps/admin.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "apps/runtime.h"
#include "control/protocol.h"

namespace shoal {
namespace {

class FakeNode final : public NodeControl {
 public:
  Result<NodeReport> report() override {
    std::lock_guard lock(mutex_);
    NodeReport report;
    report.name = "fake";
    report.origin = "az://account/container";
    report.origin_io.bytes_read = 4096;
    report.dirty.objects = 2;
    report.backlog.push_back({"a\xff", 10, 0, "retrying", "no network"});
    return report;
  }
  Result<std::shared_ptr<Job>> start(JobRequest request) override {
    std::lock_guard lock(mutex_);
    if (busy) return fail(Code::kBusy, "too many jobs");
    requests.push_back(std::move(request));
    jobs.push_back(std::make_shared<Job>());
    if (outcome) jobs.back()->report({100, 100, 1, 1, 0, "", ""});
    if (outcome) jobs.back()->finish(*outcome);
    return jobs.back();
  }
  std::shared_ptr<Job> last_job() {
    std::lock_guard lock(mutex_);
    return jobs.empty() ? nullptr : jobs.back();
  }

  bool busy = false;
  std::optional<Status> outcome = Status{};
  std::vector<JobRequest> requests;
  std::vector<std::shared_ptr<Job>> jobs;

 private:
  std::mutex mutex_;
};

class AdminTest : public testing::Test {
 protected:
  AdminTest() {
    char name[] = "/tmp/shoal_admin_XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    registry_.counter("shoal_test_total", "A test.").add(3);
  }
  ~AdminTest() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }
  void start() {
    auto server =
        AdminServer::start({dir_ + "/s.sock", "127.0.0.1:7171", false, "secret"}, node_, registry_);
    ASSERT_TRUE(server) << server.error().message();
    server_ = std::move(*server);
  }
  AdminClient through_socket() { return AdminClient({dir_ + "/s.sock", "", ""}); }
  AdminClient through_port(std::string token) {
    return AdminClient({"", server_->http_address(), std::move(token)});
  }

  std::string dir_;
  Registry registry_;
  FakeNode node_;
  std::unique_ptr<AdminServer> server_;
  JobProgress last_;
};

TEST_F(AdminTest, serves_status_metrics_health_and_page_on_both) {
  start();
  for (const AdminClient& client : {through_socket(), through_port("")}) {
    auto report = node_status(client);
    ASSERT_TRUE(report) << report.error().message();
    EXPECT_EQ(report->name, "fake");
    EXPECT_EQ(report->origin_io.bytes_read, 4096u);
    EXPECT_EQ(report->dirty.objects, 2u);
    ASSERT_EQ(report->backlog.size(), 1u);
    EXPECT_EQ(report->backlog[0].last_error, "no network");
    EXPECT_NE(client.get("/metrics")->find("shoal_test_total 3"), std::string::npos);
    EXPECT_NE(client.get("/metrics")->find("\nshoal_dirty_objects 2\n"), std::string::npos);
    EXPECT_EQ(*client.get("/healthz"), "ok\n");
    EXPECT_NE(client.get("/")->find("<title>Shoal</title>"), std::string::npos);
    EXPECT_FALSE(client.get("/nothing"));
  }
}

TEST_F(AdminTest, the_socket_is_private) {
  start();
  struct stat info{};
  ASSERT_EQ(stat((dir_ + "/s.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(AdminTest, runs_jobs_and_tells_their_outcome) {
  start();
  uint64_t heard = 0;
  JobRequest request{JobKind::kSync, {"a/b", ""}, "durable", std::chrono::seconds(9)};
  auto on_progress = [&heard](const JobProgress& p) { return heard = p.bytes_done, true; };
  EXPECT_TRUE(through_socket().run(request, false, on_progress, last_));
  EXPECT_EQ(heard, 100u);
  ASSERT_EQ(node_.requests.size(), 1u);
  EXPECT_EQ(node_.requests[0].paths, request.paths);
  EXPECT_EQ(node_.requests[0].level, "durable");
  EXPECT_EQ(node_.requests[0].timeout, request.timeout);

  node_.outcome = fail(Code::kDeadlineExceeded, "a/b is not uploaded");
  Status status = through_port("secret").run(request, false, on_progress, last_);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(status.error().message(), "a/b is not uploaded");

  node_.busy = true;
  status = through_socket().run(request, false, on_progress, last_);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kBusy);
}

TEST_F(AdminTest, changes_through_the_port_need_the_token) {
  start();
  JobRequest request{JobKind::kEvict, {"a"}, "durable", {}};
  for (const char* token : {"", "wrong!", "secre"}) {
    Status status = through_port(token).run(request, false, nullptr, last_);
    ASSERT_FALSE(status) << token;
    EXPECT_EQ(status.error().code(), Code::kUnauthenticated);
  }
  EXPECT_TRUE(node_.requests.empty());
  EXPECT_TRUE(through_port("secret").run(request, false, nullptr, last_));
}

TEST_F(AdminTest, an_asker_that_leaves_cancels_its_job_but_not_a_detached_one) {
  start();
  node_.outcome.reset();  // jobs run until cancelled
  JobRequest request{JobKind::kWarm, {"a"}, "durable", {}};
  EXPECT_TRUE(through_socket().run(request, true, nullptr, last_));
  auto detached = node_.last_job();
  Status status =
      through_socket().run(request, false, [](const JobProgress&) { return false; }, last_);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kCancelled);
  auto left = node_.last_job();
  ASSERT_NE(left, detached);
  server_.reset();  // joins the workers, so the cancellation has arrived
  EXPECT_TRUE(left->cancelled());
  EXPECT_FALSE(detached->cancelled());
}

TEST_F(AdminTest, a_busy_port_is_passed_over_unless_asked_for) {
  start();
  FakeNode other;
  auto next =
      AdminServer::start({dir_ + "/t.sock", server_->http_address(), false, "x"}, other, registry_);
  ASSERT_TRUE(next) << next.error().message();
  EXPECT_NE((*next)->http_address(), server_->http_address());
  auto refused =
      AdminServer::start({dir_ + "/u.sock", server_->http_address(), true, "x"}, other, registry_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kBusy);
}

TEST_F(AdminTest, pages_of_other_hosts_get_nothing) {
  start();
  int port = std::stoi(server_->http_address().substr(server_->http_address().rfind(':') + 1));
  int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  std::string request = "GET /status.json HTTP/1.1\r\nHost: evil.example:80\r\n\r\n";
  ASSERT_EQ(write(socket, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer(4096, '\0');
  ssize_t n = read(socket, answer.data(), answer.size());
  close(socket);
  ASSERT_GT(n, 0);
  EXPECT_EQ(answer.substr(9, 3), "403");
}

TEST(Status, json_has_the_promised_keys) {
  NodeReport report;
  report.name = "n1";
  std::string text = status_json(report);
  for (const char* key : {"\"self\": \"n1\"", "\"nodes\"", "\"bytes_read\"", "\"bytes_written\"",
                          "\"errors\"", "\"retries\"", "\"bytes_sent\"", "\"bytes_received\"",
                          "\"hits_local\"", "\"hits_peer\"", "\"misses\"", "\"capacity\"",
                          "\"count\"", "\"oldest_seconds\"", "\"members\"", "\"rss_bytes\""}) {
    EXPECT_NE(text.find(key), std::string::npos) << key;
  }
  EXPECT_FALSE(parse_status_json("[]"));
  EXPECT_FALSE(parse_status_json("nonsense"));
  EXPECT_TRUE(parse_status_json("{}"));
}

TEST(Status, what_others_sum_up_has_the_keys_but_not_the_members) {
  NodeReport report;
  report.name = "n1";
  report.cluster.name = "c";
  report.cluster.node_id = "ab";
  report.read.hits_peer = 7;
  for (int i = 0; i < 100; ++i) report.members.push_back({"name", "id", "a:1", "", "", "up", 1, 2});
  std::string text = brief_status_json(report);
  EXPECT_LT(text.size(), 1000u);
  auto read = parse_status_json(text);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->name, "n1");
  EXPECT_EQ(read->cluster.node_id, "ab");
  EXPECT_EQ(read->read.hits_peer, 7u);
  EXPECT_TRUE(read->members.empty());
}

TEST(Status, says_whether_nodes_talk_in_tls) {
  for (bool tls : {false, true}) {
    NodeReport report;
    report.cluster.name = "c";
    report.cluster.tls = tls;
    report.members.push_back({"n1", "id", "a:1", "", "", "up", 1, 2});
    auto read = parse_status_json(status_json(report));
    ASSERT_TRUE(read);
    EXPECT_EQ(read->cluster.tls, tls);
    EXPECT_EQ(status_table(*read).find("TLS") != std::string::npos, tls);
  }
}

TEST(Runtime, publishes_withdraws_and_forgets_the_dead) {
  char name[] = "/tmp/shoal_runtime_XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  std::string dir = name;
  RunningNode node;
  node.pid = getpid();
  ASSERT_TRUE(process_start(node.pid).has_value());
  node.started = *process_start(node.pid);
  node.mountpoint = "/mnt/x";
  node.socket = dir + "/x.sock";
  node.token = "t";
  ASSERT_TRUE(publish_node(dir, "x", node));
  struct stat info{};
  ASSERT_EQ(stat((dir + "/x.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  --node.started;  // another process with the same number
  ASSERT_TRUE(publish_node(dir, "dead", node));
  ASSERT_TRUE(write_private_file(dir + "/odd.json", "{"));
  forget_dead_nodes(dir);
  auto nodes = running_nodes(dir);
  ASSERT_EQ(nodes.size(), 1u);
  EXPECT_EQ(nodes[0].mountpoint, "/mnt/x");
  EXPECT_FALSE(std::filesystem::exists(dir + "/dead.json"));
  withdraw_node(dir, "x");
  EXPECT_TRUE(running_nodes(dir).empty());
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace shoal
