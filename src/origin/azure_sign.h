// Who we are, to Azure: SharedKey signatures and SAS. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "origin/origin_url.h"
#include "world/http.h"
#include "world/time.h"

namespace shoal {

// The text that SharedKey signs. `request` has all its headers (x-ms-date and x-ms-version too) but
// Authorization; Content-Length is taken from the body.
std::string azure_string_to_sign(const HttpRequest& request, std::string_view account);

// base64(HMAC-SHA256(key, text)).
std::string hmac_sha256_base64(std::string_view key, std::string_view text);

class AzureSigner {
 public:
  // `account_key` of the credentials is valid base64 (resolve_azure has checked it).
  AzureSigner(std::string account, Credentials credentials, std::string api_version);

  // Completes an unsigned request for one attempt: x-ms-date, x-ms-version, the request id, and
  // Authorization or the SAS parameters.
  void sign(HttpRequest& request, WallTime now, std::string_view request_id) const;
  // A URL that another service may read with our rights: with the SAS token, if we have one.
  std::string with_sas(std::string url) const;
  bool uses_sas() const { return !sas_token_.empty(); }
  bool anonymous() const { return key_.empty() && sas_token_.empty(); }

 private:
  std::string account_;
  std::string key_;  // decoded
  std::string sas_token_;
  std::string api_version_;
};

}  // namespace shoal
