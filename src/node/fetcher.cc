#include "node/fetcher.h"

#include <algorithm>
#include <cstring>

#include "client/peer_reader.h"
#include "node/internal/fetch.h"

namespace shoal {

namespace {

constexpr uint64_t kWindowFirst = 1 * kMiB;
constexpr uint64_t kWindowSure = 8 * kMiB;  // not given up again, however slow the reader is
constexpr Duration kAhead = std::chrono::seconds(2);
constexpr uint64_t kUnitMin = 256 * kKiB;
constexpr uint64_t kUnitMax = 8 * kMiB;
constexpr uint64_t kPrefetchUnitMax = 4 * kMiB;
constexpr int kCorruptRetries = 3;
// A read of so much from the start of an object is taken for the first of many.
constexpr uint64_t kBulkFirst = 128 * kKiB;
constexpr uint64_t kBulkAnywhere = 1 * kMiB;

uint64_t round_down(uint64_t value) { return value / kPieceBytes * kPieceBytes; }
uint64_t round_up(uint64_t value) { return (value + kPieceBytes - 1) / kPieceBytes * kPieceBytes; }

}  // namespace

Fetcher::Fetcher(NodeCore& core, FileRef file, std::string object, std::string etag)
    : core_(core),
      file_(std::move(file)),
      object_(std::move(object)),
      etag_(std::move(etag)),
      idle_(core.executor()) {}

Fetcher::~Fetcher() {
  SHOAL_ASSERT(fetches_.empty());
  core_.fetchers.erase(file_.get());
}

std::shared_ptr<Fetcher> Fetcher::of(NodeCore& core, FileRef file, std::string object,
                                     std::string etag) {
  auto found = core.fetchers.find(file.get());
  if (found != core.fetchers.end()) {
    std::shared_ptr<Fetcher> running = found->second->shared_from_this();
    running->renamed(std::move(object), std::move(etag));
    return running;
  }
  const CachedFile* key = file.get();
  auto made = std::make_shared<Fetcher>(core, std::move(file), std::move(object), std::move(etag));
  core.fetchers.emplace(key, made.get());
  return made;
}

void Fetcher::renamed(std::string object, std::string etag) {
  object_ = std::move(object);
  etag_ = std::move(etag);
}

std::shared_ptr<Fetcher::Fetch> Fetcher::find(uint64_t offset) {
  for (const auto& fetch : fetches_) {
    if (fetch->range.offset <= offset && offset < fetch->range.end()) return fetch;
  }
  return nullptr;
}

std::shared_ptr<Fetcher::Fetch> Fetcher::find_in(Range range) {
  for (const auto& fetch : fetches_) {
    if (fetch->range.offset < range.end() && range.offset < fetch->range.end()) return fetch;
  }
  return nullptr;
}

std::vector<Range> Fetcher::unclaimed(Range range) {
  std::vector<Range> open;
  for (Range gap : file_->missing(range)) {
    uint64_t at = gap.offset;
    while (at < gap.end()) {
      if (auto fetch = find(at)) {
        at = fetch->range.end();
        continue;
      }
      uint64_t end = gap.end();
      for (const auto& fetch : fetches_) {
        if (fetch->range.offset > at) end = std::min(end, fetch->range.offset);
      }
      open.push_back({at, end - at});
      at = end;
    }
  }
  return open;
}

// The whole chunk in one request to the origin, whichever part was asked for first.
Range Fetcher::hole_around(uint64_t offset) {
  uint64_t chunk = core_.peers->chunk_bytes();
  uint64_t begin = offset / chunk * chunk;
  std::vector<Range> holes = unclaimed({begin, std::min(chunk, file_->size() - begin)});
  auto around = std::ranges::find_if(
      holes, [offset](const Range& hole) { return hole.offset <= offset && offset < hole.end(); });
  SHOAL_ASSERT(around != holes.end(), "it is missing and unclaimed");
  return *around;
}

bool Fetcher::is_own(uint64_t offset) const {
  return core_.peers == nullptr || core_.peers->is_own(object_, offset);
}

Semaphore& Fetcher::memory_of(FetchRole role) const {
  switch (role) {
    case FetchRole::kOwner:
      return core_.serve_memory;
    case FetchRole::kRelay:
      return core_.relay_memory;
    case FetchRole::kReader:
      break;
  }
  return core_.fetch_memory;
}

uint64_t Fetcher::unit_end(Range open, uint64_t unit) const {
  uint64_t end = std::min(open.end(), open.offset + unit);
  if (core_.peers == nullptr) return end;
  uint64_t chunk = core_.peers->chunk_bytes();
  return std::min(end, (open.offset / chunk + 1) * chunk);
}

std::shared_ptr<Fetcher::Fetch> Fetcher::start(Range range, FetchRole role, bool bulk,
                                               Permit memory) {
  SHOAL_ASSERT(range.length > 0 && range.offset % kPieceBytes == 0);
  SHOAL_ASSERT(range.end() <= file_->size());
  auto fetch = std::make_shared<Fetch>(core_, range, role, bulk, std::move(memory));
  if (!core_.gate.spawn(run(shared_from_this(), fetch))) return nullptr;
  fetches_.push_back(fetch);
  return fetch;
}

Task<Status> Fetcher::fetch_from_peers(Fetcher& self, Fetch& fetch, bool own, Context context) {
  Fetch* raw = &fetch;  // owned by the awaiting frame
  ChunkRange chunk;
  chunk.object = self.object_;
  chunk.etag = self.etag_;
  chunk.size = self.file_->size();
  chunk.offset = fetch.range.offset;
  chunk.into = fetch.buffer.span();
  chunk.bulk = fetch.bulk;
  chunk.progress = [raw](uint64_t bytes, const std::vector<uint32_t>& crcs) {
    raw->arrive_checked(bytes, crcs);
  };
  PeerReader& peers = *self.core_.peers;
  Status status =
      own ? co_await peers.read_ahead_of(chunk, context) : co_await peers.read(chunk, context);
  if (own && !status && status.error().code() == Code::kNotFound) {
    status = co_await peers.read_previous(chunk, context);
  }
  fetch.via_peers = false;
  fetch.changed.notify_all();
  co_return status;
}

// Fills the buffer: from peers where the cluster has the bytes, else from the origin.
Task<Status> Fetcher::fetch_bytes(Fetcher& self, Fetch& fetch, Context context) {
  NodeCore& core = self.core_;
  if (core.peers != nullptr) {
    bool own = fetch.role == FetchRole::kOwner || self.is_own(fetch.range.offset);
    Status status = co_await fetch_from_peers(self, fetch, own, context);
    if (status || status.error().code() != Code::kNotFound) co_return status;
  }
  // Go on where the peers left off, at a whole piece.
  uint64_t from = fetch.checked() / kPieceBytes * kPieceBytes;
  Fetch* raw = &fetch;  // the origin drops the callback before it ends
  auto progress = [raw, from](uint64_t bytes) { raw->arrive(from + bytes); };
  SteadyTime begun = core.now();
  core.log.debug("fetching {} at {}, {} bytes, from the origin", self.object_,
                 fetch.range.offset + from, fetch.range.length - from);
  Status status = co_await core.origin.read(self.object_, self.etag_, fetch.range.offset + from,
                                            fetch.buffer.span().subspan(from), progress, context);
  if (!status) co_return status;
  fetch.arrive(fetch.range.length);
  core.metrics.origin_read_us.record(static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(core.now() - begun).count()));
  co_return Status();
}

