#include "node/chunk_filler.h"

#include <algorithm>

#include "client/peer_reader.h"

namespace shoal {

namespace {
constexpr size_t kChunksParallel = 8;
// A hand-over always gets so much of its rate, however busy the node is: it must end some day.
constexpr uint64_t kLeastShare = 8;
}  // namespace

ChunkFiller::ChunkFiller(NodeCore& core)
    : core_(core), gate_(core.executor()), small_flights_(core.executor(), gate_) {}

uint64_t ChunkFiller::chunk_bytes() const {
  return core_.peers != nullptr ? core_.peers->chunk_bytes() : kChunkBytesDefault;
}

// kNotFound: this node has to ask the origin.
Task<Status> ChunkFiller::small_from_peers(VersionName version, FetchRole role, ByteSpan into,
                                           Context context) {
  if (core_.peers == nullptr) co_return fail(Code::kNotFound, "there are no peers");
  ChunkRange range;
  range.object = version.object;
  range.etag = version.etag;
  range.size = version.size;
  range.into = into;
  range.bulk = true;
  bool own = role == FetchRole::kOwner || core_.peers->is_own(range.object, 0);
  co_return own ? co_await core_.peers->read_previous(range, context)
                : co_await core_.peers->read(range, context);
}

Task<Result<std::shared_ptr<Buffer>>> ChunkFiller::fetch_small(VersionName version,
                                                               FetchRole role) {
  Context context = core_.background();
  context.cancel = &core_.stopping;
  Semaphore& pays = role == FetchRole::kOwner ? core_.serve_memory : core_.fetch_memory;
  auto memory = co_await pays.acquire(version.size, context);
  if (!memory) co_return fail(std::move(memory).error());
  // A flight may have ended since our caller looked.
  auto cached = co_await core_.store.get_small(version.object, version.etag);
  if (cached && cached->size() == version.size) {
    co_return std::make_shared<Buffer>(std::move(*cached));
  }
  auto bytes = std::make_shared<Buffer>(version.size);
  Status status = co_await small_from_peers(version, role, bytes->span(), context);
  if (!status && status.error().code() == Code::kNotFound) {
    status =
        co_await core_.origin.read(version.object, version.etag, 0, bytes->span(), {}, context);
  }
  if (!status) co_return fail(std::move(status).error());
  Status kept = co_await core_.store.put_small(version.object, version.etag, bytes->span());
  if (!kept) core_.log.debug("not caching {}: {}", version.object, kept.error().to_string());
  co_return bytes;
}

Task<Result<std::shared_ptr<Buffer>>> ChunkFiller::small(VersionName version, FetchRole role,
                                                         Context context) {
  SHOAL_ASSERT(version.size > 0 && version.size <= kFetchWholeMax);
  auto cached = co_await core_.store.get_small(version.object, version.etag);
  if (cached && cached->size() == version.size) {
    if (role == FetchRole::kReader) core_.metrics.read_hits.add();
    co_return std::make_shared<Buffer>(std::move(*cached));
  }
  if (role == FetchRole::kReader) core_.metrics.read_misses.add();
  // Two flights at most: who asks as an owner must not wait for a reader that waits for a peer. A
  // reader on the owner itself is one that asks as an owner.
  if (core_.peers != nullptr && core_.peers->is_own(version.object, 0)) role = FetchRole::kOwner;
  std::string key = version.object + '\n' + version.etag + (role == FetchRole::kOwner ? "o" : "r");
  std::function<Task<Result<std::shared_ptr<Buffer>>>()> start = [this, version, role] {
    return fetch_small(version, role);
  };
  co_return co_await small_flights_.run(std::move(key), std::move(start), context);
}

struct ChunkFiller::Work {
  VersionName version;
  std::shared_ptr<Fetcher> fetcher;
  FetchRole role;
  bool hand_over;
  Context context;
  FillResult result;
};

Task<Status> ChunkFiller::pace(uint64_t bytes, Context context) {
  SteadyTime now = core_.now();
  uint64_t foreground = core_.metrics.served_bytes.value() + core_.metrics.read_bytes.value();
  double seconds = std::max(to_seconds(now - looked_), 1e-3);
  double busy = static_cast<double>(foreground - foreground_before_) / seconds;
  foreground_before_ = foreground;
  looked_ = now;
  double limit = static_cast<double>(core_.options.hand_over_rate);
  double rate = std::max(limit - busy, limit / static_cast<double>(kLeastShare));
  SteadyTime begin = std::max(now, next_);
  next_ = begin + std::chrono::duration_cast<Duration>(
                      std::chrono::duration<double>(static_cast<double>(bytes) / rate));
  if (begin <= now) co_return Status();
  co_return co_await sleep_for(core_.executor(), begin - now, context);
}

Task<Status> ChunkFiller::fill_one(Work& work, uint64_t chunk) {
  uint64_t begin = chunk * chunk_bytes();
  Range range{begin, std::min(chunk_bytes(), work.version.size - begin)};
  uint64_t missing = 0;
  for (const Range& gap : work.fetcher->file()->missing(range)) missing += gap.length;
  if (missing == 0) co_return Status();
  Status status;
  if (work.hand_over) status = co_await pace(missing, work.context);
  if (status) status = co_await work.fetcher->complete(range, work.role, {}, work.context);
  if (status) {
    work.result.bytes += missing;
    co_return Status();
  }
  if (status.error().code() == Code::kCancelled) co_return status;
  work.result.failed.push_back(chunk);
  work.result.error = status.error().to_string();
  co_return Status();
}

Task<Result<FillResult>> ChunkFiller::fill(VersionName version, std::vector<uint64_t> chunks,
                                           FetchRole role, bool hand_over, Context context) {
  if (version.size == 0 || chunks.empty()) co_return FillResult{};
  if (version.size <= kFetchWholeMax) {
    bool there = core_.store.cached_bytes(version.object, version.etag) >= version.size;
    auto bytes = co_await small(version, role, context);
    if (!bytes) co_return fail(std::move(bytes).error());
    co_return FillResult{there ? 0 : version.size, {}, {}};
  }
  SHOAL_CO_ASSIGN_OR_RETURN(
      FileRef file, co_await core_.store.open_file(version.object, version.etag, version.size));
  Work work{version, Fetcher::of(core_, std::move(file), version.object, version.etag),
            role,    hand_over,
            context, {}};
  std::vector<Task<Status>> tasks;
  for (uint64_t chunk : chunks) tasks.push_back(fill_one(work, chunk));
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(core_.executor(), std::move(tasks), kChunksParallel));
  co_return std::move(work.result);
}

}  // namespace shoal
