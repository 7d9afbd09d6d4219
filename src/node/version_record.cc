#include "node/version_record.h"

#include <string_view>
#include <utility>

#include "base/assert.h"

namespace shoal {

namespace {

// A length: seven bits in each byte, the low ones first; the last byte is below 128.
void put_text(std::string& out, std::string_view text) {
  size_t length = text.size();
  for (; length >= 128; length /= 128) out += static_cast<char>(128 + length % 128);
  out += static_cast<char>(length);
  out += text;
}

size_t packed_bytes(std::string_view text) {
  size_t bytes = 1 + text.size();
  for (size_t length = text.size(); length >= 128; length /= 128) ++bytes;
  return bytes;
}

std::string take_text(std::string_view& in) {
  size_t length = 0;
  unsigned shift = 0;
  unsigned char byte = 128;
  for (; byte >= 128; shift += 7) {
    SHOAL_ASSERT(!in.empty() && shift < 64, "it was packed here");
    byte = static_cast<unsigned char>(in.front());
    in.remove_prefix(1);
    length |= static_cast<size_t>(byte % 128) << shift;
  }
  SHOAL_ASSERT(length <= in.size(), "it was packed here");
  std::string text(in.substr(0, length));
  in.remove_prefix(length);
  return text;
}

}  // namespace

PackedMetadata::PackedMetadata(const Metadata& metadata) {
  size_t bytes = 0;
  for (const auto& [name, value] : metadata) bytes += packed_bytes(name) + packed_bytes(value);
  bytes_.reserve(bytes);
  for (const auto& [name, value] : metadata) {
    put_text(bytes_, name);
    put_text(bytes_, value);
  }
  SHOAL_ASSERT(bytes_.size() == bytes);
}

Metadata PackedMetadata::unpack() const {
  Metadata metadata;
  for (std::string_view in = bytes_; !in.empty();) {
    std::string name = take_text(in);
    metadata.emplace_hint(metadata.end(), std::move(name), take_text(in));
  }
  return metadata;
}

VersionRecord::VersionRecord(StagedRecord record)
    : object(std::move(record.object)),
      write_id(record.write_id),
      size(record.size),
      base_etag(std::move(record.base_etag)),
      must_be_absent(record.must_be_absent),
      sealed(record.sealed),
      partial(record.partial),
      changed(record.changed),
      metadata(record.metadata) {}

StagedRecord VersionRecord::unpack() const {
  StagedRecord record;
  record.object = object;
  record.write_id = write_id;
  record.size = size;
  record.base_etag = base_etag;
  record.must_be_absent = must_be_absent;
  record.sealed = sealed;
  record.partial = partial;
  record.changed = changed;
  record.metadata = metadata.unpack();
  return record;
}

}  // namespace shoal
