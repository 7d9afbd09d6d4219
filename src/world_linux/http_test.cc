#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <latch>

#include "async/http_io.h"
#include "base/bytes.h"
#include "world_linux/clock.h"
#include "world_linux/curl_http.h"
#include "world_linux/test_server.h"
#include "world_linux/test_support.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Connection = TestServer::Connection;
using Request = TestServer::Request;

std::string pattern(size_t size, size_t offset = 0) {
  std::string out(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    size_t at = offset + i;
    out[i] = static_cast<char>('a' + (at * 7 + (at >> 10)) % 26);
  }
  return out;
}

// Knows when it has run, and everything it was told on the way.
class TestCall final : public HttpCall {
 public:
  TestCall(std::string method, std::string url) {
    request.method = std::move(method);
    request.url = std::move(url);
    deadline = read_steady_clock() + seconds(30);  // no test hangs
  }
  void run() noexcept override {
    ++runs;
    done_.count_down();
  }
  const Result<HttpResponse>& wait() {
    done_.wait();
    return result;
  }
  int runs = 0;

 private:
  std::latch done_{1};
};

class Starter final : public Runnable {
 public:
  Starter(Http& http, HttpCall& call) : http_(http), call_(call) {}
  void run() noexcept override {
    http_.start(call_);
    delete this;
  }

 private:
  Http& http_;
  HttpCall& call_;
};

class HttpTest : public testing::Test {
 protected:
  explicit HttpTest(CurlOptions options = {}) {
    auto client = CurlClient::create(std::move(options));
    SHOAL_ASSERT(client.has_value());
    client_ = std::move(*client);
    ShardOptions shard;
    shard.curl = client_.get();
    shard_ = start_test_shard(std::move(shard));
  }
  Http& http() { return shard_->world().http; }
  void start(HttpCall& call) { shard_->post_remote(*new Starter(http(), call)); }
  const Result<HttpResponse>& run(TestCall& call) {
    start(call);
    return call.wait();
  }

  std::unique_ptr<CurlClient> client_;
  std::unique_ptr<Shard> shard_;
};

TEST_F(HttpTest, keeps_connections) {
  TestServer server([](Connection& connection, const Request& request) {
    connection.reply(200, request.target, "X-Number:  5 \r\nETag: \"e\"\r\n");
    return true;
  });
  for (int i = 0; i < 10; ++i) {
    TestCall call("GET", server.url("/a/../b%20c?x=" + std::to_string(i)));
    const auto& result = run(call);
    ASSERT_TRUE(result) << result.error().to_string();
    EXPECT_EQ(result->status, 200);
    EXPECT_EQ(result->body, "/a/../b%20c?x=" + std::to_string(i));  // sent as it is
    ASSERT_NE(result->header("x-number"), nullptr);
    EXPECT_EQ(*result->header("x-number"), "5");
    EXPECT_EQ(*result->header("etag"), "\"e\"");
    EXPECT_EQ(result->header("absent"), nullptr);
    EXPECT_EQ(call.runs, 1);
  }
  EXPECT_EQ(server.connections(), 1);
  EXPECT_EQ(server.requests(), 10);
}

TEST_F(HttpTest, a_range_goes_into_memory_with_progress) {
  constexpr size_t kSize = 5 * kMiB + 123;
  TestServer server([](Connection& connection, const Request& request) {
    if (request.headers.at("range") != "bytes=1000-5243002") return false;
    connection.reply(206, pattern(kSize, 1000), "Content-Range: bytes 1000-5243002/9999999\r\n");
    return true;
  });
  Buffer into(kSize + 10);
  std::vector<uint64_t> told;
  TestCall call("GET", server.url("/object"));
  call.request.headers = {{"Range", "bytes=1000-5243002"}};
  call.into = into.span();
  std::string expected = pattern(kSize, 1000);
  bool right = true;
  call.on_progress = [&](uint64_t bytes) {
    right = right && call.runs == 0 && shard_->on_thread() && bytes <= kSize &&
            std::memcmp(into.data(), expected.data(), bytes) == 0;
    told.push_back(bytes);
  };
  const auto& result = run(call);
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->status, 206);
  EXPECT_EQ(result->into_bytes, kSize);
  EXPECT_TRUE(result->body.empty());
  EXPECT_TRUE(right);
  EXPECT_EQ(as_text(into.part(0, kSize)), expected);
  ASSERT_FALSE(told.empty());
  EXPECT_EQ(told.back(), kSize);  // all of it, before the call ran
  for (size_t i = 1; i + 1 < told.size(); ++i) EXPECT_GE(told[i], told[i - 1] + 64 * kKiB);
  EXPECT_LE(told.size(), kSize / (256 * kKiB) + 1);
}

