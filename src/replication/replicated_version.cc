#include "replication/replicated_version.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "async/gate.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {
constexpr Duration kAvoid = std::chrono::seconds(5);
constexpr Duration kAgain = std::chrono::milliseconds(100);
// One chunk behind others on a slow link. A holder that does not answer is given up long before.
constexpr Duration kSendLimit = std::chrono::minutes(10);
constexpr size_t kSyncsParallel = 64;
constexpr size_t kSpareOwners = 4;  // that a chunk may go to instead of its first owner
}  // namespace

ReplicatedVersion::ReplicatedVersion(Replication& replication, std::string object, WriteName write,
                                     bool early_upload)
    : replication_(replication),
      home_(std::move(object)),
      object_(home_),
      write_(write),
      early_upload_(early_upload),
      changed_(replication.executor()) {}

void ReplicatedVersion::renamed(std::string object) {
  object_ = std::move(object);
  for (const NodeId& node : holders()) unsynced_.insert(node);
}

void ReplicatedVersion::resized(uint64_t size) {
  uint64_t count = (size + chunk_bytes() - 1) / chunk_bytes();
  uint64_t edge = std::min(size_, size) / chunk_bytes();
  if (size != size_ && edge < chunks_.size()) ++chunks_[edge].revision;
  chunks_.resize(count);
  size_ = size;
}

void ReplicatedVersion::wrote(Range range, uint64_t size) {
  if (size != size_) {
    uint64_t count = (size + chunk_bytes() - 1) / chunk_bytes();
    if (chunks_.size() < count) chunks_.resize(count);
    // What was sent of the last chunk as the end of the object ends elsewhere now.
    uint64_t edge = size_ / chunk_bytes();
    if (size_ % chunk_bytes() != 0 && size > size_) ++chunks_[edge].revision;
    size_ = std::max(size_, size);
  }
  for (uint64_t c = range.offset / chunk_bytes(); c * chunk_bytes() < range.end(); ++c) {
    uint64_t from = std::max(range.offset, c * chunk_bytes());
    uint64_t to = std::min(range.end(), (c + 1) * chunk_bytes());
    Chunk& chunk = chunks_[c];
    ++chunk.revision;
    chunk.filled += to - from;
    if (chunk.filled >= chunk_bytes()) start_send(c);
  }
}

bool ReplicatedVersion::is_good(const NodeId& node) const {
  if (node == replication_.self() || !replication_.usable(node)) return false;
  auto found = avoided_.find(node);
  return found == avoided_.end() || found->second <= replication_.executor().now();
}

bool ReplicatedVersion::settled(const Chunk& chunk) const {
  return chunk.sent == chunk.revision &&
         chunk.holders.size() + 1 >= replication_.options().replicas;
}

// The first few owners of a slot are equally good: readers ask the next when one has nothing. First
// comes the one with the fewest of this node's chunks on their way: a busy one must not gather all
// that may be in flight. Then the one that has least of this version: a small file is spread evenly
// too, and waits for the last holder to end its uploads.
void ReplicatedVersion::put_least_used_first(std::vector<NodeId>& nodes) const {
  size_t copies = replication_.options().replicas - 1;
  std::vector<std::tuple<int, uint64_t, size_t, NodeId>> first;
  for (size_t i = 0; i < std::min(nodes.size(), copies + kSpareOwners); ++i) {
    auto found = sent_to_.find(nodes[i]);
    first.emplace_back(replication_.sending_to(nodes[i]),
                       found == sent_to_.end() ? 0 : found->second, i, nodes[i]);
  }
  std::ranges::sort(first);
  for (size_t i = 0; i < first.size(); ++i) nodes[i] = std::get<NodeId>(first[i]);
}

