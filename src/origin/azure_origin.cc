#include "origin/azure_origin.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "async/backoff.h"
#include "base/object_name.h"
#include "origin/azure_xml.h"
#include "origin/http_date.h"
#include "origin/internal/crc64.h"

namespace shoal {

namespace {

constexpr uint32_t kListEntriesMax = 5000;
// 5,000 names of 1 KiB, written as XML entities, with 8 KiB of metadata each, stay below this.
constexpr size_t kListBytesMax = 96 * kMiB;
constexpr size_t kBlockListBytesMax = 32 * kMiB;  // 100,000 blocks of about 150 bytes
constexpr Duration kStagedLimit = std::chrono::seconds(10);
constexpr size_t kMetadataBytesMax = 8 * kKiB;
constexpr size_t kBlockIdBytesMax = 64;
constexpr std::string_view kStateDirectory = ".shoal/";

Status validate_name(std::string_view prefix, std::string_view object) {
  if (object.empty()) return fail(Code::kInvalidArgument, "an object name is empty");
  if (prefix.size() + object.size() > kObjectNameBytesMax) {
    return fail(Code::kNameTooLong,
                fmt::format("the object name has {} bytes, at most {} are possible",
                            prefix.size() + object.size(), kObjectNameBytesMax));
  }
  return {};
}

Status validate_metadata(const Metadata& metadata) {
  size_t bytes = 0;
  for (const auto& [name, value] : metadata) {
    bytes += name.size() + value.size();
    bool good = !name.empty() && !(name[0] >= '0' && name[0] <= '9');
    for (char c : name) {
      good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_');
    }
    if (!good) {
      return fail(Code::kInvalidArgument,
                  fmt::format("'{}' is not a metadata name ([a-z_][a-z0-9_]*)", name));
    }
    for (char c : value) good = good && c >= ' ' && c <= '~';
    if (!value.empty() && (value.front() == ' ' || value.back() == ' ')) good = false;
    if (!good) {
      return fail(
          Code::kInvalidArgument,
          fmt::format("the metadata value of '{}' is not plain ASCII without outer spaces", name));
    }
  }
  if (bytes > kMetadataBytesMax) {
    return fail(Code::kTooLarge,
                fmt::format("metadata of {} bytes; at most {} fit", bytes, kMetadataBytesMax));
  }
  return {};
}

void add_metadata(HttpHeaders& headers, const Metadata& metadata) {
  for (const auto& [name, value] : metadata) headers.emplace_back("x-ms-meta-" + name, value);
}

void add_condition(HttpHeaders& headers, const Condition& condition) {
  if (condition.kind == Condition::Kind::kAbsent) headers.emplace_back("If-None-Match", "*");
  if (condition.kind == Condition::Kind::kMatch) {
    headers.emplace_back("If-Match", fmt::format("\"{}\"", condition.etag));
  }
}

// ETag, date and metadata from the answer's headers; not the size.
Result<ObjectInfo> info_of(const HttpResponse& response, std::string name) {
  ObjectInfo info;
  info.name = std::move(name);
  const std::string* etag = response.header("etag");
  if (etag == nullptr || unquote_etag(*etag).empty()) {
    return fail(Code::kUnavailable, "the origin's answer has no ETag; is a proxy in between?");
  }
  info.etag = unquote_etag(*etag);
  if (const std::string* modified = response.header("last-modified")) {
    if (auto time = parse_http_date(*modified)) info.modified = *time;
  }
  for (const auto& [key, value] : response.headers) {
    if (key.starts_with("x-ms-meta-")) info.metadata[key.substr(10)] = value;
    if (key == "x-ms-resource-type" && value == "directory") info.metadata["hdi_isfolder"] = "true";
  }
  return info;
}

// Whether the answer is `length` bytes at `offset` of the version `etag`.
Status check_range(const HttpResponse& response, const std::string& etag, uint64_t offset,
                   uint64_t length) {
  const std::string* got = response.header("etag");
  if (got == nullptr) {
    return fail(Code::kUnavailable, "the origin's answer has no ETag; is a proxy in between?");
  }
  if (unquote_etag(*got) != etag) {
    return fail(Code::kStale, "it was replaced while it was being read; open it again");
  }
  const std::string* range = response.header("content-range");
  if (response.into_bytes == length) {
    std::string expected = fmt::format("bytes {}-{}/", offset, offset + length - 1);
    bool good = response.status == 206 ? range != nullptr && range->starts_with(expected)
                                       : response.status == 200 && offset == 0;
    if (good) return {};
    return fail(Code::kUnavailable, "the origin answered with another range than asked for");
  }
  size_t slash = range == nullptr ? std::string::npos : range->find('/');
  if (slash != std::string::npos) {
    Result<uint64_t> total = parse_decimal(std::string_view(*range).substr(slash + 1));
    if (total && (offset > *total || length > *total - offset)) {
      return fail(Code::kInvalidArgument, fmt::format("bytes {} to {} lie past its end at {}",
                                                      offset, offset + length, *total));
    }
  }
  return fail(Code::kUnavailable,
              fmt::format("the answer has {} bytes instead of {}", response.into_bytes, length));
}

}  // namespace

void AzureOrigin::Protocol::sign(HttpRequest& request) {
  origin_.signer_.sign(request, origin_.world_.executor.wall_now(),
                       origin_.world_.random.id128().to_hex());
}

std::string AzureOrigin::Protocol::error_code(const HttpResponse& response) const {
  return azure_error_code(response);
}

Error AzureOrigin::Protocol::error_of(const HttpResponse& response, const std::string& what) const {
  ErrorPlace place{what, origin_.config_.url.account, origin_.config_.url.container,
                   origin_.signer_.uses_sas(), origin_.signer_.anonymous()};
  return azure_error(response, place, origin_.world_.executor.wall_now());
}

AzureOrigin::AzureOrigin(AzureConfig config, World& world, Registry& registry, const Log& log)
    : config_(std::move(config)),
      world_(world),
      log_(log),
      metrics_(registry),
      signer_(config_.url.account, config_.credentials, config_.api_version),
      protocol_(*this),
      runner_(world_, config_.retry, protocol_, metrics_, log_),
      display_(config_.url.display_name()) {
  SHOAL_ASSERT(config_.url.kind == OriginUrl::Kind::kAzure);
  SHOAL_ASSERT(config_.url.prefix.empty() || config_.url.prefix.ends_with('/'));
  config_.credentials = {};  // the signer has them
  config_.url.sas_token.clear();
}

std::string AzureOrigin::url_of(std::string_view object) const {
  return fmt::format("{}/{}/{}", config_.url.endpoint, config_.url.container,
                     percent_encode(config_.url.prefix + std::string(object), true));
}

OriginRequest AzureOrigin::request(std::string method, std::string_view verb,
                                   std::string_view object, std::string_view query) const {
  OriginRequest out;
  out.http.method = std::move(method);
  out.http.url = url_of(object);
  if (!query.empty()) out.http.url.append("?").append(query);
  out.what = fmt::format("{} {}/{}", verb, display_, object);
  // Named always, so that no transport adds one of its own after signing.
  if (out.http.method == "PUT") {
    out.http.headers.emplace_back("Content-Type", "application/octet-stream");
  }
  return out;
}

void AzureOrigin::add_content_crc(OriginRequest& request) const {
  if (!config_.content_crc64 || request.http.body.empty()) return;
  uint64_t crc = crc64_nvme(request.http.body);
  char bytes[8];
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(crc >> (8 * i));
  request.http.headers.emplace_back("x-ms-content-crc64", base64_encode({bytes, 8}));
}

Task<Result<ObjectInfo>> AzureOrigin::head_with(std::string object, std::string etag,
                                                std::string* copy_status, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, object));
  OriginRequest head = request("HEAD", "looking up", object, "");
  if (!etag.empty()) add_condition(head.http.headers, Condition::match(std::move(etag)));
  metrics_.heads.add();
  SHOAL_CO_ASSIGN_OR_RETURN(HttpResponse response, co_await runner_.run(head, context));
  Result<ObjectInfo> info = info_of(response, std::move(object));
  if (!info) co_return fail(std::move(info).error().with_context(head.what));
  const std::string* length = response.header("content-length");
  Result<uint64_t> size = parse_decimal(length == nullptr ? "" : *length);
  if (!size) co_return fail(std::move(size).error().with_context(head.what));
  info->size = *size;
  if (copy_status != nullptr) {
    const std::string* status = response.header("x-ms-copy-status");
    *copy_status = status == nullptr ? "" : *status;
  }
  co_return std::move(info);
}

