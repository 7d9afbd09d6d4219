#include "replication/waiting.h"

#include <algorithm>
#include <set>

#include "async/gate.h"
#include "base/object_name.h"
#include "replication/manifest.h"
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

int rank_of(WaitingItem::State state, const std::string& error) {
  return state == WaitingItem::State::kOpen ? 0 : error.empty() ? 2 : 1;
}

void to_wire(const Behind& behind, wire::BehindBody& body) {
  body.set_files(behind.files);
  body.set_bytes(behind.bytes);
  body.set_open(behind.open);
  for (const WaitingItem& item : behind.named) to_wire(item, *body.add_named());
}

struct Survey {
  Replication& replication;
  WaitingQuestion question;
  Context context;
  Waiting found;
  std::vector<NodeId> asked;
  std::set<NodeId> answered;
  std::vector<WaitingItem> recorded;  // what owners of records say
};

void take_written(Survey& survey, WaitingItem item) {
  if (survey.question.behind) {
    bool counts = Behind::covers(*survey.question.behind, item.state) &&
                  !is_of_publication(leaf_of(item.object));
    if (!counts) return;
    survey.found.behind.count(item.state, item.size - item.uploaded, &item);
    return;
  }
  auto [at, fresh] = survey.found.items.try_emplace(item.object, item);
  // Two nodes write the same name: what was closed last is the one to wait for.
  if (!fresh && at->second.changed < item.changed) at->second = std::move(item);
}

Status take_behind(Survey& survey, const NodeId& node, const wire::BehindBody& body) {
  Behind behind{body.files(), body.bytes(), body.open(), {}};
  auto named = static_cast<uint64_t>(body.named_size());
  if (named > Behind::kNamed || named > behind.files || behind.open > behind.files) {
    return fail(Code::kCorrupt, "an answer that cannot be");
  }
  for (const wire::WaitingBody& one : body.named()) {
    SHOAL_ASSIGN_OR_RETURN(WaitingItem item, from_wire(one));
    if (!is_at_or_below(item.object, survey.question.path)) {
      return fail(Code::kCorrupt, "an answer about something else");
    }
    item.writer = node;
    behind.named.push_back(std::move(item));
  }
  bool known =
      behind.open == 0 || (named > 0 && behind.named[0].state == WaitingItem::State::kOpen);
  if (!known) return fail(Code::kCorrupt, "an answer that cannot be");
  survey.found.behind.add(std::move(behind));
  return {};
}

// Answers where the next page begins; empty: there is none.
Result<std::string> take_page(Survey& survey, const NodeId& node, const std::string& answer) {
  SHOAL_ASSIGN_OR_RETURN(auto reply, parse_message<wire::WaitingReply>(answer, "what waits"));
  std::string last_written;
  std::string last_recorded;
  for (const wire::WaitingBody& body : reply.written()) {
    SHOAL_ASSIGN_OR_RETURN(WaitingItem item, from_wire(body));
    if (!is_at_or_below(item.object, survey.question.path) || item.object <= last_written) {
      return fail(Code::kCorrupt, "an answer about something else");
    }
    item.writer = node;
    last_written = item.object;
    take_written(survey, std::move(item));
  }
  for (const wire::WaitingBody& body : reply.recorded()) {
    SHOAL_ASSIGN_OR_RETURN(WaitingItem item, from_wire(body));
    if (!is_at_or_below(item.object, survey.question.path) || item.object < last_recorded) {
      return fail(Code::kCorrupt, "an answer about something else");
    }
    last_recorded = item.object;
    survey.recorded.push_back(std::move(item));
  }
  if (reply.has_behind()) SHOAL_RETURN_IF_ERROR(take_behind(survey, node, reply.behind()));
  if (!reply.more()) return std::string();
  if (reply.reached().empty()) return fail(Code::kCorrupt, "an answer without an end");
  return reply.reached();
}

Task<Status> ask_one(Survey& survey, NodeId node, std::string name) {
  wire::WaitingRequest request;
  request.set_path(survey.question.path);
  request.set_items_max(kItemsMax);
  request.set_push(static_cast<uint32_t>(survey.question.push));
  if (survey.question.behind) {
    request.set_behind(static_cast<uint32_t>(*survey.question.behind) + 1);
  }
  for (const NodeId& other : survey.asked) ::shoal::to_wire(other, *request.add_asked());
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
    // Others have their turn between the pages of this node too.
    if (node == survey.replication.self()) co_await Yield(survey.replication.executor());
  }
  survey.answered.insert(node);
  co_return Status();
}

