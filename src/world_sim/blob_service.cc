#include "world_sim/blob_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/object_name.h"
#include "world_sim/internal/blob_call.h"

namespace shoal {

namespace {

constexpr std::string_view kServiceVersion = "2023-11-03";

BlobReply container_not_found(const BlobCall& call) {
  return blob_error(call, 404, "ContainerNotFound", "The specified container does not exist.");
}

BlobPermission permission_of(BlobOperation operation) {
  switch (operation) {
    case BlobOperation::kHeadContainer:
    case BlobOperation::kGetBlob:
    case BlobOperation::kHeadBlob:
    case BlobOperation::kGetBlockList:
      return BlobPermission::kRead;
    case BlobOperation::kList:
    case BlobOperation::kListContainers:
      return BlobPermission::kList;
    case BlobOperation::kDeleteBlob:
    case BlobOperation::kDeleteContainer:
      return BlobPermission::kDelete;
    default:
      return BlobPermission::kWrite;
  }
}

// What every answer carries.
void finish(const BlobCall& call, uint64_t request_number, BlobReply& reply) {
  reply.headers.emplace_back("server", "Windows-Azure-Blob/1.0 Microsoft-HTTPAPI/2.0");
  reply.headers.emplace_back("x-ms-request-id",
                             fmt::format("00000000-0000-0000-0000-{:012x}", request_number));
  if (const std::string* id = call.header("x-ms-client-request-id")) {
    reply.headers.emplace_back("x-ms-client-request-id", *id);
  }
  const std::string* version = call.header("x-ms-version");
  reply.headers.emplace_back("x-ms-version", version ? *version : std::string(kServiceVersion));
  reply.headers.emplace_back("date", blob_date(call.now));
  if (reply.header("content-length") == nullptr && reply.status != 304 && reply.status != 204) {
    reply.headers.emplace_back("content-length", fmt::format("{}", reply.body.size()));
  }
}

}  // namespace

const std::string* BlobReply::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return &value;
  }
  return nullptr;
}

std::string_view blob_operation_name(BlobOperation operation) {
  static constexpr std::array<std::string_view, kBlobOperations> kNames = {
      "create_container", "head_container", "delete_container", "list_containers", "list",
      "put_blob",         "put_block",      "put_block_list",   "get_block_list",  "get_blob",
      "head_blob",        "delete_blob",    "copy_blob",        "set_metadata",    "set_properties",
      "unknown"};
  return kNames[static_cast<size_t>(operation)];
}

BlobService::BlobService(BlobServiceConfig config) : config_(std::move(config)) {
  SHOAL_ASSERT(base64_decode(config_.key_base64).has_value(), "the account key must be base64");
}

BlobOperation BlobService::classify(const BlobCall& call) const {
  const std::string& method = call.request->method;
  const std::string* comp = call.param("comp");
  bool get = method == "GET";
  bool head = method == "HEAD";
  bool put = method == "PUT";
  if (call.blob.empty()) {
    bool container = call.param_is("restype", "container");
    if (call.container.empty()) {
      return get && comp && *comp == "list" ? BlobOperation::kListContainers
                                            : BlobOperation::kUnknown;
    }
    if (!container) return BlobOperation::kUnknown;
    if (get && comp && *comp == "list") return BlobOperation::kList;
    if (comp != nullptr) return BlobOperation::kUnknown;
    if (put) return BlobOperation::kCreateContainer;
    if (get || head) return BlobOperation::kHeadContainer;
    return method == "DELETE" ? BlobOperation::kDeleteContainer : BlobOperation::kUnknown;
  }
  if (comp == nullptr) {
    if (put) {
      return call.header("x-ms-copy-source") ? BlobOperation::kCopyBlob : BlobOperation::kPutBlob;
    }
    if (get) return BlobOperation::kGetBlob;
    if (head) return BlobOperation::kHeadBlob;
    return method == "DELETE" ? BlobOperation::kDeleteBlob : BlobOperation::kUnknown;
  }
  if (*comp == "block" && put) return BlobOperation::kPutBlock;
  if (*comp == "blocklist" && put) return BlobOperation::kPutBlockList;
  if (*comp == "blocklist" && get) return BlobOperation::kGetBlockList;
  if (*comp == "metadata" && put) return BlobOperation::kSetMetadata;
  if (*comp == "metadata" && (get || head)) return BlobOperation::kHeadBlob;
  if (*comp == "properties" && put) return BlobOperation::kSetProperties;
  return BlobOperation::kUnknown;
}

