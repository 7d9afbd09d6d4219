#include "replication/ledger.h"

#include <algorithm>

#include "base/bytes.h"
#include "replication/record_order.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {
constexpr const char* kRecordMark = "1";
}  // namespace

Ledger::Ledger(World& world, Store& store, const Log& log)
    : store_(store), log_(log), freed_(world.executor) {}

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
    auto record = co_await read_record(staged.record.object, staged.record.write_id);
    if (!record) {
      log_.error("a ledger record: {}", record.error().to_string());
      continue;
    }
    record->content.reset();
    records_[record->object].push_back(std::move(*record));
    ++count_;
  }
  co_return Status();
}

Task<Result<LedgerRecord>> Ledger::read_record(std::string object, Hash128 key) {
  SHOAL_CO_ASSIGN_OR_RETURN(Buffer bytes, co_await store_.read_staged_small(key));
  auto body = parse_message<wire::LedgerBody>(std::string(as_text(bytes.span())), "a record");
  auto record = body ? from_wire(*body) : Result<LedgerRecord>(fail(Code::kCorrupt, "damaged"));
  bool same = record && record->object == object && key_of(object, record->write.id) == key &&
              record->has_content == record->content.has_value();
  if (!same) co_return fail(Code::kCorrupt, object + ": its record is damaged");
  co_return record;
}

Task<Result<LedgerRecord>> Ledger::with_content(LedgerRecord record) {
  if (!record.has_content || record.content) co_return record;
  SHOAL_CO_ASSIGN_OR_RETURN(
      LedgerRecord stored,
      co_await read_record(record.object, key_of(record.object, record.write.id)));
  if (stored.write != record.write || stored.crc != record.crc || stored.size != record.size) {
    co_return fail(Code::kNotFound, record.object + ": its record was replaced meanwhile");
  }
  record.content = std::move(stored.content);
  co_return record;
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
  if (status && changes && record.has_content && !record.content) {
    auto whole = known == nullptr
                     ? Result<LedgerRecord>(fail(Code::kInvalidArgument, "without its content"))
                     : co_await with_content(record);
    if (whole) record = std::move(*whole);
    if (!whole) status = fail(std::move(whole).error());
  }
  if (status && changes) {
    status = co_await store_record(record, key);
    if (status) {
      known = find_write(record.object, record.write.id);
      record.content.reset();
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
    if (newest == nullptr || comes_after(record, *newest)) newest = &record;
  }
  return newest;
}

std::vector<LedgerRecord> Ledger::all_after(const std::string& after, size_t count_max) const {
  std::vector<LedgerRecord> result;
  for (auto at = records_.upper_bound(after); at != records_.end() && result.size() < count_max;
       ++at) {
    result.insert(result.end(), at->second.begin(), at->second.end());
  }
  return result;
}

std::string LedgerPage::last() const {
  std::string name = records.empty() ? "" : records.back().object;
  return prefixes.empty() ? name : std::max(name, prefixes.back());
}

LedgerPage Ledger::below(const std::string& prefix, bool recursive, const std::string& after,
                         size_t count_max) const {
  LedgerPage page;
  auto at = records_.lower_bound(std::max(prefix, after));
  while (at != records_.end() && at->first.starts_with(prefix)) {
    size_t slash = recursive ? std::string::npos : at->first.find('/', prefix.size());
    bool folded = slash != std::string::npos;
    std::string name = folded ? at->first.substr(0, slash + 1) : at->first;
    const LedgerRecord* newest = name > after ? visible(at->first) : nullptr;
    if (newest != nullptr) {
      page.more = page.records.size() + page.prefixes.size() >= count_max;
      if (page.more) break;
      if (folded) page.prefixes.push_back(name);
      if (!folded) page.records.push_back(*newest);
    }
    if (folded && (newest != nullptr || name <= after)) {
      ++name.back();  // behind all that begins with it
      at = records_.lower_bound(name);
    } else {
      ++at;
    }
  }
  return page;
}

std::vector<LedgerRecord> Ledger::records_below(const std::string& path, const std::string& after,
                                                size_t count_max) const {
  std::string prefix = path.empty() ? "" : path + "/";
  std::vector<LedgerRecord> result;
  auto take = [&](const std::string& object) {
    const LedgerRecord* newest = object > after ? visible(object) : nullptr;
    if (newest == nullptr) return;
    result.push_back(*newest);
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
