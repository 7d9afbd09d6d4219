#include "origin/origin_url.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/assert.h"
#include "base/object_name.h"

namespace shoal {

namespace {

constexpr std::string_view kForms =
    "write /path, az://account/container[/prefix], "
    "https://account.blob.core.windows.net/container[/prefix] or "
    "http://127.0.0.1:10000/devstoreaccount1/container[/prefix]";

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

// Splits off what stands before the next '/', and the slash.
std::string_view take_component(std::string_view& rest) {
  size_t slash = rest.find('/');
  std::string_view component = rest.substr(0, slash);
  rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash + 1);
  return component;
}

Status validate_account(std::string_view account) {
  bool good = account.size() >= 3 && account.size() <= 24;
  for (char c : account) good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'));
  if (good) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("'{}' is not a storage account name (3 to 24 lower-case letters and "
                          "digits); {}",
                          account, kForms));
}

Status validate_container(std::string_view container) {
  if (container == "$root" || container == "$web" || container == "$logs") return {};
  bool good = container.size() >= 3 && container.size() <= 63 && container.front() != '-' &&
              container.back() != '-' && container.find("--") == std::string_view::npos;
  for (char c : container) {
    good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
  }
  if (good) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("'{}' is not a container name (3 to 63 lower-case letters, digits and "
                          "single hyphens)",
                          container));
}

// The prefix as it is kept: no slash in front, one at the end.
Result<std::string> normal_prefix(std::string_view text) {
  while (!text.empty() && text.front() == '/') text.remove_prefix(1);
  while (!text.empty() && text.back() == '/') text.remove_suffix(1);
  if (text.empty()) return std::string();
  if (!is_representable(text)) {
    return fail(Code::kInvalidArgument,
                fmt::format("'{}' cannot be a prefix: it has an empty, '.', '..' or overlong "
                            "component",
                            text));
  }
  return std::string(text) + "/";
}

bool is_ip_address(std::string_view host) {
  if (!host.empty() && host.front() == '[') return true;
  bool digits_and_dots = !host.empty();
  for (char c : host) digits_and_dots = digits_and_dots && (c == '.' || (c >= '0' && c <= '9'));
  return digits_and_dots;
}

struct Authority {
  std::string host;
  std::string port;
};

Result<Authority> parse_authority(std::string_view text, std::string_view scheme) {
  if (text.find('@') != std::string_view::npos) {
    return fail(Code::kInvalidArgument,
                "the URL has a user or password before its host; pass the account key or SAS token "
                "by AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN instead");
  }
  size_t host_end = text.find(':');
  if (!text.empty() && text.front() == '[') {
    size_t bracket = text.find(']');
    if (bracket == std::string_view::npos) host_end = text.size();
    host_end = bracket == std::string_view::npos ? text.size() : text.find(':', bracket);
  }
  Authority authority{lower(text.substr(0, host_end)), {}};
  if (host_end != std::string_view::npos && host_end < text.size()) {
    authority.port = text.substr(host_end + 1);
  }
  bool port_good = authority.port.size() <= 5;
  for (char c : authority.port) port_good = port_good && c >= '0' && c <= '9';
  bool host_good = !authority.host.empty();
  for (char c : authority.host) {
    auto byte = static_cast<unsigned char>(c);
    host_good = host_good && (std::isalnum(byte) || c == '.' || c == '-' || c == '_' || c == '[' ||
                              c == ']' || c == ':');
  }
  if (!host_good || !port_good) {
    return fail(Code::kInvalidArgument,
                fmt::format("'{}' is not a host after {}://; {}", text, scheme, kForms));
  }
  return authority;
}

Result<OriginUrl> parse_az(std::string_view rest) {
  OriginUrl url;
  url.kind = OriginUrl::Kind::kAzure;
  size_t question = rest.find('?');
  if (question != std::string_view::npos) {
    url.sas_token = rest.substr(question + 1);
    rest = rest.substr(0, question);
  }
  url.account = take_component(rest);
  url.container = take_component(rest);
  if (url.account.empty() || url.container.empty()) {
    return fail(Code::kInvalidArgument,
                "the account or the container is missing; write az://account/container[/prefix]");
  }
  SHOAL_RETURN_IF_ERROR(validate_account(url.account));
  SHOAL_RETURN_IF_ERROR(validate_container(url.container));
  SHOAL_ASSIGN_OR_RETURN(url.prefix, normal_prefix(rest));
  if (url.account == kEmulatorAccount) {
    url.endpoint = kEmulatorEndpoint;
  } else {
    url.endpoint = fmt::format("https://{}.blob.core.windows.net", url.account);
    url.standard_endpoint = true;
  }
  return url;
}