Task<Result<ObjectInfo>> AzureOrigin::head(std::string object, Context context) {
  return head_with(std::move(object), "", nullptr, context);
}

Task<Status> AzureOrigin::read(std::string object, std::string etag, uint64_t offset, ByteSpan into,
                               std::function<void(uint64_t)> progress, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, object));
  if (etag.empty()) co_return fail(Code::kInvalidArgument, "a read needs the version's ETag");
  Error error(Code::kInternal, "");
  std::string error_code;
  if (into.empty()) {  // no range can ask for nothing; but the version must still be there
    Result<ObjectInfo> info = co_await head_with(object, etag, nullptr, context);
    if (info && offset <= info->size) co_return Status();
    if (info) {
      co_return fail(Code::kInvalidArgument,
                     fmt::format("reading {}/{}: offset {} lies past its end at {}", display_,
                                 object, offset, info->size));
    }
    error = std::move(info).error();
  } else {
    OriginRequest get = request("GET", "reading", object, "");
    add_condition(get.http.headers, Condition::match(etag));
    get.into = into;
    get.range_offset = offset;
    get.progress = std::move(progress);
    get.check = [&etag](const HttpResponse& response, uint64_t first, uint64_t length) {
      return check_range(response, etag, first, length);
    };
    metrics_.reads.add();
    Result<HttpResponse> response = co_await runner_.run(get, context);
    if (response) {
      metrics_.bytes_read.add(into.size());
      if (get.progress && get.reported < into.size()) get.progress(into.size());
      co_return Status();
    }
    error = std::move(response).error();
    error_code = get.error_code;
  }
  bool gone = error.code() == Code::kConflict ||
              (error.code() == Code::kNotFound && error_code != "ContainerNotFound");
  if (!gone) co_return fail(std::move(error));
  co_return fail(Code::kStale, fmt::format("reading {}/{}: the version {} is gone: it was replaced "
                                           "or removed; open it again",
                                           display_, object, etag));
}

