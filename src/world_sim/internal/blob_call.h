// One request to the fake Blob service, taken apart; errors, credentials and conditions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "world_sim/blob_service.h"

namespace shoal {

struct BlobCall {
  const BlobRequest* request = nullptr;
  WallTime now{};
  std::string_view path;                                   // as sent, without the query
  std::vector<std::pair<std::string, std::string>> query;  // lower-case names, decoded values
  std::string container;                                   // may be empty (account level)
  std::string blob;                                        // may be empty (container level)
  std::optional<BlobSas> sas;  // the accepted token, when the request came with one
  bool shared_key = false;

  bool is_head() const { return request->method == "HEAD"; }
  const std::string* header(std::string_view name) const;
  const std::string* param(std::string_view name) const;
  bool param_is(std::string_view name, std::string_view value) const;
};

// An error answer in Azure's form.
BlobReply blob_error(const BlobCall& call, int status, std::string_view code,
                     std::string_view message);

// Fills path, query, container and blob; an error answer if the target is malformed.
std::optional<BlobReply> parse_blob_target(BlobCall& call, const BlobServiceConfig& config);

enum class BlobPermission { kRead, kWrite, kDelete, kList };
// Nothing if the request may go on; otherwise 401 or 403.
std::optional<BlobReply> authorize_blob_call(BlobCall& call, const BlobServiceConfig& config,
                                             BlobPermission wanted);

// If-Match and friends against the committed blob (null if there is none). Nothing if they hold.
enum class BlobConditionUse { kRead, kCreate, kChange };
std::optional<BlobReply> check_blob_conditions(const BlobCall& call, const BlobService::Blob* blob,
                                               BlobConditionUse use);

// x-ms-meta-* of the request; an error answer if a name or value is not allowed.
std::optional<BlobReply> read_blob_metadata(const BlobCall& call,
                                            std::map<std::string, std::string>& metadata);
// Content-MD5 and x-ms-content-crc64 against the body; nothing if they agree or are absent.
std::optional<BlobReply> check_blob_sums(const BlobCall& call);

struct BlobRange {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool whole = true;  // no range was asked for
};
std::optional<BlobReply> read_blob_range(const BlobCall& call, uint64_t size, BlobRange& range);

// The fields of HMAC-SHA256's input as the documentation of SharedKey gives them.
std::string blob_string_to_sign(const BlobCall& call, std::string_view account);
std::string blob_hmac_base64(std::string_view key, std::string_view text);
std::string blob_md5_base64(const BlobContent& content);
std::string blob_crc64_base64(const BlobContent& content);

bool is_blob_utf8(std::string_view text);
// For text and attributes of XML 1.0; carriage returns and the like as references.
std::string blob_xml_escape(std::string_view text);
// Whether every character may stand in XML 1.0 at all.
bool is_blob_xml_text(std::string_view text);

}  // namespace shoal