TEST_F(HttpTest, head_has_no_body) {
  TestServer server([](Connection& connection, const Request& request) {
    if (request.method != "HEAD") return false;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 123456789\r\n\r\n");
    return true;
  });
  for (int i = 0; i < 2; ++i) {
    TestCall call("HEAD", server.url("/object"));
    const auto& result = run(call);
    ASSERT_TRUE(result) << result.error().to_string();
    EXPECT_EQ(*result->header("content-length"), "123456789");
    EXPECT_TRUE(result->body.empty());
  }
  EXPECT_EQ(server.connections(), 1);
}

TEST_F(HttpTest, bodies_are_sent_whole_and_nothing_is_added) {
  TestServer server([](Connection& connection, const Request& request) {
    bool added = request.headers.contains("expect") || request.headers.contains("content-type") ||
                 request.headers.contains("transfer-encoding");
    connection.reply(
        added ? 400 : 201, "",
        "X-Method: " + request.method +
            "\r\nX-Right: " + (request.body == pattern(request.body.size()) ? "yes" : "no") +
            "\r\nX-Size: " + std::to_string(request.body.size()) +
            "\r\nX-Empty: " + (request.headers.contains("x-empty") ? "yes" : "no") + "\r\n");
    return true;
  });
  for (const char* method : {"PUT", "POST", "DELETE", "GET"}) {
    for (size_t size : {size_t{0}, size_t{1}, size_t{3 * kMiB + 7}}) {
      if (size > 0 && std::string_view(method) == "GET") continue;
      std::string body = pattern(size);
      TestCall call(method, server.url("/object"));
      call.request.body = as_bytes(body);
      // The length is never the caller's, and an empty value is a value.
      call.request.headers = {{"Content-Length", "5"}, {"x-empty", ""}};
      const auto& result = run(call);
      ASSERT_TRUE(result) << result.error().to_string();
      EXPECT_EQ(result->status, 201);
      EXPECT_EQ(*result->header("x-method"), method);
      EXPECT_EQ(*result->header("x-right"), "yes");
      EXPECT_EQ(*result->header("x-size"), std::to_string(size));
      EXPECT_EQ(*result->header("x-empty"), "yes");
    }
  }
  EXPECT_EQ(server.connections(), 1);
}

TEST_F(HttpTest, error_bodies_do_not_go_into_memory) {
  TestServer server([](Connection& connection, const Request&) {
    connection.reply(503, "<Error><Code>ServerBusy</Code></Error>", "Retry-After: 3\r\n");
    return true;
  });
  Buffer into(kMiB);
  std::memset(into.data(), 0x55, into.size());
  TestCall call("GET", server.url("/object"));
  call.into = into.span();
  const auto& result = run(call);
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->status, 503);
  EXPECT_EQ(result->body, "<Error><Code>ServerBusy</Code></Error>");
  EXPECT_EQ(*result->header("retry-after"), "3");
  EXPECT_EQ(result->into_bytes, 0u);
  EXPECT_EQ(into.data()[0], std::byte{0x55});
}

TEST_F(HttpTest, bodies_are_bounded) {
  TestServer server([](Connection& connection, const Request& request) {
    connection.reply(request.target == "/error" ? 500 : 200, pattern(2000));
    return true;
  });
  for (const char* target : {"/error", "/list"}) {
    TestCall exact("GET", server.url(target));
    exact.body_bytes_max = 2000;
    EXPECT_EQ(run(exact)->body, pattern(2000));
    TestCall above("GET", server.url(target));
    above.body_bytes_max = 1999;
    EXPECT_EQ(code_of(run(above)), Code::kTooLarge);
  }
  Buffer into(1999);
  TestCall oversize("GET", server.url("/object"));
  oversize.into = into.span();
  EXPECT_EQ(code_of(run(oversize)), Code::kUnavailable);
}