Task<void> Fetcher::run(std::shared_ptr<Fetcher> self, std::shared_ptr<Fetch> fetch) {
  NodeCore& core = self->core_;
  Context context = core.background();
  context.cancel = &core.stopping;
  fetch->status = co_await fetch_bytes(*self, *fetch, context);
  fetch->done = true;
  fetch->changed.notify_all();
  if (fetch->status) co_await keep(*self, *fetch, context);
  self->fetches_.remove(fetch);
  fetch->filled = true;
  fetch->changed.notify_all();
  if (self->fetches_.empty()) self->idle_.notify_all();
}

// Into the cache file. The fetch can be read from until then.
Task<void> Fetcher::keep(Fetcher& self, Fetch& fetch, Context context) {
  NodeCore& core = self.core_;
  SHOAL_ASSERT(fetch.checked() == fetch.range.length);
  auto how = CachedFile::Keep::kOwned;
  if (fetch.role != FetchRole::kOwner && !self.is_own(fetch.range.offset)) {
    how = fetch.role == FetchRole::kReader ? CachedFile::Keep::kSpareCopy : CachedFile::Keep::kCopy;
  }
  bool spare = how == CachedFile::Keep::kSpareCopy;
  if (spare && !co_await core.copies.turn(fetch.copy, fetch.range.length, context)) co_return;
  Status filled =
      co_await self.file_->fill(fetch.range.offset, fetch.buffer.span(), fetch.crcs, how);
  if (!filled && filled.error().code() != Code::kNoSpace) {
    core.log.warning("caching {}: {}", self.object_, filled.error().to_string());
  }
  if (spare) core.copies.written(fetch.copy);
}

