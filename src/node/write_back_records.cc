// What other nodes know of a version: what it waits for, when they ask; what they have of it after
// a restart; and taking that back at its end.
#include <algorithm>
#include <iterator>

#include "base/object_name.h"
#include "node/write_back.h"
#include "replication/manifest.h"

namespace shoal {

namespace {
constexpr size_t kEndedWritesMax = 10'000;
constexpr size_t kLookedAtMax = 4000;  // for one page: other work has its turn between two
}  // namespace

void WriteBack::take_waiting(const Version& version, const WaitingQuestion& question,
                             WaitingPage& page) {
  // A process that inherited the file may have closed it; the writer has it still.
  bool open = version->inode != nullptr && version->inode->writers > 0;
  bool closed = !open && version->record.sealed && version->durable && !version->modified;
  if (closed && question.push == Push::kUpload && !version->forced) enqueue(version, true);
  WaitingItem item;
  item.state = closed ? WaitingItem::State::kClosed : WaitingItem::State::kOpen;
  bool all_count = question.behind == Behind::Goal::kDurable && question.push != Push::kReplicate;
  bool recorded = false;
  if (!all_count && !open && !version->modified && version->recorded &&
      version->recorded->sealed() && version->recorded->write() == version->write()) {
    LedgerRecord record = version->recorded->unpack();
    recorded = record.object == version->record.object;
    item.crc = recorded ? record.crc : 0;
    if (recorded) item.state = WaitingItem::State::kReplicated;
  }
  if (closed && question.push == Push::kReplicate && !recorded) callbacks_.replicate(version);
  uint64_t left = version->size() - std::min(version->size(), version->uploaded_bytes);
  if (question.behind) {
    bool counts = Behind::covers(*question.behind, item.state) &&
                  !is_of_publication(leaf_of(version->record.object));
    if (!counts) return;
    if (!page.behind.would_name(item.state, version->last_error)) {
      page.behind.count(item.state, left, nullptr);
      return;
    }
  }
  item.object = version->record.object;
  item.write = version->write();
  item.size = version->size();
  item.uploaded = item.size - left;
  item.changed = version->record.changed;
  item.last_error = version->last_error;
  if (question.behind) {
    page.behind.count(item.state, left, &item);
  } else {
    page.items.push_back(std::move(item));
  }
}

WaitingPage WriteBack::waiting(const WaitingQuestion& question) {
  WaitingPage page;
  const std::string& path = question.path;
  size_t looked_at = 0;
  Version self = path.empty() || question.after >= path ? nullptr : find(path);
  if (self != nullptr) {
    take_waiting(self, question, page);
    page.reached = path;
  }
  std::string prefix = path.empty() ? "" : path + "/";
  auto at = by_name_.lower_bound(std::max(prefix, question.after));
  for (; at != by_name_.end() && at->first.starts_with(prefix); ++at) {
    if (at->first <= question.after) continue;
    if (!question.until.empty() && at->first > question.until) break;
    page.more = page.items.size() >= question.items_max || looked_at >= kLookedAtMax;
    if (page.more) break;
    ++looked_at;
    take_waiting(at->second, question, page);
    page.reached = at->first;
  }
  return page;
}

std::vector<WriteBack::Ending> WriteBack::take_records(const Version& version, EndReason reason,
                                                       const std::string& etag) {
  reopened(version);  // nobody waits for it any more
  std::vector<Ending> endings;
  if (core_.replication == nullptr) return endings;
  auto add = [&](LedgerRecord record) {
    bool renamed = record.object != version->record.object;
    bool same = !renamed && record.write == version->write();
    bool gone = renamed || reason == EndReason::kGone;  // what it replaces goes with it
    EndReason why = gone ? EndReason::kGone : same ? reason : EndReason::kReplaced;
    endings.push_back({std::move(record), why, same ? etag : ""});
  };
  for (LedgerRecord& record : std::exchange(version->earlier, {})) add(std::move(record));
  if (std::exchange(version->ended, true)) return endings;
  by_write_.erase(version->record.write_id);
  if (ended_writes_.size() >= kEndedWritesMax) ended_writes_.clear();
  ended_writes_.insert(version->record.write_id);
  std::shared_ptr<ReplicatedVersion> replicated = std::exchange(version->replicated, nullptr);
  bool known =
      version->recorded || replicated != nullptr || !version->placed.empty() || version->ask_ledger;
  if (!known) return endings;
  LedgerRecord record = take_record(version);
  if (replicated != nullptr) {
    record.home = replicated->home();
    record.holders = replicated->holders();
  }
  record.size = version->size();
  add(std::move(record));
  return endings;
}

LedgerRecord WriteBack::take_record(const Version& version) {
  auto recorded = std::exchange(version->recorded, nullptr);
  LedgerRecord record;
  if (recorded) {
    record = recorded->unpack();
  } else {  // without an acknowledgement, or from before a restart
    record.object = record.home = version->record.object;
    record.write = version->write();
    record.replicas = core_.options.replication.replicas;
  }
  record.sequence = kAllSequences;
  record.add_placed(version->placed);
  return record;
}

// What was in the origin was committed, so any other object of that write came late. It is not
// gone: that would take away whatever has its write id there, be it a copy under its old name.
std::optional<WriteBack::LeftBehind> WriteBack::left_behind(std::string object,
                                                            const std::string& write_id,
                                                            const std::string& etag) const {
  auto left = core_.replication != nullptr ? CommitName::parse(write_id) : std::nullopt;
  if (!left || ended_writes_.contains(left->write.id) || is_written(left->write)) {
    return std::nullopt;
  }
  LeftBehind base;
  base.record.object = std::move(object);
  base.record.write = left->write;
  base.record.sequence = left->synced.value_or(kAllSequences);
  base.end.reason = EndReason::kGone;
  if (!etag.empty() && !is_unuploaded(etag)) {
    base.end = {EndReason::kCommitted, etag, {}};
    base.end.commits.by_writer = {etag, left->write.generation, base.record.sequence};
  }
  return base;
}

void WriteBack::end_base(const Version& version) {
  const std::string& etag = version->record.base_etag;
  if (etag.empty() || is_unuploaded(etag)) return;  // it was not there
  auto base = left_behind(version->record.object, version->base_write, etag);
  if (!base) return;
  core_.replication->remove_left_behind(std::move(base->record), std::move(base->end));
}

void WriteBack::end_records(const Version& version, EndReason reason, const std::string& etag) {
  for (Ending& ending : take_records(version, reason, etag)) {
    End end{ending.reason, ending.etag, {}};
    end.commits.by_writer = {std::move(ending.etag), ending.record.write.generation,
                             ending.record.sequence};
    core_.replication->remove_record(std::move(ending.record), std::move(end));
  }
}

Task<Status> WriteBack::end_now(Version version, EndReason reason, Context context) {
  std::vector<Ending> endings;
  for (Version each = version; each != nullptr; each = each->supersedes) {
    std::ranges::move(take_records(each, reason, ""), std::back_inserter(endings));
  }
  Status status;
  for (Ending& ending : endings) {
    Status ended = co_await core_.replication->end_record(std::move(ending.record),
                                                          {ending.reason, "", {}}, context);
    if (!ended) status = std::move(ended);
  }
  co_return status;
}

// Cut off by a crash: other nodes may know it by its old name only, or by both.
void WriteBack::finish_rename(const Version& version) {
  LedgerRecord before;
  before.object = before.home = version->renamed_from;
  before.write = version->write();
  before.sequence = version->sequence;
  before.replicas = core_.options.replication.replicas;
  version->earlier.push_back(std::move(before));
  callbacks_.replicate(version);
}

Task<void> WriteBack::ask_ledger(Version version) {
  Context context = core_.background();
  context.cancel = &version->cancel;
  auto records = co_await core_.replication->get_records(version->record.object, context);
  if (!records) co_return;  // asked again at the next attempt
  for (LedgerRecord& record : *records) {
    if (record.write.id != version->record.write_id) continue;
    version->ask_ledger = false;
    version->sequence = std::max(version->sequence, record.sequence);
    version->placed = record.placed;
    if (record.write == version->write() && !record.has_content) {
      version->replicated =
          std::make_shared<ReplicatedVersion>(*core_.replication, record.home, record.write, false);
      co_await version->replicated->find_holders(record, context);
    }
    version->recorded = std::make_unique<PackedRecord>(std::move(record));
  }
}

}  // namespace shoal
