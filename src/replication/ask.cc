// Requests to other members about replicas and records.
#include "async/gate.h"
#include "async/linked_cancel.h"
#include "replication/replication.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {

constexpr Duration kLookAfter = std::chrono::seconds(2);
constexpr Duration kPingLimit = std::chrono::seconds(2);
constexpr int kPingsFailedMax = 2;

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

}  // namespace

Task<Result<std::string>> Replication::ask(NodeId node, Method method, std::string body,
                                           Context context) {
  if (node == self()) co_return co_await handle(method, std::move(body), context);
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
  if (node == self()) co_return co_await handle(method, std::move(body), context);
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

Task<Result<wire::ReplicaStateReply>> Replication::ask_state(NodeId node, std::string home,
                                                             WriteName write, Context context) {
  wire::ReplicaStateRequest request;
  request.set_object(std::move(home));
  to_wire(write, *request.mutable_write());
  auto answer = co_await ask(node, Method::kReplicaState, request.SerializeAsString(), context);
  if (!answer) co_return fail(std::move(answer).error());
  co_return parse_message<wire::ReplicaStateReply>(*answer, "what a replica holds");
}

}  // namespace shoal