Task<void> Fetcher::wait_idle() {
  while (!fetches_.empty()) {
    Status status = co_await idle_.wait({});
    SHOAL_ASSERT(status.has_value());
  }
}

Task<Status> Fetcher::demand(Range range, FetchRole role, bool bulk, Context context) {
  while (true) {
    std::vector<Range> open = unclaimed(range);
    if (open.empty()) co_return Status();
    Range next = open[0];
    bool own = role == FetchRole::kOwner || is_own(next.offset);
    if (core_.peers != nullptr && own && bulk) next = hole_around(next.offset);
    next.length = unit_end(next, kUnitMax) - next.offset;
    if (role == FetchRole::kRelay) {
      auto memory = core_.relay_memory.try_acquire(next.length);
      if (!memory) co_return fail(Code::kBusy, "no memory to relay now");
      if (start(next, role, bulk, std::move(*memory)) == nullptr) {
        co_return fail(Code::kCancelled, "shutting down");
      }
      continue;
    }
    if (role == FetchRole::kReader && !core_.fetch_memory.has_room(next.length)) {
      core_.copies.make_room(next.length);
    }
    auto memory = co_await memory_of(role).acquire(next.length, context);
    if (!memory) co_return fail(std::move(memory).error());
    // Others may have begun meanwhile: look again, now holding the memory.
    std::vector<Range> still = unclaimed(next);
    if (still.empty() || still[0] != next) continue;
    if (start(next, role, bulk, std::move(*memory)) == nullptr) {
      co_return fail(Code::kCancelled, "shutting down");
    }
  }
}

void ReadPattern::grow(Range asked, uint64_t most, SteadyTime now) {
  if (window == 0) {
    window = std::max(kWindowFirst, round_up(2 * asked.length));
  } else {
    double seconds = std::max(to_seconds(now - since), 1e-3);
    double rate = static_cast<double>(asked.end() - from) / seconds;
    auto useful = static_cast<uint64_t>(rate * to_seconds(kAhead));
    uint64_t least = std::min({window, kWindowSure, most});
    window = std::clamp(std::min(window * 2, round_up(useful)), least, most);
  }
  grow_at = asked.end() + window / 2;
  from = asked.end();
  since = now;
}

void Fetcher::prefetch(Range asked, ReadPattern& pattern) {
  auto is_here = [this](Range range) { return file_->missing(range).empty(); };
  if (!pattern.goes_on(asked, is_here)) {
    pattern = {.next = asked.end()};
    return;
  }
  pattern.next = std::max(pattern.next, asked.end());
  if (pattern.window == 0 || asked.end() >= pattern.grow_at) {
    pattern.grow(asked, core_.options.prefetch_bytes_max, core_.now());
  }
  // Requests share the origin's bandwidth, so the window is kept full: a new request as soon as
  // there is room for one.
  uint64_t unit = round_up(std::clamp(pattern.window / 16, kUnitMin, kPrefetchUnitMax));
  uint64_t limit = std::min(file_->size(), round_up(asked.end() + pattern.window));
  uint64_t at = std::max(pattern.ahead, round_down(asked.offset));
  if (at >= limit || (limit < file_->size() && limit - at < unit)) return;
  for (const Range& gap : unclaimed({at, limit - at})) {
    for (uint64_t offset = gap.offset; offset < gap.end();) {
      Range part{offset, unit_end({offset, gap.end() - offset}, unit) - offset};
      // Of an own chunk all at once: other nodes will want the rest from here.
      if (core_.peers != nullptr && is_own(offset)) {
        part = hole_around(offset);
        part.length = unit_end(part, kUnitMax) - part.offset;
      }
      auto memory = core_.fetch_memory.try_acquire(part.length);
      if (!memory) {
        pattern.ahead = offset;
        return;
      }
      if (start(part, FetchRole::kReader, true, std::move(*memory)) == nullptr) return;
      offset = part.end();
    }
  }
  pattern.ahead = std::max(pattern.ahead, limit);
}

