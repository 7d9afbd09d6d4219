#include "replication/ledger.h"

#include <algorithm>

#include "async/gate.h"
#include "base/bytes.h"
#include "replication/record_order.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {
constexpr const char* kRecordMark = "1";
constexpr size_t kLoadBatch = 512;
constexpr size_t kLoadsParallel = 32;
constexpr size_t kLookedAtMax = 4000;  // for one answer: other work has its turn between two
}  // namespace

Ledger::Ledger(World& world, Store& store, const Log& log)
    : executor_(world.executor), store_(store), log_(log), freed_(world.executor) {}

Hash128 Ledger::key_of(const std::string& object, const Hash128& write_id) {
  return hash_string(object + '\n' + write_id.to_hex(), 0x1ed6e4);
}

void Ledger::changed(const std::string& object) {
  if (listener_) listener_(object);
}

void Ledger::note_recovered(const Store::Staged& staged) {
  auto mark = staged.record.metadata.find(kLedgerMark);
  bool is_record =
      staged.small && mark != staged.record.metadata.end() && mark->second == kRecordMark;
  if (is_record) recovered_.push_back({staged.record.object, staged.record.write_id});
}

Task<Status> Ledger::load() {
  std::vector<Recovered> all = std::exchange(recovered_, {});
  std::vector<Task<Status>> tasks;
  for (const Recovered& one : all) {
    tasks.push_back(load_one(one.object, one.key));
    if (tasks.size() < kLoadBatch && &one != &all.back()) continue;
    SHOAL_CO_RETURN_IF_ERROR(co_await run_all(executor_, std::exchange(tasks, {}), kLoadsParallel));
  }
  co_return Status();
}

