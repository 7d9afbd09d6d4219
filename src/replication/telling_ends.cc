// Replication: the ends of versions, told to those who have something of them.
#include <fmt/format.h>

#include <algorithm>

#include "async/gate.h"
#include "base/object_name.h"
#include "replication/replication.h"

namespace shoal {

namespace {
constexpr Duration kAskLimit = std::chrono::seconds(5);
constexpr Duration kTellLimit = std::chrono::seconds(2);
constexpr Duration kEndLimit = std::chrono::seconds(30);
constexpr Duration kEndAgain = std::chrono::seconds(1);
}  // namespace

// Before the record goes: what the owner of the directory remembers of the origin's listing lacks
// what has been committed since.
Task<Status> Replication::outdate_listings(const LedgerRecord& record, Context context) {
  auto owner = owner_of_directory(*this, std::string(parent_of(record.object)));
  if (!owner) co_return Status();
  wire::LedgerRemoveRequest request;
  request.set_object(record.object);
  to_wire(record.write, *request.mutable_write());
  request.set_notice(true);
  auto told = co_await ask(*owner, Method::kLedgerRemove, request.SerializeAsString(),
                           context.tightened(executor(), kTellLimit));
  static_cast<void>(told);  // its listings are as old as the TTL then
  co_return context.check(executor());
}

Task<void> Replication::end_at(NodeId node, Method method, std::string body) {
  auto answer = co_await ask(node, method, std::move(body), limited(kAskLimit));
  if (!answer && answer.error().code() != Code::kUnavailable) {
    parts_.log.debug("telling the end of a version: {}", answer.error().to_string());
  }
}

Task<Status> Replication::end_record(LedgerRecord record, End how, Context context) {
  auto spawn = [&](NodeId node, Method method, std::string body) {
    gate_.spawn(end_at(node, method, std::move(body)));
  };
  wire::ReplicaEndRequest end;
  end.set_object(record.home);
  end.set_as_object(record.object);
  to_wire(record.write, *end.mutable_write());
  end.set_etag(how.etag);
  end.set_size(record.size);
  end.set_crcs(pack_crcs(record.chunk_crcs));
  // Of a version that goes on there may be a later record, on nodes that cannot be reached just
  // now, and nothing but these replicas has its bytes. Only its writer knows, and then ends all;
  // else holders find out.
  bool final = record.sealed || record.sequence == kAllSequences;
  for (const NodeId& node : record.holders) {
    if (final && usable(node)) spawn(node, Method::kReplicaEnd, end.SerializeAsString());
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await outdate_listings(record, context));
  co_return co_await endings_.end(std::move(record), how.reason, std::move(how.commits), context);
}

Task<Status> Replication::take_back(std::string object, WriteName write, Context context) {
  auto info = co_await parts_.origin.head(object, context);
  if (!info && info.error().code() == Code::kNotFound) co_return Status();
  if (!info) co_return fail(std::move(info).error());
  auto id = info->metadata.find("shoalwriteid");
  auto there = id == info->metadata.end() ? std::nullopt : CommitName::parse(id->second);
  bool later = there && there->write.generation > write.generation;
  if (!there || there->write.id != write.id || later) co_return Status();
  parts_.log.debug("{}: taking back {}", object, there->text());
  Status removed = co_await parts_.origin.remove(object, Condition::match(info->etag), context);
  bool gone = removed || removed.error().code() == Code::kNotFound ||
              removed.error().code() == Code::kConflict;
  co_return gone ? Status() : std::move(removed);
}

Task<Status> Replication::take_back_stray(std::string object, std::string etag, Context context) {
  parts_.log.debug("{}: taking back {}, nobody wants it there", object, etag);
  Status removed =
      co_await parts_.origin.remove(object, Condition::match(std::move(etag)), context);
  bool gone = removed || removed.error().code() == Code::kNotFound ||
              removed.error().code() == Code::kConflict;
  co_return gone ? Status() : std::move(removed);
}

Task<Status> Replication::end_left_behind(LedgerRecord record, End end, Context context) {
  auto standing = co_await ask_standing(record.object, record.write, record.sequence, context);
  if (standing && !standing->earlier) co_return Status();
  if (standing) record.add_placed(standing->placed);
  if (record.home.empty()) record.home = record.object;
  record.replicas = options_.replicas;
  co_return co_await end_record(std::move(record), std::move(end), context);
}

Task<void> Replication::end_later(Replication* self, EndTask task, LedgerRecord record, End end) {
  auto under_way = self->ending_.emplace(record.object, record.write.id);
  bool said = false;
  while (true) {
    Status ended = co_await (self->*task)(record, end, self->limited(kEndLimit));
    if (ended) break;
    if (ended.error().code() != Code::kCancelled && !std::exchange(said, true)) {
      self->parts_.log.warning("the end of a version: {}; trying again", ended.error().to_string());
    }
    Context context{kNever, &self->stopping_};
    if (!co_await sleep_for(self->executor(), kEndAgain, context)) break;
  }
  self->ending_.erase(under_way);
  self->ended_.notify_all();
}

void Replication::remove_record(LedgerRecord record, End end) {
  gate_.spawn(end_later(this, &Replication::end_record, std::move(record), std::move(end)));
}

void Replication::remove_left_behind(LedgerRecord record, End end) {
  gate_.spawn(end_later(this, &Replication::end_left_behind, std::move(record), std::move(end)));
}

bool Replication::is_ending(const std::string& object, const Hash128& write_id) const {
  auto [first, last] = ending_.equal_range(object);
  return std::any_of(first, last, [&](const auto& entry) { return entry.second == write_id; });
}

Task<Status> Replication::wait_ended(std::string path, Context context) {
  std::string below = path + "/";
  while (true) {
    auto next = ending_.lower_bound(below);
    bool under_way =
        ending_.contains(path) || (next != ending_.end() && next->first.starts_with(below));
    if (!under_way) co_return Status();
    Status waited = co_await ended_.wait(context);
    if (waited || waited.error().code() == Code::kCancelled) {
      SHOAL_CO_RETURN_IF_ERROR(std::move(waited));
      continue;
    }
    co_return fail(Code::kUnavailable,
                   path + ": too few nodes can be told that its last version is in the origin");
  }
}

}  // namespace shoal