BlobReply BlobService::handle(const BlobRequest& request, WallTime now) {
  BlobCall call;
  call.request = &request;
  call.now = now;
  BlobOperation operation = BlobOperation::kUnknown;
  std::optional<BlobReply> refused = parse_blob_target(call, config_);
  if (!refused) {
    operation = classify(call);
    refused = authorize_blob_call(call, config_, permission_of(operation));
  }
  BlobReply reply = refused ? std::move(*refused) : dispatch(call, operation);
  SHOAL_ASSERT(reply.status >= 200 && reply.status < 600);
  finish(call, ++request_number_, reply);
  SHOAL_ASSERT(!call.is_head() || reply.body.empty(), "an answer to HEAD has no body");
  ++stats_.requests[static_cast<size_t>(operation)];
  if (reply.status >= 400) ++stats_.failures[static_cast<size_t>(operation)];
  stats_.bytes_in += request.body.size();
  if (operation == BlobOperation::kGetBlob && reply.status < 300) {
    stats_.bytes_out += reply.body.size();
  }
  return reply;
}

BlobReply BlobService::refuse(const BlobRequest& request, BlobFault fault, Duration retry_after,
                              WallTime now) {
  BlobCall call;
  call.request = &request;
  call.now = now;
  BlobReply reply;
  if (fault == BlobFault::kBusy) {
    reply = blob_error(call, 503, "ServerBusy",
                       "The server is currently unable to receive "
                       "requests. Please retry your request.");
    auto seconds = std::chrono::ceil<std::chrono::seconds>(retry_after).count();
    if (seconds > 0) reply.headers.emplace_back("retry-after", fmt::format("{}", seconds));
    auto ms = std::chrono::ceil<std::chrono::milliseconds>(retry_after).count();
    reply.headers.emplace_back("x-ms-retry-after-ms", fmt::format("{}", ms));
  } else if (fault == BlobFault::kServerError) {
    reply = blob_error(call, 500, "OperationTimedOut",
                       "Operation could not be completed within the permitted time.");
  } else {
    SHOAL_ASSERT(fault == BlobFault::kExpiredToken, "this fault is not an answer");
    const std::string* credential = call.header("authorization");
    bool bearer = credential != nullptr && credential->starts_with("Bearer ");
    reply = blob_error(call, bearer ? 401 : 403,
                       bearer ? "InvalidAuthenticationInfo" : "AuthenticationFailed",
                       "The credential has expired.");
    if (bearer) reply.headers.emplace_back("www-authenticate", "Bearer error=invalid_token");
  }
  finish(call, ++request_number_, reply);
  ++stats_.refused;
  return reply;
}

bool BlobService::touch_target(const BlobRequest& request, WallTime now) {
  BlobCall call;
  call.request = &request;
  call.now = now;
  if (parse_blob_target(call, config_)) return false;
  return touch(call.container, call.blob, now);
}

BlobReply BlobService::dispatch(BlobCall& call, BlobOperation operation) {
  if (operation == BlobOperation::kUnknown) {
    return blob_error(call, 400, "UnsupportedQueryParameter",
                      "This operation is not offered by this service.");
  }
  if (operation == BlobOperation::kListContainers) return list_containers(call);
  if (call.blob.empty() && operation != BlobOperation::kList) return on_container(call, operation);
  auto found = containers_.find(call.container);
  if (found == containers_.end()) return container_not_found(call);
  Container& container = found->second;
  switch (operation) {
    case BlobOperation::kList:
      return list(call, container);
    case BlobOperation::kPutBlob:
      return put_blob(call, container);
    case BlobOperation::kPutBlock:
      return put_block(call, container);
    case BlobOperation::kPutBlockList:
      return put_block_list(call, container);
    case BlobOperation::kGetBlockList:
      return get_block_list(call, container);
    case BlobOperation::kGetBlob:
      return get_blob(call, container);
    case BlobOperation::kHeadBlob:
      return head_blob(call, container);
    case BlobOperation::kDeleteBlob:
      return delete_blob(call, container);
    case BlobOperation::kCopyBlob:
      return copy_blob(call, container);
    case BlobOperation::kSetMetadata:
      return set_metadata(call, container);
    case BlobOperation::kSetProperties:
      return set_properties(call, container);
    default:
      break;
  }
  SHOAL_ASSERT(false, "an operation without a handler");
}

BlobReply BlobService::on_container(BlobCall& call, BlobOperation operation) {
  auto found = containers_.find(call.container);
  bool exists = found != containers_.end();
  BlobReply reply;
  if (operation == BlobOperation::kCreateContainer) {
    if (exists) {
      return blob_error(call, 409, "ContainerAlreadyExists",
                        "The specified container already exists.");
    }
    found = containers_.emplace(call.container, Container{}).first;
    found->second.version = next_version();
    found->second.modified = call.now;
    reply.status = 201;
  } else if (!exists) {
    return container_not_found(call);
  } else if (operation == BlobOperation::kDeleteContainer) {
    containers_.erase(found);
    reply.status = 202;
    return reply;
  } else {
    reply.status = 200;
  }
  reply.headers.emplace_back("etag", blob_etag(found->second.version));
  reply.headers.emplace_back("last-modified", blob_date(found->second.modified));
  return reply;
}

