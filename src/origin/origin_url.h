// What a user types for ORIGIN, and with which credentials. Pure functions: apps read the
// environment and files and pass the values in.
//
//   /data, ./data, file:///data                      a directory
//   az://account/container[/prefix]                  Azure Blob Storage
//   https://account.blob.core.windows.net/container[/prefix][?sas]
//   http://127.0.0.1:10000/account/container[/prefix]   an emulator or stub (path style)
//   s3://bucket[/prefix]                             recognised, not supported yet
//
// Of a URL the account is the first path component ("path style") when the host is an IP address,
// has no dot (localhost, blobstub) or a port is written; else it is the host's first label.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace shoal {

// At most one of the two is set; neither means anonymous.
struct Credentials {
  std::string account_key;  // base64
  std::string sas_token;    // without '?'

  bool anonymous() const { return account_key.empty() && sas_token.empty(); }
};

struct OriginUrl {
  enum class Kind { kDirectory, kAzure, kS3 };
  Kind kind = Kind::kDirectory;

  std::string directory;  // kDirectory: as written; the caller makes it absolute

  // kAzure. `endpoint` is scheme://host[:port] and, path style, "/account"; no slash at the end.
  std::string endpoint;
  std::string account;
  std::string container;  // for kS3 the bucket
  std::string prefix;     // empty, or ends in '/'
  std::string sas_token;  // from the URL's query, without '?'
  // Whether the endpoint is Azure's own for this account, so that naming it adds nothing.
  bool standard_endpoint = false;

  // Never contains the SAS token.
  std::string display_name() const;
  // Equal for equal places, however they were written.
  std::string identity() const;
};

Result<OriginUrl> parse_origin_url(std::string_view text);

// What the environment or a connection string says beyond the URL. Empty fields are unknown.
struct AzureAccount {
  std::string account;
  std::string endpoint;  // scheme://host[:port][/account]
  Credentials credentials;
};

// "DefaultEndpointsProtocol=https;AccountName=...;AccountKey=...;EndpointSuffix=..." and the forms
// with BlobEndpoint, SharedAccessSignature and UseDevelopmentStorage=true. Errors never quote it.
Result<AzureAccount> parse_connection_string(std::string_view text);

// Azurite's account and its published key, which protects nothing.
inline constexpr std::string_view kEmulatorAccount = "devstoreaccount1";
inline constexpr std::string_view kEmulatorKey =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
inline constexpr std::string_view kEmulatorEndpoint = "http://127.0.0.1:10000/devstoreaccount1";

// Completes a kAzure URL with what else is known: the endpoint of `known` when it speaks of the
// same account, and the credentials, first found: SAS in the URL, then those of `known` when they
// are for this account (or it names none), then the emulator's key for its account.
struct ResolvedAzure {
  OriginUrl url;
  Credentials credentials;
};
Result<ResolvedAzure> resolve_azure(OriginUrl url, const AzureAccount& known);

}  // namespace shoal
