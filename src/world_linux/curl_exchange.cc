#include "world_linux/curl_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>

#include "base/assert.h"
#include "observe/log.h"

namespace shoal {

namespace {

constexpr size_t kHeaderBytesMax = 64 * kKiB;
constexpr size_t kHeadersMax = 256;
constexpr size_t kReserveFrom = 4 * kKiB;

bool is_token(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || std::strchr("!#$%&'*+-.^_`|~", c) != nullptr;
  });
}
bool has_control(std::string_view text) {
  return std::ranges::any_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7F; });
}
std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}
std::string_view trimmed(std::string_view text) {
  auto is_blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

// An option that this libcurl knows and a value of the right kind: only memory can be missing.
template <typename T>
void set(CURL* easy, CURLoption option, T value) {
  CURLcode code = curl_easy_setopt(easy, option, value);
  SHOAL_ASSERT(code == CURLE_OK, "libcurl refuses an option");
}

}  // namespace

// ---- the request, on the side thread

Status CurlExchange::make_headers() {
  SHOAL_ASSERT(headers_ == nullptr);
  auto append = [this](const std::string& line) {
    curl_slist* longer = curl_slist_append(headers_, line.c_str());
    SHOAL_ASSERT(longer != nullptr, "out of memory");
    headers_ = longer;
  };
  for (const auto& [name, value] : call_.request.headers) {
    // What would let a name or a value make further headers is refused, not sent.
    if (!is_token(name) || has_control(value)) {
      return fail(error(Code::kInvalidArgument, "a header has characters that HTTP forbids"));
    }
    if (lower_case(name) == "content-length") continue;  // libcurl's is exact
    // "Name;" is libcurl's way to send an empty value.
    append(value.empty() ? name + ";" : name + ": " + value);
  }
  append("Expect:");  // no round trip before a body
  return {};
}

void CurlExchange::set_method() {
  const std::string& method = call_.request.method;
  set(easy, CURLOPT_HTTPGET, 1L);  // also takes back what an earlier call set
  if (method == "GET") {
    set(easy, CURLOPT_CUSTOMREQUEST, static_cast<const char*>(nullptr));
  } else if (method == "HEAD") {
    set(easy, CURLOPT_CUSTOMREQUEST, static_cast<const char*>(nullptr));
    set(easy, CURLOPT_NOBODY, 1L);
  } else {
    set(easy, CURLOPT_CUSTOMREQUEST, method.c_str());
  }
  bool has_body =
      method == "PUT" || method == "POST" || method == "PATCH" || !call_.request.body.empty();
  if (!has_body) return;
  // The form of PUT for POST too: it sends the body as it is and no Content-Type of libcurl's own.
  set(easy, CURLOPT_UPLOAD, 1L);
  set(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(call_.request.body.size()));
}

Status CurlExchange::prepare(CURL* handle, SteadyTime now) {
  SHOAL_ASSERT(easy == nullptr && handle != nullptr);
  const HttpRequest& request = call_.request;
  if (!is_token(request.method) || has_control(request.url) ||
      (request.method == "HEAD" && !request.body.empty())) {
    return fail(error(Code::kInvalidArgument, "not a request that HTTP can carry"));
  }
  if (headers_ == nullptr) SHOAL_RETURN_IF_ERROR(make_headers());
  easy = handle;
  set(easy, CURLOPT_PRIVATE, this);
  set(easy, CURLOPT_URL, request.url.c_str());
  set(easy, CURLOPT_HTTPHEADER, headers_);
  set_method();
  long limit_ms = 0;  // none
  if (call_.deadline != kNever) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(call_.deadline - now).count();
    limit_ms = static_cast<long>(std::clamp<int64_t>(left, 1, 24LL * 3600 * 1000));
  }
  set(easy, CURLOPT_TIMEOUT_MS, limit_ms);
  reason_[0] = '\0';
  set(easy, CURLOPT_ERRORBUFFER, reason_.data());
  set(easy, CURLOPT_WRITEFUNCTION, &on_body);
  set(easy, CURLOPT_WRITEDATA, this);
  set(easy, CURLOPT_HEADERFUNCTION, &on_header);
  set(easy, CURLOPT_HEADERDATA, this);
  set(easy, CURLOPT_READFUNCTION, &on_upload);
  set(easy, CURLOPT_READDATA, this);
  set(easy, CURLOPT_SEEKFUNCTION, &on_seek);
  set(easy, CURLOPT_SEEKDATA, this);
  set(easy, CURLOPT_PREREQFUNCTION, &on_connected);
  set(easy, CURLOPT_PREREQDATA, this);
  set(easy, CURLOPT_FRESH_CONNECT, retried ? 1L : 0L);
  last_moved = now;
  connected = false;
  upload_offset_ = 0;
  bytes_seen_ = 0;
  begin_answer();
  return {};
}

