#include "replication/ledger.h"

#include <algorithm>

#include "base/bytes.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {
constexpr const char* kRecordMark = "1";
}  // namespace

Ledger::Ledger(World& world, Store& store, const Log& log)
    : world_(world), store_(store), log_(log), freed_(world.executor) {}

Hash128 Ledger::key_of(const std::string& object, const Hash128& write_id) {
  return hash_string(object + '\n' + write_id.to_hex(), 0x1ed6e4);
}

void Ledger::changed(const std::string& object) {
  if (listener_) listener_(object);
}

Task<Status> Ledger::load() {
  for (const Store::Staged& staged : store_.staged()) {
    auto mark = staged.record.metadata.find(kLedgerMark);
    bool is_record =
        staged.small && mark != staged.record.metadata.end() && mark->second == kRecordMark;
    if (!is_record) continue;
    auto bytes = co_await store_.read_staged_small(staged.record.write_id);
    if (!bytes) {
      log_.error("a ledger record of {} cannot be read: {}", staged.record.object,
                 bytes.error().to_string());
      continue;
    }
    auto body = parse_message<wire::LedgerBody>(std::string(as_text(bytes->span())), "a record");
    auto record = body ? from_wire(*body) : Result<LedgerRecord>(fail(Code::kCorrupt, "damaged"));
    if (!record || key_of(record->object, record->write.id) != staged.record.write_id) {
      log_.error("a ledger record of {} is damaged", staged.record.object);
      continue;
    }
    records_[record->object].push_back(std::move(*record));
    ++count_;
  }
  co_return Status();
}

LedgerRecord* Ledger::find_write(const std::string& object, const Hash128& write_id) {
  auto found = records_.find(object);
  if (found == records_.end()) return nullptr;
  for (LedgerRecord& record : found->second) {
    if (record.write.id == write_id) return &record;
  }
  return nullptr;
}

Task<void> Ledger::claim(Hash128 key) {
  while (!busy_.insert(key).second) {
    Status status = co_await freed_.wait({});
    SHOAL_ASSERT(status.has_value());
  }
}

void Ledger::release(Hash128 key) {
  busy_.erase(key);
  freed_.notify_all();
}

Task<Status> Ledger::store_record(const LedgerRecord& record, Hash128 key) {
  wire::LedgerBody body;
  to_wire(record, body);
  std::string bytes = body.SerializeAsString();
  if (bytes.size() > kSmallBytesMax) co_return fail(Code::kTooLarge, "a ledger record too large");
  StagedRecord staged;
  staged.object = record.object;
  staged.write_id = key;
  staged.size = bytes.size();
  staged.sealed = true;
  staged.changed = record.changed;
  staged.metadata[kLedgerMark] = kRecordMark;
  co_return co_await store_.stage_small(std::move(staged), as_bytes(bytes));
}

const Ledger::Ended* Ledger::find_ended(const std::string& object, const Hash128& write_id) const {
  auto ended = ended_.find(key_of(object, write_id));
  return ended == ended_.end() ? nullptr : &ended->second;
}

Task<Status> Ledger::put(LedgerRecord record) {
  Hash128 key = key_of(record.object, record.write.id);
  co_await claim(key);
  Status status;
  LedgerRecord* known = find_write(record.object, record.write.id);
  bool changes = true;
  const Ended* ended = find_ended(record.object, record.write.id);
  if (ended != nullptr && ended->covers(record.write, record.sequence)) {
    status = fail(Code::kNotFound, record.object + ": this version has ended");
  } else if (known != nullptr && !record.is_later_than(*known)) {
    LedgerRecord merged = *known;
    merged.add_placed(record.placed);
    changes = merged.placed.size() > known->placed.size();
    record = std::move(merged);
  } else if (known != nullptr) {
    record.add_placed(known->placed);
  }
  if (status && changes) {
    status = co_await store_record(record, key);
    if (status) {
      known = find_write(record.object, record.write.id);
      std::string object = record.object;
      if (known != nullptr) {
        *known = std::move(record);
      } else {
        records_[object].push_back(std::move(record));
        ++count_;
      }
      changed(object);
    }
  }
  release(key);
  co_return status;
}

Task<Status> Ledger::add_placed(std::string object, WriteName write, std::vector<NodeId> nodes) {
  const LedgerRecord* known = find_write(object, write.id);
  if (known == nullptr) co_return fail(Code::kNotFound, object + ": there is no record of it");
  LedgerRecord record = *known;
  record.placed = std::move(nodes);
  co_return co_await put(std::move(record));
}

