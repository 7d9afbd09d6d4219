#include "replication/spread_upload.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>

#include "async/gate.h"
#include "replication/replication.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {

constexpr size_t kPerHolder = 4;  // requests in flight at each
constexpr Duration kReleaseLimit = std::chrono::seconds(2);
constexpr Duration kListLimit = std::chrono::seconds(60);
constexpr unsigned kTriesMax = 4;

struct Run {
  Replication& replication;
  const SpreadUpload& upload;
  const bool again;  // holders are not to rely on what they have sent before
  Context context;
  std::set<std::string> there;
  std::vector<BlockInfo> blocks;
  std::vector<unsigned> tries;
  std::vector<bool> begun;  // by the holder in whose queue it is: not to be taken away
  std::map<NodeId, std::deque<uint64_t>> queues;  // by holder
  std::deque<uint64_t> here;
  size_t left = 0;  // blocks that are not staged yet
  std::string last_error;
  Signal changed;

  Run(Replication& owner, const SpreadUpload& what, bool send_again, Context limit)
      : replication(owner),
        upload(what),
        again(send_again),
        context(limit),
        changed(owner.executor()) {}

  uint64_t length(uint64_t index) const {
    return std::min(upload.block_bytes, upload.size - index * upload.block_bytes);
  }
  std::set<std::string> there_of(uint64_t index) const {
    std::string prefix = fmt::format("{:08}", index);
    std::set<std::string> ids;
    for (auto at = there.lower_bound(prefix); at != there.end() && at->starts_with(prefix); ++at) {
      ids.insert(*at);
    }
    return ids;
  }
  void done(uint64_t index, std::string id) {
    blocks[index] = {std::move(id), length(index)};
    --left;
    if (upload.progress) upload.progress(length(index));
    changed.notify_all();
  }
  // To another node that has it, or to this one. False: nobody is left to ask.
  bool reassign(uint64_t index, const NodeId& failed) {
    if (++tries[index] > kTriesMax) return false;
    begun[index] = false;
    const std::vector<NodeId>& nodes = upload.holders[index];
    for (const NodeId& node : nodes) {
      if (node == failed || !replication.usable(node)) continue;
      queues[node].push_back(index);
      changed.notify_all();
      return true;
    }
    if (upload.send_here) {
      here.push_back(index);
    } else if (replication.usable(failed)) {
      queues[failed].push_back(index);
    } else {
      return false;
    }
    changed.notify_all();
    return true;
  }
};

Task<Result<std::string>> send_at(Run& run, NodeId node, uint64_t index) {
  wire::ReplicaUploadRequest request;
  request.set_object(run.upload.home);
  to_wire(run.upload.write, *request.mutable_write());
  request.set_size(run.upload.size);
  request.set_block_bytes(run.upload.block_bytes);
  request.add_blocks(index);
  for (const std::string& id : run.there_of(index)) request.add_there(id);
  request.set_as_object(run.upload.object);
  request.set_again(run.again);
  auto answer = co_await run.replication.ask_while_alive(
      node, Method::kReplicaUpload, request.SerializeAsString(),
      run.context.tightened(run.replication.executor(), run.replication.options().block_timeout));
  if (!answer) co_return fail(std::move(answer).error());
  SHOAL_CO_ASSIGN_OR_RETURN(auto reply,
                            parse_message<wire::ReplicaUploadReply>(*answer, "an upload"));
  std::string prefix = fmt::format("{:08}", index);
  if (reply.ids_size() != 1 || reply.ids(0).size() != prefix.size() + 32 ||
      !reply.ids(0).starts_with(prefix)) {
    co_return fail(Code::kCorrupt, "a holder named a block that cannot be");
  }
  co_return reply.ids(0);
}

Task<Status> drain_holder(Run& run, NodeId node) {
  std::deque<uint64_t>& queue = run.queues[node];
  while (run.left > 0) {
    if (queue.empty()) {
      SHOAL_CO_RETURN_IF_ERROR(co_await run.changed.wait(run.context));
      continue;
    }
    uint64_t index = queue.front();
    queue.pop_front();
    auto id = co_await send_at(run, node, index);
    if (id) {
      run.done(index, std::move(*id));
      continue;
    }
    SHOAL_CO_RETURN_IF_ERROR(run.context.check(run.replication.executor()));
    run.last_error = id.error().to_string();
    if (!run.reassign(index, node)) co_return fail(std::move(id).error());
    if (id.error().code() == Code::kThrottled) {
      SHOAL_CO_RETURN_IF_ERROR(co_await sleep_for(run.replication.executor(),
                                                  std::chrono::milliseconds(200), run.context));
    }
  }
  co_return Status();
}

