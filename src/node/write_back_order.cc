// In which order commits follow each other (commit_order.h).
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "base/object_name.h"
#include "node/write_back.h"
#include "replication/commit_order.h"

namespace shoal {

namespace {

constexpr unsigned kFailuresPassed = 20;  // about a quarter of an hour
constexpr unsigned kRefusalsPassed = 3;
constexpr Duration kTurnPause = std::chrono::seconds(1);
// A marker that waits for files of other nodes without end is committed after this.
constexpr Duration kOthersPatience = std::chrono::hours(1);

}  // namespace

void WriteBack::closed(const Version& version) {
  reopened(version);
  version->order = ++last_order_;
  if (version->size() > kWholePutMax) large_.emplace(version->order, version);
  directories_.try_emplace(std::string(parent_of(version->record.object)), version->order);
}

void WriteBack::reopened(const Version& version) {
  if (version->order != 0) large_.erase(version->order);
  version->order = 0;
  release_followers(version);
}

// After a restart: by the time at which they were closed.
void WriteBack::restore_order() {
  std::vector<Version> versions;
  for (const auto& [name, version] : by_name_) versions.push_back(version);
  std::ranges::sort(versions, [](const Version& a, const Version& b) {
    return std::tie(a->record.changed, a->record.object) <
           std::tie(b->record.changed, b->record.object);
  });
  for (const Version& version : versions) closed(version);
}

bool WriteBack::goes_before(const StagedVersion& one, const StagedVersion& other) {
  if (one.order == 0 || one.order >= other.order || one.committed || one.dropped) return false;
  if (!one.gate.empty()) return false;  // waits for what it names, perhaps for ever
  if (one.inode != nullptr && one.inode->writers > 0) return false;  // it goes on being written
  return one.failures < (one.refused ? kRefusalsPassed : kFailuresPassed);
}

// One whose commit comes first; null if it is this one's turn.
WriteBack::Version WriteBack::earlier(const Version& version) const {
  if (!version->gate.empty()) return nullptr;
  std::string_view directory = parent_of(version->record.object);
  if (!is_marker(leaf_of(version->record.object))) {
    for (const auto& [order, weak] : large_) {
      if (order >= version->order) break;
      Version one = weak.lock();
      bool beside = one != nullptr && parent_of(one->record.object) == directory;
      if (beside && goes_before(*one, *version)) return one;
    }
    return nullptr;
  }
  std::string prefix = directory.empty() ? "" : std::string(directory) + "/";
  for (auto at = by_name_.lower_bound(prefix); at != by_name_.end(); ++at) {
    if (!at->first.starts_with(prefix)) break;
    if (goes_before(*at->second, *version)) return at->second;
  }
  return nullptr;
}

void WriteBack::park(const Version& version, const Version& before) {
  version->parked = true;
  before->followers.push_back(version);
  // Who waits for this one waits for that one too.
  if (version->forced && !before->forced && before->record.sealed && before->durable) {
    enqueue(before, true);
  }
}

void WriteBack::release_followers(const Version& version) {
  for (const auto& weak : std::exchange(version->followers, {})) {
    Version follower = weak.lock();
    if (follower == nullptr || !std::exchange(follower->parked, false)) continue;
    if (stopping_ || follower->committed || follower->dropped || follower->uploading) continue;
    requeue(follower, Duration(0));
  }
}

Task<Status> WriteBack::await_turn(Version version, Context context) {
  while (Version before = earlier(version)) {
    version->slot.release();  // the other may need it
    if (version->forced && !before->forced && before->record.sealed && before->durable) {
      enqueue(before, true);
    }
    Status changed = co_await before->changed.wait(context.tightened(core_.executor(), kTurnPause));
    static_cast<void>(changed);  // looked at again in any case
    SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
  }
  co_return context.check(core_.executor());
}

// A marker waits for what other nodes closed before it.
Task<Status> WriteBack::check_others(Version version) {
  bool ordered = core_.replication != nullptr && version->gate.empty() &&
                 is_marker(leaf_of(version->record.object));
  if (!ordered) co_return Status();
  Context context = core_.background();
  context.cancel = &version->cancel;
  Status status =
      co_await check_earlier(*core_.replication, version->record.object, version->record.changed,
                             core_.replication->self(), context);
  if (status || status.error().code() != Code::kBusy) {
    version->held_since = SteadyTime{};
    co_return status;
  }
  if (version->held_since == SteadyTime{}) version->held_since = core_.now();
  if (core_.now() - version->held_since < kOthersPatience) co_return status;
  core_.log.warning("{}; it has waited for an hour and goes first now", status.error().message());
  co_return Status();
}

}  // namespace shoal
