#include "replication/endings.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "async/gate.h"
#include "base/bytes.h"
#include "base/object_name.h"
#include "replication/replication.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {

constexpr const char* kEndingMark = "end";  // in place of a record's
constexpr Duration kAskLimit = std::chrono::seconds(5);
constexpr Duration kTakeBackLimit = std::chrono::seconds(30);
constexpr size_t kParallel = 16;
// A node that was away for longer may bring back what was removed meanwhile.
constexpr Duration kKeep = std::chrono::hours(24 * 7);

Hash128 key_of(const std::string& object, const Hash128& write_id) {
  return hash_string(object + '\n' + write_id.to_hex(), 0xe4d);
}

wire::LedgerRemoveRequest request_of(const Ending& ending) {
  wire::LedgerRemoveRequest request;
  request.set_object(ending.object);
  to_wire(ending.write, *request.mutable_write());
  request.set_sequence(ending.sequence);
  request.set_reason(static_cast<uint32_t>(ending.reason));
  for (const NodeId& node : ending.untold) to_wire(node, *request.add_untold());
  to_wire(ending.commits, *request.mutable_commits());
  return request;
}

Result<Ending> ending_of(const wire::LedgerRemoveRequest& request) {
  Ending ending;
  ending.object = request.object();
  ending.write = from_wire(request.write());
  ending.sequence = request.sequence();
  ending.untold = from_wire(request.untold());
  ending.commits = from_wire(request.commits());
  SHOAL_RETURN_IF_ERROR(validate_object_name(ending.object));
  if (ending.write.id.is_zero() || request.reason() > kEndReasonMax ||
      ending.untold.size() > kLedgerHoldersMax) {
    return fail(Code::kCorrupt, "an end that cannot be");
  }
  ending.reason = static_cast<EndReason>(request.reason());
  return ending;
}

void add_new(std::vector<NodeId>& to, const std::vector<NodeId>& nodes) {
  for (const NodeId& node : nodes) {
    if (std::ranges::find(to, node) == to.end()) to.push_back(node);
  }
}

}  // namespace

Endings::Endings(Replication& replication)
    : replication_(replication), writing_(replication.executor(), 1) {}

void Endings::note_recovered(const Store::Staged& staged) {
  auto mark = staged.record.metadata.find(kLedgerMark);
  bool is_ending =
      staged.small && mark != staged.record.metadata.end() && mark->second == kEndingMark;
  if (is_ending) recovered_.push_back(staged.record);
}

Task<Status> Endings::load() {
  Store& store = replication_.parts().store;
  for (const StagedRecord& note : std::exchange(recovered_, {})) {
    auto bytes = co_await store.read_staged_small(note.write_id);
    auto body = bytes ? parse_message<wire::LedgerRemoveRequest>(
                            std::string(as_text(bytes->span())), "an end")
                      : Result<wire::LedgerRemoveRequest>(fail(std::move(bytes).error()));
    auto ending = body ? ending_of(*body) : Result<Ending>(fail(std::move(body).error()));
    if (!ending || key_of(ending->object, ending->write.id) != note.write_id) {
      replication_.parts().log.error("the note of an end of {} is damaged", note.object);
      continue;
    }
    ending->since = note.changed;
    endings_.emplace(note.write_id, std::move(*ending));
  }
  co_return Status();
}

std::optional<Endings::Known> Endings::find(const std::string& object, const WriteName& write,
                                            uint64_t sequence) const {
  const Ledger::Ended* ended = replication_.ledger().find_ended(object, write.id);
  if (ended != nullptr && ended->covers(write, sequence)) {
    return Known{ended->reason, ended->commits};
  }
  auto found = endings_.find(key_of(object, write.id));
  if (found == endings_.end()) return std::nullopt;
  const Ending& kept = found->second;
  Ledger::Ended end{kept.write.generation, kept.sequence, kept.reason, false, {}};
  if (!end.covers(write, sequence)) return std::nullopt;
  return Known{kept.reason, kept.commits};
}

Task<Status> Endings::store(const Ending& ending, Hash128 key) {
  std::string bytes = request_of(ending).SerializeAsString();
  StagedRecord staged;
  staged.object = ending.object;
  staged.write_id = key;
  staged.size = bytes.size();
  staged.sealed = true;
  staged.changed = ending.since;
  staged.metadata[kLedgerMark] = kEndingMark;
  co_return co_await replication_.parts().store.stage_small(std::move(staged), as_bytes(bytes));
}