TEST_F(HttpTest, broken_answers_are_unavailable) {
  TestServer server([](Connection& connection, const Request& request) {
    std::string_view target(request.target);
    target = target.substr(0, target.find('?'));
    if (target == "/reset") {
      connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + pattern(1000));
      connection.will_reset();
    } else if (target == "/short") {
      connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + pattern(1000));
    } else if (target == "/headers") {
      connection.send("HTTP/1.1 200 OK\r\n");
      for (int i = 0; i < 100; ++i) connection.send("X: " + pattern(1000) + "\r\n");
      connection.send("\r\n");
    } else if (target == "/garbage") {
      connection.send("220 welcome to something else\r\n");
    }
    return false;
  });
  for (const char* target : {"/reset", "/short", "/headers", "/garbage", "/nothing"}) {
    Buffer into(kMiB);
    TestCall call("GET", server.url(std::string(target) + "?sig=secret"));
    call.into = into.span();
    const auto& result = run(call);
    ASSERT_FALSE(result) << target;
    EXPECT_EQ(result.error().code(), Code::kUnavailable) << result.error().to_string();
    EXPECT_EQ(result.error().message().find("secret"), std::string::npos);
    EXPECT_NE(result.error().message().find("127.0.0.1"), std::string::npos);
  }
}

TEST_F(HttpTest, a_kept_connection_that_died_is_no_error) {
  // Every connection answers once and breaks under the second request.
  TestServer server([](Connection& connection, const Request& request) {
    if (request.number_on_connection == 2) {
      connection.will_reset();
      return false;
    }
    connection.reply(200, std::to_string(request.body.size()));
    return true;
  });
  std::string body = pattern(2 * kMiB);
  for (const char* method : {"GET", "GET", "PUT", "PUT", "DELETE"}) {
    TestCall call(method, server.url("/object"));
    if (std::string_view(method) == "PUT") call.request.body = as_bytes(body);
    const auto& result = run(call);
    ASSERT_TRUE(result) << method << ": " << result.error().to_string();
    EXPECT_EQ(result->body, std::to_string(call.request.body.size()));
  }
}

TEST_F(HttpTest, a_kept_connection_that_dies_under_an_upload_is_no_error) {
  std::atomic<bool> broken{false};
  TestServer server([&broken](Connection& connection, const Request& request) {
    connection.reply(200, std::to_string(request.body.size()));
    if (request.method == "GET") {
      // Reads the beginning of the upload, then resets: libcurl sees it while sending.
      char beginning[1000];
      connection.receive(beginning, sizeof beginning);
      connection.will_reset();
      broken = true;
      return false;
    }
    return true;
  });
  TestCall first("GET", server.url("/object"));
  ASSERT_TRUE(run(first));
  std::string body = pattern(16 * kMiB);
  TestCall upload("PUT", server.url("/object"));
  upload.request.body = as_bytes(body);
  const auto& result = run(upload);
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->body, std::to_string(body.size()));
  EXPECT_TRUE(broken);
  EXPECT_EQ(server.connections(), 2);
}

TEST_F(HttpTest, stalls_and_deadlines_end_calls) {
  TestServer server([](Connection& connection, const Request& request) {
    if (request.target == "/half") {
      connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + pattern(1000));
    }
    connection.wait_for_close();
    return false;
  });
  for (const char* target : {"/half", "/silent"}) {
    Buffer into(kMiB);
    TestCall stalled("GET", server.url(target));
    stalled.into = into.span();
    stalled.stall_timeout = milliseconds(60);
    EXPECT_EQ(code_of(run(stalled)), Code::kUnavailable);
    EXPECT_LT(read_steady_clock(), stalled.deadline);
    TestCall late("GET", server.url(target));
    late.into = into.span();
    late.deadline = read_steady_clock() + milliseconds(60);
    EXPECT_EQ(code_of(run(late)), Code::kDeadlineExceeded);
    EXPECT_GE(read_steady_clock() + milliseconds(2), late.deadline);
  }
  int before = server.requests();
  TestCall passed("GET", server.url("/"));
  passed.deadline = SteadyTime::min();
  EXPECT_EQ(code_of(run(passed)), Code::kDeadlineExceeded);
  EXPECT_EQ(server.requests(), before);
}