Task<Result<Waiting>> ask_all(Survey& survey) {
  Replication& replication = survey.replication;
  std::vector<std::pair<NodeId, std::string>> nodes;
  std::shared_ptr<const SlotMap> map = replication.parts().view.map();
  if (map != nullptr) {
    for (const Member& member : map->members) {
      if (member.id == replication.self() || replication.is_lost(member.id)) continue;
      nodes.emplace_back(member.id, member.name);
    }
  }
  nodes.emplace_back(replication.self(), "this node");
  for (const auto& [node, name] : nodes) survey.asked.push_back(node);
  std::vector<Task<Status>> tasks;
  for (auto& [node, name] : nodes) tasks.push_back(ask_one(survey, node, std::move(name)));
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(replication.executor(), std::move(tasks), kParallel));
  // A writer that answered has said what it has: a record that it does not know is on its way out.
  std::map<std::string, WaitingItem> recorded;
  for (WaitingItem& item : survey.recorded) {
    if (survey.answered.contains(item.writer)) continue;
    auto [at, fresh] = recorded.try_emplace(item.object, item);
    if (!fresh && at->second.changed < item.changed) at->second = std::move(item);
  }
  for (auto& [object, item] : recorded) {
    if (survey.question.behind) {
      take_written(survey, std::move(item));
    } else {
      survey.found.items.try_emplace(object, std::move(item));
    }
  }
  co_return std::move(survey.found);
}

}  // namespace

bool Behind::would_name(WaitingItem::State state, const std::string& error) const {
  return named.size() < kNamed ||
         rank_of(state, error) < rank_of(named.back().state, named.back().last_error);
}

void Behind::count(WaitingItem::State state, uint64_t bytes_left, const WaitingItem* item) {
  ++files;
  bytes += bytes_left;
  if (state == WaitingItem::State::kOpen) ++open;
  if (item == nullptr || !would_name(state, item->last_error)) return;
  auto at = std::ranges::upper_bound(
      named, rank_of(state, item->last_error), {},
      [](const WaitingItem& other) { return rank_of(other.state, other.last_error); });
  named.insert(at, *item);
  if (named.size() > kNamed) named.pop_back();
}

void Behind::add(Behind other) {
  for (const WaitingItem& item : other.named) {
    --other.files;
    if (item.state == WaitingItem::State::kOpen && other.open > 0) --other.open;
    count(item.state, 0, &item);
  }
  files += other.files;
  bytes += other.bytes;
  open += other.open;
}

Result<std::string> answer_waiting(Replication& replication, const std::string& body) {
  SHOAL_ASSIGN_OR_RETURN(auto request, parse_message<wire::WaitingRequest>(body, "a question"));
  if (request.path().size() > kObjectNameBytesMax || request.after().size() > kObjectNameBytesMax ||
      request.push() > static_cast<uint32_t>(Push::kUpload) || request.behind() > 2) {
    return fail(Code::kInvalidArgument, "a question about what cannot be");
  }
  WaitingQuestion question{
      request.path(), request.after(), {}, kItemsMax, static_cast<Push>(request.push()), {}};
  question.items_max = std::clamp<size_t>(request.items_max(), 1, kItemsMax);
  if (request.behind() > 0) question.behind = static_cast<Behind::Goal>(request.behind() - 1);
  std::set<NodeId> asked;
  for (const wire::NodeBody& node : request.asked()) asked.insert({node.high(), node.low()});
  wire::WaitingReply reply;
  Ledger::RecordsBelow below =
      replication.ledger().records_below(question.path, question.after, question.items_max, asked);
  for (const LedgerRecord& record : below.records) {
    WaitingItem item{
        record.object,  record.write,  record.size, WaitingItem::State::kReplicated, 0, record.crc,
        record.changed, record.writer, {}};
    to_wire(item, *reply.add_recorded());
  }
  // No name of `written` is counted twice: it goes as far as the records do.
  if (below.more) question.until = below.reached;
  WaitingPage written = replication.writer().waiting(question);
  for (const WaitingItem& item : written.items) to_wire(item, *reply.add_written());
  if (question.behind) to_wire(written.behind, *reply.mutable_behind());
  reply.set_more(written.more || below.more);
  if (reply.more()) reply.set_reached(written.more ? written.reached : question.until);
  return reply.SerializeAsString();
}

Task<Result<Waiting>> waiting_below(Replication& replication, std::string path, Push push,
                                    Context context) {
  Survey survey{replication, {}, context, {}, {}, {}, {}};
  survey.question.path = std::move(path);
  survey.question.push = push;
  co_return co_await ask_all(survey);
}

Task<Result<Waiting>> behind_below(Replication& replication, std::string path, Behind::Goal goal,
                                   Push push, Context context) {
  Survey survey{replication, {}, context, {}, {}, {}, {}};
  survey.question.path = std::move(path);
  survey.question.push = push;
  survey.question.behind = goal;
  co_return co_await ask_all(survey);
}

}  // namespace shoal
