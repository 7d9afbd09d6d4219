#include "node/cluster_jobs.h"

#include <algorithm>
#include <map>

#include "node/messages.h"

namespace shoal {

namespace {

constexpr size_t kBatchChunks = 16;  // in one request: 128 MiB
constexpr size_t kBatchesParallel = 32;
constexpr int kRounds = 4;
constexpr size_t kListed = 256;  // versions of the store looked at together
constexpr auto kBatchLimit = std::chrono::minutes(5);
constexpr auto kDirtyPoll = std::chrono::milliseconds(250);

}  // namespace

ClusterJobs::ClusterJobs(NodeCore& core, std::function<uint64_t()> dirty)
    : core_(core), dirty_(std::move(dirty)) {}

uint64_t ClusterJobs::length_of(const VersionName& version, uint64_t chunk) const {
  uint64_t begin = chunk * core_.filler->chunk_bytes();
  SHOAL_ASSERT(begin < version.size);
  return std::min(core_.filler->chunk_bytes(), version.size - begin);
}

size_t ClusterJobs::members() const {
  std::shared_ptr<const SlotMap> map = core_.cluster->membership().map();
  return static_cast<size_t>(std::ranges::count_if(
      map->members, [](const Member& m) { return m.state == MemberState::kUp; }));
}

std::vector<ClusterJobs::Batch> ClusterJobs::assign(const VersionName& version,
                                                    const std::vector<uint64_t>& chunks,
                                                    const std::set<NodeId>& passed_over,
                                                    bool not_here) const {
  Membership& membership = core_.cluster->membership();
  std::shared_ptr<const SlotMap> map = membership.map();
  std::map<NodeId, Batch> open;
  std::vector<Batch> batches;
  for (uint64_t chunk : chunks) {
    for (uint16_t owner : map->owners_of(slot_of_chunk(version.object, chunk))) {
      if (owner == kNoMember) break;
      Member member = map->members[owner];
      bool self = member.id == membership.self();
      if (passed_over.contains(member.id) || (self ? not_here : !membership.usable(member.id))) {
        continue;
      }
      Batch& batch = open[member.id];
      if (self) member.address.clear();
      batch.member = std::move(member);
      batch.chunks.push_back(chunk);
      if (batch.chunks.size() == kBatchChunks) batches.push_back(std::exchange(batch, {}));
      break;
    }
  }
  for (auto& [id, batch] : open) {
    if (!batch.chunks.empty()) batches.push_back(std::move(batch));
  }
  return batches;
}

Task<Result<FillResult>> ClusterJobs::fill_at(const Batch& batch, const VersionName& version,
                                              bool copies, bool hand_over, Context context) {
  if (batch.member.address.empty()) {
    FetchRole role = copies ? FetchRole::kReader : FetchRole::kOwner;
    co_return co_await core_.filler->fill(version, batch.chunks, role, hand_over, context);
  }
  wire::WarmRequest request;
  request.set_object(version.object);
  request.set_etag(version.etag);
  request.set_size(version.size);
  for (uint64_t chunk : batch.chunks) request.add_chunks(chunk);
  request.set_copies(copies);
  request.set_hand_over(hand_over);
  request.set_map_version(core_.map_version());
  auto answer = co_await core_.cluster->pool().call(
      batch.member.address, batch.member.id, Method::kWarm, request.SerializeAsString(), nullptr, 0,
      context.tightened(core_.executor(), kBatchLimit));
  if (!answer) co_return fail(std::move(answer).error());
  SHOAL_CO_ASSIGN_OR_RETURN(auto reply, parse_message<wire::WarmReply>(*answer, "an answer"));
  FillResult result{reply.bytes(), {}, reply.error()};
  for (uint64_t chunk : reply.failed()) {
    if (std::ranges::find(batch.chunks, chunk) == batch.chunks.end()) {
      co_return fail(Code::kCorrupt, batch.member.name + " answered for other chunks");
    }
    result.failed.push_back(chunk);
  }
  co_return result;
}

struct ClusterJobs::Round {
  VersionName version;
  bool copies = false;
  bool hand_over = false;
  std::function<void(uint64_t)> progress;
  Context context;
  std::vector<uint64_t> failed;
  std::set<NodeId> passed_over;
  std::string error;
};

Task<Status> ClusterJobs::do_batch(Round& round, Batch batch) {
  SHOAL_CO_RETURN_IF_ERROR(round.context.check(core_.executor()));
  auto result =
      co_await fill_at(batch, round.version, round.copies, round.hand_over, round.context);
  if (!result) {
    Code code = result.error().code();
    if (code == Code::kCancelled || code == Code::kStale) {
      co_return fail(std::move(result).error());
    }
    round.error = batch.member.name + ": " + result.error().message();
    round.failed.insert(round.failed.end(), batch.chunks.begin(), batch.chunks.end());
    round.passed_over.insert(batch.member.id);
    co_return Status();
  }
  uint64_t bytes = 0;
  for (uint64_t chunk : batch.chunks) {
    if (std::ranges::find(result->failed, chunk) == result->failed.end()) {
      bytes += length_of(round.version, chunk);
    }
  }
  if (!result->failed.empty()) {
    round.error = batch.member.name + ": " + result->error;
    round.failed.insert(round.failed.end(), result->failed.begin(), result->failed.end());
    round.passed_over.insert(batch.member.id);
  }
  if (round.progress && bytes > 0) round.progress(bytes);
  co_return Status();
}

Task<Status> ClusterJobs::to_owners(VersionName version, std::vector<uint64_t> chunks,
                                    bool hand_over, std::function<void(uint64_t)> progress,
                                    Context context) {
  Round round{std::move(version), false, hand_over, std::move(progress), context, {}, {}, {}};
  for (int i = 0; i < kRounds && !chunks.empty(); ++i) {
    std::vector<Batch> batches = assign(round.version, chunks, round.passed_over, hand_over);
    size_t assigned = 0;
    std::vector<Task<Status>> tasks;
    for (Batch& batch : batches) {
      assigned += batch.chunks.size();
      tasks.push_back(do_batch(round, std::move(batch)));
    }
    if (assigned < chunks.size() && round.error.empty()) round.error = "no owner can be reached";
    if (assigned < chunks.size()) break;
    SHOAL_CO_RETURN_IF_ERROR(
        co_await run_all(core_.executor(), std::move(tasks), kBatchesParallel));
    chunks = std::exchange(round.failed, {});
  }
  if (chunks.empty()) co_return Status();
  co_return fail(Code::kUnavailable, round.version.object + ": " + round.error);
}

Task<Status> ClusterJobs::to_everybody(VersionName version, std::vector<uint64_t> chunks,
                                       std::function<void(uint64_t)> progress, Context context) {
  Membership& membership = core_.cluster->membership();
  Round round{std::move(version), true, false, std::move(progress), context, {}, {}, {}};
  std::vector<Task<Status>> tasks;
  std::shared_ptr<const SlotMap> map = membership.map();
  // Members side by side, so that they pass chunks on while these are fresh.
  for (size_t first = 0; first < chunks.size(); first += kBatchChunks) {
    size_t end = std::min(first + kBatchChunks, chunks.size());
    std::vector<uint64_t> part(chunks.begin() + static_cast<ptrdiff_t>(first),
                               chunks.begin() + static_cast<ptrdiff_t>(end));
    for (Member member : map->members) {
      if (member.state != MemberState::kUp) continue;
      if (member.id == membership.self()) member.address.clear();
      tasks.push_back(do_batch(round, {std::move(member), part}));
    }
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(core_.executor(), std::move(tasks), kBatchesParallel));
  if (round.failed.empty()) co_return Status();
  co_return fail(Code::kUnavailable, round.version.object + ": " + round.error);
}

Task<Status> ClusterJobs::warm(VersionName version, bool everywhere,
                               std::function<void(uint64_t)> progress, Context context) {
  std::vector<uint64_t> chunks;  // none of an empty object
  if (version.size > 0 && version.size <= kFetchWholeMax) {
    chunks.push_back(0);
  } else {
    for (uint64_t at = 0; at < version.size; at += core_.filler->chunk_bytes()) {
      chunks.push_back(at / core_.filler->chunk_bytes());
    }
  }
  if (everywhere) {
    return to_everybody(std::move(version), std::move(chunks), std::move(progress), context);
  }
  return to_owners(std::move(version), std::move(chunks), false, std::move(progress), context);
}

// --- leaving ---

DrainProgress ClusterJobs::drain() {
  if (!draining_ && !drain_.done) {
    // Who began the drain hears how it ended; only the call after that begins a new one.
    if (!drain_.error.empty() && !std::exchange(error_told_, true)) return drain_;
    draining_ = true;
    error_told_ = false;
    drain_ = {};
    if (!core_.gate.spawn(run_drain())) {
      draining_ = false;
      drain_.error = "the node is stopping";
    }
  }
  drain_.dirty_bytes = dirty_();
  return drain_;
}

Task<void> ClusterJobs::run_drain() {
  Membership& membership = core_.cluster->membership();
  Context context{kNever, &core_.stopping};
  Status status = co_await membership.drain(membership.self(),
                                            context.tightened(core_.executor(), kBatchLimit));
  if (status) status = co_await hand_over(context);
  // What was written here and is not in the origin yet would go with this node.
  while (status && dirty_() > 0) {
    status = co_await sleep_for(core_.executor(), kDirtyPoll, context);
  }
  if (status) {
    status = co_await membership.leave(membership.self(),
                                       context.tightened(core_.executor(), kBatchLimit));
  }
  draining_ = false;
  drain_.done = status.has_value();
  if (!status) {
    drain_.error = status.error().to_string();
    core_.log.warning("draining: {}", drain_.error);
  } else {
    core_.log.info("drained: {} handed over", format_size(drain_.bytes_done));
  }
}

// Leaves the chunks that this node owned until the drain; the others are copies of what is
// elsewhere.
void ClusterJobs::keep_own(Store::CachedChunks& cached) const {
  Membership& membership = core_.cluster->membership();
  std::shared_ptr<const SlotMap> map = membership.map();
  uint16_t self = map->index_of(membership.self());
  std::erase_if(cached.chunks, [&](uint64_t chunk) {
    return map->previous[slot_of_chunk(cached.object, chunk)] != self;
  });
}

Task<Status> ClusterJobs::hand_over(Context context) {
  for (Store::CachedChunks at; true;) {
    auto listed = core_.store.cached_after(at.object, at.etag, kListed);
    if (listed.empty()) break;
    for (auto& one : listed) {
      keep_own(one);
      VersionName version{one.object, one.etag, one.size};
      for (uint64_t chunk : one.chunks) drain_.bytes_total += length_of(version, chunk);
    }
    at = std::move(listed.back());
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await hand_over_small(context));
  co_return co_await hand_over_files(context);
}

// A chunk that nobody takes is clean, so the origin has it: only a cancellation ends the work.
Task<Status> ClusterJobs::hand_over_one(VersionName version, std::vector<uint64_t> chunks,
                                        Context context) {
  auto done = [this](uint64_t bytes) { drain_.bytes_done += bytes; };
  Status moved = co_await to_owners(std::move(version), std::move(chunks), true, done, context);
  if (!moved && moved.error().code() == Code::kCancelled) co_return moved;
  if (!moved) core_.log.warning("handing over: {}", moved.error().message());
  co_return Status();
}

Task<Status> ClusterJobs::hand_over_files(Context context) {
  for (Store::CachedChunks at; true;) {
    auto listed = core_.store.cached_after(at.object, at.etag, kListed);
    if (listed.empty()) co_return Status();
    for (auto& one : listed) {
      keep_own(one);
      if (one.chunks.empty()) continue;
      SHOAL_CO_RETURN_IF_ERROR(
          co_await hand_over_one({one.object, one.etag, one.size}, std::move(one.chunks), context));
    }
    at.object = listed.back().object;
    at.etag = listed.back().etag;
  }
}

Task<Status> ClusterJobs::hand_over_small(Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(auto listed, co_await core_.store.cached_small());
  std::erase_if(listed, [this](Store::CachedChunks& one) {
    keep_own(one);
    return one.chunks.empty() || one.size == 0 || one.size > kFetchWholeMax;
  });
  for (const auto& one : listed) drain_.bytes_total += one.size;
  std::vector<Task<Status>> tasks;
  for (size_t i = 0; i < listed.size(); ++i) {
    const auto& one = listed[i];
    tasks.push_back(hand_over_one({one.object, one.etag, one.size}, {0}, context));
    if (tasks.size() < kListed && i + 1 < listed.size()) continue;
    SHOAL_CO_RETURN_IF_ERROR(co_await run_all(
        core_.executor(), std::exchange(tasks, std::vector<Task<Status>>()), kBatchesParallel));
  }
  co_return Status();
}

}  // namespace shoal
