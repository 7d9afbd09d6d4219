#include "origin/make_origin.h"

#include <fmt/format.h>

#include "origin/directory_origin.h"

namespace shoal {

Result<std::unique_ptr<Origin>> make_origin(OriginConfig config, World& world, Registry& registry,
                                            const Log& log) {
  SHOAL_ASSIGN_OR_RETURN(OriginUrl url, parse_origin_url(config.location));
  switch (url.kind) {
    case OriginUrl::Kind::kDirectory:
      if (!url.directory.starts_with('/')) {
        return fail(Code::kInvalidArgument,
                    fmt::format("the directory '{}' is not an absolute path", url.directory));
      }
      return std::make_unique<DirectoryOrigin>(std::move(url.directory), world, registry, log);
    case OriginUrl::Kind::kS3:
      return fail(Code::kNotSupported,
                  fmt::format("{}: S3 is not supported yet; use az://account/container or a "
                              "directory",
                              url.display_name()));
    case OriginUrl::Kind::kAzure:
      break;
  }
  if (config.retry.concurrency_max == 0) {
    return fail(Code::kInvalidArgument, "the origin's concurrency must be at least 1");
  }
  SHOAL_ASSIGN_OR_RETURN(ResolvedAzure azure, resolve_azure(std::move(url), config.azure));
  AzureConfig azure_config;
  azure_config.url = std::move(azure.url);
  azure_config.credentials = std::move(azure.credentials);
  azure_config.retry = config.retry;
  azure_config.content_crc64 = config.content_crc64;
  return std::make_unique<AzureOrigin>(std::move(azure_config), world, registry, log);
}

}  // namespace shoal
