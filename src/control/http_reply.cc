#include "control/http_reply.h"

#include <algorithm>
#include <charconv>

#include "base/assert.h"

namespace shoal {
namespace {

constexpr size_t kLineBytesMax = 8 * 1024;
constexpr uint64_t kHeadBytesMax = 64 * 1024;

std::unexpected<Error> not_http() {
  return fail(Code::kUnavailable, "the node's answer is no HTTP");
}

bool same_word(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) {
    auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    return lower(x) == lower(y);
  });
}

bool parse_number(std::string_view text, int base, uint64_t& value) {
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, value, base);
  return error == std::errc() && stop == end;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

Status HttpReply::feed(std::string_view bytes, std::string& body) {
  while (!bytes.empty() && !complete()) {
    if (step_ == Step::kCounted || step_ == Step::kChunk || step_ == Step::kUntilEnd) {
      size_t n = bytes.size();
      if (step_ != Step::kUntilEnd) {
        SHOAL_ASSERT(left_ > 0, "an empty body has no bytes to wait for");
        n = static_cast<size_t>(std::min<uint64_t>(n, left_));
        left_ -= n;
      }
      body.append(bytes.substr(0, n));
      bytes.remove_prefix(n);
      if (left_ == 0 && step_ == Step::kCounted) step_ = Step::kComplete;
      if (left_ == 0 && step_ == Step::kChunk) step_ = Step::kChunkEnd;
      continue;
    }
    size_t end = bytes.find('\n');
    size_t n = end == std::string_view::npos ? bytes.size() : end + 1;
    if (line_.size() + n > kLineBytesMax) return not_http();
    line_.append(bytes.substr(0, n));
    bytes.remove_prefix(n);
    if (end == std::string_view::npos) break;
    line_.pop_back();
    if (!line_.empty() && line_.back() == '\r') line_.pop_back();
    SHOAL_RETURN_IF_ERROR(take_line(line_));
    line_.clear();
  }
  return {};
}

Status HttpReply::take_line(std::string_view line) {
  if (step_ == Step::kStatusLine || step_ == Step::kHeader || step_ == Step::kTrailer) {
    head_bytes_ += line.size() + 2;
    if (head_bytes_ > kHeadBytesMax) return not_http();
  }
  switch (step_) {
    case Step::kStatusLine:
      return take_status_line(line);
    case Step::kHeader:
      return take_header(line);
    case Step::kChunkSize:
      return take_chunk_size(line);
    case Step::kChunkEnd:
      if (!line.empty()) return not_http();
      step_ = Step::kChunkSize;
      return {};
    case Step::kTrailer:
      if (line.empty()) step_ = Step::kComplete;
      return {};
    case Step::kCounted:
    case Step::kUntilEnd:
    case Step::kChunk:
    case Step::kComplete:
      break;
  }
  SHOAL_ASSERT(false, "the body is not taken by lines");
  return {};
}

// "HTTP/1.1 200 OK"
Status HttpReply::take_status_line(std::string_view line) {
  uint64_t status = 0;
  if (!line.starts_with("HTTP/1.") || line.size() < 12 || line[8] != ' ' ||
      !parse_number(line.substr(9, 3), 10, status) || status < 200 || status > 599 ||
      (line.size() > 12 && line[12] != ' ')) {
    return not_http();
  }
  status_ = static_cast<int>(status);
  step_ = Step::kHeader;
  return {};
}

Status HttpReply::take_header(std::string_view line) {
  if (line.empty()) {
    if (chunked_) {
      step_ = Step::kChunkSize;
    } else if (status_ == 204 || status_ == 304 || (counted_ && left_ == 0)) {
      step_ = Step::kComplete;
    } else {
      step_ = counted_ ? Step::kCounted : Step::kUntilEnd;
    }
    return {};
  }
  size_t colon = line.find(':');
  if (colon == std::string_view::npos) return not_http();
  std::string_view name = line.substr(0, colon);
  std::string_view value = trimmed(line.substr(colon + 1));
  if (same_word(name, "Content-Length")) {
    if (counted_ || !parse_number(value, 10, left_)) return not_http();
    counted_ = true;
  } else if (same_word(name, "Transfer-Encoding")) {
    if (!same_word(value, "chunked")) return not_http();
    chunked_ = true;
  }
  return {};
}

Status HttpReply::take_chunk_size(std::string_view line) {
  std::string_view number = trimmed(line.substr(0, line.find(';')));
  if (!parse_number(number, 16, left_)) return not_http();
  step_ = left_ == 0 ? Step::kTrailer : Step::kChunk;
  return {};
}

Status HttpReply::end() {
  if (step_ == Step::kUntilEnd) step_ = Step::kComplete;
  if (complete()) return {};
  return fail(Code::kUnavailable, "its answer broke off");
}

}  // namespace shoal
