// The reading half of the fake Blob service: content, properties, block lists, listings.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/object_name.h"
#include "world_sim/internal/blob_call.h"

namespace shoal {

namespace {

constexpr uint64_t kRangeSumBytesMax = 4 * kMiB;
constexpr uint64_t kEntriesMax = 5000;
constexpr std::string_view kXmlHead = "\xEF\xBB\xBF<?xml version=\"1.0\" encoding=\"utf-8\"?>";

using Blob = BlobService::Blob;

BlobReply not_found(const BlobCall& call) {
  return blob_error(call, 404, "BlobNotFound", "The specified blob does not exist.");
}

BlobReply xml_reply(std::string text) {
  BlobReply reply;
  reply.status = 200;
  reply.headers.emplace_back("content-type", "application/xml");
  reply.body = BlobContent::copy_of(text);
  return reply;
}

void add_blob_headers(const Blob& blob, bool ranged, BlobReply& reply) {
  auto& headers = reply.headers;
  headers.emplace_back("etag", blob_etag(blob.version));
  headers.emplace_back("last-modified", blob_date(blob.modified));
  headers.emplace_back("x-ms-creation-time", blob_date(blob.created));
  headers.emplace_back("x-ms-blob-type", "BlockBlob");
  headers.emplace_back("x-ms-lease-status", "unlocked");
  headers.emplace_back("x-ms-lease-state", "available");
  headers.emplace_back("x-ms-server-encrypted", "true");
  headers.emplace_back("accept-ranges", "bytes");
  if (!blob.properties.contains("content-type")) {
    headers.emplace_back("content-type", "application/octet-stream");
  }
  for (const auto& [name, value] : blob.properties) {
    // A range answer's Content-MD5 would be that of the range.
    bool moved = ranged && name == "content-md5";
    headers.emplace_back(moved ? "x-ms-blob-content-md5" : name, value);
  }
  for (const auto& [name, value] : blob.metadata) headers.emplace_back("x-ms-meta-" + name, value);
}

// Sums of the range if the request wants them; an error answer if the range is too long for that.
std::optional<BlobReply> add_range_sums(const BlobCall& call, const BlobContent& body, bool ranged,
                                        BlobReply& reply) {
  auto wanted = [&](std::string_view name) {
    const std::string* value = call.header(name);
    return value != nullptr && *value == "true";
  };
  bool md5 = wanted("x-ms-range-get-content-md5");
  bool crc = wanted("x-ms-range-get-content-crc64");
  if (!md5 && !crc) return std::nullopt;
  if (!ranged || body.size() > kRangeSumBytesMax) {
    return blob_error(call, 400, "OutOfRangeInput",
                      "A checksum can be asked for with a range of at most 4 MiB only.");
  }
  if (md5) reply.headers.emplace_back("content-md5", blob_md5_base64(body));
  if (crc) reply.headers.emplace_back("x-ms-content-crc64", blob_crc64_base64(body));
  return std::nullopt;
}

std::string name_element(std::string_view name) {
  if (is_blob_xml_text(name)) return fmt::format("<Name>{}</Name>", blob_xml_escape(name));
  return fmt::format("<Name Encoded=\"true\">{}</Name>", percent_encode(name, true));
}

void append_blob(const std::string& name, const Blob& blob, bool metadata, std::string& xml) {
  fmt::format_to(std::back_inserter(xml), "<Blob>{}<Properties>", name_element(name));
  if (blob.committed) {
    std::string etag = blob_etag(blob.version);  // listings show it without quotes
    fmt::format_to(std::back_inserter(xml),
                   "<Creation-Time>{}</Creation-Time><Last-Modified>{}</Last-Modified>"
                   "<Etag>{}</Etag>",
                   blob_date(blob.created), blob_date(blob.modified),
                   std::string_view(etag).substr(1, etag.size() - 2));
  }
  auto type = blob.properties.find("content-type");
  fmt::format_to(
      std::back_inserter(xml),
      "<Content-Length>{}</Content-Length><Content-Type>{}</Content-Type>"
      "<BlobType>BlockBlob</BlobType><LeaseStatus>unlocked</LeaseStatus>"
      "<LeaseState>available</LeaseState><ServerEncrypted>true</ServerEncrypted></Properties>",
      blob.committed ? blob.content.size() : 0,
      type == blob.properties.end() ? "application/octet-stream" : blob_xml_escape(type->second));
  if (metadata && !blob.metadata.empty()) {
    xml += "<Metadata>";
    for (const auto& [key, value] : blob.metadata) {
      fmt::format_to(std::back_inserter(xml), "<{}>{}</{}>", key, blob_xml_escape(value), key);
    }
    xml += "</Metadata>";
  }
  xml += "<OrMetadata /></Blob>";
}

std::string param_or_empty(const BlobCall& call, std::string_view name) {
  const std::string* value = call.param(name);
  return value ? *value : std::string();
}

bool includes(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == word) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

}  // namespace

BlobReply BlobService::get_blob(BlobCall& call, Container& container) {
  auto found = container.blobs.find(call.blob);
  if (found == container.blobs.end() || !found->second.committed) return not_found(call);
  Blob& blob = found->second;
  if (auto reply = check_blob_conditions(call, &blob, BlobConditionUse::kRead)) {
    if (reply->status == 304) reply->headers.emplace_back("etag", blob_etag(blob.version));
    return *reply;
  }
  BlobRange range;
  if (auto reply = read_blob_range(call, blob.content.size(), range)) return *reply;
  BlobReply reply;
  reply.status = range.whole ? 200 : 206;
  add_blob_headers(blob, !range.whole, reply);
  reply.body = blob.content.slice(range.offset, range.length);
  if (auto error = add_range_sums(call, reply.body, !range.whole, reply)) return *error;
  if (!range.whole) {
    reply.headers.emplace_back("content-range",
                               fmt::format("bytes {}-{}/{}", range.offset,
                                           range.offset + range.length - 1, blob.content.size()));
  }
  ++blob.gets;
  if (config_.record_reads) {
    reads_.push_back(
        {call.container, call.blob, blob_etag(blob.version), range.offset, range.length, call.now});
  }
  return reply;
}

BlobReply BlobService::head_blob(const BlobCall& call, const Container& container) const {
  auto found = container.blobs.find(call.blob);
  if (found == container.blobs.end() || !found->second.committed) return not_found(call);
  const Blob& blob = found->second;
  if (auto reply = check_blob_conditions(call, &blob, BlobConditionUse::kRead)) return *reply;
  BlobReply reply;
  reply.status = 200;
  add_blob_headers(blob, false, reply);
  uint64_t size = call.is_head() ? blob.content.size() : 0;
  reply.headers.emplace_back("content-length", fmt::format("{}", size));
  return reply;
}

BlobReply BlobService::get_block_list(const BlobCall& call, const Container& container) const {
  auto found = container.blobs.find(call.blob);
  if (found == container.blobs.end()) return not_found(call);
  const Blob& blob = found->second;
  std::string type = param_or_empty(call, "blocklisttype");
  if (type.empty()) type = "committed";
  if (type != "committed" && type != "uncommitted" && type != "all") {
    return blob_error(call, 400, "InvalidQueryParameterValue",
                      "blocklisttype is committed, uncommitted or all.");
  }
  std::string xml(kXmlHead);
  auto add = [&](std::string_view id, uint64_t size) {
    fmt::format_to(std::back_inserter(xml), "<Block><Name>{}</Name><Size>{}</Size></Block>", id,
                   size);
  };
  xml += "<BlockList>";
  if (type != "uncommitted") {
    xml += "<CommittedBlocks>";
    for (const Block& block : blob.blocks) add(block.id, block.content.size());
    xml += "</CommittedBlocks>";
  }
  if (type != "committed") {
    xml += "<UncommittedBlocks>";
    for (const auto& [id, content] : blob.uncommitted) add(id, content.size());
    xml += "</UncommittedBlocks>";
  }
  xml += "</BlockList>";
  BlobReply reply = xml_reply(std::move(xml));
  if (blob.committed) {
    reply.headers.emplace_back("etag", blob_etag(blob.version));
    reply.headers.emplace_back("last-modified", blob_date(blob.modified));
    reply.headers.emplace_back("x-ms-blob-content-length", fmt::format("{}", blob.content.size()));
  }
  return reply;
}

BlobReply BlobService::list(const BlobCall& call, const Container& container) const {
  std::string prefix = param_or_empty(call, "prefix");
  std::string delimiter = param_or_empty(call, "delimiter");
  std::string marker = param_or_empty(call, "marker");
  std::string include = param_or_empty(call, "include");
  uint64_t entries_max = kEntriesMax;
  if (const std::string* text = call.param("maxresults")) {
    auto parsed = std::from_chars(text->data(), text->data() + text->size(), entries_max);
    if (parsed.ec != std::errc() || parsed.ptr != text->data() + text->size() || entries_max == 0) {
      return blob_error(call, 400, "OutOfRangeQueryParameterValue", "maxresults is 1 to 5000.");
    }
    entries_max = std::min(entries_max, kEntriesMax);
  }
  // A marker is opaque: base64, so that a client must encode it.
  std::string from = prefix;
  if (!marker.empty()) {
    auto decoded = base64_decode(marker);
    if (!decoded || decoded->size() < 2 || !decoded->starts_with("2!")) {
      return blob_error(call, 400, "InvalidQueryParameterValue", "The marker is not ours.");
    }
    from = std::max(prefix, decoded->substr(2));
  }
  bool with_metadata = includes(include, "metadata");
  bool with_uncommitted = includes(include, "uncommittedblobs");

  std::string xml(kXmlHead);
  fmt::format_to(std::back_inserter(xml),
                 "<EnumerationResults ServiceEndpoint=\"http://stub/\" ContainerName=\"{}\">"
                 "<Prefix>{}</Prefix><Blobs>",
                 call.container, blob_xml_escape(prefix));
  uint64_t entries = 0;
  std::string next;
  const auto& blobs = container.blobs;
  auto it = blobs.lower_bound(from);
  while (it != blobs.end() && it->first.starts_with(prefix)) {
    const auto& [name, blob] = *it;
    if (!blob.committed && !(with_uncommitted && !blob.uncommitted.empty())) {
      ++it;
      continue;
    }
    if (entries == entries_max) {
      next = name;
      break;
    }
    ++entries;
    size_t cut = delimiter.empty() ? std::string::npos : name.find(delimiter, prefix.size());
    if (cut == std::string::npos) {
      append_blob(name, blob, with_metadata, xml);
      ++it;
      continue;
    }
    std::string folded = name.substr(0, cut + delimiter.size());
    xml += "<BlobPrefix>" + name_element(folded) + "</BlobPrefix>";
    // Step over everything below the folded prefix: its successor in byte order.
    while (!folded.empty() && static_cast<uint8_t>(folded.back()) == 0xFF) folded.pop_back();
    SHOAL_ASSERT(!folded.empty(), "UTF-8 has no byte 0xFF");
    folded.back() = static_cast<char>(static_cast<uint8_t>(folded.back()) + 1);
    it = blobs.lower_bound(folded);
  }
  xml += "</Blobs>";
  if (next.empty()) {
    xml += "<NextMarker />";
  } else {
    fmt::format_to(std::back_inserter(xml), "<NextMarker>{}</NextMarker>",
                   base64_encode("2!" + next));
  }
  xml += "</EnumerationResults>";
  return xml_reply(std::move(xml));
}

BlobReply BlobService::list_containers(const BlobCall& call) const {
  std::string prefix = param_or_empty(call, "prefix");
  std::string xml(kXmlHead);
  xml += "<EnumerationResults ServiceEndpoint=\"http://stub/\"><Containers>";
  for (const auto& [name, container] : containers_) {
    if (!name.starts_with(prefix)) continue;
    fmt::format_to(std::back_inserter(xml),
                   "<Container><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified>"
                   "<Etag>{}</Etag></Properties></Container>",
                   name, blob_date(container.modified),
                   blob_xml_escape(blob_etag(container.version)));
  }
  xml += "</Containers><NextMarker /></EnumerationResults>";
  return xml_reply(std::move(xml));
}

}  // namespace shoal
