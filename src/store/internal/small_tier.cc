#include "store/internal/small_tier.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/object_name.h"
#include "store/internal/codec.h"
#include "store/internal/file_tier.h"
#include "store/internal/meta_format.h"

namespace shoal::store_internal {

namespace {

uint64_t segment_bytes_for(uint64_t capacity) {
  uint64_t bytes = std::clamp(capacity / 16, kMiB, 32 * kMiB);
  return bytes / kMiB * kMiB;
}

}  // namespace

SmallTier::SmallTier(World& world, const Log& log, StoreMetrics& metrics, SmallTierOptions options)
    : world_(world),
      log_(log),
      metrics_(metrics),
      options_(std::move(options)),
      segment_bytes_(segment_bytes_for(options_.capacity)),
      // Two to spare: the new one, and one that reclaiming may spill into.
      segments_max_(options_.capacity / segment_bytes_ - 2),
      // An index entry takes about 54 bytes of memory at the table's mean load.
      entries_max_(std::max<uint64_t>(256 * 1024, options_.memory / 4 / 54)),
      values_(options_.memory),
      pinned_([](const std::string&) { return false; }),
      written_(world.executor),
      readers_gone_(world.executor),
      gate_(world.executor) {
  SHOAL_ASSERT(options_.capacity >= kCapacityMin && segment_bytes_ > 2 * kRecordBytesMax);
}

SmallTier::~SmallTier() { SHOAL_ASSERT(queue_.empty()); }

std::string SmallTier::segment_path(uint64_t number) const {
  return fmt::format("{}/seg-{:010}.log", options_.directory, number);
}

uint64_t SmallTier::object_version(const std::string& etag) { return hash_string(etag, 1).low; }

Hash128 SmallTier::object_key(const std::string& object) {
  Hash128 key = hash_string(object, 2);
  if (key.is_zero()) key.low = 1;
  return key;
}

SmallTier::Segment* SmallTier::segment_of(const SmallPlace& place) {
  // Numbers of live segments span far less than 2^32.
  for (uint64_t high : {current_ >> 32, (current_ >> 32) - 1}) {
    auto found = segments_.find(high << 32 | place.segment);
    if (found != segments_.end()) return &found->second;
  }
  return nullptr;
}

// --- clean values ---

Task<Result<Buffer>> SmallTier::get(std::string object, std::string etag) {
  Hash128 key = object_key(object);
  uint64_t version = object_version(etag);
  SmallPlace* place = index_.find(key);
  if (place != nullptr && place->version == version) place->visited = 1;
  if (const std::string* cached = values_.find(key, version)) {
    metrics_.small_hits.add();
    co_return Buffer::copy_of(as_bytes(*cached));
  }
  if (place == nullptr || place->version != version) {
    metrics_.small_misses.add();
    co_return fail(Code::kNotFound, fmt::format("{} is not cached", object));
  }
  SmallPlace from = *place;
  Result<Buffer> value = co_await read_value(from, RecordKind::kClean, key, object, etag);
  if (!value) {
    metrics_.small_misses.add();
    SmallPlace* now = index_.find(key);
    if (now != nullptr && now->segment == from.segment && now->offset == from.offset) {
      forget_clean(key);
    }
    log_.warning("{}: dropped from the small tier: {}", object, value.error().to_string());
    co_return fail(Code::kNotFound, fmt::format("{} is not cached", object));
  }
  metrics_.small_hits.add();
  values_.put(key, version, std::string(as_text(value->span())));
  co_return value;
}

Task<Result<Buffer>> SmallTier::read_value(SmallPlace place, RecordKind kind, Hash128 key,
                                           std::string object, std::string etag) {
  Segment* segment = segment_of(place);
  if (segment == nullptr) co_return fail(Code::kInternal, "its segment is gone");
  uint64_t number = segment->number;
  Hash128 nonce = segment->nonce;
  ++segment->readers;
  uint64_t body = kRecordHeaderBytes + place.info_length + place.value_length;
  Buffer record(body);
  Status status = co_await disk_io::read_exactly(
      disk(), segment->file, uint64_t{place.offset} * kRecordAlign, record.span());
  segment = &segments_.at(number);  // readers keep it
  if (--segment->readers == 0) readers_gone_.notify_all();
  SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  Result<RecordHeader> header = parse_record_header(record.span(), nonce);
  bool good = header && header->kind == kind && header->key == key &&
              header->info_length == place.info_length &&
              header->value_length == place.value_length;
  if (good) {
    ConstByteSpan info = record.part(kRecordHeaderBytes, place.info_length);
    ConstByteSpan value = record.part(kRecordHeaderBytes + place.info_length, place.value_length);
    good = info_matches(*header, info, nonce) && value_matches(*header, value, nonce);
    std::string found_object;
    std::string found_etag;
    if (good && kind == RecordKind::kClean) {
      good = parse_names(info, found_object, found_etag) && found_object == object &&
             found_etag == etag;
    }
    if (good) co_return Buffer::copy_of(value);
  }
  ++corrupt_;
  metrics_.corrupt_pieces.add();
  co_return fail(Code::kCorrupt,
                 fmt::format("record at {} of {} failed its check",
                             uint64_t{place.offset} * kRecordAlign, segment_path(number)));
}

Task<Status> SmallTier::put(std::string object, std::string etag, ConstByteSpan bytes) {
  if (bytes.size() > kSmallBytesMax) {
    co_return fail(Code::kTooLarge, fmt::format("{}: too large for the small tier", object));
  }
  if (object.size() > kObjectNameBytesMax || etag.size() > 8 * kKiB) {
    co_return fail(Code::kNameTooLong, "name or ETag too long for the cache");
  }
  auto item = std::make_shared<Append>();
  item->header.kind = RecordKind::kClean;
  item->header.key = object_key(object);
  item->header.version = object_version(etag);
  SmallPlace* place = index_.find(item->header.key);
  if (place != nullptr && place->version == item->header.version) co_return Status();
  if (place == nullptr && index_.size() >= entries_max_) co_return Status();  // not admitted
  item->info = encode_names(object, etag);
  item->value = bytes;
  values_.put(item->header.key, item->header.version, std::string(as_text(bytes)));
  co_return co_await append(item);
}

void SmallTier::forget_clean(Hash128 key) {
  SmallPlace* place = index_.find(key);
  if (place == nullptr) return;
  SHOAL_ASSERT(clean_bytes_ >= place->total());
  clean_bytes_ -= place->total();
  index_.erase(key);
}

// Names are kept on disk only. Object and ETag; fails when the value has gone meanwhile.
Task<Result<std::pair<std::string, std::string>>> SmallTier::names_of(SmallPlace place) {
  Segment* segment = segment_of(place);
  if (segment == nullptr) co_return fail(Code::kNotFound, "evicted");
  uint64_t number = segment->number;
  ++segment->readers;
  Buffer head(kRecordHeaderBytes + place.info_length);
  Status status = co_await disk_io::read_exactly(
      disk(), segment->file, uint64_t{place.offset} * kRecordAlign, head.span());
  segment = &segments_.at(number);
  if (--segment->readers == 0) readers_gone_.notify_all();
  if (!status) co_return fail(std::move(status).error());
  std::pair<std::string, std::string> names;
  if (!parse_names(head.part(kRecordHeaderBytes, place.info_length), names.first, names.second)) {
    co_return fail(Code::kCorrupt, "a record without names");
  }
  co_return names;
}

Task<Result<std::vector<Store::CachedChunks>>> SmallTier::cached() {
  std::vector<SmallPlace> places;
  index_.for_each([&](Hash128, const SmallPlace& place) { places.push_back(place); });
  std::vector<Store::CachedChunks> result;
  for (const SmallPlace& place : places) {
    auto names = co_await names_of(place);
    if (!names) continue;
    result.push_back({std::move(names->first), std::move(names->second), place.value_length, {0}});
  }
  co_return result;
}

Task<Result<uint64_t>> SmallTier::evict(std::string object, bool tree) {
  std::vector<std::pair<Hash128, SmallPlace>> candidates;
  if (!tree) {
    Hash128 key = object_key(object);
    values_.erase(key);
    for (auto* list : {&batch_}) {
      for (auto& item : *list) {
        if (item->header.key == key && item->header.kind == RecordKind::kClean) {
          item->cancelled = true;
        }
      }
    }
    for (auto& item : queue_) {
      if (item->header.key == key && item->header.kind == RecordKind::kClean) {
        item->cancelled = true;
      }
    }
    if (SmallPlace* place = index_.find(key)) candidates.emplace_back(key, *place);
  } else {
    index_.for_each(
        [&](Hash128 key, const SmallPlace& place) { candidates.emplace_back(key, place); });
  }
  std::string below = object.empty() ? object : object + "/";
  uint64_t bytes = 0;
  for (auto& [key, place] : candidates) {
    bool wanted = !tree || object.empty();
    if (!wanted) {  // names are kept on disk only
      auto names = co_await names_of(place);
      wanted = names && names->first.starts_with(below);
    }
    SmallPlace* now = index_.find(key);
    if (!wanted || now == nullptr || now->version != place.version) continue;
    bytes += now->total();
    forget_clean(key);
    values_.erase(key);
  }
  evicted_bytes_ += bytes;
  co_return bytes;
}

Task<Status> SmallTier::rekey(std::string from, std::string etag, std::string to,
                              std::string new_etag) {
  Hash128 key = object_key(from);
  SmallPlace* place = index_.find(key);
  if (place == nullptr || place->version != object_version(etag)) co_return Status();
  Result<Buffer> value = co_await get(from, etag);
  if (!value) co_return Status();
  SHOAL_CO_RETURN_IF_ERROR(co_await put(to, new_etag, value->span()));
  place = index_.find(key);
  if (from != to && place != nullptr && place->version == object_version(etag)) {
    forget_clean(key);
    values_.erase(key);
  }
  co_return Status();
}

uint64_t SmallTier::cached_bytes(const std::string& object, const std::string& etag) {
  SmallPlace* place = index_.find(object_key(object));
  return place != nullptr && place->version == object_version(etag) ? place->value_length : 0;
}

// --- staged values ---

StagedRecord SmallTier::StagedValue::record() const {
  StagedRecord record;
  Reader in(as_bytes(info));
  bool parsed = parse_record(in, record);
  SHOAL_ASSERT(parsed && in.left() == 0, "it was parsed before");
  return record;
}

Task<Status> SmallTier::stage(StagedRecord record, ConstByteSpan bytes) {
  SHOAL_CO_RETURN_IF_ERROR(check_record(record));
  if (record.write_id.is_zero()) co_return fail(Code::kInvalidArgument, "no write id");
  if (bytes.size() > kSmallBytesMax) {
    co_return fail(Code::kTooLarge, fmt::format("{}: too large for the small tier", record.object));
  }
  auto item = std::make_shared<Append>();
  record.size = bytes.size();
  item->header.kind = RecordKind::kStaged;
  item->header.key = record.write_id;
  item->durable = true;
  Writer out(item->info);
  encode_record(out, record);
  item->value = bytes;
  item->header.info_length = static_cast<uint32_t>(item->info.size());
  item->header.value_length = static_cast<uint32_t>(bytes.size());
  uint64_t total = item->header.total();
  // Half of the log at most, so that reclaiming always gains something.
  if (staged_bytes_ + staging_bytes_ + total > segments_max_ * segment_bytes_ / 2) {
    co_return fail(Code::kNoSpace,
                   fmt::format("the small tier holds {} of un-uploaded data; wait for uploads or "
                               "raise --cache-size",
                               format_size(staged_bytes_)));
  }
  staging_bytes_ += total;
  Status status = co_await append(item);
  staging_bytes_ -= total;
  if (status) values_.put(item->header.key, 0, std::string(as_text(bytes)));
  co_return status;
}

Task<Result<Buffer>> SmallTier::read_staged(Hash128 write_id) {
  for (int attempt = 0;; ++attempt) {
    auto found = staged_.find(write_id);
    if (found == staged_.end()) {
      co_return fail(Code::kNotFound, fmt::format("no staged value {}", write_id.to_hex()));
    }
    if (found->second.bad) {
      co_return fail(Code::kCorrupt,
                     fmt::format("{}: its un-uploaded bytes were damaged on the local disk",
                                 found->second.object()));
    }
    if (const std::string* cached = values_.find(write_id, 0);
        cached != nullptr && cached->size() == found->second.place.value_length) {
      co_return Buffer::copy_of(as_bytes(*cached));
    }
    SmallPlace from = found->second.place;
    Result<Buffer> value = co_await read_value(from, RecordKind::kStaged, write_id, "", "");
    if (value) co_return value;
    found = staged_.find(write_id);
    bool moved = found == staged_.end() || found->second.place.offset != from.offset ||
                 found->second.place.segment != from.segment;
    if (!moved || attempt >= 8) {
      log_.error("un-uploaded value {}: {}", write_id.to_hex(), value.error().to_string());
      co_return value;
    }
  }
}

void SmallTier::forget_staged(Hash128 write_id) {
  auto found = staged_.find(write_id);
  if (found == staged_.end()) return;
  SHOAL_ASSERT(staged_bytes_ >= found->second.place.total());
  staged_bytes_ -= found->second.place.total();
  staged_values_ -= found->second.place.value_length;
  staged_.erase(found);
  values_.erase(write_id);
}

Task<Status> SmallTier::commit(Hash128 write_id, std::string etag) {
  Result<Buffer> value = co_await read_staged(write_id);
  auto found = staged_.find(write_id);
  if (found == staged_.end()) {
    co_return fail(Code::kNotFound, fmt::format("no staged value {}", write_id.to_hex()));
  }
  std::string object = found->second.object();
  if (value) {
    Status kept = co_await put(object, std::move(etag), value->span());
    if (!kept) log_.warning("{}: not kept in the cache: {}", object, kept.error().to_string());
  }
  if (!staged_.contains(write_id)) co_return Status();
  auto item = std::make_shared<Append>();
  item->header.kind = RecordKind::kDrop;
  item->header.key = write_id;
  item->durable = true;  // else a crash brings back what was replaced or removed since
  co_return co_await append(item);
}

Task<Status> SmallTier::drop(Hash128 write_id) {
  if (!staged_.contains(write_id)) {
    co_return fail(Code::kNotFound, fmt::format("no staged value {}", write_id.to_hex()));
  }
  auto item = std::make_shared<Append>();
  item->header.kind = RecordKind::kDrop;
  item->header.key = write_id;
  item->durable = true;
  co_return co_await append(item);
}

void SmallTier::list_staged(std::vector<Store::Staged>& into) const {
  for (const auto& [id, value] : staged_) into.push_back({value.record(), true});
}

std::vector<Hash128> SmallTier::staged_ids() const {
  std::vector<Hash128> ids;
  ids.reserve(staged_.size());
  for (const auto& [id, value] : staged_) ids.push_back(id);
  return ids;
}

std::optional<StagedRecord> SmallTier::staged_record(Hash128 write_id) const {
  auto found = staged_.find(write_id);
  if (found == staged_.end()) return std::nullopt;
  return found->second.record();
}

void SmallTier::add_stats(StoreStats& stats) const {
  stats.small_bytes = clean_bytes_ + staged_bytes_;
  stats.small_capacity = options_.capacity;
  stats.small_count = index_.size() + staged_.size();
  stats.staged_objects += staged_.size();
  stats.staged_bytes += staged_values_;
  stats.evicted_bytes += evicted_bytes_;
  stats.corrupt_pieces += corrupt_;
}

}  // namespace shoal::store_internal
