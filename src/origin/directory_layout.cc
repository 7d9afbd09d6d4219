#include "origin/directory_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "base/assert.h"
#include "base/hash.h"
#include "base/object_name.h"

namespace shoal {

namespace {

constexpr std::string_view kMagic = "shoal-metadata 1";
constexpr std::string_view kEnd = "end";

Hash128 metadata_key(const FileStat& stat) {
  // A directory's time changes with its entries: it is known by its inode alone.
  if (stat.is_directory) return hash_string(fmt::format("directory {}", stat.inode));
  return hash_string(fmt::format("file {} {} {}", stat.inode, stat.mtime_ns, stat.size));
}

bool parse_hex(std::string_view text, uint64_t& value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return !text.empty() && error == std::errc() && end == text.data() + text.size();
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

}  // namespace

DirectoryLayout::DirectoryLayout(std::string root) : root_(std::move(root)) {
  while (!root_.empty() && root_.back() == '/') root_.pop_back();
  SHOAL_ASSERT(root_.empty() || root_.front() == '/', "the caller makes it absolute");
}

std::string DirectoryLayout::path_of(std::string_view object) const {
  // "/." follows a root that is a symbolic link itself.
  return object.empty() ? root_ + "/." : root_ + "/" + std::string(object);
}

std::string DirectoryLayout::upload_of(std::string_view object) const {
  return uploads() + "/" + hash_string(object).to_hex();
}

std::string DirectoryLayout::metadata_directory(const FileStat& stat) const {
  return metadata() + "/" + metadata_key(stat).to_hex().substr(0, 2);
}

std::string DirectoryLayout::metadata_path(const FileStat& stat) const {
  return metadata_directory(stat) + "/" + metadata_key(stat).to_hex();
}

Status validate_directory_object(std::string_view object) {
  SHOAL_RETURN_IF_ERROR(validate_object_name(object));
  if (object == ".shoal/.directory" || object.starts_with(".shoal/.directory/")) {
    return fail(Code::kInvalidArgument,
                fmt::format("'{}' belongs to the directory origin itself", object));
  }
  return {};
}

bool is_listed(std::string_view parent, std::string_view name, std::string_view prefix) {
  if (!is_valid_component(name)) return false;
  if (parent.empty() && name == ".shoal") return prefix.starts_with(".shoal");
  if (parent == ".shoal" && name == ".directory") return false;
  return parent.size() + 1 + name.size() <= kObjectNameBytesMax;
}

std::string format_metadata(const StoredMetadata& stored) {
  std::string text = fmt::format("{}\n{:016x}\n", kMagic, stored.generation);
  for (const auto& [name, value] : stored.metadata) {
    text += fmt::format("{}={}\n", percent_encode(name, false), percent_encode(value, false));
  }
  return text + std::string(kEnd) + "\n";
}

Result<StoredMetadata> parse_metadata(std::string_view text) {
  auto bad = [] { return fail(Code::kCorrupt, "not a metadata file"); };
  std::vector<std::string_view> lines = split(text, '\n');
  // magic, generation, ..., "end" and what follows its line end: nothing.
  if (lines.size() < 4 || lines[0] != kMagic || !lines.back().empty() ||
      lines[lines.size() - 2] != kEnd) {
    return bad();
  }
  StoredMetadata stored;
  if (!parse_hex(lines[1], stored.generation)) return bad();
  for (size_t i = 2; i + 2 < lines.size(); ++i) {
    size_t equals = lines[i].find('=');
    if (equals == std::string_view::npos || equals == 0) return bad();
    SHOAL_ASSIGN_OR_RETURN(std::string name, percent_decode(lines[i].substr(0, equals)));
    SHOAL_ASSIGN_OR_RETURN(std::string value, percent_decode(lines[i].substr(equals + 1)));
    stored.metadata[std::move(name)] = std::move(value);
  }
  return stored;
}

std::string directory_etag(const FileStat& stat, uint64_t generation) {
  if (stat.is_directory) return fmt::format("d{:x}-{:x}", stat.inode, generation);
  std::string identity =
      fmt::format("{} {} {} {}", stat.inode, stat.mtime_ns, stat.ctime_ns, stat.size);
  return fmt::format("{}-{:x}", hash_string(identity).to_hex(), generation);
}

bool same_identity(const FileStat& a, const FileStat& b) {
  return a.inode == b.inode && a.mtime_ns == b.mtime_ns && a.ctime_ns == b.ctime_ns &&
         a.size == b.size && a.is_directory == b.is_directory;
}

bool is_block_id(std::string_view id) {
  return !id.empty() && id.size() <= 64 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_';
  });
}

std::string BlockMarker::file_name() const {
  SHOAL_ASSERT(is_block_id(id) && is_block_id(layer));
  std::string name = fmt::format("b.{}.{:x}.{:x}.{}", id, offset, size, layer);
  SHOAL_ASSERT(name.size() <= kNameBytesMax);
  return name;
}

Result<BlockMarker> parse_marker(std::string_view file_name) {
  std::vector<std::string_view> parts = split(file_name, '.');
  BlockMarker marker;
  if (parts.size() != 5 || parts[0] != "b" || !is_block_id(parts[1]) || !is_block_id(parts[4]) ||
      !parse_hex(parts[2], marker.offset) || !parse_hex(parts[3], marker.size) ||
      marker.size == 0 || marker.offset > UINT64_MAX / 2 || marker.size > UINT64_MAX / 2) {
    return fail(Code::kCorrupt, "not a marker of a block");
  }
  marker.id = parts[1];
  marker.layer = parts[4];
  return marker;
}

}  // namespace shoal
