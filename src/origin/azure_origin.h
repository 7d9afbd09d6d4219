// Azure Blob Storage, flat namespace, over HTTP. What requests mean; sending them is retry.h,
// signing azure_sign.h, wording refusals http_errors.h.
//
// Guarantees beyond origin.h: every range read carries If-Match and the answer's range and ETag are
// checked, so that bytes of two versions never mix. A conditional write whose answer was lost is
// recognised as ours by the metadata entry `shoalwriteid`, if the caller sends one.
#pragma once

#include <memory>
#include <string>

#include "origin/azure_sign.h"
#include "origin/http_errors.h"
#include "origin/origin.h"
#include "origin/origin_url.h"
#include "origin/retry.h"

namespace shoal {

struct AzureConfig {
  OriginUrl url;
  Credentials credentials;
  RetryOptions retry;
  std::string api_version = "2021-12-02";
  // Send x-ms-content-crc64 with blocks and whole objects. Azurite (strict) refuses it.
  bool content_crc64 = false;
};

// The metadata entry by which a writer recognises its own commit.
inline constexpr std::string_view kWriteIdName = "shoalwriteid";

class AzureOrigin final : public Origin {
 public:
  AzureOrigin(AzureConfig config, World& world, Registry& registry, const Log& log);

  std::string display_name() const override { return display_; }
  std::string identity() const override { return config_.url.identity(); }
  Task<Status> probe(bool write, Context context) override;
  Task<Result<ObjectInfo>> head(std::string object, Context context) override;
  Task<Status> read(std::string object, std::string etag, uint64_t offset, ByteSpan into,
                    std::function<void(uint64_t)> progress, Context context) override;
  Task<Result<ObjectInfo>> put(std::string object, ConstByteSpan bytes, PutOptions options,
                               Context context) override;
  Task<Status> put_block(std::string object, std::string block_id, uint64_t offset,
                         ConstByteSpan bytes, Context context) override;
  Task<Result<std::vector<BlockInfo>>> staged_blocks(std::string object, Context context) override;
  Task<Result<ObjectInfo>> commit_blocks(std::string object, std::vector<BlockInfo> blocks,
                                         PutOptions options, Context context) override;
  Task<Result<ListPage>> list(ListOptions options, Context context) override;
  Task<Status> remove(std::string object, Condition condition, Context context) override;
  Task<Result<ObjectInfo>> copy(std::string from, std::string source_etag, std::string to,
                                PutOptions options, Context context) override;
  Task<Result<ObjectInfo>> set_metadata(std::string object, Metadata metadata, Condition condition,
                                        Context context) override;
  uint64_t block_bytes_max() const override { return 4000 * kMiB; }
  uint32_t blocks_max() const override { return 50'000; }

  // For tests and metrics.
  uint64_t concurrency_limit() const { return runner_.concurrency().limit(); }

 private:
  class Protocol final : public OriginProtocol {
   public:
    explicit Protocol(AzureOrigin& origin) : origin_(origin) {}
    void sign(HttpRequest& request) override;
    std::string_view range_header() const override { return "x-ms-range"; }
    std::string error_code(const HttpResponse& response) const override;
    Error error_of(const HttpResponse& response, const std::string& what) const override;

   private:
    AzureOrigin& origin_;
  };
  // A write that may have to recognise its own success.
  struct Write {
    std::string object;
    Condition condition;
    Metadata metadata;
    std::optional<uint64_t> size;
  };

  std::string url_of(std::string_view object) const;
  OriginRequest request(std::string method, std::string_view verb, std::string_view object,
                        std::string_view query) const;
  void add_content_crc(OriginRequest& request) const;
  Task<Result<ObjectInfo>> head_with(std::string object, std::string etag, std::string* copy_status,
                                     Context context);
  Task<Result<HttpResponse>> run_write(OriginRequest& request, Context context);
  // After a write failed: the object if it was our own earlier attempt that won, else the failure.
  Task<Result<ObjectInfo>> settle(OriginRequest& request, Error error, Write write,
                                  Context context);
  // False also when that cannot be said.
  Task<bool> is_staged(std::string object, std::string block_id, Context context);
  Task<Result<ObjectInfo>> await_copy(std::string to, Context context);
  Task<Status> probe_list(Context context);
  Task<Status> probe_write(Context context);
  Status strip_prefix(ListPage& page, const ListOptions& options) const;

  AzureConfig config_;
  World world_;
  const Log& log_;
  OriginMetrics metrics_;
  AzureSigner signer_;
  Protocol protocol_;
  RequestRunner runner_;
  std::string display_;
};

}  // namespace shoal