Task<Status> Endings::keep(Ending ending) {
  auto permit = co_await writing_.acquire(1, {});
  if (!permit) co_return fail(std::move(permit).error());
  Hash128 key = key_of(ending.object, ending.write.id);
  auto found = endings_.find(key);
  if (found != endings_.end()) {
    const Ending& known = found->second;
    add_new(ending.untold, known.untold);
    ending.commits.add(known.commits);
    auto order = [](const Ending& e) { return std::pair(e.write.generation, e.sequence); };
    if (order(ending) == order(known)) ending.reason = std::max(ending.reason, known.reason);
    if (order(ending) < order(known)) {
      ending.write = known.write;
      ending.sequence = known.sequence;
      ending.reason = known.reason;
    }
  }
  ending.since = replication_.executor().wall_now();
  endings_[key] = ending;
  co_return co_await store(ending, key);
}

Task<Result<std::string>> Endings::handle(wire::LedgerRemoveRequest request) {
  SHOAL_CO_ASSIGN_OR_RETURN(Ending ending, ending_of(request));
  wire::LedgerRemoveReply reply;
  if (request.notice()) {
    replication_.ledger().outdate(ending.object);
    co_return reply.SerializeAsString();
  }
  std::erase(ending.untold, replication_.self());
  const Ledger::Ended* before = replication_.ledger().find_ended(ending.object, ending.write.id);
  bool committed = before != nullptr && before->was_committed;
  if (before != nullptr) ending.commits.add(before->commits);
  // All that is left of it after a restart.
  auto noted = endings_.find(key_of(ending.object, ending.write.id));
  if (noted != endings_.end()) {
    committed = committed || noted->second.reason == EndReason::kCommitted;
    ending.commits.add(noted->second.commits);
  }
  reply.set_committed(committed);
  to_wire(ending.commits, *reply.mutable_commits());
  if (!ending.untold.empty()) SHOAL_CO_RETURN_IF_ERROR(co_await keep(ending));
  SHOAL_CO_ASSIGN_OR_RETURN(
      std::vector<NodeId> placed,
      co_await replication_.ledger().remove(ending.object, ending.write, ending.sequence,
                                            ending.reason, ending.commits));
  for (const NodeId& node : placed) to_wire(node, *reply.add_placed());
  co_return reply.SerializeAsString();
}

Task<Status> Endings::tell(NodeId node, const Ending& ending, Told* told, Context context) {
  wire::LedgerRemoveRequest request = request_of(ending);
  request.clear_untold();
  auto answer = co_await replication_.ask(node, Method::kLedgerRemove, request.SerializeAsString(),
                                          context.tightened(replication_.executor(), kAskLimit));
  if (!answer) co_return fail(std::move(answer).error());
  SHOAL_CO_ASSIGN_OR_RETURN(auto reply,
                            parse_message<wire::LedgerRemoveReply>(*answer, "an answer"));
  add_new(told->placed, from_wire(reply.placed()));
  told->committed = told->committed || reply.committed();
  told->commits.add(from_wire(reply.commits()));
  co_return Status();
}

namespace {
Task<Status> or_else(Task<Status> work, std::vector<NodeId>* failed, NodeId node) {
  Status status = co_await std::move(work);
  if (!status) failed->push_back(node);
  co_return Status();
}
}  // namespace

// On as many nodes as a record is: the one that ended it may be the next to be lost, and take with
// it what it knew. Fewer only where there are not so many.
Task<Status> Endings::note(const Ending& ending, uint32_t replicas, Context context) {
  std::vector<NodeId> candidates = replication_.candidates(slot_of_object(ending.object));
  size_t living = static_cast<size_t>(std::ranges::count_if(
      candidates, [&](const NodeId& node) { return !replication_.is_lost(node); }));
  std::optional<Error> error;
  uint32_t noted =
      co_await replication_.ask_first(std::move(candidates), replicas, Method::kLedgerRemove,
                                      request_of(ending).SerializeAsString(), &error, context);
  size_t wanted = std::min<size_t>(replicas, std::max<size_t>(living, 1));
  if (replication_.options().ack_degraded) wanted = 1;
  if (noted >= wanted) co_return Status();
  co_return fail(code_of_too_few(error),
                 fmt::format("{}: its end is noted on {} of {} nodes; {}", ending.object, noted,
                             wanted, error ? error->to_string() : "no other can be reached"));
}

// What somebody put into the origin in the writer's place, and is not to be there.
Task<Status> Endings::take_back(const Ending& ending, const Told& told, Context context) {
  Commits commits = ending.commits;
  commits.add(told.commits);
  if (std::string stray = commits.stray(); !stray.empty()) {
    SHOAL_CO_RETURN_IF_ERROR(
        co_await replication_.take_back_stray(ending.object, std::move(stray), context));
  }
  const Commits::Commit& put = commits.in_place;
  bool by_writer_too = !commits.by_writer.etag.empty() && commits.by_writer.covers(put);
  Commits::Commit last{"", ending.write.generation, ending.sequence};
  if (ending.reason == EndReason::kReplaced && !put.etag.empty() && !by_writer_too &&
      last.covers(put)) {
    co_return co_await take_back_replaced(ending, put.etag, context);
  }
  if (ending.reason != EndReason::kGone || !told.committed) co_return Status();
  co_return co_await replication_.take_back(ending.object, ending.write, context);
}