Task<Result<HttpResponse>> AzureOrigin::run_write(OriginRequest& request, Context context) {
  metrics_.writes.add();
  Result<HttpResponse> response = co_await runner_.run(request, context);
  if (response) metrics_.bytes_written.add(request.http.body.size());
  co_return std::move(response);
}

Task<Result<ObjectInfo>> AzureOrigin::settle(OriginRequest& request, Error error, Write write,
                                             Context context) {
  bool lost = error.code() == Code::kConflict || error.code() == Code::kAlreadyExists ||
              error.code() == Code::kNotFound;
  auto id = write.metadata.find(std::string(kWriteIdName));
  if (lost && request.uncertain && id != write.metadata.end()) {
    Result<ObjectInfo> now = co_await head_with(write.object, "", nullptr, context);
    bool same_size = now && (!write.size || now->size == *write.size);
    if (same_size) {
      auto found = now->metadata.find(id->first);
      if (found != now->metadata.end() && found->second == id->second) {
        log_.debug("{}: an earlier attempt had succeeded", request.what);
        co_return std::move(now);
      }
    }
  }
  if (write.condition.kind == Condition::Kind::kAbsent && error.code() == Code::kConflict &&
      request.error_code != "SourceConditionNotMet") {
    co_return fail(Code::kAlreadyExists, error.message());
  }
  co_return fail(std::move(error));
}

Task<Result<ObjectInfo>> AzureOrigin::put(std::string object, ConstByteSpan bytes,
                                          PutOptions options, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, object));
  SHOAL_CO_RETURN_IF_ERROR(validate_metadata(options.metadata));
  OriginRequest put = request("PUT", "writing", object, "");
  put.http.headers.emplace_back("x-ms-blob-type", "BlockBlob");
  add_condition(put.http.headers, options.condition);
  add_metadata(put.http.headers, options.metadata);
  put.http.body = bytes;
  add_content_crc(put);
  Result<HttpResponse> response = co_await run_write(put, context);
  if (!response) {
    Write write{object, options.condition, options.metadata, bytes.size()};
    co_return co_await settle(put, std::move(response).error(), std::move(write), context);
  }
  Result<ObjectInfo> info = info_of(*response, std::move(object));
  if (!info) co_return fail(std::move(info).error().with_context(put.what));
  info->size = bytes.size();
  info->metadata = std::move(options.metadata);
  co_return std::move(info);
}