Result<OriginUrl> parse_http(std::string_view scheme, std::string_view rest) {
  OriginUrl url;
  url.kind = OriginUrl::Kind::kAzure;
  size_t question = rest.find('?');
  if (question != std::string_view::npos) {
    url.sas_token = rest.substr(question + 1);
    rest = rest.substr(0, question);
  }
  SHOAL_ASSIGN_OR_RETURN(Authority authority, parse_authority(take_component(rest), scheme));
  url.endpoint = fmt::format("{}://{}", scheme, authority.host);
  if (!authority.port.empty()) url.endpoint += ":" + authority.port;

  bool path_style = is_ip_address(authority.host) || !authority.port.empty() ||
                    authority.host.find('.') == std::string::npos;
  if (path_style) {
    url.account = take_component(rest);
    SHOAL_RETURN_IF_ERROR(validate_account(url.account));
    url.endpoint += "/" + url.account;
  } else {
    url.account = authority.host.substr(0, authority.host.find('.'));
    SHOAL_RETURN_IF_ERROR(validate_account(url.account));
    url.standard_endpoint =
        scheme == "https" && authority.host == url.account + ".blob.core.windows.net";
  }
  SHOAL_ASSIGN_OR_RETURN(std::string path, percent_decode(rest));
  std::string_view rest_of_path = path;
  url.container = take_component(rest_of_path);
  if (url.container.empty()) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} names no container; add /container[/prefix]", url.endpoint));
  }
  SHOAL_RETURN_IF_ERROR(validate_container(url.container));
  SHOAL_ASSIGN_OR_RETURN(url.prefix, normal_prefix(rest_of_path));
  return url;
}

Result<OriginUrl> parse_s3(std::string_view rest) {
  OriginUrl url;
  url.kind = OriginUrl::Kind::kS3;
  url.container = take_component(rest);
  if (url.container.empty()) {
    return fail(Code::kInvalidArgument, "the bucket is missing; write s3://bucket[/prefix]");
  }
  SHOAL_ASSIGN_OR_RETURN(url.prefix, normal_prefix(rest));
  return url;
}

}  // namespace

Result<OriginUrl> parse_origin_url(std::string_view text) {
  if (text.empty()) return fail(Code::kInvalidArgument, fmt::format("no origin given; {}", kForms));
  if (text.find('\0') != std::string_view::npos) {
    return fail(Code::kInvalidArgument, "the origin contains a NUL byte");
  }
  size_t separator = text.find("://");
  if (separator == std::string_view::npos) {
    std::string head = lower(text.substr(0, 6));
    for (std::string_view scheme : {"az:", "azure:", "s3:", "http:", "https:", "file:"}) {
      if (head.starts_with(scheme.substr(0, 6)) && text.size() >= scheme.size()) {
        return fail(Code::kInvalidArgument, fmt::format("'{}' lacks the // after its scheme; {}",
                                                        text.substr(0, text.find('?')), kForms));
      }
    }
    OriginUrl url;
    url.directory = text;
    return url;
  }
  std::string scheme = lower(text.substr(0, separator));
  std::string_view rest = text.substr(separator + 3);
  if (scheme == "az") return parse_az(rest);
  if (scheme == "s3") return parse_s3(rest);
  if (scheme == "http" || scheme == "https") return parse_http(scheme, rest);
  if (scheme == "file") {
    if (!rest.starts_with('/')) {
      return fail(Code::kInvalidArgument,
                  fmt::format("'{}' names a host; write file:///absolute/path", text));
    }
    OriginUrl url;
    SHOAL_ASSIGN_OR_RETURN(url.directory, percent_decode(rest));
    if (url.directory.find('\0') != std::string::npos) {
      return fail(Code::kInvalidArgument, "the origin contains a NUL byte");
    }
    return url;
  }
  return fail(Code::kInvalidArgument,
              fmt::format("'{}' is not a known kind of origin; {}", scheme, kForms));
}

std::string OriginUrl::display_name() const {
  switch (kind) {
    case Kind::kDirectory:
      return directory;
    case Kind::kS3:
      return fmt::format("s3://{}/{}", container, prefix);
    case Kind::kAzure:
      break;
  }
  std::string name = standard_endpoint ? fmt::format("az://{}/{}", account, container)
                                       : fmt::format("{}/{}", endpoint, container);
  if (!prefix.empty()) name += "/" + prefix.substr(0, prefix.size() - 1);
  return name;
}

std::string OriginUrl::identity() const {
  switch (kind) {
    case Kind::kDirectory:
      return "file:" + directory;
    case Kind::kS3:
      return fmt::format("s3:{}/{}", container, prefix);
    case Kind::kAzure:
      break;
  }
  std::string place = endpoint.substr(endpoint.find("://") + 3);
  if (standard_endpoint) place = account;
  return fmt::format("azure:{}/{}/{}", place, container, prefix);
}

