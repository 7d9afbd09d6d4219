#include "node/write_back.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "async/backoff.h"
#include "base/checksum.h"
#include "base/object_name.h"
#include "node/fetcher.h"
#include "replication/commit_order.h"
#include "replication/manifest.h"

namespace shoal {

namespace {

constexpr Duration kRetryFirst = std::chrono::milliseconds(500);
constexpr Duration kRetryMax = std::chrono::seconds(60);
constexpr Duration kCommitGrace = std::chrono::seconds(2);
constexpr Duration kCommitLate = std::chrono::seconds(10);
constexpr size_t kLateCommitsMax = 4096;
// Uploads of small objects wait for the origin's answers, not for bandwidth.
constexpr uint64_t kSmallPerLarge = 16;
constexpr size_t kHurriedMax = 256;
constexpr size_t kFailingMax = 50;
constexpr size_t kStartsPerTurn = 256;
constexpr size_t kFew = 1000;  // versions that are gone through at every question
constexpr Duration kPerVersion = std::chrono::microseconds(10);

bool is_conflict(const Error& error) {
  return error.code() == Code::kConflict || error.code() == Code::kAlreadyExists;
}

// What trying again does not mend.
bool is_refusal(const Error& error) {
  return error.code() == Code::kPermissionDenied || error.code() == Code::kInvalidArgument ||
         error.code() == Code::kTooLarge || error.code() == Code::kNameTooLong ||
         error.code() == Code::kCorrupt || error.code() == Code::kNotSupported;
}

}  // namespace

std::string StagedVersion::write_id_text() const {
  return fmt::format("{}.{}", record.write_id.to_hex(), generation);
}

bool StagedVersion::descends_from(const std::string& id) const {
  std::string hex = id.substr(0, id.find('.'));
  if (hex.size() != 32) return false;
  return hex == record.write_id.to_hex() || ancestors.find(hex) != std::string::npos;
}

void StagedVersion::add_ancestor(const StagedVersion& before) {
  tried = tried || before.tried;
  add_ancestors(before.ancestors);
  add_ancestors(before.record.write_id.to_hex());
}

void StagedVersion::add_ancestors(std::string_view ids) {
  constexpr size_t kAncestorBytes = 33;
  constexpr size_t kAncestorsMax = 8;  // older ones have long been replaced in the origin
  if (ids.empty()) return;
  if (!ancestors.empty()) ancestors += ' ';
  ancestors += ids;
  while (ancestors.size() > kAncestorBytes * kAncestorsMax) ancestors.erase(0, kAncestorBytes);
}

WriteBack::WriteBack(NodeCore& core, Callbacks callbacks)
    : core_(core),
      callbacks_(std::move(callbacks)),
      room_(core.executor()),
      small_(core.executor(), uint64_t{core.options.uploads_max} * kSmallPerLarge),
      large_lane_(core.executor(), core.options.uploads_max),
      blocks_(core.executor(), core.options.upload_blocks_max),
      gate_(core.executor()) {}

WriteBack::~WriteBack() { SHOAL_ASSERT(stopping_ || gate_.count() == 0, "stop() it first"); }

// What the store kept of a version over a restart.
WriteBack::Version WriteBack::recover(Store::Staged staged) {
  auto version = std::make_shared<StagedVersion>(core_.executor());
  const Metadata metadata = staged.record.metadata;
  version->record = VersionRecord(std::move(staged.record));
  version->small = staged.small;
  version->durable = true;
  version->modified = false;
  version->ask_ledger = core_.replication != nullptr;
  version->tried = true;
  version->reseal = !version->small;
  version->since = core_.now();
  // Its records may have been counted further than is known here.
  version->sequence =
      static_cast<uint64_t>(core_.world.executor.wall_now().time_since_epoch().count());
  auto noted = [&](const char* name) {
    auto found = metadata.find(name);
    return found == metadata.end() ? std::string() : found->second;
  };
  version->ancestors = noted(kAncestorsName);
  version->gate = noted(kGateName);
  if (core_.replication != nullptr) version->renamed_from = noted(kRenamedFromName);
  // The generation is part of the write id that seal() wrote into the metadata.
  std::string id = noted("shoalwriteid");
  if (size_t dot = id.find('.'); dot != std::string::npos) {
    version->generation = static_cast<uint32_t>(std::strtoul(id.c_str() + dot + 1, nullptr, 10));
  }
  return version;
}

void WriteBack::take_recovered(Store::Staged staged) {
  // Other nodes' (replication).
  const auto& marks = staged.record.metadata;
  if (marks.contains(kLedgerMark) || marks.contains(kReplicaMark)) return;
  bool orphan = marks.contains("shoalorphan");
  Version version = recover(std::move(staged));
  if (orphan) {
    gate_.spawn(forget(version));  // it was unlinked while open
    return;
  }
  if (!version->record.sealed) {
    // It was synced but never closed: what was acknowledged must reach the origin.
    core_.log.info("{} was being written when the last run ended; keeping what was synced",
                   version->record.object);
    version->record.sealed = true;
  }
  auto [at, fresh] = by_name_.try_emplace(version->record.object, version);
  if (fresh) return;
  // Two versions of one name: a rewrite was sealed and the older one not yet dropped.
  // Who follows whom is written down; the wall clock may have jumped.
  bool after = version->descends_from(at->second->record.write_id.to_hex());
  bool before = at->second->descends_from(version->record.write_id.to_hex());
  bool newer = after || (!before && version->record.changed > at->second->record.changed);
  Version old = newer ? at->second : version;
  if (newer) at->second = version;
  old->dropped = true;
  gate_.spawn(forget(old));
}

// Nothing of this node uses names yet.
Task<void> WriteBack::start() {
  co_await core_.store.visit_staged(
      [this](const Store::Staged& staged) { take_recovered(staged); });
  restore_order();
  std::vector<Version> versions;
  for (const auto& [name, version] : by_name_) versions.push_back(version);
  for (size_t i = 0; i < versions.size(); ++i) {
    publish(versions[i]);
    enqueue(versions[i], true);
    if (!versions[i]->renamed_from.empty()) finish_rename(versions[i]);
    if (i % kStartsPerTurn == kStartsPerTurn - 1) co_await Yield(core_.executor());
  }
  if (!by_name_.empty()) {
    core_.log.info("recovered {} staged objects, {}", by_name_.size(), format_size(bytes()));
  }
  gate_.spawn(pump(small_));
  gate_.spawn(pump(large_lane_));
}

Task<void> WriteBack::forget(Version version) {
  Status status = co_await drop(version);
  if (!status) {
    core_.log.warning("dropping an old version of {}: {}", version->record.object,
                      status.error().to_string());
  }
}

Task<void> WriteBack::stop() {
  stopping_ = true;
  stop_.request();
  for (auto& [name, version] : by_name_) version->cancel.request();
  small_.changed.notify_all();
  large_lane_.changed.notify_all();
  room_.notify_all();
  co_await gate_.close();
  for (Lane* lane : {&small_, &large_lane_}) {
    lane->later.clear();
    lane->due.clear();
  }
  by_name_.clear();
}

WriteBack::Version WriteBack::find(const std::string& object) const {
  auto found = by_name_.find(object);
  return found == by_name_.end() ? nullptr : found->second;
}

bool WriteBack::any_below(const std::string& directory) const {
  if (directory.empty()) return !by_name_.empty();
  auto at = by_name_.lower_bound(directory + "/");
  return at != by_name_.end() && at->first.starts_with(directory + "/");
}

std::vector<std::pair<std::string, WriteBack::Version>> WriteBack::list(
    const std::string& directory) const {
  std::vector<std::pair<std::string, Version>> names;
  std::string prefix = directory.empty() ? "" : directory + "/";
  for (auto at = by_name_.lower_bound(prefix); at != by_name_.end(); ++at) {
    if (!at->first.starts_with(prefix)) break;
    std::string rest = at->first.substr(prefix.size());
    size_t slash = rest.find('/');
    if (slash == std::string::npos) {
      names.emplace_back(std::move(rest), at->second);
    } else if (names.empty() || names.back().first != rest.substr(0, slash)) {
      names.emplace_back(rest.substr(0, slash), nullptr);
    }
  }
  return names;
}

std::vector<WriteBack::Version> WriteBack::below(const std::string& directory) const {
  std::vector<Version> versions;
  if (auto self = find(directory)) versions.push_back(self);
  std::string prefix = directory.empty() ? "" : directory + "/";
  for (auto at = by_name_.lower_bound(prefix); at != by_name_.end(); ++at) {
    if (!at->first.starts_with(prefix)) break;
    versions.push_back(at->second);
  }
  return versions;
}

void WriteBack::add(Version version) {
  version->since = core_.now();
  bool fresh = by_name_.emplace(version->record.object, version).second;
  SHOAL_ASSERT(fresh, "the name has a staged version already");
}

void WriteBack::remove_name(const Version& version) {
  auto found = by_name_.find(version->record.object);
  if (found == by_name_.end() || found->second != version) return;
  by_name_.erase(found);
  failing_.erase(version->record.object);
  std::string directory(parent_of(version->record.object));
  if (!any_below(directory)) directories_.erase(directory);
}

void WriteBack::renamed(const Version& version, const std::string& from) {
  auto found = by_name_.find(from);
  if (found != by_name_.end() && found->second == version) by_name_.erase(found);
  failing_.erase(from);
  if (!any_below(std::string(parent_of(from)))) directories_.erase(std::string(parent_of(from)));
  bool fresh = by_name_.emplace(version->record.object, version).second;
  SHOAL_ASSERT(fresh, "the name has a staged version already");
}

void WriteBack::enqueue(const Version& version, bool now) {
  if (version->committed || version->dropped || version->uploading || stopping_) return;
  if (find(version->record.object) != version) return;  // its successor goes up instead
  SHOAL_ASSERT(version->record.sealed && version->durable);
  if (version->order == 0) closed(version);
  version->forced = version->forced || now;
  if (version->held > 0) {
    version->wanted = true;
    return;
  }
  requeue(version, version->forced ? Duration(0) : core_.options.upload_delay);
}

UploadHold::UploadHold(WriteBack& write_back, std::shared_ptr<StagedVersion> version)
    : write_back_(write_back), version_(std::move(version)) {
  if (version_ != nullptr) ++version_->held;
}

UploadHold::~UploadHold() {
  if (version_ == nullptr) return;
  SHOAL_ASSERT(version_->held > 0);
  if (--version_->held > 0 || !std::exchange(version_->wanted, false)) return;
  if (version_->record.sealed && version_->durable) write_back_.enqueue(version_, false);
}

WriteBack::Lane& WriteBack::lane_of(const Version& version) {
  return version->size() <= kWholePutMax ? small_ : large_lane_;
}

// Its size may have changed since it was queued.
void WriteBack::unqueue(const Version& version) {
  version->parked = false;
  if (!std::exchange(version->queued, false)) return;
  for (Lane* lane : {&small_, &large_lane_}) {
    if (version->due) {
      auto at = lane->due.find(version->due_key);
      if (at != lane->due.end() && at->second == version) lane->due.erase(at);
      continue;
    }
    auto at = lane->later.find(version->later_key);
    if (at != lane->later.end() && at->second == version) lane->later.erase(at);
  }
  version->due = false;
}

void WriteBack::requeue(const Version& version, Duration delay) {
  unqueue(version);
  version->queued = true;
  version->later_key = {core_.now() + delay, ++queued_count_};
  Lane& lane = lane_of(version);
  lane.later.emplace(version->later_key, version);
  lane.changed.notify_all();
}

Task<void> WriteBack::halt(Version version) {
  unqueue(version);
  SteadyTime patience = core_.now() + kCommitGrace;
  while (version->uploading && version->committing && core_.now() < patience) {
    Status status = co_await version->changed.wait({patience, nullptr});
    static_cast<void>(status);
  }
  if (version->uploading && version->committing) {
    std::erase_if(late_commits_, [&](const auto& item) { return item.second <= core_.now(); });
    if (late_commits_.size() >= kLateCommitsMax) late_commits_.erase(late_commits_.begin());
    late_commits_[version->record.object] = core_.now() + kCommitLate;
  }
  while (version->uploading) {
    version->cancel.request();
    Status status = co_await version->changed.wait({});
    SHOAL_ASSERT(status.has_value());
  }
}

Task<void> WriteBack::let_late_commits_pass(std::string path) {
  SteadyTime until = SteadyTime::min();
  for (const auto& [object, when] : late_commits_) {
    if (object == path || object.starts_with(path + "/")) until = std::max(until, when);
  }
  if (until <= core_.now()) co_return;
  Status slept = co_await sleep_for(core_.executor(), until - core_.now(), {kNever, &stop_});
  static_cast<void>(slept);
}

Task<Status> WriteBack::wait_committed(Version version, Context context) {
  while (!version->committed && !version->dropped) {
    Status status = co_await version->changed.wait(context);
    if (!status) {
      if (version->last_error.empty()) co_return status;
      Error error = std::move(status).error();
      co_return fail(error.code(), fmt::format("{} is not in the origin yet: {}",
                                               version->record.object, version->last_error));
    }
  }
  co_return Status();
}

Task<Status> WriteBack::drop(Version version) {
  SHOAL_ASSERT(!version->uploading);
  remove_name(version);
  version->dropped = true;
  version->changed.notify_all();
  end_records(version, EndReason::kReplaced, "");
  if (Version old = std::exchange(version->supersedes, nullptr)) {
    SHOAL_CO_RETURN_IF_ERROR(co_await drop(std::move(old)));
  }
  if (!version->durable) {
    if (version->file) co_return co_await core_.store.drop_staged(version->file);
    co_return Status();
  }
  if (version->small) co_return co_await core_.store.drop_staged_small(version->record.write_id);
  if (!version->file) {
    SHOAL_CO_ASSIGN_OR_RETURN(version->file,
                              co_await core_.store.find_staged(version->record.write_id));
  }
  co_return co_await core_.store.drop_staged(version->file);
}

Task<void> WriteBack::drop_superseded(Version version) {
  Version old = std::exchange(version->supersedes, nullptr);
  while (old != nullptr) {
    Version older = std::exchange(old->supersedes, nullptr);
    for (Ending& ending : take_records(old, EndReason::kReplaced, "")) {
      version->earlier.push_back(std::move(ending.record));
    }
    old->successor = version;
    Status dropped = co_await drop(old);
    if (!dropped) core_.log.warning("dropping an old version: {}", dropped.error().to_string());
    old = std::move(older);
  }
}

// Going through all takes about a hundredth of the time for which the answer serves.
const WriteBack::Totals& WriteBack::totals() const {
  SteadyTime now = core_.now();
  bool serves = by_name_.size() > kFew && totals_.when != SteadyTime{} &&
                now - totals_.when < kPerVersion * by_name_.size();
  if (serves) return totals_;
  totals_ = {now, 0, now};
  for (const auto& [name, version] : by_name_) {
    totals_.bytes += version->size();
    totals_.oldest = std::min(totals_.oldest, version->since);
  }
  return totals_;
}

// What only waits for its delay need not.
void WriteBack::hurry(Lane& lane) {
  std::vector<Version> versions;
  size_t seen = 0;
  for (const auto& [when, version] : lane.later) {
    if (++seen > kHurriedMax) break;
    if (version->failures == 0 && when.first > core_.now()) versions.push_back(version);
  }
  for (const Version& version : versions) requeue(version, Duration(0));
}

Task<bool> WriteBack::await_room(Context context) {
  for (Lane* lane : {&small_, &large_lane_}) hurry(*lane);
  bool coming = uploading_ > 0 || !small_.due.empty() || !small_.later.empty() ||
                !large_lane_.due.empty() || !large_lane_.later.empty();
  if (!coming || stopping_) co_return false;
  Status ended =
      co_await room_.wait(context.tightened(core_.executor(), core_.options.space_timeout));
  co_return ended.has_value() && !stopping_;
}

std::vector<BacklogItem> WriteBack::backlog(size_t items_max) const {
  std::vector<BacklogItem> items;
  auto add = [&](const std::string& name, const Version& version) {
    std::string state = !version->record.sealed ? "open"
                        : version->uploading    ? "uploading"
                        : version->failures > 0 ? "retrying"
                                                : "waiting";
    items.push_back({name, version->size(), version->uploaded_bytes, state, version->last_error});
  };
  // Those that fail are what somebody looks for.
  for (const auto& [name, weak] : failing_) {
    Version version = weak.lock();
    if (version != nullptr && items.size() < items_max) add(name, version);
  }
  for (const auto& [name, version] : by_name_) {
    if (items.size() >= items_max) break;
    if (!failing_.contains(name)) add(name, version);
  }
  std::ranges::sort(items, {}, &BacklogItem::object);
  return items;
}

void WriteBack::move_due(Lane& lane) {
  while (!lane.later.empty() && lane.later.begin()->first.first <= core_.now()) {
    Version version = lane.later.begin()->second;
    lane.later.erase(lane.later.begin());
    auto directory = directories_.find(parent_of(version->record.object));
    uint64_t began = directory == directories_.end() ? version->order : directory->second;
    version->due = true;
    auto key = version->due_key = {UINT64_MAX - began, version->order};
    lane.due.emplace(key, std::move(version));
  }
}

Task<void> WriteBack::pump(Lane& lane) {
  while (!stopping_) {
    move_due(lane);
    if (lane.due.empty()) {
      Context wait{lane.later.empty() ? kNever : lane.later.begin()->first.first, &stop_};
      Status status = co_await lane.changed.wait(wait);
      static_cast<void>(status);  // woken, due or stopping: look again
      continue;
    }
    auto permit = co_await lane.slots.acquire(1, {kNever, &stop_});
    if (!permit) break;
    // Meanwhile others may have come due, or the one that was first been halted.
    move_due(lane);
    if (lane.due.empty()) continue;
    Version version = lane.due.begin()->second;
    unqueue(version);
    // What is visible with its data waits for its turn here; a large one sends its data first.
    Version before = version->size() <= kWholePutMax ? earlier(version) : nullptr;
    if (before != nullptr) {
      park(version, before);
      continue;
    }
    version->uploading = true;
    ++uploading_;
    version->cancel.reset();
    version->slot = std::move(*permit);
    gate_.spawn(upload_one(version));
  }
}

Task<void> WriteBack::upload_one(Version version) {
  Result<ObjectInfo> result = co_await upload(version);
  if (!result && is_conflict(result.error()) && !version->cancel.requested()) {
    result = co_await settle_conflict(version);
  }
  // Its turn has not come: no failure.
  bool gated = !result && result.error().code() == Code::kBusy;
  if (result) {
    co_await finish(version, std::move(*result));
  } else if (gated) {
    version->last_error = result.error().to_string();
  } else if (result.error().code() != Code::kCancelled && !version->cancel.requested()) {
    ++version->failures;
    version->refused = is_refusal(result.error());
    version->last_error = result.error().to_string();
    core_.metrics.upload_errors.add();
    if (failing_.size() < kFailingMax) failing_[version->record.object] = version;
    core_.log.warning("uploading {} (attempt {}): {}", version->record.object, version->failures,
                      version->last_error);
  }
  version->slot.release();
  version->uploading = false;
  --uploading_;
  bool retry = !version->committed && !version->dropped && !version->cancel.requested();
  if (retry && version->held > 0) {
    version->wanted = true;
  } else if (retry && !stopping_) {
    Backoff backoff(core_.world.random, kRetryFirst, kRetryMax);
    Duration delay = kRetryFirst;
    for (unsigned i = 0; i < std::min(version->failures, 10u); ++i) delay = backoff.next();
    if (gated) delay = pause_after_look(version->look_took);
    requeue(version, delay);
  }
  version->changed.notify_all();
  release_followers(version);
  if (version->committed) room_.notify_all();
}

Task<void> WriteBack::finish(Version version, ObjectInfo info) {
  Backoff backoff(core_.world.random, kRetryFirst, kRetryMax);
  while (true) {
    Status status = version->small
                        ? co_await core_.store.commit_small(version->record.write_id, info.etag)
                        : co_await core_.store.commit_staged(version->file, info.etag);
    if (status || status.error().code() == Code::kNotFound) break;
    // Unnoted, a crash would bring it back over whatever came later.
    core_.log.warning("noting the commit of {}: {}", version->record.object,
                      status.error().to_string());
    Status slept = co_await sleep_for(core_.executor(), backoff.next(), {kNever, &version->cancel});
    if (!slept) co_return;  // it stays staged; the next upload meets it in the origin
  }
  end_records(version, EndReason::kCommitted, info.etag);
  end_base(version);
  remove_name(version);
  version->committed = true;
  version->last_error.clear();
  core_.metrics.uploads.add();
  callbacks_.committed(version, info);
}

}  // namespace shoal