TEST_F(HttpTest, progress_comes_while_the_body_does) {
  // Three pieces, each sent only after the client was told of the one before.
  std::atomic<int> pieces_seen{0};
  TestServer server([&pieces_seen](Connection& connection, const Request&) {
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 786432\r\n\r\n");
    for (int i = 0; i < 3; ++i) {
      connection.send(pattern(256 * 1024));
      for (int seen = pieces_seen; seen <= i; seen = pieces_seen) pieces_seen.wait(seen);
    }
    return true;
  });
  Buffer into(786432);
  TestCall call("GET", server.url("/object"));
  call.into = into.span();
  call.on_progress = [&pieces_seen](uint64_t bytes) {
    pieces_seen = static_cast<int>(bytes / (256 * 1024));
    pieces_seen.notify_all();
  };
  const auto& result = run(call);
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->into_bytes, 786432u);
}

TEST_F(HttpTest, cancel_ends_a_call_once) {
  std::latch arrived(1);
  TestServer server([&arrived](Connection& connection, const Request&) {
    arrived.count_down();
    connection.wait_for_close();
    return false;
  });
  TestCall call("GET", server.url("/object"));
  start(call);
  arrived.wait();
  http().cancel(call);
  http().cancel(call);
  EXPECT_EQ(code_of(call.wait()), Code::kCancelled);
  http().cancel(call);  // no-op: it has ended
  EXPECT_EQ(call.runs, 1);
}

TEST_F(HttpTest, stopping_a_shard_cancels_its_calls) {
  std::latch arrived(3);
  TestServer server([&arrived](Connection& connection, const Request&) {
    arrived.count_down();
    connection.wait_for_close();
    return false;
  });
  std::deque<TestCall> calls;
  for (int i = 0; i < 3; ++i) start(calls.emplace_back("GET", server.url("/object")));
  arrived.wait();
  shard_->stop();
  for (TestCall& call : calls) EXPECT_EQ(code_of(call.wait()), Code::kCancelled);
}

Task<Code> fetch_cancelled(World& world, std::string url) {
  Cancel cancel;
  cancel.request();
  HttpExchange exchange(world.http, Context{kNever, &cancel});
  exchange.request.method = "GET";
  exchange.request.url = std::move(url);
  auto result = co_await exchange;
  co_return result ? Code::kInternal : result.error().code();
}
Task<Result<HttpResponse>> fetch(World& world, std::string url) {
  HttpExchange exchange(world.http, Context::within(world.executor, seconds(30)));
  exchange.request.method = "GET";
  exchange.request.url = std::move(url);
  co_return co_await exchange;
}

TEST_F(HttpTest, works_with_the_awaitable_form) {
  TestServer server([](Connection& connection, const Request&) {
    connection.reply(200, "body");
    return true;
  });
  EXPECT_EQ(run_blocking(*shard_, fetch(shard_->world(), server.url("/"))).value().body, "body");
  EXPECT_EQ(run_blocking(*shard_, fetch_cancelled(shard_->world(), server.url("/"))),
            Code::kCancelled);
  EXPECT_EQ(server.requests(), 1);
}

TEST_F(HttpTest, refuses_what_it_cannot_send) {
  TestServer server([](Connection& connection, const Request&) {
    connection.reply(200, "");
    return true;
  });
  TestCall injected("GET", server.url("/"));
  injected.request.headers = {{"X-Name", "value\r\nX-Other: 1"}};
  EXPECT_EQ(code_of(run(injected)), Code::kInvalidArgument);
  TestCall file("GET", "file:///etc/passwd");
  EXPECT_EQ(code_of(run(file)), Code::kInvalidArgument);
  TestCall bad("GET", "http://");
  EXPECT_EQ(code_of(run(bad)), Code::kInvalidArgument);
  EXPECT_EQ(server.requests(), 0);
  TestCall good("GET", server.url("/"));  // the handle is as good as before
  EXPECT_TRUE(run(good));
}

TEST_F(HttpTest, a_refused_connection_is_unavailable) {
  std::string url;
  {
    TestServer server([](Connection&, const Request&) { return false; });
    url = server.url("/object?sig=secret");
  }
  TestCall call("GET", url);
  const auto& result = run(call);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kUnavailable);
  EXPECT_EQ(result.error().message().find("secret"), std::string::npos) << result.error().message();
}

class FewConnections : public HttpTest {
 protected:
  static CurlOptions few() {
    CurlOptions options;
    options.connections_max = 3;
    options.connections_per_host_max = 2;
    options.idle_timeout = milliseconds(20);
    options.tcp_congestion = "reno";
    return options;
  }
  FewConnections() : HttpTest(few()) {}
};

