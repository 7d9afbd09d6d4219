// From options, environment and key files to what make_origin() wants.
#pragma once

#include <string>

#include "apps/options.h"
#include "origin/make_origin.h"

namespace shoal {

// Makes directories absolute, reads AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT, _KEY,
// _SAS_TOKEN and _BLOB_ENDPOINT, then --account-key-file or --sas-file, which beat the environment.
Result<OriginConfig> origin_config(const std::string& location, const Options& options);

// Where the credentials come from, for people: "account key from AZURE_STORAGE_KEY".
std::string credential_source(const Options& options);

}  // namespace shoal
