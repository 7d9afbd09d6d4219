#include "replication/keepers.h"

#include <algorithm>

#include "async/gate.h"
#include "base/object_name.h"
#include "replication/record_order.h"
#include "replication/replication.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {

constexpr Duration kKeeperTtl = std::chrono::seconds(30);
constexpr Duration kTellPeriod = kKeeperTtl / 3;
constexpr Duration kAskLimit = std::chrono::seconds(5);
constexpr size_t kEntriesMax = 100'000;  // of each table
constexpr int kDirectoriesMax = 1000;    // in one request
constexpr int kNodesMax = 64;            // in one request
constexpr uint32_t kCountMax = 5000;     // names in one answer
constexpr size_t kAnswerBytesMax = 2'000'000;
constexpr size_t kParallel = 32;

std::string prefix_of(const std::string& directory) {
  return directory.empty() ? "" : directory + "/";
}

// Two nodes have different versions of one object: the later one is what others see.
void merge(std::map<std::string, LedgerRecord>& records, LedgerRecord record) {
  auto at = records.find(record.object);
  if (at == records.end()) {
    std::string name = record.object;
    records.emplace(std::move(name), std::move(record));
  } else if (comes_after(record, at->second)) {
    at->second = std::move(record);
  }
}

}  // namespace

std::optional<NodeId> owner_of_directory(const Replication& replication,
                                         const std::string& directory) {
  return replication.first_usable(slot_of_object(prefix_of(directory)));
}

Task<void> Keepers::tell(std::vector<std::string> directories, std::vector<NodeId> nodes,
                         Context context) {
  SteadyTime now = replication_.executor().now();
  if (told_.size() > kEntriesMax) {
    std::erase_if(told_, [&](const auto& entry) { return now - entry.second.when > kTellPeriod; });
    if (told_.size() > kEntriesMax) told_.clear();
  }
  std::map<NodeId, std::set<std::string>> by_owner;
  for (std::string& directory : directories) {
    std::optional<NodeId> owner = owner_of_directory(replication_, directory);
    if (!owner) continue;
    for (const NodeId& node : nodes) {
      Told& told = told_[{directory, node}];
      bool lately =
          told.owner == *owner && now - told.when < kTellPeriod && told.when != SteadyTime{};
      if (!lately) by_owner[*owner].insert(directory);
      if (!lately) told = {*owner, now};
    }
  }
  for (auto& [owner, names] : by_owner) {
    wire::LedgerKeepersRequest request;
    for (const NodeId& node : nodes) to_wire(node, *request.add_keepers());
    for (auto name = names.begin(); name != names.end();) {
      request.clear_directories();
      for (; name != names.end() && request.directories_size() < kDirectoriesMax; ++name) {
        request.add_directories(*name);
      }
      auto answer =
          co_await replication_.ask(owner, Method::kLedgerKeepers, request.SerializeAsString(),
                                    context.tightened(replication_.executor(), kAskLimit));
      if (answer) continue;
      for (const std::string& directory : request.directories()) {
        for (const NodeId& node : nodes) told_.erase({directory, node});
      }
    }
  }
}

void Keepers::keep(const std::string& object) { kept_.emplace(parent_of(object)); }

bool Keepers::any_in(const std::string& directory) const {
  std::string after;
  while (true) {
    LedgerPage page = replication_.ledger().below(
        {prefix_of(directory), false, after, 1, LedgerPage::What::kNames});
    if (!page.names.empty()) return true;
    if (!page.more) return false;
    after = page.last();
  }
}

Task<void> Keepers::tell_kept(Context context) {
  std::erase_if(kept_, [&](const std::string& directory) { return !any_in(directory); });
  co_await tell({kept_.begin(), kept_.end()}, {replication_.self()}, context);
}

Status Keepers::take(const wire::LedgerKeepersRequest& request) {
  std::vector<NodeId> nodes = from_wire(request.keepers());
  if (request.directories_size() > kDirectoriesMax || nodes.size() > kNodesMax) {
    return fail(Code::kInvalidArgument, "more keepers at once than are taken");
  }
  SteadyTime now = replication_.executor().now();
  for (const std::string& directory : request.directories()) {
    if (!directory.empty()) SHOAL_RETURN_IF_ERROR(validate_object_name(directory));
    if (keepers_.size() > kEntriesMax) {
      std::erase_if(keepers_, [&](const auto& entry) { return entry.second <= now; });
    }
    if (keepers_.size() > kEntriesMax) return fail(Code::kBusy, "too many directories");
    for (const NodeId& node : nodes) {
      if (node != replication_.self()) keepers_[{directory, node}] = now + kKeeperTtl;
    }
  }
  return Status();
}

