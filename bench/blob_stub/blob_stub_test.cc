#include "blob_stub/blob_stub.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

namespace shoal {
namespace {

using nlohmann::json;
const std::string kRoot = "/devstoreaccount1/test";

struct Answer {
  int status = 0;  // 0: the connection ended before a whole head came
  std::string head;
  std::string body;
  uint64_t promised = 0;
  bool complete() const { return status != 0 && body.size() == promised; }
};

// A blocking connection, as plain as can be.
class Wire {
 public:
  explicit Wire(uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    timeval limit{10, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Wire() { ::close(fd_); }
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  void send_all(std::string_view text) {
    while (!text.empty()) {
      ssize_t count = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      text.remove_prefix(static_cast<size_t>(count));
    }
  }
  void request(const std::string& method, const std::string& target,
               const std::string& headers = "", std::string_view body = "") {
    send_all(fmt::format("{} {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n", method,
                         target, body.size(), headers));
    send_all(body);
  }
  Answer answer(bool has_body = true) {
    Answer out;
    size_t end = 0;
    while ((end = input_.find("\r\n\r\n")) == std::string::npos) {
      if (!more()) return out;
    }
    out.head = input_.substr(0, end + 4);
    input_.erase(0, end + 4);
    out.status = std::stoi(out.head.substr(9, 3));
    size_t length = out.head.find("content-length: ");
    if (length == std::string::npos || !has_body) return out;
    out.promised = std::stoull(out.head.substr(length + 16));
    while (input_.size() < out.promised && more()) {
    }
    out.body = input_.substr(0, out.promised);
    input_.erase(0, out.body.size());
    return out;
  }
  Answer exchange(const std::string& method, const std::string& target,
                  const std::string& headers = "", std::string_view body = "") {
    request(method, target, headers, body);
    return answer(method != "HEAD");
  }

 private:
  bool more() {
    char piece[65536];
    ssize_t count = ::recv(fd_, piece, sizeof piece, 0);
    if (count <= 0) return false;
    input_.append(piece, static_cast<size_t>(count));
    return true;
  }
  int fd_;
  std::string input_;
};

class BlobStubTest : public ::testing::Test {
 protected:
  void SetUp() override { start({}); }
  void start(BlobStubOptions options) {
    options.service.require_auth = false;
    auto made = BlobStub::start(std::move(options));
    ASSERT_TRUE(made) << made.error().message();
    stub = std::move(*made);
    stub->with_service([](BlobService& service) {
      service.add_container("test");
      service.add_synthetic("test", "big", 5 * kTiB, 7);
      service.add_synthetic("test", "small", 1000, 8);
    });
  }
  void set_faults(std::string_view text) {
    auto faults = blob_faults_from_json(text, {});
    ASSERT_TRUE(faults) << faults.error().message();
    stub->set_faults(std::move(*faults));
  }
  std::unique_ptr<BlobStub> stub;
};

TEST_F(BlobStubTest, serves_ranges_of_terabytes) {
  Wire wire(stub->port());
  uint64_t first = 4 * kTiB + 12345;
  Answer answer = wire.exchange("GET", kRoot + "/big",
                                fmt::format("x-ms-range: bytes={}-{}\r\n", first, first + 9999999));
  EXPECT_EQ(answer.status, 206);
  ASSERT_EQ(answer.body.size(), 10000000u);
  EXPECT_TRUE(synthetic_equal(7, first, as_bytes(answer.body)));
  EXPECT_EQ(wire.exchange("HEAD", kRoot + "/big").status, 200);
  EXPECT_EQ(wire.exchange("GET", kRoot + "/none").status, 404);
  EXPECT_EQ(stub->congestion(), "reno");
}

TEST_F(BlobStubTest, stores_bodies_of_every_size) {
  Wire wire(stub->port());
  for (size_t size : {0ul, 1ul, 70000ul, 1048576ul, 1048577ul, 20000001ul}) {
    std::string body(size, '\0');
    synthetic_fill(size, 3, std::as_writable_bytes(std::span(body)));
    EXPECT_EQ(wire.exchange("PUT", kRoot + "/x", "x-ms-blob-type: BlockBlob\r\n", body).status,
              201);
    EXPECT_EQ(wire.exchange("GET", kRoot + "/x").body, body);
  }
}

TEST_F(BlobStubTest, tolerates_pipelining_and_split_heads) {
  Wire wire(stub->port());
  std::string all;
  for (int i = 0; i < 50; ++i) {
    all += fmt::format(
        "PUT {}/p{} HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\n"
        "Content-Length: 3\r\n\r\nab{}",
        kRoot, i, i % 10);
  }
  for (size_t at = 0; at < all.size(); at += 37)
    wire.send_all(std::string_view(all).substr(at, 37));
  for (int i = 0; i < 50; ++i) EXPECT_EQ(wire.answer().status, 201);
  EXPECT_EQ(wire.exchange("GET", kRoot + "/p49").body, "ab9");
}

TEST_F(BlobStubTest, refuses_what_it_cannot_read) {
  struct Case {
    std::string_view text;
    int status;
  };
  for (Case item : {Case{"NONSENSE\r\n\r\n", 400}, Case{"GET / HTTP/2.0\r\n\r\n", 400},
                    Case{"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400},
                    Case{"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411},
                    Case{"PUT / HTTP/1.1\r\nContent-Length: 12x\r\n\r\n", 400},
                    Case{"PUT / HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n", 413}}) {
    Wire wire(stub->port());
    wire.send_all(item.text);
    EXPECT_EQ(wire.answer().status, item.status) << item.text;
  }
  Wire wire(stub->port());
  wire.send_all("GET /" + std::string(100000, 'x'));
  EXPECT_EQ(wire.answer().status, 400);
}

TEST_F(BlobStubTest, says_continue) {
  Wire wire(stub->port());
  wire.send_all("PUT " + kRoot +
                "/x HTTP/1.1\r\nx-ms-blob-type: BlockBlob\r\nExpect: 100-continue\r\n"
                "Content-Length: 2\r\n\r\n");
  EXPECT_EQ(wire.answer().status, 100);
  wire.send_all("ok");
  EXPECT_EQ(wire.answer().status, 201);
}

TEST_F(BlobStubTest, answers_with_errors_as_scripted) {
  set_faults(R"({"retry_after_ms": 1500, "script": [{"fault": "busy", "method": "GET"},
                {"fault": "server_error"}, {"fault": "expired_token"}]})");
  Wire wire(stub->port());
  Answer busy = wire.exchange("GET", kRoot + "/small");
  EXPECT_EQ(busy.status, 503);
  EXPECT_NE(busy.head.find("retry-after: 2\r\n"), std::string::npos) << busy.head;
  EXPECT_EQ(wire.exchange("GET", kRoot + "/small").status, 500);
  EXPECT_EQ(wire.exchange("GET", kRoot + "/small").status, 403);
  EXPECT_EQ(wire.exchange("GET", kRoot + "/small").status, 200);
}

TEST_F(BlobStubTest, breaks_bodies) {
  for (const char* fault : {"reset_in_body", "short_body"}) {
    set_faults(fmt::format(R"({{"script": [{{"fault": "{}"}}]}})", fault));
    Wire wire(stub->port());
    Answer cut = wire.exchange("GET", kRoot + "/big", "Range: bytes=0-9999999\r\n");
    EXPECT_FALSE(cut.complete()) << fault;
    if (cut.status != 0) EXPECT_EQ(cut.promised, 10000000u);
  }
  set_faults(R"({"script": [{"fault": "stall_in_body"}]})");
  Wire stalled(stub->port());
  stalled.request("GET", kRoot + "/big", "Range: bytes=0-9999999\r\n");
  Wire other(stub->port());  // is not held up
  EXPECT_EQ(other.exchange("GET", kRoot + "/small").body.size(), 1000u);
}

TEST_F(BlobStubTest, loses_replies_after_executing) {
  set_faults(R"({"script": [{"fault": "lost_reply"}, {"fault": "reset_before", "skip": 1}]})");
  {
    Wire wire(stub->port());
    EXPECT_EQ(wire.exchange("PUT", kRoot + "/x", "x-ms-blob-type: BlockBlob\r\n", "1").status, 0);
  }
  EXPECT_TRUE(stub->with_service([](BlobService& s) { return s.find("test", "x").has_value(); }));
  Wire wire(stub->port());
  EXPECT_EQ(wire.exchange("GET", kRoot + "/x").body, "1");
  EXPECT_EQ(wire.exchange("DELETE", kRoot + "/x").status, 0);
  EXPECT_TRUE(stub->with_service([](BlobService& s) { return s.find("test", "x").has_value(); }));
}

TEST_F(BlobStubTest, changes_etags_between_ranges) {
  Wire wire(stub->port());
  Answer first = wire.exchange("GET", kRoot + "/small", "Range: bytes=0-9\r\n");
  size_t at = first.head.find("etag: ") + 6;
  std::string etag = first.head.substr(at, first.head.find("\r\n", at) - at);
  set_faults(R"({"script": [{"fault": "change_etag"}]})");
  EXPECT_EQ(wire.exchange("GET", kRoot + "/small", "If-Match: " + etag + "\r\n").status, 412);
}

double seconds_for(const std::function<void()>& work) {
  auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST_F(BlobStubTest, is_slow_when_told) {
  set_faults(R"({"latency_ms": 80})");
  Wire wire(stub->port());
  EXPECT_GE(seconds_for([&] { wire.exchange("GET", kRoot + "/small"); }), 0.079);
  set_faults(R"({"connection_mibps": 20})");
  auto read = [&] { wire.exchange("GET", kRoot + "/big", "Range: bytes=0-4194303\r\n"); };
  EXPECT_GE(seconds_for(read), 0.18);
  std::string body(4 * kMiB, 'x');
  auto write = [&] { wire.exchange("PUT", kRoot + "/w", "x-ms-blob-type: BlockBlob\r\n", body); };
  EXPECT_GE(seconds_for(write), 0.18);
}

TEST_F(BlobStubTest, limits_the_account_and_its_requests) {
  set_faults(R"({"account_out_mibps": 40})");
  auto read = [&] {
    Wire wire(stub->port());
    wire.exchange("GET", kRoot + "/big", "Range: bytes=0-4194303\r\n");
  };
  // Two connections share 40 MiB/s: 8 MiB take a fifth of a second.
  EXPECT_GE(seconds_for([&] {
              std::thread other(read);
              read();
              other.join();
            }),
            0.18);
  set_faults(R"({"requests_per_second": 10})");
  Wire wire(stub->port());
  int refused = 0;
  for (int i = 0; i < 20; ++i) {
    refused += wire.exchange("GET", kRoot + "/small").status == 503 ? 1 : 0;
  }
  EXPECT_GE(refused, 15);
}

TEST_F(BlobStubTest, is_controlled_over_http) {
  Wire wire(stub->port());
  Answer set = wire.exchange("POST", "/__stub/faults", "", R"({"chance": {"busy": 1}})");
  EXPECT_EQ(set.status, 200);
  EXPECT_EQ(wire.exchange("GET", kRoot + "/small").status, 503);
  EXPECT_EQ(wire.exchange("POST", "/__stub/faults", "", R"({"chance": {"busy": 7}})").status, 400);
  EXPECT_EQ(wire.exchange("POST", "/__stub/faults", "", R"({"chance": {"bussy": 1}})").status, 400);
  wire.exchange("POST", "/__stub/faults", "", R"({"chance": {"busy": 0}})");
  Answer added = wire.exchange("POST", "/__stub/blobs", "",
                               R"({"container": "test", "name": "n/", "size": 5, "count": 3})");
  EXPECT_EQ(added.status, 200);
  EXPECT_EQ(wire.exchange("GET", kRoot + "/n/00000002").body.size(), 5u);
  json stats = json::parse(wire.exchange("GET", "/__stub/stats").body);
  EXPECT_EQ(stats["busy_served"], 1);
  EXPECT_EQ(stats["requests"]["get_blob"], 1);
  EXPECT_EQ(stats["gets"]["test/n/00000002"], 1);
  EXPECT_EQ(wire.exchange("GET", "/__stub/nothing").status, 404);
}

TEST_F(BlobStubTest, serves_many_connections_on_many_threads) {
  BlobStubOptions options;
  options.threads = 4;
  start(std::move(options));
  std::vector<std::unique_ptr<Wire>> wires;
  for (int i = 0; i < 200; ++i) wires.push_back(std::make_unique<Wire>(stub->port()));
  for (int round = 0; round < 5; ++round) {
    for (auto& wire : wires) wire->request("GET", kRoot + "/small");
    for (auto& wire : wires) EXPECT_EQ(wire->answer().body.size(), 1000u);
  }
  stub->stop();
  EXPECT_EQ(wires[0]->exchange("GET", kRoot + "/small").status, 0);
}

TEST(BlobStub, says_why_it_cannot_start) {
  BlobStubOptions options;
  options.address = "not an address";
  auto made = BlobStub::start(options);
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("not an address"), std::string::npos);
}

}  // namespace
}  // namespace shoal
