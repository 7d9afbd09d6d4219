#include "world_sim/internal/blob_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/object_name.h"

namespace shoal {

namespace {

constexpr size_t kMetadataBytesMax = 8 * kKiB;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

bool is_container_name(std::string_view name) {
  if (name == "$root" || name == "$web") return true;
  if (name.size() < 3 || name.size() > 63 || name.front() == '-' || name.back() == '-') {
    return false;
  }
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

// Splits "a=b&c=d"; false if something is not percent-encoded properly.
bool parse_query(std::string_view text, std::vector<std::pair<std::string, std::string>>& query) {
  while (!text.empty()) {
    size_t end = std::min(text.find('&'), text.size());
    std::string_view item = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (item.empty()) continue;
    size_t equals = std::min(item.find('='), item.size());
    auto name = percent_decode(item.substr(0, equals));
    auto value = percent_decode(item.substr(std::min(equals + 1, item.size())));
    if (!name || !value) return false;
    query.emplace_back(lower(*name), std::move(*value));
  }
  return true;
}

}  // namespace

const std::string* BlobCall::header(std::string_view name) const {
  for (const auto& [key, value] : request->headers) {
    if (key == name) return &value;
  }
  return nullptr;
}

const std::string* BlobCall::param(std::string_view name) const {
  for (const auto& [key, value] : query) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool BlobCall::param_is(std::string_view name, std::string_view value) const {
  const std::string* found = param(name);
  return found != nullptr && *found == value;
}

BlobReply blob_error(const BlobCall& call, int status, std::string_view code,
                     std::string_view message) {
  BlobReply reply;
  reply.status = status;
  reply.headers.emplace_back("x-ms-error-code", code);
  if (status == 304) return reply;
  reply.headers.emplace_back("content-type", "application/xml");
  std::string body = fmt::format(
      "\xEF\xBB\xBF<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{}</Code><Message>{}"
      "</Message></Error>",
      code, blob_xml_escape(message));
  if (!call.is_head()) reply.body = BlobContent::copy_of(body);
  return reply;
}

std::optional<BlobReply> parse_blob_target(BlobCall& call, const BlobServiceConfig& config) {
  std::string_view target = call.request->target;
  size_t question = std::min(target.find('?'), target.size());
  call.path = target.substr(0, question);
  bool good = parse_query(target.substr(std::min(question + 1, target.size())), call.query);
  if (!good || call.path.empty() || call.path.front() != '/') {
    return blob_error(call, 400, "InvalidUri", "The requested URI is malformed.");
  }
  auto decoded = percent_decode(call.path.substr(1));
  if (!decoded || !is_blob_utf8(*decoded) || decoded->find('\0') != std::string::npos) {
    return blob_error(call, 400, "InvalidUri", "The path is not percent-encoded UTF-8.");
  }
  std::string_view rest = *decoded;
  const std::string* host = call.header("host");
  bool in_host = host != nullptr && host->starts_with(config.account + ".blob.");
  if (!in_host) {  // path style: the account is the first component
    size_t slash = std::min(rest.find('/'), rest.size());
    if (rest.substr(0, slash) != config.account) {
      return blob_error(call, 400, "InvalidUri", "The account in the path is not served here.");
    }
    rest.remove_prefix(std::min(slash + 1, rest.size()));
  }
  size_t slash = std::min(rest.find('/'), rest.size());
  call.container = rest.substr(0, slash);
  call.blob = rest.substr(std::min(slash + 1, rest.size()));
  if (!call.container.empty() && !is_container_name(call.container)) {
    return blob_error(call, 400, "InvalidResourceName", "The container's name is not valid.");
  }
  if (call.blob.size() > kObjectNameBytesMax) {
    return blob_error(call, 400, "InvalidResourceName", "The blob's name is too long.");
  }
  return std::nullopt;
}

std::optional<BlobReply> check_blob_conditions(const BlobCall& call, const BlobService::Blob* blob,
                                               BlobConditionUse use) {
  bool read = use == BlobConditionUse::kRead;
  auto not_met = [&] {
    return blob_error(call, 412, "ConditionNotMet",
                      "The condition specified using HTTP conditional header(s) is not met.");
  };
  auto quoted = [](const std::string& tag) {
    return tag == "*" || (tag.size() >= 2 && tag.front() == '"' && tag.back() == '"');
  };
  const std::string* if_match = call.header("if-match");
  const std::string* if_none_match = call.header("if-none-match");
  if ((if_match && !quoted(*if_match)) || (if_none_match && !quoted(*if_none_match))) {
    return blob_error(call, 400, "InvalidHeaderValue", "An ETag in a condition lacks its quotes.");
  }
  std::string etag = blob ? blob_etag(blob->version) : "";
  if (if_match && (blob == nullptr || (*if_match != "*" && *if_match != etag))) return not_met();
  if (const std::string* since = call.header("if-unmodified-since")) {
    auto when = parse_blob_date(*since);
    if (!when) return blob_error(call, 400, "InvalidHeaderValue", "A date is malformed.");
    if (blob == nullptr || std::chrono::floor<std::chrono::seconds>(blob->modified) > *when) {
      return not_met();
    }
  }
  if (if_none_match && blob != nullptr && (*if_none_match == "*" || *if_none_match == etag)) {
    if (read) return blob_error(call, 304, "ConditionNotMet", "");
    if (use == BlobConditionUse::kCreate && *if_none_match == "*") {
      return blob_error(call, 409, "BlobAlreadyExists", "The specified blob already exists.");
    }
    return not_met();
  }
  if (const std::string* since = call.header("if-modified-since")) {
    auto when = parse_blob_date(*since);
    if (!when) return blob_error(call, 400, "InvalidHeaderValue", "A date is malformed.");
    if (blob && std::chrono::floor<std::chrono::seconds>(blob->modified) <= *when) {
      return read ? blob_error(call, 304, "ConditionNotMet", "") : not_met();
    }
  }
  return std::nullopt;
}

std::optional<BlobReply> read_blob_metadata(const BlobCall& call,
                                            std::map<std::string, std::string>& metadata) {
  constexpr std::string_view kPrefix = "x-ms-meta-";
  size_t bytes = 0;
  for (const auto& [key, value] : call.request->headers) {
    if (!key.starts_with(kPrefix)) continue;
    std::string name = key.substr(kPrefix.size());
    if (name.empty()) {
      return blob_error(call, 400, "EmptyMetadataKey", "A metadata name is empty.");
    }
    bool good = !(name[0] >= '0' && name[0] <= '9');
    for (char c : name) {
      good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_');
    }
    for (char c : value) good = good && c >= 0x20 && c < 0x7F;
    if (!good) {
      return blob_error(call, 400, "InvalidMetadata",
                        "The metadata specified is invalid. It has characters that are not "
                        "permitted.");
    }
    bytes += name.size() + value.size();
    if (!metadata.emplace(name, value).second) {
      return blob_error(call, 400, "InvalidMetadata", "A metadata name is given twice.");
    }
  }
  if (bytes > kMetadataBytesMax) {
    return blob_error(call, 400, "MetadataTooLarge",
                      "The metadata specified exceeds the maximum size permitted (8192).");
  }
  return std::nullopt;
}

std::optional<BlobReply> check_blob_sums(const BlobCall& call) {
  const std::string* md5 = call.header("content-md5");
  const std::string* crc = call.header("x-ms-content-crc64");
  if (md5 && crc) {
    return blob_error(call, 400, "InvalidInput", "Send Content-MD5 or x-ms-content-crc64.");
  }
  if (md5 && *md5 != blob_md5_base64(call.request->body)) {
    return blob_error(call, 400, "Md5Mismatch",
                      "The MD5 value specified in the request did not match with the MD5 value "
                      "calculated by the server.");
  }
  if (crc && *crc != blob_crc64_base64(call.request->body)) {
    return blob_error(call, 400, "Crc64Mismatch",
                      "The CRC64 value specified in the request did not match with the CRC64 "
                      "value calculated by the server.");
  }
  return std::nullopt;
}

std::optional<BlobReply> read_blob_range(const BlobCall& call, uint64_t size, BlobRange& range) {
  range = {0, size, true};
  const std::string* value = call.header("x-ms-range");
  if (value == nullptr) value = call.header("range");
  if (value == nullptr) return std::nullopt;
  auto malformed = [&] {
    return blob_error(call, 400, "InvalidHeaderValue",
                      "The range is not of the form bytes=FIRST-LAST or bytes=FIRST-.");
  };
  std::string_view text = *value;
  if (!text.starts_with("bytes=")) return malformed();
  text.remove_prefix(6);
  const char* end = text.data() + text.size();
  uint64_t first = 0;
  uint64_t last = UINT64_MAX;
  auto parsed = std::from_chars(text.data(), end, first);
  if (parsed.ec != std::errc() || parsed.ptr == end || *parsed.ptr != '-') return malformed();
  if (parsed.ptr + 1 != end) {
    auto tail = std::from_chars(parsed.ptr + 1, end, last);
    if (tail.ec != std::errc() || tail.ptr != end || last < first) return malformed();
  }
  if (first >= size) {
    BlobReply reply = blob_error(call, 416, "InvalidRange",
                                 "The range specified is invalid for the current size of the "
                                 "resource.");
    reply.headers.emplace_back("content-range", fmt::format("bytes */{}", size));
    return reply;
  }
  last = std::min(last, size - 1);
  range = {first, last - first + 1, false};
  return std::nullopt;
}

}  // namespace shoal
