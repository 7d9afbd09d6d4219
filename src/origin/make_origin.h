// From what a user typed to an Origin.
#pragma once

#include <memory>
#include <string>

#include "observe/log.h"
#include "observe/metrics.h"
#include "origin/azure_origin.h"
#include "origin/origin.h"
#include "origin/origin_url.h"
#include "world/world.h"

namespace shoal {

struct OriginConfig {
  std::string location;  // ORIGIN as typed; directories absolute already
  // From AZURE_STORAGE_CONNECTION_STRING (parse_connection_string), or AZURE_STORAGE_ACCOUNT, _KEY,
  // _SAS_TOKEN, _BLOB_ENDPOINT; empty where unset.
  AzureAccount azure;
  RetryOptions retry;
  bool content_crc64 = false;
};

// Does no I/O: whether the origin can be reached is for probe() to say. One per shard; `world`,
// `registry` and `log` outlive it.
Result<std::unique_ptr<Origin>> make_origin(OriginConfig config, World& world, Registry& registry,
                                            const Log& log);

}  // namespace shoal