Result<std::string> Keepers::answer_below(const std::string& body) const {
  SHOAL_ASSIGN_OR_RETURN(auto request, parse_message<wire::LedgerBelowRequest>(body, "a listing"));
  if (request.prefix().size() > kObjectNameBytesMax ||
      request.after().size() > kObjectNameBytesMax) {
    return fail(Code::kInvalidArgument, "a listing of what cannot be");
  }
  size_t count = std::clamp<size_t>(request.count_max(), 1, kCountMax);
  auto what = request.only_names() ? LedgerPage::What::kNames : LedgerPage::What::kRecords;
  LedgerPage page = replication_.ledger().below(
      {request.prefix(), request.recursive(), request.after(), count, what});
  wire::LedgerBelowReply reply;
  size_t bytes = 0;
  std::string cut;  // names after this one do not fit
  for (LedgerRecord& record : page.records) {
    wire::LedgerBody one;
    record.holders.clear();
    record.placed.clear();
    to_wire(record, one);
    bytes += one.ByteSizeLong();
    if (bytes > kAnswerBytesMax) break;
    *reply.add_records() = std::move(one);
    cut = record.object;
  }
  for (std::string& name : page.names) {
    bytes += name.size();
    if (bytes > kAnswerBytesMax) break;
    cut = name;
    reply.add_names(std::move(name));
  }
  auto taken = static_cast<size_t>(reply.records_size()) + static_cast<size_t>(reply.names_size());
  bool whole = taken == page.records.size() + page.names.size();
  for (const std::string& prefix : page.prefixes) {
    if (whole || prefix < cut) reply.add_prefixes(prefix);
  }
  reply.set_more(page.more || !whole);
  return reply.SerializeAsString();
}

Task<Status> Keepers::ask_below(NodeId node, std::string body, LedgerPage* into, Context context) {
  auto answer = co_await replication_.ask(node, Method::kLedgerBelow, std::move(body),
                                          context.tightened(replication_.executor(), kAskLimit));
  if (!answer) {
    // Another node has the same records, or will upload them: what it wrote is listed a little
    // later.
    replication_.parts().log.debug("a listing lacks what a node has records of: {}",
                                   answer.error().to_string());
    co_return Status();
  }
  SHOAL_CO_ASSIGN_OR_RETURN(auto reply, parse_message<wire::LedgerBelowReply>(*answer, "records"));
  into->records.reserve(static_cast<size_t>(reply.records_size()));
  for (const wire::LedgerBody& one : reply.records()) {
    SHOAL_CO_ASSIGN_OR_RETURN(LedgerRecord record, from_wire(one));
    into->records.push_back(std::move(record));
  }
  into->names.assign(reply.names().begin(), reply.names().end());
  into->prefixes.assign(reply.prefixes().begin(), reply.prefixes().end());
  into->more = reply.more();
  co_return Status();
}

namespace {

// What is known here and at others, in order; whole up to where the first of them goes on.
LedgerPage merge(std::vector<LedgerPage> pages, const LedgerRange& range) {
  LedgerPage merged;
  std::map<std::string, LedgerRecord> records;
  std::set<std::string> names;
  std::set<std::string> prefixes;
  std::string end;
  bool only_names = range.what == LedgerPage::What::kNames;
  auto add = [&](std::set<std::string>& to, std::string& name) {
    if (name.starts_with(range.prefix)) to.insert(to.end(), std::move(name));
  };
  for (LedgerPage& page : pages) {
    std::string reached = page.last();
    if (page.more && !reached.empty() && (!merged.more || reached < end)) end = reached;
    merged.more = merged.more || (page.more && !reached.empty());
    for (LedgerRecord& record : page.records) {
      if (only_names) {  // from a node that does not know of names only
        add(names, record.object);
      } else if (record.object.starts_with(range.prefix)) {
        merge(records, std::move(record));
      }
    }
    for (std::string& name : page.names) add(names, name);
    for (std::string& name : page.prefixes) add(prefixes, name);
  }
  bool more = merged.more;
  for (auto& [name, record] : records) {
    if (!more || name <= end) merged.records.push_back(std::move(record));
  }
  auto take = [&](std::set<std::string>& from, std::vector<std::string>& to) {
    auto last = more ? from.upper_bound(end) : from.end();
    to.assign(from.begin(), last);
  };
  take(names, merged.names);
  take(prefixes, merged.prefixes);
  return merged;
}

}  // namespace

Task<Result<LedgerPage>> Keepers::list(LedgerRange range, Context context) {
  std::vector<LedgerPage> pages;
  pages.push_back(replication_.ledger().below(range));
  std::string directory =
      range.prefix.empty() ? "" : range.prefix.substr(0, range.prefix.size() - 1);
  std::vector<NodeId> nodes;
  SteadyTime now = replication_.executor().now();
  for (auto at = keepers_.lower_bound({directory, NodeId{}});
       at != keepers_.end() && at->first.first == directory; ++at) {
    if (at->second > now && replication_.usable(at->first.second)) {
      nodes.push_back(at->first.second);
    }
  }
  wire::LedgerBelowRequest request;
  request.set_prefix(range.prefix);
  request.set_recursive(range.recursive);
  request.set_after(range.after);
  request.set_count_max(static_cast<uint32_t>(std::min<size_t>(range.count_max, kCountMax)));
  request.set_only_names(range.what == LedgerPage::What::kNames);
  std::string body = request.SerializeAsString();
  pages.resize(1 + nodes.size());
  std::vector<Task<Status>> tasks;
  for (size_t i = 0; i < nodes.size(); ++i) {
    tasks.push_back(ask_below(nodes[i], body, &pages[i + 1], context));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(replication_.executor(), std::move(tasks), kParallel));
  co_return merge(std::move(pages), range);
}

}  // namespace shoal
