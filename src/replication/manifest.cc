#include "replication/manifest.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "base/object_name.h"
#include "replication/recorded_crcs.h"

namespace shoal {

namespace {

using Json = nlohmann::json;

constexpr std::string_view kFormat = "shoal-manifest 1";
constexpr size_t kDepthMax = 16;

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool is_utf8(const std::string& text) {
  // The library's own test: what it would not write as it is.
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::ignore) == quoted(text);
}

// {"name": ...} events of the library become files; what it does not know is passed over.
class Reader final : public nlohmann::json_sax<Json> {
 public:
  Manifest manifest;
  std::string format;
  std::string error;
  uint64_t count = 0;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t value) override {
    if (in_file() && key_ == "size") {
      file_.size = value;
      has_size_ = true;
    }
    if (depth_ == 1 && key_ == "count") count = value;
    return true;
  }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool string(string_t& value) override {
    if (depth_ == 1 && key_ == "format") {
      format = std::move(value);
    } else if (depth_ == 1 && key_ == "directory") {
      manifest.directory = std::move(value);
    } else if (in_file()) {
      return take_file_member(value);
    }
    return true;
  }
  bool start_object(size_t) override {
    if (++depth_ > kDepthMax) return bad("too deep");
    if (in_file()) {
      file_ = {};
      has_size_ = has_crc_ = false;
    }
    return true;
  }
  bool key(string_t& name) override {
    key_ = std::move(name);
    return true;
  }
  bool end_object() override {
    if (in_file()) {
      if (!has_size_ || !has_crc_) return bad("a file without its size or checksum");
      if (!validate_object_name(file_.name)) return bad("a file whose name cannot be");
      manifest.files.push_back(std::move(file_));
    }
    --depth_;
    return true;
  }
  bool start_array(size_t) override {
    if (depth_ == 1 && key_ == "files") in_files_ = true;
    if (++depth_ > kDepthMax) return bad("too deep");
    return true;
  }
  bool end_array() override {
    if (--depth_ == 1) in_files_ = false;
    return true;
  }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception&) override {
    return bad(fmt::format("no JSON at byte {}", at));
  }

 private:
  bool take_file_member(string_t& value) {
    if (key_ == "name") {
      file_.name = std::move(value);
    } else if (key_ == "version") {
      file_.version = std::move(value);
    } else if (key_ == "name_percent") {
      auto name = percent_decode(value);
      if (!name) return bad("a name that cannot be read");
      file_.name = std::move(*name);
    } else if (key_ == "crc32c") {
      const char* end = value.data() + value.size();
      auto [at, code] = std::from_chars(value.data(), end, file_.crc, 16);
      if (code != std::errc() || at != end) return bad("a checksum that cannot be read");
      has_crc_ = true;
    }
    return true;
  }
  bool in_file() const { return in_files_ && depth_ == 3; }
  bool bad(std::string what) {
    if (error.empty()) error = std::move(what);
    return false;
  }

  std::string key_;
  ManifestFile file_;
  size_t depth_ = 0;
  bool in_files_ = false;
  bool has_size_ = false;
  bool has_crc_ = false;
};

// The origin has the file, or other bytes that are known to be the same.
bool is_it(const ManifestFile& file, const ObjectInfo& there) {
  if (there.size != file.size) return false;
  auto write_id = there.metadata.find("shoalwriteid");
  if (write_id != there.metadata.end() && write_id->second == file.version) return true;
  if (there.etag == file.version) return true;
  auto crcs = recorded_crcs(there.metadata, there.size);
  return crcs && crcs->whole(there.size) == file.crc;
}

}  // namespace

bool is_of_publication(std::string_view leaf) {
  return leaf.starts_with(kManifestLeaf) || leaf.starts_with("." + std::string(kManifestLeaf));
}

uint64_t Manifest::bytes() const {
  uint64_t total = 0;
  for (const ManifestFile& file : files) total += file.size;
  return total;
}

