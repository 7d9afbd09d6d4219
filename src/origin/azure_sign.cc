#include "origin/azure_sign.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "base/assert.h"
#include "base/object_name.h"
#include "origin/http_date.h"

namespace shoal {

namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// "/account" + path as sent + one line per query parameter, sorted.
std::string canonical_resource(std::string_view url, std::string_view account) {
  size_t scheme = url.find("://");
  SHOAL_ASSERT(scheme != std::string_view::npos, "the URL must be absolute");
  size_t slash = url.find('/', scheme + 3);
  std::string_view rest = slash == std::string_view::npos ? "/" : url.substr(slash);
  size_t question = rest.find('?');
  std::string out = "/" + std::string(account) + std::string(rest.substr(0, question));
  if (question == std::string_view::npos) return out;

  std::map<std::string, std::vector<std::string>> parameters;
  std::string_view query = rest.substr(question + 1);
  while (!query.empty()) {
    size_t end = query.find('&');
    std::string_view parameter = query.substr(0, end);
    query.remove_prefix(end == std::string_view::npos ? query.size() : end + 1);
    if (parameter.empty()) continue;
    size_t equals = parameter.find('=');
    std::string_view raw = equals == std::string_view::npos ? "" : parameter.substr(equals + 1);
    // We wrote the query ourselves; what does not decode is signed as it stands.
    Result<std::string> name = percent_decode(parameter.substr(0, equals));
    Result<std::string> value = percent_decode(raw);
    parameters[lower(name ? *name : std::string(parameter.substr(0, equals)))].push_back(
        value ? *value : std::string(raw));
  }
  for (auto& [name, values] : parameters) {
    std::sort(values.begin(), values.end());
    out += fmt::format("\n{}:{}", name, fmt::join(values, ","));
  }
  return out;
}

}  // namespace

std::string azure_string_to_sign(const HttpRequest& request, std::string_view account) {
  std::map<std::string, std::string> headers;  // by lower-case name
  for (const auto& [name, value] : request.headers) headers[lower(name)] = trim(value);
  auto value_of = [&](const char* name) {
    auto found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
  };
  std::string out = request.method + "\n";
  for (const char* name : {"content-encoding", "content-language"}) out += value_of(name) + "\n";
  out += request.body.empty() ? "\n" : fmt::format("{}\n", request.body.size());
  for (const char* name : {"content-md5", "content-type"}) out += value_of(name) + "\n";
  out += (headers.contains("x-ms-date") ? "" : value_of("date")) + "\n";
  for (const char* name :
       {"if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"}) {
    out += value_of(name) + "\n";
  }
  for (const auto& [name, value] : headers) {
    if (name.starts_with("x-ms-")) out += fmt::format("{}:{}\n", name, value);
  }
  return out + canonical_resource(request.url, account);
}

std::string hmac_sha256_base64(std::string_view key, std::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  const unsigned char* done =
      HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
           reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &size);
  SHOAL_ASSERT(done != nullptr && size == 32, "HMAC-SHA256 failed");
  return base64_encode({reinterpret_cast<const char*>(digest), size});
}

AzureSigner::AzureSigner(std::string account, Credentials credentials, std::string api_version)
    : account_(std::move(account)),
      sas_token_(std::move(credentials.sas_token)),
      api_version_(std::move(api_version)) {
  if (!credentials.account_key.empty()) {
    Result<std::string> key = base64_decode(credentials.account_key);
    SHOAL_ASSERT(key.has_value(), "resolve_azure checks keys");
    key_ = std::move(*key);
  }
  SHOAL_ASSERT(key_.empty() || sas_token_.empty());
}

void AzureSigner::sign(HttpRequest& request, WallTime now, std::string_view request_id) const {
  request.headers.emplace_back("x-ms-date", format_http_date(now));
  request.headers.emplace_back("x-ms-version", api_version_);
  request.headers.emplace_back("x-ms-client-request-id", request_id);
  if (!sas_token_.empty()) {
    request.url = with_sas(std::move(request.url));
  } else if (!key_.empty()) {
    std::string text = azure_string_to_sign(request, account_);
    request.headers.emplace_back(
        "Authorization", fmt::format("SharedKey {}:{}", account_, hmac_sha256_base64(key_, text)));
  }
}

std::string AzureSigner::with_sas(std::string url) const {
  if (sas_token_.empty()) return url;
  url += url.find('?') == std::string::npos ? '?' : '&';
  return url + sas_token_;
}

}  // namespace shoal