// Who is to hold the chunk, best first: who has it already, then other owners, in zones of their
// own as far as there are any.
std::vector<NodeId> ReplicatedVersion::choose(uint64_t chunk) const {
  std::vector<NodeId> result;
  for (const NodeId& node : chunks_[chunk].holders) {
    if (is_good(node)) result.push_back(node);
  }
  std::shared_ptr<const SlotMap> map = replication_.parts().view.map();
  if (map == nullptr) return result;
  auto zone_of = [&](const NodeId& node) {
    const Member* member = map->find(node);
    return member == nullptr ? std::string() : member->zone;
  };
  std::set<std::string> zones{zone_of(replication_.self())};
  for (const NodeId& node : result) zones.insert(zone_of(node));
  std::vector<NodeId> others = replication_.candidates(slot_of_chunk(home_, chunk));
  std::erase_if(others, [&](const NodeId& node) {
    return !is_good(node) || std::ranges::find(result, node) != result.end();
  });
  put_least_used_first(others);
  std::vector<NodeId> same_zone;
  for (const NodeId& node : others) {
    if (zones.insert(zone_of(node)).second) {
      result.push_back(node);
    } else {
      same_zone.push_back(node);
    }
  }
  result.insert(result.end(), same_zone.begin(), same_zone.end());
  return result;
}

bool ReplicatedVersion::has(uint64_t index, const NodeId& node, uint64_t revision) const {
  if (index >= chunks_.size() || chunks_[index].sent != revision) return false;
  return std::ranges::find(chunks_[index].holders, node) != chunks_[index].holders.end();
}

void ReplicatedVersion::start_send(uint64_t index) {
  Chunk& chunk = chunks_[index];
  chunk.filled = 0;
  if (chunk.sending || replication_.options().replicas < 2) return;
  if (!replication_.gate().spawn(send(shared_from_this(), index))) return;
  chunk.sending = true;
  ++sending_;
}

void ReplicatedVersion::met(const NodeId& node, uint64_t instance) {
  auto [known, is_new] = instances_.try_emplace(node, instance);
  if (is_new || known->second == instance) return;
  known->second = instance;
  for (Chunk& chunk : chunks_) std::erase(chunk.holders, node);
}

Task<Result<uint64_t>> ReplicatedVersion::ask_to_replicate(NodeId node,
                                                           wire::ReplicateRequest request,
                                                           Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::string answer,
                            co_await replication_.ask_while_alive(
                                node, Method::kReplicate, request.SerializeAsString(), context));
  SHOAL_CO_ASSIGN_OR_RETURN(auto reply, parse_message<wire::ReplicateReply>(answer, "an answer"));
  co_return reply.instance();
}

Task<Result<uint64_t>> ReplicatedVersion::send_to(NodeId node, NodeId source, uint64_t chunk,
                                                  bool upload) {
  wire::ReplicateRequest request;
  request.set_object(home_);
  to_wire(write_, *request.mutable_write());
  request.mutable_source()->set_high(source.high);
  request.mutable_source()->set_low(source.low);
  request.set_size(size_);
  request.add_chunks(chunk);
  request.set_upload(upload);
  request.set_block_bytes(chunk_bytes());
  request.set_as_object(object_);
  co_return co_await ask_to_replicate(node, std::move(request), replication_.limited(kSendLimit));
}

