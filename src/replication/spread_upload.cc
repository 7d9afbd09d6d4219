#include "replication/spread_upload.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>

#include "async/gate.h"
#include "replication/replication.h"
#include "replication/upload_width.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {

constexpr Duration kReleaseLimit = std::chrono::seconds(2);
constexpr Duration kListLimit = std::chrono::seconds(60);
constexpr Duration kThrottled = std::chrono::milliseconds(200);
constexpr uint32_t kWidthMax = 64;
constexpr unsigned kTriesMax = 4;

struct Holder {
  std::deque<uint64_t> queue;
  uint32_t asked = 0;                    // requests in flight
  uint32_t width = UploadWidth::kFirst;  // what it takes at a time, as it says
};

struct Run {
  Replication& replication;
  const SpreadUpload& upload;
  const bool again;  // holders are not to rely on what they have sent before
  Context context;
  std::set<std::string> there;
  std::vector<BlockInfo> blocks;
  std::vector<unsigned> tries;
  std::vector<bool> begun;  // by the holder in whose queue it is: not to be taken away
  std::map<NodeId, Holder> holders;
  std::deque<uint64_t> here;
  UploadWidth width_here;
  uint32_t sending_here = 0;
  size_t left = 0;  // blocks that are not staged yet
  Status status;    // the first error that ends it
  std::string last_error;
  Signal changed;
  Gate gate;  // of blocks on their way

  Run(Replication& owner, const SpreadUpload& what, bool send_again, Context limit)
      : replication(owner),
        upload(what),
        again(send_again),
        context(limit),
        width_here(what.here_max),
        changed(owner.executor()),
        gate(owner.executor()) {}

  bool over() const { return left == 0 || !status; }
  void fail_with(Error error) {
    if (status) status = fail(std::move(error));
    changed.notify_all();
  }
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
    for (const NodeId& node : upload.holders[index]) {
      if (node == failed || !replication.usable(node)) continue;
      holders[node].queue.push_back(index);
      return true;
    }
    if (upload.send_here) {
      here.push_back(index);
    } else if (replication.usable(failed)) {
      holders[failed].queue.push_back(index);
    } else {
      return false;
    }
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
  run.holders[node].width = std::clamp(reply.width(), UploadWidth::kFirst, kWidthMax);
  co_return reply.ids(0);
}

Task<void> send_there(Run& run, NodeId node, uint64_t index) {
  auto id = co_await send_at(run, node, index);
  if (id) {
    --run.holders[node].asked;
    run.done(index, std::move(*id));
    co_return;
  }
  Error error = std::move(id).error();
  run.last_error = error.to_string();
  Status going = run.context.check(run.replication.executor());
  if (going && !run.reassign(index, node)) going = fail(error);
  run.changed.notify_all();
  if (going && error.code() == Code::kThrottled) {
    going = co_await sleep_for(run.replication.executor(), kThrottled, run.context);
  }
  if (!going) run.fail_with(std::move(going).error());
  --run.holders[node].asked;
  run.changed.notify_all();
}

Task<Status> drain_holder(Run& run, NodeId node) {
  Holder& holder = run.holders[node];
  while (!run.over()) {
    if (holder.queue.empty() || holder.asked >= holder.width) {
      SHOAL_CO_RETURN_IF_ERROR(co_await run.changed.wait(run.context));
      continue;
    }
    uint64_t index = holder.queue.front();
    holder.queue.pop_front();
    ++holder.asked;
    run.gate.spawn(send_there(run, node, index));
  }
  co_return Status();
}