// --- set-up and checks ---

void BlobService::add_container(std::string_view container) {
  if (containers_.contains(container)) return;
  containers_.emplace(std::string(container), Container{}).first->second.version = next_version();
}

void BlobService::add(std::string_view container, std::string_view name, BlobContent content,
                      std::map<std::string, std::string> metadata, WallTime when) {
  SHOAL_ASSERT(!name.empty() && name.size() <= kObjectNameBytesMax && is_blob_utf8(name));
  add_container(container);
  Blob& blob = containers_.find(container)->second.blobs[std::string(name)];
  blob = Blob{};
  blob.committed = true;
  blob.version = next_version();
  blob.created = blob.modified = when;
  blob.content = std::move(content);
  blob.metadata = std::move(metadata);
}

void BlobService::add_many(std::string_view container, std::string_view prefix, uint64_t count,
                           uint64_t size, uint64_t seed) {
  add_container(container);
  auto& blobs = containers_.find(container)->second.blobs;
  auto hint = blobs.lower_bound(prefix);
  for (uint64_t i = 0; i < count; ++i) {
    Blob blob;
    blob.committed = true;
    blob.version = next_version();
    blob.content = BlobContent::synthetic(seed + i, size);
    std::string name = fmt::format("{}{:08}", prefix, i);
    hint = blobs.insert_or_assign(hint, std::move(name), std::move(blob));
    ++hint;
  }
}

bool BlobService::remove(std::string_view container, std::string_view name) {
  auto found = containers_.find(container);
  if (found == containers_.end()) return false;
  auto blob = found->second.blobs.find(name);
  if (blob == found->second.blobs.end()) return false;
  found->second.blobs.erase(blob);
  return true;
}

bool BlobService::touch(std::string_view container, std::string_view name, WallTime now) {
  auto found = containers_.find(container);
  if (found == containers_.end()) return false;
  auto blob = found->second.blobs.find(name);
  if (blob == found->second.blobs.end() || !blob->second.committed) return false;
  blob->second.version = next_version();
  blob->second.modified = now;
  return true;
}

std::optional<BlobView> BlobService::find(std::string_view container, std::string_view name) const {
  auto found = containers_.find(container);
  if (found == containers_.end()) return {};
  auto entry = found->second.blobs.find(name);
  if (entry == found->second.blobs.end() || !entry->second.committed) return {};
  const Blob& blob = entry->second;
  return BlobView{
      blob.content.size(), blob_etag(blob.version), blob.modified, blob.metadata, blob.content,
      blob.gets,           blob.uncommitted.size()};
}

std::vector<std::string> BlobService::block_ids(std::string_view container,
                                                std::string_view name) const {
  std::vector<std::string> ids;
  auto found = containers_.find(container);
  if (found == containers_.end()) return ids;
  auto entry = found->second.blobs.find(name);
  if (entry == found->second.blobs.end() || !entry->second.committed) return ids;
  for (const Block& block : entry->second.blocks) {
    auto id = base64_decode(block.id);
    SHOAL_ASSERT(id.has_value(), "checked when it was put");
    ids.push_back(std::move(*id));
  }
  return ids;
}

std::vector<std::string> BlobService::names(std::string_view container,
                                            std::string_view prefix) const {
  std::vector<std::string> names;
  auto found = containers_.find(container);
  if (found == containers_.end()) return names;
  const auto& blobs = found->second.blobs;
  for (auto it = blobs.lower_bound(prefix); it != blobs.end() && it->first.starts_with(prefix);
       ++it) {
    if (it->second.committed) names.push_back(it->first);
  }
  return names;
}

uint64_t BlobService::gets(std::string_view container, std::string_view name) const {
  auto view = find(container, name);
  return view ? view->gets : 0;
}

std::vector<std::pair<std::string, uint64_t>> BlobService::most_read(size_t count_max) const {
  std::vector<std::pair<std::string, uint64_t>> all;
  for (const auto& [container_name, container] : containers_) {
    for (const auto& [name, blob] : container.blobs) {
      if (blob.gets > 0) all.emplace_back(container_name + "/" + name, blob.gets);
    }
  }
  size_t count = std::min(count_max, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<ptrdiff_t>(count), all.end(),
                    [](const auto& a, const auto& b) {
                      return a.second != b.second ? a.second > b.second : a.first < b.first;
                    });
  all.resize(count);
  return all;
}

uint64_t BlobService::uncommitted_blocks() const {
  uint64_t sum = 0;
  for (const auto& [container_name, container] : containers_) {
    for (const auto& [name, blob] : container.blobs) sum += blob.uncommitted.size();
  }
  return sum;
}

void BlobService::reset_stats() {
  stats_ = {};
  reads_.clear();
  for (auto& [container_name, container] : containers_) {
    for (auto& [name, blob] : container.blobs) blob.gets = 0;
  }
}

}  // namespace shoal