Task<void> ReplicatedVersion::send(std::shared_ptr<ReplicatedVersion> self, uint64_t index) {
  Replication& replication = self->replication_;
  {
    auto permit = co_await replication.sends().acquire(1, {kNever, &replication.stopping()});
    replication.sends_changed();
    bool wanted = permit && index < self->chunks_.size();
    size_t copies = replication.options().replicas - 1;
    uint64_t revision = wanted ? self->chunks_[index].revision : 0;
    bool whole = (index + 1) * self->chunk_bytes() <= self->size_;
    std::vector<NodeId> holders;
    std::map<NodeId, uint64_t> instances;
    std::vector<NodeId> nodes = wanted ? self->choose(index) : std::vector<NodeId>{};
    for (const NodeId& node : nodes) {
      if (holders.size() >= copies) break;
      if (self->has(index, node, revision)) {
        holders.push_back(node);
        instances[node] = self->instances_[node];
        continue;
      }
      NodeId source = holders.empty() ? replication.self() : holders.back();
      bool upload = holders.empty() && self->early_upload_ && whole;
      // Before the request: an answer that is lost leaves a chunk there all the same.
      self->unsynced_.insert(node);
      self->note_given(index, node);
      ++self->sent_to_[node];
      replication.count_send(node, 1);
      auto sent = co_await self->send_to(node, source, index, upload);
      replication.count_send(node, -1);
      if (sent) {
        self->met(node, *sent);
        holders.push_back(node);
        instances[node] = *sent;
        self->moved_ = replication.executor().now();
        continue;
      }
      self->last_error_ = sent.error();
      if (sent.error().code() == Code::kCancelled) break;
      self->avoided_[node] = replication.executor().now() + kAvoid;
    }
    // Others may have met a new replica there meanwhile.
    std::erase_if(holders,
                  [&](const NodeId& node) { return instances[node] != self->instances_[node]; });
    if (wanted && index < self->chunks_.size()) {
      Chunk& chunk = self->chunks_[index];
      chunk.holders = std::move(holders);
      chunk.sent = revision;
    }
  }
  replication.sends_changed();
  if (index < self->chunks_.size()) self->chunks_[index].sending = false;
  --self->sending_;
  self->changed_.notify_all();
}

void ReplicatedVersion::lost(const NodeId& node) {
  avoided_[node] = replication_.executor().now() + kAvoid;
  unsynced_.erase(node);
  for (Chunk& chunk : chunks_) std::erase(chunk.holders, node);
}

Task<Status> ReplicatedVersion::sync_holder(NodeId node, Context context) {
  wire::ReplicateRequest request;
  request.set_object(home_);
  to_wire(write_, *request.mutable_write());
  request.set_size(size_);
  request.set_sync(true);
  request.set_as_object(object_);
  auto instance = co_await ask_to_replicate(
      node, std::move(request),
      context.tightened(replication_.executor(), replication_.options().ack_timeout));
  if (instance) {
    met(node, *instance);
    unsynced_.erase(node);
  } else {
    last_error_ = instance.error();
    lost(node);
  }
  co_return Status();
}

Task<Status> ReplicatedVersion::sync_all(Context context) {
  std::set<NodeId> used;
  for (const Chunk& chunk : chunks_) used.insert(chunk.holders.begin(), chunk.holders.end());
  std::vector<Task<Status>> tasks;
  for (const NodeId& node : std::set<NodeId>(unsynced_)) {
    if (used.contains(node)) {
      tasks.push_back(sync_holder(node, context));
    } else {
      unsynced_.erase(node);  // nothing of it counts
    }
  }
  co_return co_await run_all(replication_.executor(), std::move(tasks), kSyncsParallel);
}

void ReplicatedVersion::note_given(uint64_t chunk, const NodeId& node) {
  if (given_.size() <= chunk) given_.resize(chunk + 1);
  std::vector<NodeId>& nodes = given_[chunk];
  if (std::ranges::find(nodes, node) == nodes.end()) nodes.push_back(node);
}

Task<void> ReplicatedVersion::replace_stale() {
  std::vector<NodeId> used = holders();
  uint64_t count = std::min(given_.size(), chunks_.size());
  for (uint64_t c = 0; c < count; ++c) {
    for (const NodeId& node : std::vector<NodeId>(given_[c])) {
      bool stale = !has(c, node, chunks_[c].revision) && std::ranges::binary_search(used, node);
      if (!stale) continue;
      auto sent = co_await send_to(node, replication_.self(), c, false);
      if (sent) {
        met(node, *sent);
        Chunk& chunk = chunks_[c];
        if (chunk.sent != chunk.revision) chunk.holders.clear();
        chunk.sent = chunk.revision;
        chunk.holders.push_back(node);
        unsynced_.insert(node);
        moved_ = replication_.executor().now();
      } else {
        last_error_ = sent.error();
        lost(node);
        std::erase(used, node);
      }
    }
  }
}

