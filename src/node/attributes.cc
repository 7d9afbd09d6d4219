#include "node/attributes.h"

#include <fmt/format.h>

#include <charconv>

#include "base/object_name.h"
#include "replication/ledger_record.h"
#include "replication/manifest.h"
#include "replication/recorded_crcs.h"

namespace shoal {

namespace {

constexpr std::string_view kXattrPrefix = "shoalx";

template <typename T>
std::optional<T> parse_number(std::string_view text, int base) {
  T value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string to_hex(std::string_view text) {
  std::string out;
  for (char c : text) out += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return out;
}

std::optional<std::string> from_hex(std::string_view hex) {
  if (hex.empty() || hex.size() % 2 != 0) return std::nullopt;
  std::string out;
  for (size_t i = 0; i < hex.size(); i += 2) {
    auto byte = parse_number<uint8_t>(hex.substr(i, 2), 16);
    if (!byte) return std::nullopt;
    out.push_back(static_cast<char>(*byte));
  }
  return out;
}

// Whether the pair was an extended attribute of ours; it is then taken.
bool take_xattr(std::string_view key, std::string_view value, FileAttributes& attributes) {
  if (!key.starts_with(kXattrPrefix)) return false;
  auto name = from_hex(key.substr(kXattrPrefix.size()));
  auto content = base64_decode(value);
  if (!name || !content) return false;
  attributes.xattrs[*name] = std::move(*content);
  return true;
}

}  // namespace

std::optional<AckLevel> parse_ack(std::string_view text) {
  for (AckLevel level : {AckLevel::kLocal, AckLevel::kReplicated, AckLevel::kDurable}) {
    if (text == ack_name(level)) return level;
  }
  return std::nullopt;
}

std::string_view ack_name(AckLevel level) {
  return level == AckLevel::kLocal        ? "local"
         : level == AckLevel::kReplicated ? "replicated"
                                          : "durable";
}

FileAttributes decode_attributes(const Metadata& metadata) {
  FileAttributes attributes;
  for (const auto& [key, value] : metadata) {
    if (key == "shoalmode") {
      if (auto mode = parse_number<uint32_t>(value, 8)) attributes.mode = *mode & 07777;
    } else if (key == "shoaluid") {
      attributes.uid = parse_number<uint32_t>(value, 10);
    } else if (key == "shoalgid") {
      attributes.gid = parse_number<uint32_t>(value, 10);
    } else if (key == "shoalmtime") {
      if (auto ns = parse_number<int64_t>(value, 10)) attributes.modified = WallTime(Duration(*ns));
    } else if (key == "shoalwriteid") {
      attributes.write_id = value;
    } else if (key == kCrcsName) {
      attributes.crcs = value;
    } else if (key == "shoalancestors" || key == "shoalorphan" || key == kWriterName ||
               key == "shoalrenamedfrom" || key == kGateName) {
      // Of the staged record, not of the file.
    } else if (key == "hdi_isfolder") {
      if (value == "true" || value == "True") attributes.kind = FileKind::kDirectory;
    } else if (key == "is_symlink") {
      if (value == "true" || value == "True") attributes.kind = FileKind::kSymlink;
    } else if (!take_xattr(key, value, attributes)) {
      attributes.other[key] = value;
    }
  }
  return attributes;
}

Result<Metadata> encode_attributes(const FileAttributes& attributes) {
  Metadata metadata = attributes.other;
  if (attributes.mode) metadata["shoalmode"] = fmt::format("{:o}", *attributes.mode);
  if (attributes.uid) metadata["shoaluid"] = fmt::format("{}", *attributes.uid);
  if (attributes.gid) metadata["shoalgid"] = fmt::format("{}", *attributes.gid);
  if (attributes.modified) {
    metadata["shoalmtime"] = fmt::format("{}", attributes.modified->time_since_epoch().count());
  }
  if (!attributes.write_id.empty()) metadata["shoalwriteid"] = attributes.write_id;
  if (!attributes.crcs.empty()) metadata[kCrcsName] = attributes.crcs;
  if (attributes.kind == FileKind::kDirectory) metadata["hdi_isfolder"] = "true";
  if (attributes.kind == FileKind::kSymlink) metadata["is_symlink"] = "true";
  for (const auto& [name, value] : attributes.xattrs) {
    metadata[std::string(kXattrPrefix) + to_hex(name)] = base64_encode(value);
  }
  size_t total = 0;
  for (const auto& [key, value] : metadata) total += key.size() + value.size();
  if (total > kMetadataBytesMax) {
    return fail(Code::kTooLarge, fmt::format("attributes need {} bytes of metadata, at most {} fit",
                                             total, kMetadataBytesMax));
  }
  return metadata;
}

}  // namespace shoal
