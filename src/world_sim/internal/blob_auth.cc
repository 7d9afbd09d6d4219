// Credentials of the fake Blob service, written from the documentation and not shared with the
// signer in src/origin: each checks the other.
#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>

#include "base/object_name.h"
#include "world_sim/internal/blob_call.h"

namespace shoal {

namespace {

BlobReply refuse(const BlobCall& call, std::string_view reason) {
  return blob_error(call, 403, "AuthenticationFailed",
                    fmt::format("Server failed to authenticate the request. {}", reason));
}

BlobReply challenge(const BlobCall& call, std::string_view code, std::string_view reason) {
  BlobReply reply = blob_error(call, 401, code, reason);
  reply.headers.emplace_back(
      "www-authenticate",
      "Bearer "
      "authorization_uri=https://login.microsoftonline.com/common/oauth2/authorize_blob_call "
      "resource_id=https://storage.azure.com");
  return reply;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::string value_of(const BlobCall& call, std::string_view name) {
  const std::string* value = call.header(name);
  return value ? *value : std::string();
}

std::optional<BlobReply> check_clock(const BlobCall& call, const BlobServiceConfig& config) {
  const std::string* date = call.header("x-ms-date");
  if (date == nullptr) date = call.header("date");
  if (date == nullptr) return refuse(call, "There is no x-ms-date header.");
  auto when = parse_blob_date(*date);
  if (!when) return refuse(call, "The x-ms-date header is malformed.");
  auto skew = call.now > *when ? call.now - *when : *when - call.now;
  if (config.check_clock && skew > std::chrono::minutes(15)) {
    return refuse(call, "The date header in the request is incorrect (more than 15 minutes off).");
  }
  return std::nullopt;
}

std::optional<BlobReply> check_shared_key(BlobCall& call, const BlobServiceConfig& config,
                                          std::string_view credential) {
  size_t colon = credential.find(':');
  if (colon == std::string_view::npos || credential.substr(0, colon) != config.account) {
    return refuse(call, "The account in the Authorization header is not this one.");
  }
  if (auto reply = check_clock(call, config)) return reply;
  if (call.header("x-ms-version") == nullptr) {
    return blob_error(call, 400, "MissingRequiredHeader", "x-ms-version is missing.");
  }
  auto key = base64_decode(config.key_base64);
  SHOAL_ASSERT(key.has_value(), "the account key must be base64");
  std::string text = blob_string_to_sign(call, config.account);
  if (blob_hmac_base64(*key, text) != credential.substr(colon + 1)) {
    return refuse(call, fmt::format("The MAC signature is not the same as any computed "
                                    "signature. Server used following string to sign: '{}'.",
                                    text));
  }
  call.shared_key = true;
  return std::nullopt;
}

std::optional<BlobReply> check_bearer(const BlobCall& call, const BlobServiceConfig& config,
                                      std::string_view token) {
  if (call.header("x-ms-version") == nullptr) {
    return blob_error(call, 400, "MissingRequiredHeader", "x-ms-version is missing.");
  }
  for (const BlobBearer& bearer : config.bearer) {
    if (bearer.token != token) continue;
    if (call.now >= bearer.expires) {
      return challenge(call, "InvalidAuthenticationInfo",
                       "Lifetime validation failed. The token "
                       "is expired.");
    }
    return std::nullopt;
  }
  return challenge(call, "InvalidAuthenticationInfo", "Signature validation failed.");
}

using Query = std::vector<std::pair<std::string, std::string>>;

Query split_token(std::string_view text) {
  Query query;
  while (!text.empty()) {
    size_t end = std::min(text.find('&'), text.size());
    std::string_view item = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    size_t equals = std::min(item.find('='), item.size());
    auto value = percent_decode(item.substr(std::min(equals + 1, item.size())));
    query.emplace_back(item.substr(0, equals), value.value_or(""));
  }
  return query;
}

std::optional<BlobReply> check_sas(BlobCall& call, const BlobServiceConfig& config,
                                   BlobPermission wanted) {
  for (const BlobSas& sas : config.sas) {
    Query token = split_token(sas.query);
    bool same = std::all_of(token.begin(), token.end(), [&](const auto& item) {
      return call.param_is(item.first, item.second);
    });
    if (!same) continue;
    if (call.now >= sas.expires) return refuse(call, "Signature not valid in the time frame.");
    if (!sas.container.empty() && sas.container != call.container) {
      return blob_error(call, 403, "AuthorizationResourceTypeMismatch", "Another container.");
    }
    char letter = "rwdl"[static_cast<size_t>(wanted)];
    if (sas.permissions.find(letter) == std::string::npos) {
      return blob_error(call, 403, "AuthorizationPermissionMismatch",
                        "This request is not authorized to perform this operation using this "
                        "permission.");
    }
    call.sas = sas;
    return std::nullopt;
  }
  return refuse(call, "Signature did not match.");
}

constexpr std::array<uint64_t, 256> make_crc_table() {
  std::array<uint64_t, 256> table{};
  for (uint64_t i = 0; i < 256; ++i) {
    uint64_t value = i;
    for (int bit = 0; bit < 8; ++bit) {
      value = (value >> 1) ^ ((value & 1) != 0 ? 0x9A6C9329AC4BC9B5ull : 0);
    }
    table[i] = value;
  }
  return table;
}
constexpr std::array<uint64_t, 256> kCrcTable = make_crc_table();

}  // namespace

std::string blob_string_to_sign(const BlobCall& call, std::string_view account) {
  std::string text = call.request->method + "\n";
  for (const char* name :
       {"content-encoding", "content-language", "content-length", "content-md5", "content-type",
        "date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"}) {
    std::string value = value_of(call, name);
    std::string_view which = name;
    if (which == "content-length" && value == "0") value.clear();
    if (which == "date" && call.header("x-ms-date")) value.clear();
    text += value + "\n";
  }
  std::vector<std::pair<std::string, std::string>> lines;
  for (const auto& [name, value] : call.request->headers) {
    if (name.starts_with("x-ms-")) lines.emplace_back(name, trimmed(value));
  }
  std::sort(lines.begin(), lines.end());
  for (const auto& [name, value] : lines) text += name + ":" + value + "\n";

  text += "/" + std::string(account) + std::string(call.path);
  std::map<std::string, std::vector<std::string>> parameters;
  for (const auto& [name, value] : call.query) parameters[name].push_back(value);
  for (auto& [name, values] : parameters) {
    std::sort(values.begin(), values.end());
    text += "\n" + name + ":" + fmt::format("{}", fmt::join(values, ","));
  }
  return text;
}

std::string blob_hmac_base64(std::string_view key, std::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  const auto* made =
      HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
           reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &length);
  SHOAL_ASSERT(made != nullptr && length == 32);
  return base64_encode({reinterpret_cast<const char*>(digest), length});
}

std::string blob_md5_base64(const BlobContent& content) {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  SHOAL_ASSERT(context != nullptr && EVP_DigestInit_ex(context, EVP_md5(), nullptr) == 1);
  for (uint64_t at = 0; at < content.size();) {
    ConstByteSpan span = content.span_at(at);
    EVP_DigestUpdate(context, span.data(), span.size());
    at += span.size();
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(context, digest, &length);
  EVP_MD_CTX_free(context);
  return base64_encode({reinterpret_cast<const char*>(digest), length});
}

uint64_t blob_crc64(ConstByteSpan bytes, uint64_t before) {
  uint64_t crc = ~before;
  for (std::byte byte : bytes) {
    crc = kCrcTable[(crc ^ static_cast<uint64_t>(byte)) & 0xFF] ^ (crc >> 8);
  }
  return ~crc;
}

std::string blob_crc64_base64(const BlobContent& content) {
  uint64_t crc = 0;
  for (uint64_t at = 0; at < content.size();) {
    ConstByteSpan span = content.span_at(at);
    crc = blob_crc64(span, crc);
    at += span.size();
  }
  static_assert(std::endian::native == std::endian::little);
  return base64_encode({reinterpret_cast<const char*>(&crc), sizeof crc});
}

std::optional<BlobReply> authorize_blob_call(BlobCall& call, const BlobServiceConfig& config,
                                             BlobPermission wanted) {
  if (!config.require_auth) return std::nullopt;
  const std::string* credential = call.header("authorization");
  if (credential != nullptr) {
    if (call.param("sig")) {
      return blob_error(call, 400, "InvalidQueryParameterValue",
                        "A SAS and an Authorization header in one request.");
    }
    std::string_view text = *credential;
    if (text.starts_with("SharedKey ")) return check_shared_key(call, config, text.substr(10));
    if (text.starts_with("Bearer ")) return check_bearer(call, config, text.substr(7));
    return blob_error(call, 400, "InvalidAuthenticationInfo", "This scheme is not supported.");
  }
  if (call.param("sig")) return check_sas(call, config, wanted);
  if (config.anonymous_read && wanted == BlobPermission::kRead) return std::nullopt;
  return challenge(call, "NoAuthenticationInformation",
                   "Server failed to authenticate the request. Please refer to the information in "
                   "the www-authenticate header.");
}

}  // namespace shoal
