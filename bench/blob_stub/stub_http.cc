#include "blob_stub/stub_http.h"

#include <fmt/format.h>

#include <charconv>

namespace shoal::stub {

namespace {

constexpr size_t kHeadersMax = 200;

std::string_view reason_of(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 206:
      return "Partial Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 409:
      return "Conflict";
    case 411:
      return "Length Required";
    case 412:
      return "Precondition Failed";
    case 413:
      return "Payload Too Large";
    case 416:
      return "Range Not Satisfiable";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    default:
      return "Answer";
  }
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
  }
  return out;
}

std::unexpected<Error> malformed(std::string_view why) {
  return fail(Code::kInvalidArgument, std::string(why));
}

}  // namespace

Result<RequestHead> parse_head(std::string_view head) {
  RequestHead out;
  size_t end = head.find("\r\n");
  if (end == std::string_view::npos) return malformed("no request line");
  std::string_view line = head.substr(0, end);
  size_t space = line.find(' ');
  size_t last = line.rfind(' ');
  if (space == std::string_view::npos || last <= space + 1) {
    return malformed("the request line is malformed");
  }
  std::string_view protocol = line.substr(last + 1);
  if (protocol != "HTTP/1.1" && protocol != "HTTP/1.0") return malformed("not HTTP/1.1");
  out.close = protocol == "HTTP/1.0";
  out.request.method = line.substr(0, space);
  out.request.target = line.substr(space + 1, last - space - 1);
  head.remove_prefix(end + 2);
  bool has_length = false;
  while (!head.starts_with("\r\n")) {
    end = head.find("\r\n");
    if (end == std::string_view::npos) return malformed("a header line does not end");
    line = head.substr(0, end);
    head.remove_prefix(end + 2);
    size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0) return malformed("a header lacks its colon");
    if (out.request.headers.size() == kHeadersMax) return malformed("too many headers");
    std::string name = lower(line.substr(0, colon));
    std::string_view value = trim(line.substr(colon + 1));
    if (name == "content-length") {
      auto parsed = std::from_chars(value.data(), value.data() + value.size(), out.body_bytes);
      if (parsed.ec != std::errc() || parsed.ptr != value.data() + value.size() || has_length) {
        return malformed("Content-Length is malformed");
      }
      has_length = true;
    } else if (name == "transfer-encoding") {
      return fail(Code::kNotSupported, "send a Content-Length; transfer encodings are not taken");
    } else if (name == "connection") {
      out.close = out.close || lower(value) == "close";
    } else if (name == "expect") {
      out.expects_continue = lower(value) == "100-continue";
    }
    out.request.headers.emplace_back(std::move(name), value);
  }
  if (out.body_bytes > kBodyBytesMax) return fail(Code::kTooLarge, "the body is too large");
  return out;
}

std::string format_head(const BlobReply& reply, bool close) {
  std::string head;
  head.reserve(768);
  fmt::format_to(std::back_inserter(head), "HTTP/1.1 {} {}\r\n", reply.status,
                 reason_of(reply.status));
  for (const auto& [name, value] : reply.headers) {
    head.append(name).append(": ").append(value).append("\r\n");
  }
  if (close) head += "connection: close\r\n";
  head += "\r\n";
  return head;
}

}  // namespace shoal::stub
