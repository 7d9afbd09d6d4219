#include "replication/recorded_crcs.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/checksum.h"
#include "base/object_name.h"
#include "replication/ledger_record.h"

namespace shoal {

namespace {

constexpr size_t kMetadataBytesMax = 8 * kKiB - 64;  // what Azure takes, with room for headers

uint64_t blocks_of(uint64_t size, uint64_t block_bytes) {
  return size / block_bytes + (size % block_bytes != 0 ? 1 : 0);
}

// Neighbours become one: half as many, each of twice the bytes.
RecordedCrcs coarser(const RecordedCrcs& fine, uint64_t size) {
  RecordedCrcs coarse{fine.block_bytes * 2, {}};
  for (size_t i = 0; i < fine.crcs.size(); i += 2) {
    uint32_t crc = fine.crcs[i];
    if (i + 1 < fine.crcs.size()) {
      uint64_t begin = (i + 1) * fine.block_bytes;
      crc = crc32c_combine(crc, fine.crcs[i + 1], std::min(fine.block_bytes, size - begin));
    }
    coarse.crcs.push_back(crc);
  }
  return coarse;
}

std::string text_of(const RecordedCrcs& recorded) {
  return fmt::format("{}:{}", recorded.block_bytes, base64_encode(pack_crcs(recorded.crcs)));
}

}  // namespace

uint32_t RecordedCrcs::whole(uint64_t size) const {
  uint32_t crc = 0;
  for (size_t i = 0; i < crcs.size(); ++i) {
    crc = i == 0 ? crcs[0]
                 : crc32c_combine(crc, crcs[i], std::min(block_bytes, size - i * block_bytes));
  }
  return crc;
}

void record_crcs(Metadata& metadata, uint64_t size, uint64_t block_bytes,
                 std::vector<uint32_t> crcs) {
  SHOAL_ASSERT(block_bytes > 0 && crcs.size() == blocks_of(size, block_bytes));
  metadata.erase(kCrcsName);
  size_t others = 0;
  for (const auto& [name, value] : metadata) others += name.size() + value.size();
  RecordedCrcs recorded{block_bytes, std::move(crcs)};
  while (recorded.crcs.size() > kCrcsMax) recorded = coarser(recorded, size);
  std::string text = text_of(recorded);
  while (recorded.crcs.size() > 1 &&
         others + std::string_view(kCrcsName).size() + text.size() > kMetadataBytesMax) {
    recorded = coarser(recorded, size);
    text = text_of(recorded);
  }
  metadata[kCrcsName] = std::move(text);
}

std::optional<RecordedCrcs> recorded_crcs(const Metadata& metadata, uint64_t size) {
  auto found = metadata.find(kCrcsName);
  if (found == metadata.end()) return std::nullopt;
  std::string_view text = found->second;
  RecordedCrcs recorded;
  auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), recorded.block_bytes);
  if (error != std::errc() || at == text.data() + text.size() || *at != ':') return std::nullopt;
  if (recorded.block_bytes == 0) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(at - text.data()) + 1);
  auto packed = base64_decode(text);
  if (!packed || packed->size() % 4 != 0) return std::nullopt;
  recorded.crcs = unpack_crcs(*packed);
  if (recorded.crcs.size() > kCrcsMax ||
      recorded.crcs.size() != blocks_of(size, recorded.block_bytes)) {
    return std::nullopt;
  }
  return recorded;
}

}  // namespace shoal