std::string encode_manifest(const Manifest& manifest) {
  auto published = std::chrono::floor<std::chrono::seconds>(manifest.published);
  std::string text = fmt::format(
      "{{\"format\": \"{}\", \"directory\": {}, \"published\": \"{:%Y-%m-%dT%H:%M:%SZ}\",\n"
      " \"count\": {}, \"bytes\": {}, \"files\": [\n",
      kFormat, quoted(manifest.directory), published, manifest.files.size(), manifest.bytes());
  bool first = true;
  for (const ManifestFile& file : manifest.files) {
    bool plain = is_utf8(file.name);
    text += fmt::format("{}{{\"{}\": {}, \"size\": {}, \"crc32c\": \"{:08x}\", \"version\": {}}}",
                        first ? "" : ",\n", plain ? "name" : "name_percent",
                        quoted(plain ? file.name : percent_encode(file.name, true)), file.size,
                        file.crc, quoted(file.version));
    first = false;
  }
  text += "]}\n";
  return text;
}

Result<Manifest> parse_manifest(std::string_view text) {
  Reader reader;
  bool good = Json::sax_parse(text, &reader);
  if (!good) return fail(Code::kCorrupt, "the manifest is damaged: " + reader.error);
  if (reader.format != kFormat) {
    return fail(Code::kCorrupt,
                fmt::format("the manifest's format is \"{}\", not \"{}\"", reader.format, kFormat));
  }
  if (reader.count != reader.manifest.files.size()) {
    return fail(Code::kCorrupt, fmt::format("the manifest lists {} files of {}",
                                            reader.manifest.files.size(), reader.count));
  }
  return std::move(reader.manifest);
}

Task<Result<ManifestDifference>> compare(Origin& origin, std::string directory, Manifest manifest,
                                         Context context) {
  ManifestDifference difference;
  std::map<std::string_view, const ManifestFile*> wanted;
  for (const ManifestFile& file : manifest.files) wanted.emplace(file.name, &file);
  ListOptions options;
  options.prefix = directory + "/";
  options.recursive = true;
  while (!wanted.empty()) {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await origin.list(options, context));
    for (ObjectInfo& object : page.objects) {
      if (!object.name.starts_with(options.prefix)) continue;
      auto found = wanted.find(std::string_view(object.name).substr(options.prefix.size()));
      if (found == wanted.end()) continue;
      if (!is_it(*found->second, object)) difference.changed.push_back(*found->second);
      wanted.erase(found);
      if (!recorded_crcs(object.metadata, object.size)) {
        difference.unrecorded.push_back(std::move(object));
      }
    }
    if (page.next_marker.empty()) break;
    options.marker = page.next_marker;
  }
  for (const auto& [name, file] : wanted) difference.missing.push_back(*file);
  co_return std::move(difference);
}

Task<Status> check_files(Origin& origin, std::string directory, Manifest manifest,
                         Context context) {
  size_t count = manifest.files.size();
  SHOAL_CO_ASSIGN_OR_RETURN(ManifestDifference difference,
                            co_await compare(origin, directory, std::move(manifest), context));
  size_t lacking = difference.missing.size() + difference.changed.size();
  if (lacking == 0) co_return Status();
  const ManifestFile& first =
      difference.missing.empty() ? difference.changed.front() : difference.missing.front();
  co_return fail(Code::kBusy, fmt::format("the origin does not have {} of the {} files that {}/{} "
                                          "names, like {}",
                                          lacking, count, directory, kManifestLeaf, first.name));
}

Task<Status> check_gate(Origin& origin, std::string object, std::string gate, std::string content,
                        Context context) {
  if (gate == kGateSelf) {
    SHOAL_CO_ASSIGN_OR_RETURN(Manifest manifest, parse_manifest(content));
    co_return co_await check_files(origin, std::string(parent_of(object)), std::move(manifest),
                                   context);
  }
  SHOAL_CO_ASSIGN_OR_RETURN(std::string manifest, percent_decode(gate));
  auto there = co_await origin.head(manifest, context);
  if (there) co_return Status();
  if (there.error().code() != Code::kNotFound) co_return fail(std::move(there).error());
  co_return fail(Code::kBusy, manifest + " is not in the origin yet");
}

}  // namespace shoal