// Takes a block from the holder with most left to do, if that has not begun it.
Task<std::optional<uint64_t>> steal(Run& run) {
  std::deque<uint64_t>* most = nullptr;
  NodeId node;
  for (auto& [holder, queue] : run.queues) {
    // What its holder has begun stands in front. Asking for that again and again would only keep
    // both busy.
    if (queue.empty() || run.begun[queue.back()]) continue;
    if (most != nullptr && queue.size() <= most->size()) continue;
    most = &queue;
    node = holder;
  }
  if (most == nullptr) co_return std::nullopt;
  uint64_t index = most->back();
  most->pop_back();
  wire::ReplicaUploadRequest request;
  request.set_object(run.upload.home);
  to_wire(run.upload.write, *request.mutable_write());
  request.set_size(run.upload.size);
  request.set_block_bytes(run.upload.block_bytes);
  request.add_blocks(index);
  request.set_release(true);
  auto answer = co_await run.replication.ask(
      node, Method::kReplicaUpload, request.SerializeAsString(),
      run.context.tightened(run.replication.executor(), kReleaseLimit));
  if (answer) {
    wire::ReplicaUploadReply reply;
    bool begun = reply.ParseFromString(*answer) && reply.ids_size() == 1 && !reply.ids(0).empty();
    if (begun) {  // it is on its way: only its id is wanted
      run.begun[index] = true;
      run.queues[node].push_front(index);
      run.changed.notify_all();
      co_return std::nullopt;
    }
  }
  co_return index;
}

Task<Status> drain_here(Run& run) {
  while (run.left > 0) {
    std::optional<uint64_t> index;
    if (!run.here.empty()) {
      index = run.here.front();
      run.here.pop_front();
    } else {
      index = co_await steal(run);
    }
    if (!index) {
      if (run.left == 0) break;
      SHOAL_CO_RETURN_IF_ERROR(co_await run.changed.wait(run.context));
      continue;
    }
    std::set<std::string> there = run.there_of(*index);
    std::string id;
    SHOAL_CO_RETURN_IF_ERROR(co_await run.upload.send_here(*index, there, &id, run.context));
    run.done(*index, std::move(id));
  }
  co_return Status();
}

// The blocks, in order, all of them staged in the origin.
Task<Result<std::vector<BlockInfo>>> send_all(Replication& replication, const SpreadUpload& upload,
                                              bool again, Context context) {
  Run run(replication, upload, again, context);
  size_t count = (run.upload.size + run.upload.block_bytes - 1) / run.upload.block_bytes;
  SHOAL_ASSERT(run.upload.holders.size() == count);
  run.blocks.resize(count);
  run.tries.resize(count);
  run.begun.resize(count);
  run.left = count;
  SHOAL_CO_ASSIGN_OR_RETURN(
      std::vector<BlockInfo> staged,
      co_await replication.parts().origin.staged_blocks(
          run.upload.object, context.tightened(replication.executor(), kListLimit)));
  for (BlockInfo& block : staged) run.there.insert(std::move(block.id));
  for (uint64_t index = 0; index < count; ++index) {
    std::deque<uint64_t>* least = nullptr;
    for (const NodeId& node : run.upload.holders[index]) {
      if (!replication.usable(node)) continue;
      std::deque<uint64_t>& queue = run.queues[node];
      if (least == nullptr || queue.size() < least->size()) least = &queue;
    }
    if (least != nullptr) {
      least->push_back(index);
    } else if (run.upload.send_here) {
      run.here.push_back(index);
    } else {
      co_return fail(Code::kUnavailable, "no node that can be reached holds block " +
                                             std::to_string(index) + " of " + run.upload.object);
    }
  }
  // Who is only asked when another fails has a queue too.
  for (const std::vector<NodeId>& nodes : run.upload.holders) {
    for (const NodeId& node : nodes) run.queues[node];
  }
  std::vector<Task<Status>> tasks;
  for (const auto& [node, queue] : run.queues) {
    for (size_t i = 0; i < kPerHolder; ++i) tasks.push_back(drain_holder(run, node));
  }
  if (run.upload.send_here) {
    for (uint32_t i = 0; i < run.upload.here_max; ++i) tasks.push_back(drain_here(run));
  }
  size_t parallel = std::max<size_t>(tasks.size(), 1);
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(replication.executor(), std::move(tasks), parallel));
  if (run.left > 0) {
    co_return fail(Code::kUnavailable, run.upload.object + ": " + run.last_error);
  }
  co_return std::move(run.blocks);
}

}  // namespace

uint64_t block_bytes_of(const Origin& origin, uint64_t size, uint64_t chunk_bytes) {
  uint64_t block = chunk_bytes;
  while ((size + block - 1) / block > origin.blocks_max()) block *= 2;
  SHOAL_ASSERT(block <= origin.block_bytes_max());
  return block;
}

Task<Result<ObjectInfo>> spread_upload(Replication& replication, SpreadUpload upload,
                                       CommitBlocks commit, Context context) {
  for (bool again = false;; again = true) {
    SHOAL_CO_ASSIGN_OR_RETURN(std::vector<BlockInfo> blocks,
                              co_await send_all(replication, upload, again, context));
    auto info = co_await commit(std::move(blocks));
    bool used_up = !info && info.error().code() == Code::kNotFound;
    if (!used_up || again) co_return info;
  }
}

}  // namespace shoal