// Takes a block from the holder with most left to do, if that has not begun it.
Task<std::optional<uint64_t>> steal(Run& run) {
  Holder* most = nullptr;
  NodeId node;
  for (auto& [id, holder] : run.holders) {
    // What its holder has begun stands in front. Asking for that again and again would only keep
    // both busy.
    if (holder.queue.empty() || run.begun[holder.queue.back()]) continue;
    if (most != nullptr && holder.queue.size() <= most->queue.size()) continue;
    most = &holder;
    node = id;
  }
  if (most == nullptr) co_return std::nullopt;
  uint64_t index = most->queue.back();
  most->queue.pop_back();
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
  wire::ReplicaUploadReply reply;
  bool released =
      answer && reply.ParseFromString(*answer) && reply.ids_size() == 1 && reply.ids(0).empty();
  if (released) co_return index;
  // On its way, as far as is known: only its id is wanted. Should the holder be gone, that request
  // fails.
  run.begun[index] = true;
  most->queue.push_front(index);
  run.changed.notify_all();
  co_return std::nullopt;
}

Task<void> send_here(Run& run, uint64_t index) {
  Executor& executor = run.replication.executor();
  uint32_t width = ++run.sending_here;
  SteadyTime began = executor.now();
  run.width_here.begin(width, began);
  std::set<std::string> there = run.there_of(index);
  std::string id;
  Status sent = co_await run.upload.send_here(index, there, &id, run.context);
  if (sent && !there.contains(id)) {
    width = std::max(width, run.sending_here);
    run.width_here.sent(run.length(index), executor.now() - began, width, executor.now());
  }
  --run.sending_here;
  if (!sent) {
    run.fail_with(std::move(sent).error());
  } else {
    run.done(index, std::move(id));
  }
}

Task<Status> drain_here(Run& run) {
  while (!run.over()) {
    std::optional<uint64_t> index;
    if (run.sending_here < run.width_here.limit()) {
      if (!run.here.empty()) {
        index = run.here.front();
        run.here.pop_front();
      } else {
        index = co_await steal(run);
      }
    }
    if (index) {
      run.gate.spawn(send_here(run, *index));
    } else if (!run.over()) {
      SHOAL_CO_RETURN_IF_ERROR(co_await run.changed.wait(run.context));
    }
  }
  co_return Status();
}

// The blocks, in order, all of them staged in the origin.
Task<Result<std::vector<BlockInfo>>> send_all(Replication& replication, const SpreadUpload& upload,
                                              bool again, Context context) {
  Run run(replication, upload, again, context);
  size_t count = (upload.size + upload.block_bytes - 1) / upload.block_bytes;
  SHOAL_ASSERT(upload.holders.size() == count);
  run.blocks.resize(count);
  run.tries.resize(count);
  run.begun.resize(count);
  run.left = count;
  SHOAL_CO_ASSIGN_OR_RETURN(
      std::vector<BlockInfo> staged,
      co_await replication.parts().origin.staged_blocks(
          upload.object, context.tightened(replication.executor(), kListLimit)));
  for (BlockInfo& block : staged) run.there.insert(std::move(block.id));
  for (uint64_t index = 0; index < count; ++index) {
    Holder* least = nullptr;
    for (const NodeId& node : upload.holders[index]) {
      // Who is only asked when another fails has a queue too.
      Holder& holder = run.holders[node];
      if (!replication.usable(node)) continue;
      if (least == nullptr || holder.queue.size() < least->queue.size()) least = &holder;
    }
    if (least != nullptr) {
      least->queue.push_back(index);
    } else if (upload.send_here) {
      run.here.push_back(index);
    } else {
      co_return fail(Code::kUnavailable, "no node that can be reached holds block " +
                                             std::to_string(index) + " of " + upload.object);
    }
  }
  std::vector<Task<Status>> tasks;
  tasks.reserve(run.holders.size() + 1);
  for (const auto& [node, holder] : run.holders) tasks.push_back(drain_holder(run, node));
  if (upload.send_here) tasks.push_back(drain_here(run));
  size_t parallel = std::max<size_t>(tasks.size(), 1);
  Status drained = co_await run_all(replication.executor(), std::move(tasks), parallel);
  co_await run.gate.close();
  SHOAL_CO_RETURN_IF_ERROR(std::move(run.status));
  SHOAL_CO_RETURN_IF_ERROR(std::move(drained));
  if (run.left > 0) {
    co_return fail(Code::kUnavailable, upload.object + ": " + run.last_error);
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
