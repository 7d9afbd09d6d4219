#include "replication/waiting.h"

#include <algorithm>
#include <set>

#include "async/gate.h"
#include "base/object_name.h"
#include "replication/replication.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {

constexpr uint32_t kItemsMax = 2000;
constexpr Duration kAskLimit = std::chrono::seconds(5);
constexpr size_t kParallel = 32;
constexpr size_t kErrorBytesMax = 512;

void to_wire(const WaitingItem& item, wire::WaitingBody& body) {
  body.set_object(item.object);
  ::shoal::to_wire(item.write, *body.mutable_write());
  body.set_size(item.size);
  body.set_state(static_cast<uint32_t>(item.state));
  body.set_uploaded(item.uploaded);
  body.set_crc(item.crc);
  body.set_changed_ns(item.changed.time_since_epoch().count());
  body.mutable_writer()->set_high(item.writer.high);
  body.mutable_writer()->set_low(item.writer.low);
  body.set_error(item.last_error.substr(0, kErrorBytesMax));
}

Result<WaitingItem> from_wire(const wire::WaitingBody& body) {
  WaitingItem item;
  item.object = body.object();
  SHOAL_RETURN_IF_ERROR(validate_object_name(item.object));
  if (body.state() > static_cast<uint32_t>(WaitingItem::State::kReplicated)) {
    return fail(Code::kCorrupt, "a state that cannot be");
  }
  item.write = ::shoal::from_wire(body.write());
  item.size = body.size();
  item.state = static_cast<WaitingItem::State>(body.state());
  item.uploaded = std::min<uint64_t>(body.uploaded(), item.size);
  item.crc = body.crc();
  item.changed = WallTime(Duration(body.changed_ns()));
  item.writer = {body.writer().high(), body.writer().low()};
  item.last_error = body.error();
  return item;
}

bool is_at_or_below(const std::string& object, const std::string& path) {
  return path.empty() || object == path || object.starts_with(path + "/");
}

struct Survey {
  Replication& replication;
  std::string path;
  Push push;
  Context context;
  Waiting found;
  std::set<NodeId> answered;
  std::vector<WaitingItem> recorded;  // what owners of records say
};

Result<std::string> take_page(Survey& survey, const NodeId& node, const std::string& answer) {
  SHOAL_ASSIGN_OR_RETURN(auto reply, parse_message<wire::WaitingReply>(answer, "what waits"));
  std::string last_written;
  std::string last_recorded;
  for (const wire::WaitingBody& body : reply.written()) {
    SHOAL_ASSIGN_OR_RETURN(WaitingItem item, from_wire(body));
    if (!is_at_or_below(item.object, survey.path) || item.object <= last_written) {
      return fail(Code::kCorrupt, "an answer about something else");
    }
    item.writer = node;
    last_written = item.object;
    auto [at, fresh] = survey.found.items.try_emplace(item.object, item);
    // Two nodes write the same name: what was closed last is the one to wait for.
    if (!fresh && at->second.changed < item.changed) at->second = std::move(item);
  }
  for (const wire::WaitingBody& body : reply.recorded()) {
    SHOAL_ASSIGN_OR_RETURN(WaitingItem item, from_wire(body));
    if (!is_at_or_below(item.object, survey.path) || item.object < last_recorded) {
      return fail(Code::kCorrupt, "an answer about something else");
    }
    last_recorded = item.object;
    survey.recorded.push_back(std::move(item));
  }
  if (!reply.more()) return std::string();
  // Where both lists were cut, the shorter one tells how far the answer reaches.
  std::string reached = last_written;
  if (reached.empty() || (!last_recorded.empty() && last_recorded < reached)) {
    reached = last_recorded;
  }
  if (reached.empty()) return fail(Code::kCorrupt, "an answer without an end");
  return reached;
}

Task<Status> ask_one(Survey& survey, NodeId node, std::string name) {
  wire::WaitingRequest request;
  request.set_path(survey.path);
  request.set_items_max(kItemsMax);
  request.set_push(static_cast<uint32_t>(survey.push));
  while (true) {
    Result<std::string> answer = fail(Code::kUnavailable, "it does not answer");
    if (node == survey.replication.self()) {
      answer = answer_waiting(survey.replication, request.SerializeAsString());
    } else {
      answer = co_await survey.replication.ask(
          node, Method::kWaiting, request.SerializeAsString(),
          survey.context.tightened(survey.replication.executor(), kAskLimit));
    }
    SHOAL_CO_RETURN_IF_ERROR(survey.context.check(survey.replication.executor()));
    Result<std::string> after = std::string();
    if (answer) {
      after = take_page(survey, node, *answer);
    } else {
      after = fail(std::move(answer).error());
    }
    if (!after) {
      survey.found.silent = name + ": " + after.error().to_string();
      co_return Status();
    }
    if (after->empty()) break;
    if (*after <= request.after()) {
      survey.found.silent = name + ": its answers do not end";
      co_return Status();
    }
    request.set_after(std::move(*after));
  }
  survey.answered.insert(node);
  co_return Status();
}

}  // namespace

Result<std::string> answer_waiting(Replication& replication, const std::string& body) {
  SHOAL_ASSIGN_OR_RETURN(auto request, parse_message<wire::WaitingRequest>(body, "a question"));
  if (request.path().size() > kObjectNameBytesMax || request.after().size() > kObjectNameBytesMax ||
      request.push() > static_cast<uint32_t>(Push::kUpload)) {
    return fail(Code::kInvalidArgument, "a question about what cannot be");
  }
  size_t count_max = std::clamp<size_t>(request.items_max(), 1, kItemsMax);
  wire::WaitingReply reply;
  WaitingPage written = replication.writer().waiting(request.path(), request.after(), count_max,
                                                     static_cast<Push>(request.push()));
  for (const WaitingItem& item : written.items) to_wire(item, *reply.add_written());
  std::vector<LedgerRecord> records =
      replication.ledger().records_below(request.path(), request.after(), count_max);
  for (const LedgerRecord& record : records) {
    WaitingItem item{
        record.object,  record.write,  record.size, WaitingItem::State::kReplicated, 0, record.crc,
        record.changed, record.writer, {}};
    to_wire(item, *reply.add_recorded());
  }
  reply.set_more(written.more || records.size() >= count_max);
  return reply.SerializeAsString();
}

Task<Result<Waiting>> waiting_below(Replication& replication, std::string path, Push push,
                                    Context context) {
  Survey survey{replication, std::move(path), push, context, {}, {}, {}};
  std::vector<Task<Status>> tasks;
  std::shared_ptr<const SlotMap> map = replication.parts().view.map();
  if (map != nullptr) {
    for (const Member& member : map->members) {
      if (member.id == replication.self() || replication.is_lost(member.id)) continue;
      tasks.push_back(ask_one(survey, member.id, member.name));
    }
  }
  tasks.push_back(ask_one(survey, replication.self(), "this node"));
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(replication.executor(), std::move(tasks), kParallel));
  // A writer that answered has said what it has: a record that it does not know is on its way out.
  for (WaitingItem& item : survey.recorded) {
    if (survey.answered.contains(item.writer)) continue;
    auto [at, fresh] = survey.found.items.try_emplace(item.object, item);
    if (!fresh && !survey.answered.contains(at->second.writer) &&
        at->second.changed < item.changed) {
      at->second = std::move(item);
    }
  }
  co_return std::move(survey.found);
}

}  // namespace shoal