Task<Result<std::vector<NodeId>>> Ledger::remove(std::string object, WriteName write,
                                                 uint64_t sequence, EndReason reason,
                                                 Commits commits) {
  Hash128 key = key_of(object, write.id);
  Ended end{write.generation, sequence, reason, reason == EndReason::kCommitted, {}};
  co_await claim(key);
  Status status;
  std::vector<NodeId> placed;
  LedgerRecord* known = find_write(object, write.id);
  if (known != nullptr) placed = known->placed;
  if (known != nullptr && end.covers(known->write, known->sequence)) {
    status = co_await store_.drop_staged_small(key);
    if (!status && status.error().code() == Code::kNotFound) status = Status();
    if (status) {
      auto found = records_.find(object);
      std::erase_if(found->second,
                    [&](const LedgerRecord& record) { return record.write.id == write.id; });
      if (found->second.empty()) records_.erase(found);
      --count_;
    }
  }
  if (status) {
    if (ended_.size() >= kEndedMax) ended_.clear();
    Ended& ended = ended_.try_emplace(key, end).first->second;
    bool committed = end.was_committed || ended.was_committed;
    ended.commits.add(commits);
    end.commits = ended.commits;
    bool same = ended.generation == end.generation && ended.sequence == end.sequence;
    if (same) {
      ended.reason = std::max(ended.reason, end.reason);
    } else if (end.covers({write.id, ended.generation}, ended.sequence)) {
      ended = end;
    }
    ended.was_committed = committed;
  }
  release(key);
  forget_notice(object, write);
  changed(object);
  SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  co_return placed;
}

std::vector<LedgerRecord> Ledger::find(const std::string& object) const {
  auto found = records_.find(object);
  return found == records_.end() ? std::vector<LedgerRecord>{} : found->second;
}

const LedgerRecord* Ledger::visible(const std::string& object) const {
  auto found = records_.find(object);
  if (found == records_.end()) return nullptr;
  const LedgerRecord* newest = nullptr;
  for (const LedgerRecord& record : found->second) {
    if (!record.sealed) continue;
    bool follows = newest != nullptr &&
                   (record.ancestors.find(newest->write.id.to_hex()) != std::string::npos ||
                    (newest->ancestors.find(record.write.id.to_hex()) == std::string::npos &&
                     record.changed > newest->changed));
    if (newest == nullptr || follows) newest = &record;
  }
  return newest;
}

std::vector<LedgerRecord> Ledger::all() const {
  std::vector<LedgerRecord> result;
  for (const auto& [object, records] : records_) {
    result.insert(result.end(), records.begin(), records.end());
  }
  return result;
}

void Ledger::note(LedgerRecord record) {
  SteadyTime now = world_.executor.now();
  if (notices_.size() >= kNoticesMax) {
    std::erase_if(notices_, [&](const auto& entry) { return entry.second.until <= now; });
    if (notices_.size() >= kNoticesMax) return;  // listings lack what is beyond the bound
  }
  record.content.reset();
  std::string object = record.object;
  Notice& notice = notices_[object];
  bool known = notice.record.write == record.write;
  notice = {std::move(record), now + kNoticeTtl};
  if (!known) changed(object);
}

void Ledger::forget_notice(const std::string& object, const WriteName& write) {
  auto found = notices_.find(object);
  if (found == notices_.end() || found->second.record.write.id != write.id ||
      found->second.record.write.generation > write.generation) {
    return;
  }
  notices_.erase(found);
  changed(object);
}

std::vector<LedgerRecord> Ledger::below(const std::string& prefix, const std::string& after,
                                        size_t count_max) const {
  SteadyTime now = world_.executor.now();
  auto note = notices_.lower_bound(std::max(prefix, after));
  auto record = records_.lower_bound(std::max(prefix, after));
  std::vector<LedgerRecord> result;
  while (result.size() < count_max) {
    bool noted = note != notices_.end() && note->first.starts_with(prefix);
    bool recorded = record != records_.end() && record->first.starts_with(prefix);
    if (!noted && !recorded) break;
    // The record itself before what was only heard of it.
    if (recorded && (!noted || record->first <= note->first)) {
      const LedgerRecord* newest = visible(record->first);
      if (newest != nullptr && record->first > after) result.push_back(*newest);
      if (noted && note->first == record->first) ++note;
      ++record;
    } else {
      if (note->second.until > now && note->first > after) result.push_back(note->second.record);
      ++note;
    }
  }
  for (LedgerRecord& found : result) found.content.reset();
  return result;
}

std::vector<LedgerRecord> Ledger::records_below(const std::string& path, const std::string& after,
                                                size_t count_max) const {
  std::string prefix = path.empty() ? "" : path + "/";
  std::vector<LedgerRecord> result;
  auto take = [&](const std::string& object) {
    const LedgerRecord* newest = object > after ? visible(object) : nullptr;
    if (newest == nullptr) return;
    result.push_back(*newest);
    result.back().content.reset();
    result.back().chunk_crcs.clear();
  };
  if (!path.empty()) take(path);
  for (auto at = records_.lower_bound(std::max(prefix, after));
       at != records_.end() && at->first.starts_with(prefix) && result.size() < count_max; ++at) {
    take(at->first);
  }
  return result;
}

}  // namespace shoal