Result<AzureAccount> parse_connection_string(std::string_view text) {
  AzureAccount known;
  std::string protocol = "https";
  std::string suffix = "core.windows.net";
  bool emulator = false;
  while (!text.empty()) {
    size_t semicolon = text.find(';');
    std::string_view part = text.substr(0, semicolon);
    text.remove_prefix(semicolon == std::string_view::npos ? text.size() : semicolon + 1);
    while (!part.empty() && (part.back() == '\n' || part.back() == ' ')) part.remove_suffix(1);
    if (part.empty()) continue;
    size_t equals = part.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      return fail(Code::kInvalidArgument,
                  "the connection string has a part without '='; copy it whole from the portal "
                  "(it begins with DefaultEndpointsProtocol= or BlobEndpoint=)");
    }
    std::string name = lower(part.substr(0, equals));
    std::string value(part.substr(equals + 1));
    if (name == "accountname") known.account = value;
    if (name == "accountkey") known.credentials.account_key = value;
    if (name == "sharedaccesssignature") known.credentials.sas_token = value;
    if (name == "blobendpoint") known.endpoint = value;
    if (name == "defaultendpointsprotocol") protocol = lower(value);
    if (name == "endpointsuffix") suffix = value;
    if (name == "usedevelopmentstorage") emulator = lower(value) == "true";
  }
  if (emulator) {
    known.account = kEmulatorAccount;
    known.endpoint = kEmulatorEndpoint;
    known.credentials.account_key = kEmulatorKey;
  }
  if (protocol != "http" && protocol != "https") {
    return fail(Code::kInvalidArgument,
                "DefaultEndpointsProtocol of the connection string must be http or https");
  }
  if (known.account.empty() && known.endpoint.empty()) {
    return fail(Code::kInvalidArgument,
                "the connection string names neither AccountName nor BlobEndpoint");
  }
  if (known.endpoint.empty()) {
    SHOAL_RETURN_IF_ERROR(validate_account(known.account));
    known.endpoint = fmt::format("{}://{}.blob.{}", protocol, known.account, suffix);
  }
  while (!known.endpoint.empty() && known.endpoint.back() == '/') known.endpoint.pop_back();
  if (!known.credentials.sas_token.empty()) known.credentials.account_key.clear();
  return known;
}

Result<ResolvedAzure> resolve_azure(OriginUrl url, const AzureAccount& known) {
  SHOAL_ASSERT(url.kind == OriginUrl::Kind::kAzure);
  bool same_account = known.account.empty() || known.account == url.account;
  if (!known.endpoint.empty() && known.account == url.account && url.standard_endpoint) {
    // The container is only there to make it a whole URL; its rules decide what is standard.
    SHOAL_ASSIGN_OR_RETURN(OriginUrl other, parse_origin_url(known.endpoint + "/container"));
    if (other.kind != OriginUrl::Kind::kAzure || other.account != url.account) {
      return fail(Code::kInvalidArgument,
                  fmt::format("the blob endpoint {} does not belong to account {}", known.endpoint,
                              url.account));
    }
    url.endpoint = other.endpoint;
    url.standard_endpoint = other.standard_endpoint;
  }
  Credentials credentials;
  if (!url.sas_token.empty()) {
    credentials.sas_token = url.sas_token;
  } else if (same_account && !known.credentials.anonymous()) {
    credentials = known.credentials;
  } else if (url.account == kEmulatorAccount) {
    credentials.account_key = kEmulatorKey;
  }
  if (!credentials.sas_token.empty()) credentials.account_key.clear();
  while (credentials.sas_token.starts_with('?') || credentials.sas_token.starts_with('&')) {
    credentials.sas_token.erase(0, 1);
  }
  bool sas_good =
      credentials.sas_token.empty() || credentials.sas_token.find("sig=") != std::string::npos;
  for (char c : credentials.sas_token) sas_good = sas_good && c > ' ' && c < 0x7f && c != '#';
  if (!sas_good) {
    return fail(Code::kUnauthenticated,
                fmt::format("the SAS token for {} is not one (no sig=); copy it whole, for example "
                            "from az storage container generate-sas",
                            url.account));
  }
  if (!credentials.account_key.empty() && !base64_decode(credentials.account_key)) {
    return fail(Code::kUnauthenticated,
                fmt::format("the key for account {} is not base64; copy it whole, for example from "
                            "az storage account keys list --account-name {}",
                            url.account, url.account));
  }
  SHOAL_ASSERT(credentials.account_key.empty() || credentials.sas_token.empty());
  return ResolvedAzure{std::move(url), std::move(credentials)};
}

}  // namespace shoal
