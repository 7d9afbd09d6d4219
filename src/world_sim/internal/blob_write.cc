// The writing half of the fake Blob service.
#include <fmt/format.h>

#include <algorithm>
#include <pugixml.hpp>
#include <unordered_map>

#include "base/object_name.h"
#include "world_sim/internal/blob_call.h"

namespace shoal {

namespace {

constexpr uint64_t kPutBlobBytesMax = 5000 * kMiB;
constexpr uint64_t kBlockBytesMax = 4000 * kMiB;
constexpr uint64_t kBlockListBytesMax = 16 * kMiB;
constexpr size_t kCommittedBlocksMax = 50000;
constexpr size_t kUncommittedBlocksMax = 100000;
constexpr size_t kBlockIdBytesMax = 64;

using Blob = BlobService::Blob;
using Container = BlobService::Container;

Blob* committed(Container& container, const std::string& name) {
  auto found = container.blobs.find(name);
  return found != container.blobs.end() && found->second.committed ? &found->second : nullptr;
}

BlobReply too_large(const BlobCall& call, uint64_t limit) {
  return blob_error(call, 413, "RequestBodyTooLarge",
                    fmt::format("The request body is too large; at most {} bytes.", limit));
}

// x-ms-blob-content-type and its kind.
void read_properties(const BlobCall& call, Blob& blob) {
  blob.properties.clear();
  constexpr std::string_view kPrefix = "x-ms-blob-";
  for (const char* name : {"content-type", "content-encoding", "content-language", "content-md5",
                           "cache-control", "content-disposition"}) {
    if (const std::string* value = call.header(std::string(kPrefix) + name)) {
      blob.properties[name] = *value;
    }
  }
}

bool same_length_ids(const Blob& blob, const std::string& raw_id) {
  if (blob.uncommitted.empty()) return true;
  auto other = base64_decode(blob.uncommitted.begin()->first);
  return other.has_value() && other->size() == raw_id.size();
}

}  // namespace

BlobContent BlobService::kept(const BlobContent& body) const {
  bool discard = config_.discard_writes && body.size() >= config_.discard_from;
  return discard ? BlobContent::synthetic(0, body.size()) : body;
}

BlobReply BlobService::written(BlobCall& call, Blob& blob, int status) {
  blob.version = next_version();
  blob.modified = call.now;
  if (!blob.committed) blob.created = call.now;
  blob.committed = true;
  BlobReply reply;
  reply.status = status;
  reply.headers.emplace_back("etag", blob_etag(blob.version));
  reply.headers.emplace_back("last-modified", blob_date(blob.modified));
  reply.headers.emplace_back("x-ms-request-server-encrypted", "true");
  return reply;
}

BlobReply BlobService::put_blob(BlobCall& call, Container& container) {
  const std::string* type = call.header("x-ms-blob-type");
  if (type == nullptr) {
    return blob_error(call, 400, "MissingRequiredHeader", "x-ms-blob-type is missing.");
  }
  if (*type != "BlockBlob") {
    return blob_error(call, 400, "InvalidHeaderValue", "Only BlockBlob is offered.");
  }
  if (call.header("x-ms-structured-body") != nullptr) {
    return blob_error(call, 400, "UnsupportedHeader", "Structured bodies are not offered.");
  }
  if (call.request->body.size() > kPutBlobBytesMax) return too_large(call, kPutBlobBytesMax);
  Blob* old = committed(container, call.blob);
  if (auto reply = check_blob_conditions(call, old, BlobConditionUse::kCreate)) return *reply;
  if (auto reply = check_blob_sums(call)) return *reply;
  std::map<std::string, std::string> metadata;
  if (auto reply = read_blob_metadata(call, metadata)) return *reply;
  Blob& blob = container.blobs[call.blob];
  read_properties(call, blob);
  if (const std::string* md5 = call.header("content-md5")) blob.properties["content-md5"] = *md5;
  blob.metadata = std::move(metadata);
  blob.content = kept(call.request->body);
  blob.blocks.clear();
  blob.uncommitted.clear();
  return written(call, blob, 201);
}

BlobReply BlobService::put_block(BlobCall& call, Container& container) {
  const std::string* id = call.param("blockid");
  if (id == nullptr) {
    return blob_error(call, 400, "MissingRequiredQueryParameter", "blockid is missing.");
  }
  auto raw = base64_decode(*id);
  if (!raw || raw->empty() || raw->size() > kBlockIdBytesMax) {
    return blob_error(call, 400, "InvalidQueryParameterValue",
                      "blockid is not base64 of 1 to 64 bytes.");
  }
  const BlobContent& body = call.request->body;
  if (body.size() > kBlockBytesMax) return too_large(call, kBlockBytesMax);
  if (body.empty()) {
    return blob_error(call, 400, "InvalidHeaderValue", "A block has at least one byte.");
  }
  if (auto reply = check_blob_sums(call)) return *reply;
  auto found = container.blobs.find(call.blob);
  if (found != container.blobs.end()) {
    const Blob& blob = found->second;
    if (!same_length_ids(blob, *raw)) {
      return blob_error(call, 400, "InvalidBlobOrBlock",
                        "The specified blob or block content is invalid (block ids of one blob "
                        "have one length).");
    }
    if (blob.uncommitted.size() >= kUncommittedBlocksMax && !blob.uncommitted.contains(*id)) {
      return blob_error(call, 409, "BlockCountExceedsLimit",
                        "The uncommitted block count cannot exceed 100,000.");
    }
  }
  Blob& blob = container.blobs[call.blob];
  auto has_id = [&id](const Block& block) { return block.id == *id; };
  if (blob.uncommitted.contains(*id) || std::ranges::any_of(blob.blocks, has_id)) {
    ++stats_.blocks_repeated;
  }
  blob.uncommitted.insert_or_assign(*id, kept(body));
  BlobReply reply;
  reply.status = 201;
  if (const std::string* md5 = call.header("content-md5")) {
    reply.headers.emplace_back("content-md5", *md5);
  } else {
    // The real service always answers with a checksum; computing it costs as much as the copy.
    if (const std::string* crc = call.header("x-ms-content-crc64")) {
      reply.headers.emplace_back("x-ms-content-crc64", *crc);
    }
  }
  reply.headers.emplace_back("x-ms-request-server-encrypted", "true");
  return reply;
}

BlobReply BlobService::put_block_list(BlobCall& call, Container& container) {
  const BlobContent& body = call.request->body;
  if (body.size() > kBlockListBytesMax) return too_large(call, kBlockListBytesMax);
  if (auto reply = check_blob_sums(call)) return *reply;
  Blob* old = committed(container, call.blob);
  if (auto reply = check_blob_conditions(call, old, BlobConditionUse::kCreate)) return *reply;
  std::map<std::string, std::string> metadata;
  if (auto reply = read_blob_metadata(call, metadata)) return *reply;

  std::string text = body.to_string();
  pugi::xml_document document;
  auto parsed = document.load_buffer(text.data(), text.size());
  pugi::xml_node root = document.child("BlockList");
  if (!parsed || !root) {
    return blob_error(call, 400, "InvalidXmlDocument", "XML specified is not syntactically valid.");
  }
  auto bad_list = [&] {
    return blob_error(call, 400, "InvalidBlockList", "The specified block list is invalid.");
  };
  auto entry = container.blobs.find(call.blob);
  std::unordered_map<std::string_view, const BlobContent*> by_id;
  if (old != nullptr) {
    for (const Block& block : old->blocks) by_id.emplace(block.id, &block.content);
  }
  std::vector<Block> blocks;
  BlobContent content;
  for (pugi::xml_node node : root.children()) {
    if (node.type() != pugi::node_element) continue;
    std::string_view from = node.name();
    bool latest = from == "Latest";
    if (!latest && from != "Uncommitted" && from != "Committed") {
      return blob_error(call, 400, "InvalidXmlNodeValue", "An element of the list is unknown.");
    }
    if (blocks.size() >= kCommittedBlocksMax) {
      return blob_error(call, 400, "BlockListTooLong",
                        "The block list may not contain more than "
                        "50,000 blocks.");
    }
    std::string id = node.text().as_string();
    const BlobContent* found = nullptr;
    if (entry != container.blobs.end() && (latest || from == "Uncommitted")) {
      auto staged = entry->second.uncommitted.find(id);
      if (staged != entry->second.uncommitted.end()) found = &staged->second;
    }
    if (found == nullptr && (latest || from == "Committed")) {
      auto kept_block = by_id.find(id);
      if (kept_block != by_id.end()) found = kept_block->second;
    }
    if (found == nullptr) return bad_list();
    if (!blocks.empty() && blocks.front().id.size() != id.size()) return bad_list();
    content.append(*found);
    blocks.push_back({std::move(id), *found});
  }
  // Nothing was changed so far; from here on nothing can fail: all or nothing.
  Blob& blob = container.blobs[call.blob];
  read_properties(call, blob);
  blob.metadata = std::move(metadata);
  blob.content = std::move(content);
  blob.blocks = std::move(blocks);
  blob.uncommitted.clear();
  return written(call, blob, 201);
}

BlobReply BlobService::delete_blob(const BlobCall& call, Container& container) {
  Blob* blob = committed(container, call.blob);
  if (blob == nullptr) {
    return blob_error(call, 404, "BlobNotFound", "The specified blob does not exist.");
  }
  if (auto reply = check_blob_conditions(call, blob, BlobConditionUse::kChange)) return *reply;
  container.blobs.erase(call.blob);
  BlobReply reply;
  reply.status = 202;
  reply.headers.emplace_back("x-ms-delete-type-permanent", "true");
  return reply;
}

BlobReply BlobService::copy_blob(BlobCall& call, Container& container) {
  auto no_source = [&](int status, std::string_view why) {
    return blob_error(call, status, "CannotVerifyCopySource", why);
  };
  std::string_view url = *call.header("x-ms-copy-source");
  size_t scheme = url.find("://");
  size_t slash = scheme == std::string_view::npos ? scheme : url.find('/', scheme + 3);
  if (slash == std::string_view::npos) return no_source(400, "The source is not a URL.");
  BlobRequest source_request;
  source_request.method = "GET";
  source_request.target = url.substr(slash);
  source_request.headers.emplace_back("host", url.substr(scheme + 3, slash - scheme - 3));
  BlobCall source;
  source.request = &source_request;
  source.now = call.now;
  if (auto reply = parse_blob_target(source, config_)) return no_source(400, "A malformed URL.");
  // The account's own key opens the source too; a SAS must be repeated in the source's URL.
  if (config_.require_auth && !call.shared_key && call.sas && !config_.anonymous_read) {
    if (authorize_blob_call(source, config_, BlobPermission::kRead)) {
      return no_source(403, "The source is not authorized.");
    }
  }
  auto from = containers_.find(source.container);
  Blob* origin = from == containers_.end() ? nullptr : committed(from->second, source.blob);
  if (origin == nullptr) {
    return blob_error(call, 404, "BlobNotFound", "The source blob does not exist.");
  }
  std::string etag = blob_etag(origin->version);
  const std::string* match = call.header("x-ms-source-if-match");
  const std::string* none_match = call.header("x-ms-source-if-none-match");
  if ((match && *match != "*" && *match != etag) ||
      (none_match && (*none_match == "*" || *none_match == etag))) {
    return blob_error(
        call, 412, "SourceConditionNotMet",
        "The source condition specified using HTTP conditional header(s) is not met.");
  }
  Blob* old = committed(container, call.blob);
  if (auto reply = check_blob_conditions(call, old, BlobConditionUse::kCreate)) return *reply;
  std::map<std::string, std::string> metadata;
  if (auto reply = read_blob_metadata(call, metadata)) return *reply;
  Blob copy = *origin;  // by value: the source may be the target
  Blob& blob = container.blobs[call.blob];
  if (&blob != origin) blob.uncommitted.clear();
  blob.content = std::move(copy.content);
  blob.blocks = std::move(copy.blocks);
  blob.properties = std::move(copy.properties);
  blob.metadata = metadata.empty() ? std::move(copy.metadata) : std::move(metadata);
  BlobReply reply = written(call, blob, 202);
  reply.headers.emplace_back("x-ms-copy-id",
                             fmt::format("00000000-0000-0000-0001-{:012x}", blob.version));
  reply.headers.emplace_back("x-ms-copy-status", "success");
  return reply;
}

BlobReply BlobService::set_metadata(BlobCall& call, Container& container) {
  Blob* blob = committed(container, call.blob);
  if (blob == nullptr) {
    return blob_error(call, 404, "BlobNotFound", "The specified blob does not exist.");
  }
  if (auto reply = check_blob_conditions(call, blob, BlobConditionUse::kChange)) return *reply;
  std::map<std::string, std::string> metadata;
  if (auto reply = read_blob_metadata(call, metadata)) return *reply;
  blob->metadata = std::move(metadata);
  return written(call, *blob, 200);
}

BlobReply BlobService::set_properties(BlobCall& call, Container& container) {
  Blob* blob = committed(container, call.blob);
  if (blob == nullptr) {
    return blob_error(call, 404, "BlobNotFound", "The specified blob does not exist.");
  }
  if (auto reply = check_blob_conditions(call, blob, BlobConditionUse::kChange)) return *reply;
  read_properties(call, *blob);
  return written(call, *blob, 200);
}

}  // namespace shoal