Task<Status> AzureOrigin::put_block(std::string object, std::string block_id, uint64_t,
                                    ConstByteSpan bytes, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, object));
  if (block_id.empty() || block_id.size() > kBlockIdBytesMax || bytes.empty() ||
      bytes.size() > block_bytes_max()) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("a block of {} bytes with an id of {} is not possible", bytes.size(),
                               block_id.size()));
  }
  OriginRequest put =
      request("PUT", "staging a block of", object,
              "comp=block&blockid=" + percent_encode(base64_encode(block_id), false));
  put.http.body = bytes;
  add_content_crc(put);
  // The bytes are many times what the question costs.
  put.was_done = [&] { return is_staged(object, block_id, context); };
  SHOAL_CO_RETURN_IF_ERROR(co_await run_write(put, context));
  co_return Status();
}

Task<bool> AzureOrigin::is_staged(std::string object, std::string block_id, Context context) {
  auto staged =
      co_await staged_blocks(std::move(object), context.tightened(world_.executor, kStagedLimit));
  if (!staged) co_return false;
  co_return std::ranges::find(*staged, block_id, &BlockInfo::id) != staged->end();
}

Task<Result<std::vector<BlockInfo>>> AzureOrigin::staged_blocks(std::string object,
                                                                Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, object));
  OriginRequest get = request("GET", "listing the staged blocks of", object,
                              "comp=blocklist&blocklisttype=uncommitted");
  get.body_bytes_max = kBlockListBytesMax;
  Result<HttpResponse> response = co_await runner_.run(get, context);
  if (!response) {
    bool absent = response.error().code() == Code::kNotFound && get.error_code == "BlobNotFound";
    if (absent) co_return std::vector<BlockInfo>();
    co_return fail(std::move(response).error());
  }
  Result<std::vector<BlockInfo>> blocks = parse_block_list(response->body);
  if (!blocks) co_return fail(std::move(blocks).error().with_context(get.what));
  std::vector<BlockInfo> ours;
  for (BlockInfo& block : *blocks) {
    Result<std::string> id = base64_decode(block.id);
    if (id) ours.push_back({std::move(*id), block.size});  // other tools may write ids of any kind
  }
  co_return std::move(ours);
}

Task<Result<ObjectInfo>> AzureOrigin::commit_blocks(std::string object,
                                                    std::vector<BlockInfo> blocks,
                                                    PutOptions options, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, object));
  SHOAL_CO_RETURN_IF_ERROR(validate_metadata(options.metadata));
  if (blocks.size() > blocks_max()) {
    co_return fail(Code::kTooLarge,
                   fmt::format("{} blocks; an object has at most {}", blocks.size(), blocks_max()));
  }
  std::vector<std::string> ids;
  uint64_t size = 0;
  ids.reserve(blocks.size());
  for (const BlockInfo& block : blocks) {
    ids.push_back(base64_encode(block.id));
    size += block.size;
  }
  std::string xml = format_block_list(ids);
  OriginRequest commit = request("PUT", "committing the blocks of", object, "comp=blocklist");
  add_condition(commit.http.headers, options.condition);
  add_metadata(commit.http.headers, options.metadata);
  commit.http.headers.emplace_back("x-ms-blob-content-type", "application/octet-stream");
  commit.http.body = as_bytes(xml);
  Result<HttpResponse> response = co_await run_write(commit, context);
  if (!response) {
    Write write{object, options.condition, options.metadata, size};
    co_return co_await settle(commit, std::move(response).error(), std::move(write), context);
  }
  Result<ObjectInfo> info = info_of(*response, object);
  if (!info) co_return fail(std::move(info).error().with_context(commit.what));
  info->size = size;
  info->metadata = std::move(options.metadata);
  // A commit that was cut off on its way has been seen to leave an empty object: look.
  Result<ObjectInfo> now = co_await head_with(std::move(object), "", nullptr, context);
  if (now && now->etag == info->etag && now->size != size) {
    co_return fail(Code::kCorrupt,
                   fmt::format("{}: the object has {} bytes after the commit instead of {}; write "
                               "it again",
                               commit.what, now->size, size));
  }
  bool unknown = !now && now.error().code() != Code::kNotFound;  // replaced or removed since: fine
  if (unknown) co_return fail(std::move(now).error().with_context("checking the commit"));
  co_return std::move(info);
}