Task<Status> Ledger::load_one(std::string object, Hash128 key) {
  auto record = co_await read_record(object, key);
  if (!record) {
    log_.error("a ledger record: {}", record.error().to_string());
    co_return Status();
  }
  records_[object].emplace_back(std::move(*record));
  ++count_;
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

PackedRecord* Ledger::find_write(const std::string& object, const Hash128& write_id) {
  auto found = records_.find(object);
  if (found == records_.end()) return nullptr;
  for (PackedRecord& record : found->second) {
    if (record.write().id == write_id) return &record;
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
  PackedRecord* packed = find_write(record.object, record.write.id);
  std::optional<LedgerRecord> known;
  if (packed != nullptr) known = packed->unpack();
  bool changes = true;
  const Ended* ended = find_ended(record.object, record.write.id);
  if (ended != nullptr && ended->covers(record.write, record.sequence)) {
    status = fail(Code::kNotFound, record.object + ": this version has ended");
  } else if (known && !record.is_later_than(*known)) {
    LedgerRecord merged = *known;
    merged.add_placed(record.placed);
    changes = merged.placed.size() > known->placed.size();
    record = std::move(merged);
  } else if (known) {
    record.add_placed(known->placed);
  }
  if (status && changes && record.has_content && !record.content) {
    auto whole = known ? co_await with_content(record)
                       : Result<LedgerRecord>(fail(Code::kInvalidArgument, "without its content"));
    if (whole) record = std::move(*whole);
    if (!whole) status = fail(std::move(whole).error());
  }
  if (status && changes) {
    status = co_await store_record(record, key);
    if (status) {
      packed = find_write(record.object, record.write.id);
      std::string object = record.object;
      if (packed != nullptr) {
        *packed = PackedRecord(std::move(record));
      } else {
        records_[object].emplace_back(std::move(record));
        ++count_;
      }
      changed(object);
    }
  }
  release(key);
  co_return status;
}

Task<Status> Ledger::add_placed(std::string object, WriteName write, std::vector<NodeId> nodes) {
  const PackedRecord* known = find_write(object, write.id);
  if (known == nullptr) co_return fail(Code::kNotFound, object + ": there is no record of it");
  LedgerRecord record = known->unpack();
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
  const PackedRecord* packed = find_write(object, write.id);
  std::optional<LedgerRecord> known;
  if (packed != nullptr) known = packed->unpack();
  if (known) placed = known->placed;
  if (known && end.covers(known->write, known->sequence)) {
    status = co_await store_.drop_staged_small(key);
    if (!status && status.error().code() == Code::kNotFound) status = Status();
    if (status) {
      auto found = records_.find(object);
      std::erase_if(found->second,
                    [&](const PackedRecord& record) { return record.write().id == write.id; });
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
  std::vector<LedgerRecord> result;
  if (found == records_.end()) return result;
  for (const PackedRecord& record : found->second) result.push_back(record.unpack());
  return result;
}

const PackedRecord* Ledger::newest(const Packed& records) {
  const PackedRecord* newest = nullptr;
  for (const PackedRecord& record : records) {
    if (!record.sealed()) continue;
    bool later = newest == nullptr || comes_after(record.unpack(), newest->unpack());
    if (later) newest = &record;
  }
  return newest;
}

std::optional<LedgerRecord> Ledger::visible(const std::string& object) const {
  auto found = records_.find(object);
  const PackedRecord* record = found == records_.end() ? nullptr : newest(found->second);
  return record == nullptr ? std::nullopt : std::optional(record->unpack());
}

std::vector<LedgerRecord> Ledger::all_after(const std::string& after, size_t count_max) const {
  std::vector<LedgerRecord> result;
  for (auto at = records_.upper_bound(after); at != records_.end() && result.size() < count_max;
       ++at) {
    for (const PackedRecord& record : at->second) result.push_back(record.unpack());
  }
  return result;
}

std::string LedgerPage::last() const {
  std::string name = !records.empty() ? records.back().object : !names.empty() ? names.back() : "";
  return prefixes.empty() ? name : std::max(name, prefixes.back());
}

LedgerPage Ledger::below(const LedgerRange& range) const {
  const auto& [prefix, recursive, after, count_max, what] = range;
  LedgerPage page;
  auto at = records_.lower_bound(std::max(prefix, after));
  while (at != records_.end() && at->first.starts_with(prefix)) {
    size_t slash = recursive ? std::string::npos : at->first.find('/', prefix.size());
    bool folded = slash != std::string::npos;
    std::string name = folded ? at->first.substr(0, slash + 1) : at->first;
    const PackedRecord* visible = name > after ? newest(at->second) : nullptr;
    if (visible != nullptr) {
      page.more = page.size() >= count_max;
      if (page.more) break;
      if (folded) {
        page.prefixes.push_back(name);
      } else if (what == LedgerPage::What::kNames) {
        page.names.push_back(name);
      } else {
        page.records.push_back(visible->unpack());
      }
    }
    if (folded && (visible != nullptr || name <= after)) {
      ++name.back();  // behind all that begins with it
      at = records_.lower_bound(name);
    } else {
      ++at;
    }
  }
  return page;
}

Ledger::RecordsBelow Ledger::records_below(const std::string& path, const std::string& after,
                                           size_t count_max, const std::set<NodeId>& but_of) const {
  RecordsBelow below;
  size_t looked_at = 0;
  auto take = [&](const std::string& object, const Packed& records) {
    if (object <= after) return;
    ++looked_at;
    below.reached = object;
    const PackedRecord* visible = newest(records);
    if (visible == nullptr || but_of.contains(visible->writer())) return;
    below.records.push_back(visible->unpack());
    below.records.back().chunk_crcs.clear();
  };
  auto self = path.empty() ? records_.end() : records_.find(path);
  if (self != records_.end()) take(self->first, self->second);
  std::string prefix = path.empty() ? "" : path + "/";
  for (auto at = records_.lower_bound(std::max(prefix, after));
       at != records_.end() && at->first.starts_with(prefix); ++at) {
    below.more = below.records.size() >= count_max || looked_at >= kLookedAtMax;
    if (below.more) break;
    take(at->first, at->second);
  }
  return below;
}

}  // namespace shoal