Task<Status> Fetcher::read(uint64_t offset, ByteSpan into, ReadPattern* pattern, Lent* lent,
                           Context context) {
  SHOAL_ASSERT(offset + into.size() <= file_->size());
  Range asked{offset, into.size()};
  if (asked.length == 0) co_return Status();
  bool follows = pattern != nullptr && offset >= kBulkFirst && offset == pattern->next;
  bool bulk = (pattern != nullptr && pattern->window > 0) || follows ||
              asked.length >= kBulkAnywhere || (offset == 0 && asked.length >= kBulkFirst);
  std::vector<Range> gaps = file_->missing(asked);
  if (gaps.empty()) {
    core_.metrics.read_hits.add();
  } else {
    core_.metrics.read_misses.add();
    SHOAL_CO_RETURN_IF_ERROR(co_await demand(asked, FetchRole::kReader, bulk, context));
  }
  if (pattern != nullptr) prefetch(asked, *pattern);

  int corrupt = 0;
  uint64_t at = offset;
  while (at < asked.end()) {
    std::vector<Range> missing = file_->missing({at, asked.end() - at});
    uint64_t present_end = missing.empty() ? asked.end() : std::max(at, missing[0].offset);
    if (present_end > at) {
      Status status = co_await file_->read(at, into.subspan(at - offset, present_end - at));
      if (!status && status.error().code() == Code::kCorrupt && !file_->staged() &&
          ++corrupt <= kCorruptRetries) {
        SHOAL_CO_RETURN_IF_ERROR(co_await demand(asked, FetchRole::kReader, bulk, context));
        continue;
      }
      SHOAL_CO_RETURN_IF_ERROR(std::move(status));
      if (lent != nullptr) lent->add(into.subspan(at - offset, present_end - at), nullptr);
      at = present_end;
      continue;
    }
    std::shared_ptr<Fetch> fetch = find(at);
    if (fetch == nullptr) {  // evicted or failed to be cached since: fetch again
      Range rest{at, asked.end() - at};
      SHOAL_CO_RETURN_IF_ERROR(co_await demand(rest, FetchRole::kReader, bulk, context));
      continue;
    }
    uint64_t want = std::min(asked.end(), fetch->range.end()) - fetch->range.offset;
    while (!fetch->done && fetch->arrived < want) {
      SHOAL_CO_RETURN_IF_ERROR(co_await fetch->changed.wait(context));
    }
    if (fetch->arrived < want) co_return fetch->status;
    uint64_t from = at - fetch->range.offset;
    ConstByteSpan bytes = fetch->buffer.span().subspan(from, want - from);
    if (lent != nullptr) {
      lent->add(bytes, fetch);
    } else {
      std::memcpy(into.data() + (at - offset), bytes.data(), bytes.size());
    }
    at = fetch->range.offset + want;
    if (want == fetch->range.length || !fetch->bulk) core_.copies.was_read(fetch->copy);
  }
  co_return Status();
}

Task<Status> Fetcher::complete(Range range, FetchRole role, std::function<void(uint64_t)> progress,
                               Context context) {
  range.length = std::min(range.end(), file_->size()) - range.offset;
  uint64_t at = range.offset;
  while (at < range.end()) {
    // Keep a window in flight, wait for its first part.
    uint64_t window = std::min<uint64_t>(range.end(), at + core_.options.prefetch_bytes_max);
    Range now{at, unit_end({at, range.end() - at}, kUnitMax) - at};
    SHOAL_CO_RETURN_IF_ERROR(co_await demand(now, role, true, context));
    for (const Range& gap : unclaimed({at, window - at})) {
      for (uint64_t offset = gap.offset; offset < gap.end();) {
        Range part{offset, unit_end({offset, gap.end() - offset}, kUnitMax) - offset};
        auto memory = memory_of(role).try_acquire(part.length);
        auto begun = memory ? start(part, role, true, std::move(*memory)) : nullptr;
        if (begun == nullptr) break;
        core_.copies.want(begun->copy);
        offset = part.end();
      }
    }
    bool dropped = false;
    while (auto fetch = find_in(now)) {
      core_.copies.want(fetch->copy);
      while (!fetch->filled) SHOAL_CO_RETURN_IF_ERROR(co_await fetch->changed.wait(context));
      SHOAL_CO_RETURN_IF_ERROR(fetch->status);
      dropped = dropped || core_.copies.dropped(fetch->copy);
    }
    if (!file_->missing(now).empty()) {
      if (dropped) continue;  // before it was known that somebody wants it kept
      co_return fail(Code::kNoSpace, "the cache has no room for " + object_);
    }
    if (progress) progress(now.length);
    at = now.end();
  }
  co_return Status();
}

}  // namespace shoal