// What replaced it may have been removed before somebody, who could not be told, put this here.
Task<Status> Endings::take_back_replaced(const Ending& ending, std::string etag, Context context) {
  if (replication_.writer().may_be_in_origin(ending.object)) co_return Status();
  SHOAL_CO_ASSIGN_OR_RETURN(auto records,
                            co_await replication_.get_records(ending.object, context));
  bool to_come = std::ranges::any_of(records, [&](const LedgerRecord& record) {
    return record.write.id != ending.write.id || record.write.generation > ending.write.generation;
  });
  if (to_come) co_return Status();
  co_return co_await replication_.take_back_stray(ending.object, std::move(etag), context);
}

Task<Status> Endings::end(LedgerRecord record, EndReason reason, Commits commits, Context context) {
  Told told{record.placed, false, {}};
  if (told.placed.empty()) {  // not known any more
    std::vector<NodeId> candidates = replication_.candidates(slot_of_object(record.object));
    size_t count = std::min<size_t>(record.replicas, candidates.size());
    told.placed.assign(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count));
  }
  Ending ending{record.object, record.write, record.sequence, reason, {}, {}, std::move(commits)};
  // Who has passed the record on says to whom.
  for (size_t next = 0; next < told.placed.size();) {
    std::vector<Task<Status>> tasks;
    for (; next < told.placed.size(); ++next) {
      NodeId node = told.placed[next];
      if (!replication_.usable(node)) {
        ending.untold.push_back(node);
        continue;
      }
      tasks.push_back(or_else(tell(node, ending, &told, context), &ending.untold, node));
    }
    SHOAL_CO_RETURN_IF_ERROR(
        co_await run_all(replication_.executor(), std::move(tasks), kParallel));
  }
  replication_.parts().log.debug("{}: {} has ended ({}), {} of {} nodes were told", record.object,
                                 record.write.text(), static_cast<int>(reason),
                                 told.placed.size() - ending.untold.size(), told.placed.size());
  // What replaces it here may go without ever getting there.
  bool maybe_there = told.committed || !ending.untold.empty();
  if (reason == EndReason::kReplaced && maybe_there) {
    replication_.writer().may_be_in_origin(ending.object);
  }
  if (!ending.untold.empty()) {
    ending.commits.add(told.commits);
    SHOAL_CO_RETURN_IF_ERROR(co_await note(ending, record.replicas, context));
  }
  co_return co_await take_back(ending, told, context);
}

Task<void> Endings::tell_again(Hash128 key) {
  auto found = endings_.find(key);
  if (found == endings_.end()) co_return;
  Ending ending = found->second;
  std::vector<NodeId> untold;
  Told told{ending.untold, false, {}};
  for (size_t i = 0; i < told.placed.size(); ++i) {
    NodeId node = told.placed[i];
    if (node == replication_.self()) continue;
    Status status = replication_.usable(node)
                        ? co_await tell(node, ending, &told, replication_.limited(kAskLimit))
                        : fail(Code::kUnavailable, "not now");
    if (!status) untold.push_back(node);
  }
  if (!co_await take_back(ending, told, replication_.limited(kTakeBackLimit))) {
    co_return;  // again at the next look
  }
  auto permit = co_await writing_.acquire(1, {});
  if (!permit) co_return;
  found = endings_.find(key);
  if (found == endings_.end() || found->second.untold != ending.untold ||
      found->second.sequence != ending.sequence || found->second.write != ending.write) {
    co_return;  // it was changed meanwhile: again at the next look
  }
  if (untold == ending.untold) {
    bool old = replication_.executor().wall_now() - ending.since > kKeep;
    if (!old) co_return;
    untold.clear();
  }
  Status status;
  if (untold.empty()) {
    endings_.erase(found);
    status = co_await replication_.parts().store.drop_staged_small(key);
  } else {
    found->second.untold = untold;
    ending.untold = std::move(untold);
    status = co_await store(ending, key);
  }
  if (!status && status.error().code() != Code::kNotFound) {
    replication_.parts().log.warning("the note of an end of {}: {}", ending.object,
                                     status.error().to_string());
  }
}

Task<void> Endings::tell_untold() {
  std::vector<Task<Status>> tasks;
  for (const auto& [key, ending] : endings_) {
    bool useful = std::ranges::any_of(
        ending.untold, [&](const NodeId& node) { return replication_.usable(node); });
    bool old = replication_.executor().wall_now() - ending.since > kKeep;
    if (useful || old) tasks.push_back(as_status(tell_again(key)));
  }
  Status told = co_await run_all(replication_.executor(), std::move(tasks), kParallel);
  static_cast<void>(told);
}

}  // namespace shoal