TEST_F(FewConnections, many_calls_wait_their_turn) {
  // Under way in each of two servers, and in both: counted from the request to its answer.
  struct Peak {
    void enter() {
      int mine = ++now;
      for (int seen = most; mine > seen && !most.compare_exchange_weak(seen, mine);) {
      }
    }
    void leave() { --now; }
    std::atomic<int> now{0};
    std::atomic<int> most{0};
  };
  Peak all;
  Peak each[2];
  auto answer = [&](Peak& own) {
    return [&all, &own](Connection& connection, const Request&) {
      all.enter();
      own.enter();
      own.leave();
      all.leave();
      connection.reply(200, pattern(1000));
      return true;
    };
  };
  TestServer server(answer(each[0]));
  TestServer other(answer(each[1]));
  std::deque<TestCall> calls;
  for (int i = 0; i < 300; ++i) {
    start(calls.emplace_back("GET", (i % 2 == 0 ? server : other).url("/object")));
  }
  for (TestCall& call : calls) EXPECT_EQ(call.wait()->body, pattern(1000));
  EXPECT_LE(all.most, 3);
  EXPECT_LE(each[0].most, 2);
  EXPECT_LE(each[1].most, 2);
  EXPECT_EQ(server.requests() + other.requests(), 300);
}

TEST_F(FewConnections, a_waiting_call_has_a_deadline_and_can_be_cancelled) {
  std::latch arrived(2);
  TestServer server([&arrived](Connection& connection, const Request&) {
    arrived.count_down();
    connection.wait_for_close();
    return false;
  });
  std::deque<TestCall> holders;
  for (int i = 0; i < 2; ++i) start(holders.emplace_back("GET", server.url("/")));
  arrived.wait();
  TestCall late("GET", server.url("/"));
  late.deadline = read_steady_clock() + milliseconds(30);
  EXPECT_EQ(code_of(run(late)), Code::kDeadlineExceeded);
  TestCall cancelled("GET", server.url("/"));
  start(cancelled);
  http().cancel(cancelled);  // perhaps before it was started: then once more
  shard_->post_remote(*new Starter(http(), holders.emplace_back("GET", "bad://url")));
  holders.back().wait();
  http().cancel(cancelled);
  EXPECT_EQ(code_of(cancelled.wait()), Code::kCancelled);
  for (int i = 0; i < 2; ++i) http().cancel(holders[static_cast<size_t>(i)]);
  for (TestCall& call : holders) EXPECT_FALSE(call.wait());
  EXPECT_EQ(server.requests(), 2);
}

TEST_F(HttpTest, tells_when_a_request_was_sent_again) {
  std::atomic<int> seen = 0;
  TestServer server([&seen](Connection& connection, const Request&) {
    if (++seen == 2) return false;  // taken, perhaps executed, and the connection is closed
    connection.reply(200, "");
    return true;
  });
  TestCall first("DELETE", server.url("/a"));
  auto answer = run(first);
  ASSERT_TRUE(answer);
  EXPECT_FALSE(answer->resent);
  TestCall second("DELETE", server.url("/a"));
  answer = run(second);
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->resent);
  EXPECT_EQ(seen.load(), 3);
}

TEST_F(FewConnections, idle_connections_are_closed) {
  std::latch closed(1);
  TestServer server([&closed](Connection& connection, const Request& request) {
    connection.reply(200, "");
    if (request.target == "/last") {
      connection.wait_for_close();  // by the client: the server does nothing
      closed.count_down();
      return false;
    }
    return true;
  });
  TestCall call("GET", server.url("/last"));
  ASSERT_TRUE(run(call));
  closed.wait();
  TestCall again("GET", server.url("/"));
  ASSERT_TRUE(run(again));
  EXPECT_EQ(server.connections(), 2);
}

TEST(CurlOptions, are_checked_at_the_start) {
  CurlOptions options;
  options.tcp_congestion = "no-such-thing";
  EXPECT_FALSE(CurlClient::create(options));
  options = {};
  options.ca_file = "/no/such/file";
  EXPECT_FALSE(CurlClient::create(options));
  options = {};
  options.connections_max = 0;
  EXPECT_FALSE(CurlClient::create(options));
}

}  // namespace
}  // namespace shoal
