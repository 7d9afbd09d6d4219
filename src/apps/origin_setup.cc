#include "apps/origin_setup.h"

#include <fmt/format.h>

#include <cstdlib>

#include "apps/runtime.h"

namespace shoal {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string trimmed(std::string text) {
  size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  size_t end = text.find_last_not_of(" \t\r\n");
  return text.substr(begin, end - begin + 1);
}

Result<std::string> read_secret(const std::string& path, std::string_view what) {
  auto text = read_small_file(path);
  if (!text) return fail(std::move(text).error().with_context(what));
  std::string secret = trimmed(std::move(*text));
  if (secret.empty()) {
    return fail(Code::kInvalidArgument, fmt::format("{}: {} is empty", what, path));
  }
  if (secret.find_first_of(" \t\r\n") != std::string::npos) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: {} must hold the secret alone, on one line", what, path));
  }
  return secret;
}

}  // namespace

Result<OriginConfig> origin_config(const std::string& location, const Options& options) {
  OriginConfig config;
  config.location = location;
  SHOAL_ASSIGN_OR_RETURN(OriginUrl url, parse_origin_url(location));
  if (url.kind == OriginUrl::Kind::kDirectory) config.location = resolved_path(url.directory);
  config.retry.concurrency_max = options.connections;
  config.retry.stall_timeout = options.request_timeout;
  config.retry.retry_limit_time = options.origin_timeout;

  std::string connection = environment("AZURE_STORAGE_CONNECTION_STRING");
  if (!connection.empty()) {
    auto account = parse_connection_string(connection);
    if (!account) {
      return fail(std::move(account).error().with_context("AZURE_STORAGE_CONNECTION_STRING"));
    }
    config.azure = std::move(*account);
  } else {
    config.azure.account = environment("AZURE_STORAGE_ACCOUNT");
    config.azure.endpoint = environment("AZURE_STORAGE_BLOB_ENDPOINT");
    config.azure.credentials.account_key = environment("AZURE_STORAGE_KEY");
    if (config.azure.credentials.account_key.empty()) {
      config.azure.credentials.sas_token = environment("AZURE_STORAGE_SAS_TOKEN");
    }
  }
  if (!options.account_key_file.empty()) {
    SHOAL_ASSIGN_OR_RETURN(std::string key,
                           read_secret(options.account_key_file, "--account-key-file"));
    config.azure.credentials = {std::move(key), ""};
  } else if (!options.sas_file.empty()) {
    SHOAL_ASSIGN_OR_RETURN(std::string sas, read_secret(options.sas_file, "--sas-file"));
    config.azure.credentials = {"", std::move(sas)};
  }
  std::string& sas = config.azure.credentials.sas_token;
  if (sas.starts_with('?')) sas.erase(0, 1);
  return config;
}

std::string credential_source(const Options& options) {
  if (!options.account_key_file.empty()) return "account key from " + options.account_key_file;
  if (!options.sas_file.empty()) return "SAS token from " + options.sas_file;
  if (!environment("AZURE_STORAGE_CONNECTION_STRING").empty()) {
    return "from AZURE_STORAGE_CONNECTION_STRING";
  }
  if (!environment("AZURE_STORAGE_KEY").empty()) return "account key from AZURE_STORAGE_KEY";
  if (!environment("AZURE_STORAGE_SAS_TOKEN").empty()) {
    return "SAS token from AZURE_STORAGE_SAS_TOKEN";
  }
  return "";
}

}  // namespace shoal
