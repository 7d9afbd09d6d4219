// Requests to other members about replicas and records.
#include <algorithm>
#include <iterator>

#include "async/gate.h"
#include "async/linked_cancel.h"
#include "replication/replication.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {

constexpr Duration kLookAfter = std::chrono::seconds(2);
constexpr Duration kPingLimit = std::chrono::seconds(2);
constexpr int kPingsFailedMax = 2;
constexpr Duration kAskLimit = std::chrono::seconds(5);
constexpr size_t kStandingAskedMax = 16;  // owners of the slot and those who stand in for them

struct Watch {
  Replication& replication;
  NodeId node;
  LinkedCancel& guard;
  Cancel over;  // the call has ended
};

Task<bool> answers(Watch& watch) {
  wire::PingRequest ping;
  ping.set_id_high(watch.node.high);
  ping.set_id_low(watch.node.low);
  Context limit = Context::within(watch.replication.executor(), kPingLimit);
  limit.cancel = &watch.over;
  auto answer =
      co_await watch.replication.ask(watch.node, Method::kPing, ping.SerializeAsString(), limit);
  co_return answer.has_value();
}

// Ends the call when its member is gone, or does not even answer pings.
Task<void> watch_member(Watch& watch) {
  int failed = 0;
  while (failed < kPingsFailedMax && watch.replication.usable(watch.node)) {
    Context context{kNever, &watch.over};
    Status slept = co_await sleep_for(watch.replication.executor(), kLookAfter, context);
    if (!slept || watch.over.requested()) co_return;
    bool alive = co_await answers(watch);
    if (watch.over.requested()) co_return;
    failed = alive ? 0 : failed + 1;
  }
  watch.guard.given_up = true;
  watch.guard.inner.request();
}

Task<Status> note_success(Task<Result<std::string>> work, uint32_t* successes,
                          std::optional<Error>* error) {
  auto answer = co_await std::move(work);
  if (answer) {
    ++*successes;
  } else {
    *error = std::move(answer).error();
  }
  co_return Status();
}

Task<Status> read_standing(Replication& replication, NodeId node, const wire::LedgerGetRequest& ask,
                           Replication::Standing* standing, std::string* silent) {
  auto answer = co_await replication.ask(node, Method::kLedgerGet, ask.SerializeAsString(),
                                         replication.limited(kAskLimit));
  auto reply = answer ? parse_message<wire::LedgerGetReply>(*answer, "records")
                      : Result<wire::LedgerGetReply>(fail(std::move(answer).error()));
  if (!reply) {
    *silent = reply.error().to_string();
    co_return Status();
  }
  if (reply->ended() && reply->reason() <= kEndReasonMax) {
    auto reason = static_cast<EndReason>(reply->reason());
    standing->ended = std::max(standing->ended.value_or(EndReason::kReplaced), reason);
    standing->commits.add(from_wire(reply->commits()));
  }
  for (const wire::LedgerBody& body : reply->records()) {
    auto record = from_wire(body);
    if (!record || record->write.id != from_wire(ask.write()).id) continue;
    standing->recorded = standing->recorded || record->write.generation >= ask.write().generation();
    standing->earlier = standing->earlier || record->write.generation <= ask.write().generation();
    standing->placed.push_back(node);
    std::ranges::copy(record->placed, std::back_inserter(standing->placed));
  }
  co_return Status();
}

}  // namespace

Code code_of_too_few(const std::optional<Error>& last) {
  return last && last->code() == Code::kNoSpace ? Code::kNoSpace : Code::kUnavailable;
}

Task<uint32_t> Replication::ask_first(std::vector<NodeId> nodes, uint32_t count, Method method,
                                      std::string body, std::optional<Error>* error,
                                      Context context) {
  uint32_t answered = 0;
  size_t next = 0;
  while (answered < count && next < nodes.size() && context.check(executor())) {
    std::vector<Task<Status>> tasks;
    for (; next < nodes.size() && answered + tasks.size() < count; ++next) {
      if (!usable(nodes[next])) continue;
      Context limit = context.tightened(executor(), kAskLimit);
      tasks.push_back(note_success(ask(nodes[next], method, body, limit), &answered, error));
    }
    size_t parallel = tasks.size();
    if (parallel == 0) break;
    Status asked = co_await run_all(executor(), std::move(tasks), parallel);
    static_cast<void>(asked);
  }
  co_return answered;
}

Task<Result<Replication::Standing>> Replication::ask_standing(std::string object, WriteName write,
                                                              uint64_t sequence, Context context) {
  wire::LedgerGetRequest request;
  request.set_object(object);
  to_wire(write, *request.mutable_write());
  request.set_sequence(sequence);
  Standing standing;
  std::string silent;
  std::vector<Task<Status>> tasks;
  for (const NodeId& node : candidates(slot_of_object(object))) {
    if (tasks.size() >= kStandingAskedMax) break;
    if (is_lost(node)) continue;
    tasks.push_back(read_standing(*this, node, request, &standing, &silent));
  }
  Status asked = co_await run_all(executor(), std::move(tasks), kStandingAskedMax);
  static_cast<void>(asked);
  SHOAL_CO_RETURN_IF_ERROR(context.check(executor()));
  if (!silent.empty() && !standing.ended) {
    co_return fail(Code::kUnavailable, object + ": not all who may know its end answer: " + silent);
  }
  co_return standing;
}

Task<Result<std::string>> Replication::ask(NodeId node, Method method, std::string body,
                                           Context context) {
  if (node == self()) co_return co_await handle(self(), method, std::move(body), context);
  std::shared_ptr<const SlotMap> map = parts_.view.map();
  const Member* member = map == nullptr ? nullptr : map->find(node);
  if (member == nullptr) co_return fail(Code::kUnavailable, node.to_hex() + " is no member");
  std::string name = member->name;
  auto answer = co_await parts_.pool.call(member->address, node, method, std::move(body), nullptr,
                                          0, context);
  if (answer) {
    parts_.view.report(node, true);
  } else {
    if (answer.error().code() == Code::kUnavailable) parts_.view.report(node, false);
    co_return fail(std::move(answer).error().with_context(name));
  }
  co_return answer;
}

Task<Result<std::string>> Replication::ask_while_alive(NodeId node, Method method, std::string body,
                                                       Context context) {
  if (node == self()) co_return co_await handle(self(), method, std::move(body), context);
  LinkedCancel guard(context.cancel);
  Gate gate(executor());
  Watch watch{*this, node, guard, {}};
  gate.spawn(watch_member(watch));
  auto answer = co_await ask(node, method, std::move(body), {context.deadline, &guard.inner});
  watch.over.request();
  co_await gate.close();
  bool ours = guard.given_up && !(context.cancel != nullptr && context.cancel->requested());
  if (!answer && ours) {
    parts_.view.report(node, false);
    co_return fail(Code::kUnavailable, node.to_hex() + " does not answer");
  }
  co_return answer;
}

Task<Result<wire::ReplicaStateReply>> Replication::ask_state(NodeId node, StateQuestion question,
                                                             Context context) {
  wire::ReplicaStateRequest request;
  request.set_object(std::move(question.home));
  request.set_as_object(std::move(question.as_object));
  request.set_size(question.size);
  to_wire(question.write, *request.mutable_write());
  auto answer = co_await ask(node, Method::kReplicaState, request.SerializeAsString(), context);
  if (!answer) co_return fail(std::move(answer).error());
  co_return parse_message<wire::ReplicaStateReply>(*answer, "what a replica holds");
}

}  // namespace shoal