uint32_t ReplicatedVersion::copies() const {
  size_t least = replication_.options().replicas - 1;
  for (const Chunk& chunk : chunks_) {
    least = std::min(least, chunk.sent == chunk.revision ? chunk.holders.size() : 0);
  }
  return static_cast<uint32_t>(least) + 1;
}

// Until nothing is on its way any more. Fails once nothing has got on for too long.
Task<Status> ReplicatedVersion::wait_sent(SteadyTime begun, Context context) {
  Executor& executor = replication_.executor();
  while (sending_ > 0) {
    SteadyTime moved = std::max({begun, moved_, replication_.served_at()});
    SteadyTime limit = std::min(context.deadline, moved + replication_.options().ack_timeout);
    if (limit <= executor.now()) co_return fail(Code::kDeadlineExceeded, "nothing gets on");
    Status waited = co_await changed_.wait({limit, context.cancel});
    if (!waited && waited.error().code() != Code::kDeadlineExceeded) co_return waited;
  }
  co_return Status();
}

Task<Status> ReplicatedVersion::settle(uint64_t size, Context context) {
  if (size != size_) resized(size);
  if (replication_.options().replicas < 2) co_return Status();
  SteadyTime begun = replication_.executor().now();
  auto all_settled = [this] {
    return std::ranges::all_of(chunks_, [this](const Chunk& chunk) { return settled(chunk); });
  };
  while (true) {
    for (Chunk& chunk : chunks_) {
      std::erase_if(chunk.holders, [&](const NodeId& node) { return !replication_.usable(node); });
    }
    for (uint64_t i = 0; i < chunks_.size(); ++i) {
      if (!settled(chunks_[i])) start_send(i);
    }
    Status status = co_await wait_sent(begun, context);
    if (status && (all_settled() || replication_.options().ack_degraded)) {
      co_await replace_stale();
      SHOAL_CO_RETURN_IF_ERROR(co_await sync_all(context));
      if (all_settled() || replication_.options().ack_degraded) co_return Status();
    }
    Context patience = context;
    patience.deadline =
        std::min(context.deadline, std::max(begun, moved_) + replication_.options().ack_timeout);
    if (status) status = co_await sleep_for(replication_.executor(), kAgain, patience);
    if (!status) {
      Code code = status.error().code();
      if (code == Code::kDeadlineExceeded) code = code_of_too_few(last_error_);
      co_return fail(
          code, fmt::format("{}: on {} of {} nodes only; {}", home_, copies(),
                            replication_.options().replicas,
                            last_error_ ? last_error_->to_string() : "no other node can take it"));
    }
  }
}

std::vector<NodeId> ReplicatedVersion::holders() const {
  std::set<NodeId> nodes;
  for (const Chunk& chunk : chunks_) nodes.insert(chunk.holders.begin(), chunk.holders.end());
  return {nodes.begin(), nodes.end()};
}

std::vector<NodeId> ReplicatedVersion::holders_of(uint64_t chunk) const {
  if (chunk >= chunks_.size() || chunks_[chunk].sent != chunks_[chunk].revision) return {};
  return chunks_[chunk].holders;
}

Task<void> ReplicatedVersion::find_holders(const LedgerRecord& record, Context context) {
  resized(record.size);
  object_ = record.object;
  for (const NodeId& node : record.holders) {
    auto state = co_await replication_.ask_state(node, {home_, write_, record.size, {}}, context);
    if (!state) continue;
    met(node, state->instance());
    for (uint64_t c : good_chunks(*state, record, chunk_bytes(), false)) note_given(c, node);
    for (uint64_t c : good_chunks(*state, record, chunk_bytes(), true)) {
      chunks_[c].holders.push_back(node);
      chunks_[c].sent = chunks_[c].revision;
    }
  }
}

}  // namespace shoal
