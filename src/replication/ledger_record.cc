#include "replication/ledger_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <tuple>

#include "base/object_name.h"

namespace shoal {

namespace {
constexpr uint64_t kObjectBytesMax = uint64_t{1} << 47;
constexpr size_t kEtagBytesMax = 256;
constexpr size_t kMetadataMax = 1024;
constexpr size_t kMetadataBytes = 16 * 1024;
constexpr size_t kHexDigits = 32;
constexpr uint32_t kReplicasMax = 5;
constexpr std::string_view kSyncedMark = ".synced-";
}  // namespace

std::string WriteName::text() const { return fmt::format("{}.{}", id.to_hex(), generation); }

std::optional<WriteName> WriteName::parse(std::string_view text) {
  if (is_unuploaded(text)) text.remove_prefix(1);
  if (text.size() < kHexDigits + 2 || text[kHexDigits] != '.') return std::nullopt;
  Result<Hash128> id = Hash128::from_hex(text.substr(0, kHexDigits));
  if (!id) return std::nullopt;
  WriteName name{*id, 0};
  const char* end = text.data() + text.size();
  auto [at, error] = std::from_chars(text.data() + kHexDigits + 1, end, name.generation);
  if (error != std::errc() || at != end) return std::nullopt;
  return name;
}

CommitName CommitName::of(const LedgerRecord& record) {
  return {record.write, record.sealed ? std::nullopt : std::optional(record.sequence)};
}

std::optional<CommitName> CommitName::parse(std::string_view text) {
  size_t mark = text.find(kSyncedMark);
  auto write = WriteName::parse(text.substr(0, mark));
  if (!write) return std::nullopt;
  if (mark == std::string_view::npos) return CommitName{*write, std::nullopt};
  uint64_t sequence = 0;
  const char* end = text.data() + text.size();
  auto [at, error] = std::from_chars(text.data() + mark + kSyncedMark.size(), end, sequence);
  if (error != std::errc() || at != end) return std::nullopt;
  return CommitName{*write, sequence};
}

std::string CommitName::text() const {
  return synced ? fmt::format("{}{}{}", write.text(), kSyncedMark, *synced) : write.text();
}

bool CommitName::covers(const LedgerRecord& record) const {
  if (write.id != record.write.id) return false;
  if (write.generation != record.write.generation) {
    return write.generation > record.write.generation;
  }
  return !synced || (!record.sealed && *synced >= record.sequence);
}

bool LedgerRecord::is_later_than(const LedgerRecord& other) const {
  return std::tuple(write.generation, sequence, repairs) >
         std::tuple(other.write.generation, other.sequence, other.repairs);
}

void LedgerRecord::add_placed(const std::vector<NodeId>& nodes) {
  for (const NodeId& node : nodes) {
    if (std::ranges::find(placed, node) == placed.end()) placed.push_back(node);
  }
}

void Commits::add(const Commits& other) {
  auto take = [](Commit& mine, const Commit& theirs) {
    bool later = mine.etag.empty() || !mine.covers(theirs);
    if (!theirs.etag.empty() && later) mine = theirs;
  };
  take(by_writer, other.by_writer);
  take(in_place, other.in_place);
}

std::string Commits::stray() const {
  bool after = !by_writer.etag.empty() && !in_place.etag.empty() && by_writer.covers(in_place) &&
               by_writer.etag != in_place.etag;
  return after ? in_place.etag : "";
}

void to_wire(const Commits& commits, wire::CommitsBody& body) {
  auto put = [](const Commits::Commit& commit, wire::CommitBody& to) {
    to.set_etag(commit.etag);
    to.set_generation(commit.generation);
    to.set_sequence(commit.sequence);
  };
  if (!commits.by_writer.etag.empty()) put(commits.by_writer, *body.mutable_by_writer());
  if (!commits.in_place.etag.empty()) put(commits.in_place, *body.mutable_in_place());
}

Commits from_wire(const wire::CommitsBody& body) {
  auto get = [](const wire::CommitBody& from) {
    bool possible = from.etag().size() <= kEtagBytesMax;
    return possible ? Commits::Commit{from.etag(), from.generation(), from.sequence()}
                    : Commits::Commit{};
  };
  return {get(body.by_writer()), get(body.in_place())};
}

void to_wire(const NodeId& node, wire::NodeBody& body) {
  body.set_high(node.high);
  body.set_low(node.low);
}

std::vector<NodeId> from_wire(const google::protobuf::RepeatedPtrField<wire::NodeBody>& bodies) {
  std::vector<NodeId> nodes;
  for (const wire::NodeBody& body : bodies) nodes.push_back({body.high(), body.low()});
  return nodes;
}

std::string pack_crcs(const std::vector<uint32_t>& crcs) {
  std::string packed;
  packed.reserve(crcs.size() * 4);
  for (uint32_t crc : crcs) {
    for (unsigned shift = 0; shift < 32; shift += 8) packed += static_cast<char>(crc >> shift);
  }
  return packed;
}

std::vector<uint32_t> unpack_crcs(const std::string& packed) {
  std::vector<uint32_t> crcs(packed.size() / 4);
  for (size_t i = 0; i < crcs.size() * 4; ++i) {
    crcs[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(packed[i])) << (8 * (i % 4));
  }
  return crcs;
}

void to_wire(const WriteName& write, wire::WriteBody& body) {
  body.set_high(write.id.high);
  body.set_low(write.id.low);
  body.set_generation(write.generation);
}

WriteName from_wire(const wire::WriteBody& body) {
  return {{body.high(), body.low()}, body.generation()};
}

void to_wire(const LedgerRecord& record, wire::LedgerBody& body) {
  body.set_object(record.object);
  to_wire(record.write, *body.mutable_write());
  body.set_sequence(record.sequence);
  body.set_size(record.size);
  body.set_base_etag(record.base_etag);
  body.set_must_be_absent(record.must_be_absent);
  body.set_sealed(record.sealed);
  body.set_changed_ns(record.changed.time_since_epoch().count());
  for (const auto& [name, value] : record.metadata) {
    wire::MetadataEntry* entry = body.add_metadata();
    entry->set_name(name);
    entry->set_value(value);
  }
  to_wire(record.writer, *body.mutable_writer());
  for (const NodeId& holder : record.holders) to_wire(holder, *body.add_holders());
  for (const NodeId& node : record.placed) to_wire(node, *body.add_placed());
  body.set_repairs(record.repairs);
  body.set_replicas(record.replicas);
  body.set_crc(record.crc);
  body.set_has_content(record.has_content);
  if (record.content) body.set_content(*record.content);
  body.set_ancestors(record.ancestors);
  if (record.home != record.object) body.set_home(record.home);
  body.set_chunk_crcs(pack_crcs(record.chunk_crcs));
}

LedgerRecord decode(const wire::LedgerBody& body) {
  LedgerRecord record;
  record.object = body.object();
  record.write = from_wire(body.write());
  record.sequence = body.sequence();
  record.size = body.size();
  record.base_etag = body.base_etag();
  record.must_be_absent = body.must_be_absent();
  record.sealed = body.sealed();
  record.changed = WallTime(Duration(body.changed_ns()));
  for (const wire::MetadataEntry& entry : body.metadata()) {
    record.metadata.emplace(entry.name(), entry.value());
  }
  record.writer = {body.writer().high(), body.writer().low()};
  record.holders = from_wire(body.holders());
  record.placed = from_wire(body.placed());
  record.repairs = body.repairs();
  record.replicas = body.replicas();
  record.crc = body.crc();
  record.has_content = body.has_content();
  bool left_out = body.content().empty() && body.size() > 0;
  if (body.has_content() && !left_out) record.content = body.content();
  record.ancestors = body.ancestors();
  record.home = body.home().empty() ? record.object : body.home();
  record.chunk_crcs = unpack_crcs(body.chunk_crcs());
  return record;
}

Result<LedgerRecord> from_wire(const wire::LedgerBody& body) {
  size_t bytes = 0;
  for (const wire::MetadataEntry& entry : body.metadata()) {
    bytes += entry.name().size() + entry.value().size();
  }
  LedgerRecord record = decode(body);
  bool possible = validate_object_name(record.object).has_value() &&
                  validate_object_name(record.home).has_value() && !record.write.id.is_zero() &&
                  record.size <= kObjectBytesMax && record.base_etag.size() <= kEtagBytesMax &&
                  record.metadata.size() <= kMetadataMax && bytes <= kMetadataBytes &&
                  record.holders.size() <= kLedgerHoldersMax &&
                  record.placed.size() <= kLedgerHoldersMax && record.replicas >= 1 &&
                  record.replicas <= kReplicasMax && record.ancestors.size() <= kMetadataBytes &&
                  (!record.has_content || record.size <= kLedgerContentMax) &&
                  (!record.content || record.content->size() == record.size);
  if (!possible) return fail(Code::kCorrupt, "a ledger record that cannot be");
  return record;
}

}  // namespace shoal
