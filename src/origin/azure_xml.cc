#include "origin/azure_xml.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <pugixml.hpp>

#include "base/object_name.h"
#include "origin/http_date.h"

namespace shoal {

namespace {

// Whitespace-only text is kept: a blob may be called " ".
constexpr unsigned kParseOptions = pugi::parse_default | pugi::parse_ws_pcdata_single;

Status bad(std::string_view what, std::string_view why) {
  return fail(
      Code::kUnavailable,
      fmt::format("the origin's {} cannot be understood: {}; is a proxy in between?", what, why));
}

Status load(pugi::xml_document& document, std::string_view xml, std::string_view what) {
  pugi::xml_parse_result parsed =
      document.load_buffer(xml.data(), xml.size(), kParseOptions, pugi::encoding_utf8);
  if (!parsed) return bad(what, parsed.description());
  return {};
}

// The name of a blob or prefix. Names that XML cannot carry come percent-encoded and marked.
Result<std::string> name_of(const pugi::xml_node& parent) {
  pugi::xml_node node = parent.child("Name");
  std::string name = node.text().get();
  if (std::string_view(node.attribute("Encoded").value()) == "true") {
    SHOAL_ASSIGN_OR_RETURN(name, percent_decode(name));
  }
  if (name.empty() || name.size() > kObjectNameBytesMax * 4) {
    return fail(Code::kUnavailable, "a name is missing or too long");
  }
  return name;
}

Metadata metadata_of(const pugi::xml_node& blob) {
  Metadata metadata;
  for (pugi::xml_node entry : blob.child("Metadata").children()) {
    if (entry.type() != pugi::node_element) continue;
    std::string name = entry.name();
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    metadata[name] = entry.text().get();
  }
  return metadata;
}

Result<ObjectInfo> blob_of(const pugi::xml_node& node) {
  ObjectInfo info;
  SHOAL_ASSIGN_OR_RETURN(info.name, name_of(node));
  info.metadata = metadata_of(node);
  std::string_view size;
  // One walk over the properties: looking each up by name is a third of the time of a large page.
  for (pugi::xml_node property : node.child("Properties").children()) {
    std::string_view name = property.name();
    if (name == "Content-Length") {
      size = property.child_value();
    } else if (name == "Etag") {
      info.etag = unquote_etag(property.child_value());
    } else if (name == "Last-Modified") {
      if (auto modified = parse_http_date(property.child_value())) info.modified = *modified;
    } else if (name == "ResourceType" && std::string_view(property.child_value()) == "directory") {
      info.metadata["hdi_isfolder"] = "true";
    }
  }
  SHOAL_ASSIGN_OR_RETURN(info.size, parse_decimal(size));
  if (info.etag.empty()) return fail(Code::kUnavailable, "a blob has no ETag");
  return info;
}

}  // namespace

Result<uint64_t> parse_decimal(std::string_view text) {
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    return fail(Code::kUnavailable, "a size is not a number");
  }
  return value;
}

std::string unquote_etag(std::string_view etag) {
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') {
    etag = etag.substr(1, etag.size() - 2);
  }
  return std::string(etag);
}

Result<ListPage> parse_list_page(std::string_view xml) {
  pugi::xml_document document;
  SHOAL_RETURN_IF_ERROR(load(document, xml, "list page"));
  pugi::xml_node root = document.child("EnumerationResults");
  if (!root) return fail(bad("list page", "no EnumerationResults").error());
  ListPage page;
  for (pugi::xml_node node : root.child("Blobs").children()) {
    std::string_view kind = node.name();
    if (kind == "Blob") {
      Result<ObjectInfo> info = blob_of(node);
      if (!info) return fail(bad("list page", info.error().message()).error());
      page.objects.push_back(std::move(*info));
    } else if (kind == "BlobPrefix") {
      Result<std::string> name = name_of(node);
      if (!name) return fail(bad("list page", name.error().message()).error());
      page.prefixes.push_back(std::move(*name));
    }
  }
  page.next_marker = root.child("NextMarker").text().get();
  return page;
}

std::optional<std::string> peek_next_marker(std::string_view xml) {
  constexpr std::string_view kOpen = "<NextMarker>";
  if (xml.find("<Blob>") == std::string_view::npos) return std::nullopt;
  size_t begin = xml.rfind(kOpen);
  if (begin == std::string_view::npos) return std::nullopt;
  begin += kOpen.size();
  size_t end = xml.find('<', begin);
  if (end == std::string_view::npos || end == begin) return std::nullopt;
  std::string_view marker = xml.substr(begin, end - begin);
  if (marker.find('&') != std::string_view::npos) return std::nullopt;  // leave it to the parser
  return std::string(marker);
}

Result<std::vector<BlockInfo>> parse_block_list(std::string_view xml) {
  pugi::xml_document document;
  SHOAL_RETURN_IF_ERROR(load(document, xml, "block list"));
  pugi::xml_node root = document.child("BlockList");
  if (!root) return fail(bad("block list", "no BlockList").error());
  std::vector<BlockInfo> blocks;
  for (pugi::xml_node node : root.child("UncommittedBlocks").children("Block")) {
    BlockInfo block;
    block.id = node.child("Name").text().get();
    Result<uint64_t> size = parse_decimal(node.child("Size").text().get());
    if (block.id.empty()) return fail(bad("block list", "a block has no name").error());
    if (!size) return fail(bad("block list", size.error().message()).error());
    block.size = *size;
    blocks.push_back(std::move(block));
  }
  return blocks;
}

std::string format_block_list(const std::vector<std::string>& ids) {
  std::string xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList>\n";
  xml.reserve(xml.size() + ids.size() * 80 + 16);
  for (const std::string& id : ids) xml.append("<Latest>").append(id).append("</Latest>\n");
  return xml + "</BlockList>";
}

AzureErrorBody parse_error_body(std::string_view xml) {
  pugi::xml_document document;
  AzureErrorBody body;
  if (!load(document, xml, "error")) return body;
  pugi::xml_node root = document.child("Error");
  body.code = root.child("Code").text().get();
  std::string message = root.child("Message").text().get();
  body.message = message.substr(0, std::min<size_t>(message.find_first_of("\r\n"), 300));
  for (char c : body.code) {
    if (!std::isalnum(static_cast<unsigned char>(c))) return {};
  }
  return body;
}

}  // namespace shoal