size_t CurlExchange::on_upload(char* data, size_t size, size_t count, void* self) {
  auto& exchange = *static_cast<CurlExchange*>(self);
  ConstByteSpan body = exchange.call_.request.body;
  SHOAL_ASSERT(exchange.upload_offset_ <= body.size());
  size_t amount = std::min(size * count, body.size() - exchange.upload_offset_);
  if (amount > 0) std::memcpy(data, body.data() + exchange.upload_offset_, amount);
  exchange.upload_offset_ += amount;
  exchange.moved();
  return amount;
}

// Libcurl sends the body again when a kept connection turned out to be dead.
int CurlExchange::on_seek(void* self, curl_off_t offset, int origin) {
  auto& exchange = *static_cast<CurlExchange*>(self);
  if (origin != SEEK_SET || offset < 0 ||
      static_cast<uint64_t>(offset) > exchange.call_.request.body.size()) {
    return CURL_SEEKFUNC_CANTSEEK;
  }
  exchange.upload_offset_ = static_cast<uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

int CurlExchange::on_connected(void* self, char*, char*, int, int) {
  auto& exchange = *static_cast<CurlExchange*>(self);
  exchange.connected = true;
  ++exchange.sendings;  // libcurl, too, sends again when a kept connection was dead
  exchange.moved();
  return CURL_PREREQFUNC_OK;
}

bool CurlExchange::has_moved() {
  curl_off_t up = 0;
  curl_off_t down = 0;
  curl_easy_getinfo(easy, CURLINFO_SIZE_UPLOAD_T, &up);
  curl_easy_getinfo(easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
  return std::exchange(bytes_seen_, up + down) != up + down;
}

// ---- the answer, on the side thread

void CurlExchange::begin_answer() {
  response_ = {};
  header_bytes_ = 0;
}

bool CurlExchange::into_memory() const {
  return !call_.into.empty() && response_.status >= 200 && response_.status < 300;
}

size_t CurlExchange::on_header(char* data, size_t size, size_t count, void* self) {
  auto& exchange = *static_cast<CurlExchange*>(self);
  exchange.moved();
  return exchange.take_header({data, size * count}) ? size * count : 0;
}

bool CurlExchange::take_header(std::string_view line) {
  if (line.starts_with("HTTP/")) {  // also after a 100 (Continue)
    begin_answer();
    size_t space = line.find(' ');
    if (space == std::string_view::npos) return false;
    const char* digits = line.data() + space + 1;
    std::from_chars(digits, line.data() + line.size(), response_.status);
    return true;
  }
  header_bytes_ += line.size();
  if (header_bytes_ > kHeaderBytesMax || response_.headers.size() >= kHeadersMax) {
    fault_ = Fault::kHeaders;
    return false;
  }
  size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) return true;  // the empty line at the end
  response_.headers.emplace_back(lower_case(trimmed(line.substr(0, colon))),
                                 std::string(trimmed(line.substr(colon + 1))));
  return true;
}

size_t CurlExchange::on_body(char* data, size_t size, size_t count, void* self) {
  auto& exchange = *static_cast<CurlExchange*>(self);
  exchange.moved();
  return exchange.take_body({data, size * count}) ? size * count : 0;
}

bool CurlExchange::take_body(std::string_view bytes) {
  if (bytes.empty()) return true;
  if (!into_memory()) {
    if (bytes.size() > call_.body_bytes_max - response_.body.size()) {
      fault_ = Fault::kTooLarge;
      return false;
    }
    if (response_.body.empty() && bytes.size() >= kReserveFrom) {
      // A large answer: room for it at once, as far as its length is to be believed.
      curl_off_t length = -1;
      curl_easy_getinfo(easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
      if (length > 0) {
        response_.body.reserve(std::min<size_t>(static_cast<size_t>(length), call_.body_bytes_max));
      }
    }
    response_.body.append(bytes);
    return true;
  }
  SHOAL_ASSERT(filled_ <= call_.into.size());
  if (bytes.size() > call_.into.size() - filled_) {
    fault_ = Fault::kTooLong;
    return false;
  }
  std::memcpy(call_.into.data() + filled_, bytes.data(), bytes.size());
  filled_ += bytes.size();
  if (call_.on_progress && filled_ - noted_ >= call_.progress_step) note_progress();
  return true;
}

void CurlExchange::conclude(CURLcode code, SteadyTime now) {
  if (code != CURLE_OK || response_.status == 0) {
    result_ = fail(failure(code, now));
    return;
  }
  SHOAL_ASSERT(response_.body.size() <= call_.body_bytes_max);
  response_.into_bytes = filled_;
  response_.resent = sendings > 1;
  result_ = std::move(response_);
}

bool CurlExchange::may_retry(CURLcode code) const {
  bool broken = code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING;
  if (!broken || retried || is_cancelled() || call_.request.method == "POST") return false;
  long connects = 1;
  curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connects);
  return connects == 0 && response_.status == 0 && filled_ == 0;
}

Error CurlExchange::error(Code code, std::string_view reason) const {
  return Error(
      code, fmt::format("{} {}: {}", call_.request.method, redact_url(call_.request.url), reason));
}

Error CurlExchange::failure(CURLcode code, SteadyTime now) const {
  switch (fault_) {
    case Fault::kTooLong:
      return error(Code::kUnavailable, fmt::format("the body is longer than the {} bytes asked for",
                                                   call_.into.size()));
    case Fault::kTooLarge:
      return error(Code::kTooLarge, fmt::format("the body of the answer ({}) is above {} bytes",
                                                response_.status, call_.body_bytes_max));
    case Fault::kHeaders:
      return error(Code::kUnavailable, "the headers of the answer are above 64 KiB");
    case Fault::kNone:
      break;
  }
  std::string_view reason = reason_[0] != '\0' ? reason_.data() : curl_easy_strerror(code);
  switch (code) {
    case CURLE_OK:
      return error(Code::kUnavailable, "the answer has no status");
    case CURLE_OPERATION_TIMEDOUT:
      // Libcurl counts in milliseconds and rounds.
      if (call_.deadline <= now + std::chrono::milliseconds(2)) {
        return error(Code::kDeadlineExceeded, "deadline exceeded");
      }
      return error(Code::kUnavailable, reason);
    case CURLE_PARTIAL_FILE:
      return error(Code::kUnavailable, fmt::format("the body ended early: {}", reason));
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      // Or the server does not speak HTTP.
      if (connected) return error(Code::kUnavailable, reason);
      return error(Code::kInvalidArgument, fmt::format("bad URL: {}", reason));
    case CURLE_PEER_FAILED_VERIFICATION:
      return error(Code::kUnavailable,
                   fmt::format("the server's certificate is not trusted: {}; check the host name "
                               "and the file of certificate authorities",
                               reason));
    default:
      return error(Code::kUnavailable, reason);
  }
}

// ---- the way back

void CurlExchange::note_progress() {
  noted_ = filled_;
  progress_bytes_.store(filled_, std::memory_order_release);
  // One note at a time; one that has not run yet will see the new count.
  if (!progress_posted_.exchange(true)) home_.executor_.post_remote(progress_);
}

void CurlExchange::tell_progress() {
  progress_posted_.store(false);
  uint64_t bytes = progress_bytes_.load(std::memory_order_acquire);
  SHOAL_ASSERT(bytes >= told_ && bytes <= call_.into.size());
  if (bytes == told_) return;  // the note before this one saw it already
  told_ = bytes;
  call_.on_progress(bytes);
}

void CurlExchange::give_back() {
  SHOAL_ASSERT(easy == nullptr, "libcurl may still write into the caller's memory");
  curl_slist_free_all(std::exchange(headers_, nullptr));
  home_.executor_.post_remote(*this);
}

void CurlExchange::run() noexcept {
  // Notes of progress were posted before, so none is on its way.
  SHOAL_ASSERT(!progress_posted_.load());
  if (result_ && call_.on_progress && filled_ > told_) {
    told_ = filled_;
    call_.on_progress(filled_);
  }
  HttpCall& call = call_;
  call.result = std::move(result_);
  home_.end(*this);  // deletes this
  call.run();
}

}  // namespace shoal