Task<Result<ListPage>> AzureOrigin::list(ListOptions options, Context context) {
  uint32_t entries = std::clamp<uint32_t>(options.entries_max, 1, kListEntriesMax);
  std::string marker = options.marker;
  std::string full_prefix = config_.url.prefix + options.prefix;
  while (true) {
    OriginRequest get;
    get.http.method = "GET";
    get.http.url = fmt::format("{}/{}?restype=container&comp=list&include=metadata&maxresults={}",
                               config_.url.endpoint, config_.url.container, entries);
    if (!full_prefix.empty()) get.http.url += "&prefix=" + percent_encode(full_prefix, false);
    if (!options.recursive) get.http.url += "&delimiter=%2F";
    if (!marker.empty()) get.http.url += "&marker=" + percent_encode(marker, false);
    get.what = fmt::format("listing {}/{}", display_, options.prefix);
    get.body_bytes_max = kListBytesMax;
    metrics_.lists.add();
    SHOAL_CO_ASSIGN_OR_RETURN(HttpResponse response, co_await runner_.run(get, context));
    bool announced = false;
    if (options.on_next_marker) {
      if (std::optional<std::string> next = peek_next_marker(response.body)) {
        announced = true;
        options.on_next_marker(std::move(*next));
      }
    }
    Result<ListPage> page = parse_list_page(response.body);
    if (!page) co_return fail(std::move(page).error().with_context(get.what));
    Status stripped = strip_prefix(*page, options);
    if (!stripped) co_return fail(std::move(stripped).error().with_context(get.what));
    bool empty = page->objects.empty() && page->prefixes.empty();
    if (!empty || announced || page->next_marker.empty()) co_return std::move(page);
    if (page->next_marker == marker) {
      co_return fail(Code::kUnavailable, get.what + ": the origin repeats the same page");
    }
    marker = page->next_marker;
    SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  }
}

Status AzureOrigin::strip_prefix(ListPage& page, const ListOptions& options) const {
  const std::string& mount = config_.url.prefix;
  bool wants_state = options.prefix.starts_with(kStateDirectory.substr(0, 6));
  auto strip = [&](std::string& name) {
    if (!name.starts_with(mount) || name.size() == mount.size()) return false;
    name.erase(0, mount.size());
    return wants_state || !name.starts_with(kStateDirectory);
  };
  for (const ObjectInfo& object : page.objects) {
    if (!object.name.starts_with(mount)) {
      return fail(Code::kUnavailable, "the origin lists names that were not asked for");
    }
  }
  std::erase_if(page.objects, [&](ObjectInfo& object) { return !strip(object.name); });
  std::erase_if(page.prefixes, [&](std::string& name) { return !strip(name); });
  auto by_name = [](const ObjectInfo& a, const ObjectInfo& b) { return a.name < b.name; };
  if (!std::is_sorted(page.objects.begin(), page.objects.end(), by_name)) {
    std::sort(page.objects.begin(), page.objects.end(), by_name);
  }
  std::sort(page.prefixes.begin(), page.prefixes.end());
  return {};
}

Task<Status> AzureOrigin::remove(std::string object, Condition condition, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, object));
  OriginRequest remove = request("DELETE", "removing", object, "");
  add_condition(remove.http.headers, condition);
  Result<HttpResponse> response = co_await run_write(remove, context);
  if (response) co_return Status();
  // An earlier attempt of ours may have removed it.
  bool ours = response.error().code() == Code::kNotFound && remove.uncertain &&
              remove.error_code != "ContainerNotFound";
  if (ours) co_return Status();
  co_return fail(std::move(response).error());
}

