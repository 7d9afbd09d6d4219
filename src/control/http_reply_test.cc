#include "control/http_reply.h"

#include <gtest/gtest.h>

namespace shoal {
namespace {

struct Taken {
  bool ok = true;
  bool complete = false;
  int status = 0;
  std::string body;
};

// In steps of `step` bytes, and the connection ends after them.
Taken take(std::string_view text, size_t step) {
  HttpReply reply;
  Taken taken;
  while (!text.empty() && taken.ok) {
    size_t n = std::min(step, text.size());
    taken.ok = reply.feed(text.substr(0, n), taken.body).has_value();
    text.remove_prefix(n);
  }
  taken.complete = reply.complete();
  if (taken.ok) taken.ok = reply.end().has_value();
  taken.status = reply.status();
  return taken;
}

TEST(HttpReply, bodies_in_any_pieces) {
  for (size_t step : {size_t{1}, size_t{2}, size_t{7}, size_t{1000}}) {
    Taken counted = take("HTTP/1.1 200 OK\r\ncontent-LENGTH:  5 \r\n\r\nhello", step);
    EXPECT_TRUE(counted.ok && counted.complete);
    EXPECT_EQ(counted.status, 200);
    EXPECT_EQ(counted.body, "hello");
    Taken chunked = take(
        "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"
        "3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nnot of it",
        step);
    EXPECT_TRUE(chunked.ok && chunked.complete);
    EXPECT_EQ(chunked.status, 503);
    EXPECT_EQ(chunked.body, "abc0123456789");
    Taken open = take("HTTP/1.0 200\r\n\r\nall\nthe rest", step);
    EXPECT_TRUE(open.ok && !open.complete);
    EXPECT_EQ(open.body, "all\nthe rest");
    Taken empty = take("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", step);
    EXPECT_TRUE(empty.ok && empty.complete);
  }
}

TEST(HttpReply, what_breaks_off_is_an_error) {
  for (const char* text :
       {"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"}) {
    EXPECT_FALSE(take(text, 3).ok) << text;
  }
}

TEST(HttpReply, what_is_no_http_is_an_error) {
  std::string long_line = "HTTP/1.1 200 OK\r\nX: " + std::string(10'000, 'x') + "\r\n\r\n";
  std::string many = "HTTP/1.1 200 OK\r\n";
  for (int i = 0; i < 10'000; ++i) many += "X: yyyyyyyy\r\n";
  for (const std::string& text :
       {std::string("SSH-2.0-OpenSSH\r\n"), std::string("HTTP/2 200\r\n"),
        std::string("HTTP/1.1 99 x\r\n"), std::string("HTTP/1.1 2000 x\r\n"),
        std::string("HTTP/1.1 200 OK\r\nno colon\r\n"),
        std::string("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        std::string("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        std::string("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
        std::string("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        std::string("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    "11111111111111111\r\n"),
        std::string("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"), long_line,
        many}) {
    EXPECT_FALSE(take(text, 4096).ok) << text.substr(0, 80);
  }
}

}  // namespace
}  // namespace shoal