Task<Result<ObjectInfo>> AzureOrigin::copy(std::string from, std::string source_etag,
                                           std::string to, PutOptions options, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, from));
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, to));
  SHOAL_CO_RETURN_IF_ERROR(validate_metadata(options.metadata));
  OriginRequest copy = request("PUT", fmt::format("copying {} to", from), to, "");
  copy.http.headers.emplace_back("x-ms-copy-source", signer_.with_sas(url_of(from)));
  if (!source_etag.empty()) {
    copy.http.headers.emplace_back("x-ms-source-if-match", fmt::format("\"{}\"", source_etag));
  }
  add_condition(copy.http.headers, options.condition);
  add_metadata(copy.http.headers, options.metadata);
  Result<HttpResponse> response = co_await run_write(copy, context);
  if (!response) {
    Write write{to, options.condition, options.metadata, std::nullopt};
    SHOAL_CO_RETURN_IF_ERROR(
        co_await settle(copy, std::move(response).error(), std::move(write), context));
  }
  co_return co_await await_copy(std::move(to), context);
}

Task<Result<ObjectInfo>> AzureOrigin::await_copy(std::string to, Context context) {
  Backoff backoff(world_.random, std::chrono::milliseconds(100), std::chrono::seconds(2));
  while (true) {
    std::string copy_status;
    SHOAL_CO_ASSIGN_OR_RETURN(ObjectInfo info, co_await head_with(to, "", &copy_status, context));
    if (copy_status.empty() || copy_status == "success") co_return std::move(info);
    if (copy_status != "pending") {
      co_return fail(Code::kUnavailable, fmt::format("copying to {}/{}: the origin ended it with "
                                                     "status '{}'; try again",
                                                     display_, to, copy_status));
    }
    SHOAL_CO_RETURN_IF_ERROR(co_await sleep_for(world_.executor, backoff.next(), context));
  }
}

Task<Result<ObjectInfo>> AzureOrigin::set_metadata(std::string object, Metadata metadata,
                                                   Condition condition, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_name(config_.url.prefix, object));
  SHOAL_CO_RETURN_IF_ERROR(validate_metadata(metadata));
  OriginRequest set = request("PUT", "setting the metadata of", object, "comp=metadata");
  add_condition(set.http.headers, condition);
  add_metadata(set.http.headers, metadata);
  Result<HttpResponse> response = co_await run_write(set, context);
  // The answer has no size, and an answer that was lost has nothing: look.
  bool maybe_ours = !response && set.uncertain && response.error().code() == Code::kConflict;
  if (!response && !maybe_ours) co_return fail(std::move(response).error());
  Result<ObjectInfo> now = co_await head_with(std::move(object), "", nullptr, context);
  if (maybe_ours) {
    if (now && now->metadata == metadata) co_return std::move(now);
    co_return fail(std::move(response).error());
  }
  if (!now) co_return fail(std::move(now).error());
  Result<ObjectInfo> set_info = info_of(*response, now->name);
  if (!set_info) co_return fail(std::move(set_info).error().with_context(set.what));
  now->etag = set_info->etag;  // of our version, even if somebody was quicker than our look
  now->metadata = std::move(metadata);
  co_return std::move(now);
}

Task<Status> AzureOrigin::probe(bool write, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await probe_list(context));
  if (write) SHOAL_CO_RETURN_IF_ERROR(co_await probe_write(context));
  co_return Status();
}

Task<Status> AzureOrigin::probe_list(Context context) {
  OriginRequest get;
  get.http.method = "GET";
  get.http.url = fmt::format("{}/{}?restype=container&comp=list&maxresults=1", config_.url.endpoint,
                             config_.url.container);
  get.what = fmt::format("reaching {}", display_);
  get.body_bytes_max = kMiB;
  get.attempts_max = 4;  // somebody waits for the answer
  SHOAL_CO_ASSIGN_OR_RETURN(HttpResponse response, co_await runner_.run(get, context));
  Result<ListPage> page = parse_list_page(response.body);
  if (!page) co_return fail(std::move(page).error().with_context(get.what));
  co_return Status();
}

Task<Status> AzureOrigin::probe_write(Context context) {
  std::string object = fmt::format(".shoal/probe-{}", world_.random.id128().to_hex());
  std::string text = "shoal doctor was here";
  OriginRequest put = request("PUT", "trying to write", object, "");
  put.http.headers.emplace_back("x-ms-blob-type", "BlockBlob");
  put.http.body = as_bytes(text);
  put.attempts_max = 4;
  SHOAL_CO_RETURN_IF_ERROR(co_await run_write(put, context));
  co_return co_await remove(std::move(object), Condition::none(), context);
}

}  // namespace shoal
