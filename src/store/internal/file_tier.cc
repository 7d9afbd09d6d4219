#include "store/internal/file_tier.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/object_name.h"

namespace shoal::store_internal {

namespace {

constexpr uint64_t kSpaceCheckBytes = 64 * kMiB;
constexpr Duration kSpaceCheckInterval = std::chrono::seconds(2);
constexpr size_t kCloseParallel = 16;
constexpr size_t kCloseBatch = 1024;

Task<void> settle_later(std::shared_ptr<File> file, Task<void> work) {
  co_await work;
  file.reset();
}

}  // namespace

StoreMetrics::StoreMetrics(Registry& registry)
    : evicted_bytes(registry.counter("shoal_store_evicted_bytes_total",
                                     "Bytes evicted from the files tier.")),
      corrupt_pieces(registry.counter("shoal_store_corrupt_pieces_total",
                                      "Pieces and small values that failed their checksum.")),
      fills_refused(registry.counter("shoal_store_fills_refused_total",
                                     "Fills refused because nothing could be evicted.")),
      small_hits(registry.counter("shoal_store_small_hits_total", "Small values found.")),
      small_misses(registry.counter("shoal_store_small_misses_total", "Small values not found.")) {}

FileTier::FileTier(World& world, const Log& log, StoreMetrics& metrics, FileTierOptions options)
    : world_(world),
      log_(log),
      metrics_(metrics),
      options_(std::move(options)),
      alive_(std::make_shared<FileTier*>(this)),
      room_(world.executor, 1),
      gate_(world.executor),
      idle_(world.executor,
            [this](std::shared_ptr<File> file) { settle_soon(std::move(file), false); }) {
  SHOAL_ASSERT(options_.generation > options_.unclean_through);
}

FileTier::~FileTier() = default;

// --- references ---

FileRef FileTier::reference(const std::shared_ptr<File>& file) {
  if (FileRef user = file->user_.lock()) return user;
  struct Release {
    std::weak_ptr<FileTier*> tier;
    std::shared_ptr<File> file;
    void operator()(CachedFile*) {
      std::shared_ptr<File> last = std::move(file);
      if (auto alive = tier.lock()) (*alive)->released(std::move(last));
    }
  };
  FileRef user(file.get(), Release{alive_, file});
  file->user_ = user;
  return user;
}

void FileTier::released(std::shared_ptr<File> file) { settle_soon(std::move(file), true); }

void FileTier::settle_soon(std::shared_ptr<File> file, bool may_idle) {
  if (gate_.closed()) return;
  Task<void> work = file->settle(may_idle);
  gate_.spawn(settle_later(std::move(file), std::move(work)));
}

Task<Result<FileRef>> FileTier::load_reference(std::shared_ptr<File> file) {
  FileRef user = reference(file);
  Status status = co_await file->load();
  if (!status) co_return fail(std::move(status).error());
  SHOAL_ASSERT(file->loaded_);
  co_return user;
}

// --- index ---

std::shared_ptr<File> FileTier::new_file(uint64_t size) {
  return std::make_shared<File>(*this, world_.random.id128(), size);
}

Task<Status> FileTier::make_directory_of(Hash128 id) {
  auto number = static_cast<unsigned>(id.high >> 56);
  if (directories_.contains(number)) co_return Status();
  std::string path = fmt::format("{}/{}", options_.directory, id.to_hex().substr(0, 2));
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::make_directory(disk(), path));
  // Once, so that whatever is synced below can be found after a power loss.
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync_directory(disk(), options_.directory));
  directories_.insert(number);
  co_return Status();
}

void FileTier::index(const std::shared_ptr<File>& file) {
  SHOAL_ASSERT(!file->record_ && !file->in_index_);
  bool inserted = clean_.insert(file).second;
  SHOAL_ASSERT(inserted, "two files of one version");
  file->in_index_ = true;
  file->pinned_ = is_pinned(file->object_);
  file->enter_sieve();
}

void FileTier::unindex(File& file) {
  if (!file.in_index_) return;
  std::shared_ptr<File> self = file.shared_from_this();
  size_t erased = clean_.erase(self);
  SHOAL_ASSERT(erased == 1);
  file.in_index_ = false;
  file.leave_sieve();
}

Task<uint64_t> FileTier::discard(std::shared_ptr<File> file) {
  unindex(*file);
  file->dropped_ = true;
  leaving_[file.get()] = file;
  if (file->in_use()) co_return 0;
  uint64_t bytes = file->stored_ * kPieceBytes;
  co_await file->settle();
  co_return bytes;
}

bool FileTier::is_pinned(const std::string& object) const {
  if (pins_.empty()) return false;
  if (pins_.contains(std::string_view())) return true;
  for (std::string_view name = object; !name.empty(); name = parent_of(name)) {
    if (pins_.contains(name)) return true;
  }
  return false;
}

void FileTier::set_pins(const std::vector<std::string>& pins) {
  pins_ = {pins.begin(), pins.end()};
  for (const auto& file : clean_) file->pinned_ = is_pinned(file->object_);
}

// --- space ---

Task<void> FileTier::check_disk_space() {
  SteadyTime now = world_.executor.now();
  if (space_known_ && since_space_check_ < kSpaceCheckBytes &&
      now - space_checked_ < kSpaceCheckInterval) {
    co_return;
  }
  space_known_ = true;
  space_checked_ = now;
  since_space_check_ = 0;
  Result<DiskSpace> space = co_await disk_io::space(disk(), options_.directory);
  if (!space) {
    log_.warning("free space of {}: {}", options_.directory, space.error().to_string());
    co_return;
  }
  disk_short_ =
      options_.disk_reserve > space->free ? options_.disk_reserve - space->free : uint64_t{0};
}

Task<Status> FileTier::reserve(uint64_t bytes) {
  if (bytes == 0) co_return Status();
  since_space_check_ += bytes;
  co_await check_disk_space();
  if (used_ + bytes <= options_.capacity && disk_short_ == 0 && room_.used() == 0) {
    used_ += bytes;
    co_return Status();
  }
  Result<Permit> permit = co_await room_.acquire(1, {});
  SHOAL_ASSERT(permit.has_value());
  SHOAL_CO_RETURN_IF_ERROR(co_await evict_until(bytes));
  used_ += bytes;
  SHOAL_ASSERT(used_ <= options_.capacity);
  co_return Status();
}

void FileTier::refund(uint64_t bytes) {
  SHOAL_ASSERT(used_ >= bytes);
  used_ -= bytes;
}

// Evicts until `bytes` more fit. The caller holds the only permit of room_.
Task<Status> FileTier::evict_until(uint64_t bytes) {
  uint64_t failures = 0;
  auto full = [&] { return used_ > options_.capacity || bytes > options_.capacity - used_; };
  while (full() || disk_short_ > 0) {
    auto evictable = [](const ChunkRef& ref) { return ref.file->chunk_evictable(ref.chunk); };
    Sieve<ChunkRef>* from = &copies_;
    auto id = bytes > options_.capacity ? Sieve<ChunkRef>::kNone : copies_.victim(evictable);
    if (id == Sieve<ChunkRef>::kNone && bytes <= options_.capacity) {
      from = &sieve_;
      id = sieve_.victim(evictable);
    }
    if (id == Sieve<ChunkRef>::kNone || failures > 2 * (sieve_.size() + copies_.size()) + 8) {
      if (full()) {
        co_return fail(Code::kNoSpace,
                       fmt::format("the cache budget of {} is full of un-uploaded, pinned or open "
                                   "data; wait for uploads or raise --cache-size",
                                   format_size(options_.capacity)));
      }
      co_return fail(Code::kNoSpace,
                     fmt::format("the disk of {} has less than {} free; free space on it",
                                 options_.directory, format_size(options_.disk_reserve)));
    }
    ChunkRef victim = from->item(id);
    std::shared_ptr<File> file = victim.file->shared_from_this();
    uint64_t before = evicted_bytes_;
    from->skip(id);
    bool evicted = co_await file->evict_chunk(victim.chunk);
    if (!evicted) ++failures;
    disk_short_ -= std::min(disk_short_, evicted_bytes_ - before);
  }
  co_return Status();
}

// --- clean versions ---

Task<Result<FileRef>> FileTier::find(std::string object, std::string etag) {
  auto found = clean_.find(ByName::Key(object, etag));
  if (found == clean_.end()) co_return FileRef();
  // Kept over the wait: the set may drop it.
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
  std::shared_ptr<File> file = *found;
  Result<FileRef> user = co_await load_reference(file);
  if (!user) {
    log_.warning("{}: cannot open its cache file, dropping it: {}", object,
                 user.error().to_string());
    if (file->in_index_) co_await discard(file);
    co_return FileRef();
  }
  co_return user;
}

Task<Result<FileRef>> FileTier::open(std::string object, std::string etag, uint64_t size) {
  if (size > kObjectSizeMax) co_return fail(Code::kTooLarge, "object too large for the cache");
  if (object.size() > kObjectNameBytesMax || etag.size() > kSlotBytes / 2) {
    co_return fail(Code::kNameTooLong, "name or ETag too long for the cache");
  }
  for (int attempt = 0; attempt < 2; ++attempt) {
    auto found = clean_.find(ByName::Key(object, etag));
    std::shared_ptr<File> file;
    if (found != clean_.end()) {
      file = *found;
      if (file->size_ != size) {
        log_.warning("{}: cached with {} bytes, now {} under the same ETag; dropping the cached",
                     object, file->size_, size);
        co_await discard(file);
        continue;
      }
    } else {
      file = new_file(size);
      file->object_ = object;
      file->etag_ = etag;
      index(file);
    }
    Result<FileRef> user = co_await load_reference(file);
    if (user) co_return user;
    log_.warning("{}: cannot open its cache file: {}", object, user.error().to_string());
    if (file->in_index_) co_await discard(file);
    if (attempt == 1) co_return user;
  }
  co_return fail(Code::kBusy, fmt::format("{}: its cache file is being replaced", object));
}

Task<Result<uint64_t>> FileTier::evict(std::string object, bool tree) {
  std::string below = tree && !object.empty() ? object + "/" : object;
  std::vector<std::shared_ptr<File>> victims;
  for (auto at = clean_.lower_bound(ByName::Key(below, "")); at != clean_.end(); ++at) {
    const std::string& name = (*at)->object_;
    if (tree ? !name.starts_with(below) : name != below) break;
    victims.push_back(*at);
  }
  uint64_t bytes = 0;
  for (auto& file : victims) {
    if (!file->in_index_) continue;
    bytes += co_await discard(std::move(file));
  }
  evicted_bytes_ += bytes;
  metrics_.evicted_bytes.add(bytes);
  co_return bytes;
}

Task<Status> FileTier::rekey(std::string from, std::string etag, std::string to,
                             std::string new_etag) {
  auto found = clean_.find(ByName::Key(from, etag));
  if (found == clean_.end() || (from == to && etag == new_etag)) co_return Status();
  // Kept over the wait: the set may drop it.
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
  std::shared_ptr<File> file = *found;
  SHOAL_CO_ASSIGN_OR_RETURN(FileRef user, co_await load_reference(file));
  while (file->flushing_) (void)co_await file->changed_.wait({});
  if (!file->in_index_) co_return Status();
  auto target = clean_.find(ByName::Key(to, new_etag));
  if (target != clean_.end()) {
    co_await discard(*target);
    if (!file->in_index_ || file->flushing_ || clean_.contains(ByName::Key(to, new_etag))) {
      co_return fail(Code::kBusy, fmt::format("{}: changed while it was renamed", to));
    }
  }
  unindex(*file);
  file->object_ = std::move(to);
  file->etag_ = std::move(new_etag);
  index(file);
  if (!file->header_written_) co_return Status();
  file->flushing_ = true;
  Status status = co_await file->write_header(file->header_now());
  file->flushing_ = false;
  file->changed_.notify_all();
  co_return status;
}

uint64_t FileTier::cached_bytes(const std::string& object, const std::string& etag) const {
  auto found = clean_.find(ByName::Key(object, etag));
  return found == clean_.end() ? 0 : std::min((*found)->size_, (*found)->present_ * kPieceBytes);
}

// --- staged versions ---

Task<Result<FileRef>> FileTier::create_staged(StagedRecord record) {
  SHOAL_CO_RETURN_IF_ERROR(check_record(record));
  if (record.write_id.is_zero() || staged_.contains(record.write_id)) {
    co_return fail(Code::kAlreadyExists, "the write id is in use");
  }
  std::shared_ptr<File> file = new_file(0);
  file->object_ = record.object;
  record.size = 0;
  Hash128 id = record.write_id;
  file->record_ = std::make_unique<StagedRecord>(std::move(record));
  staged_[id] = file;
  Result<FileRef> user = co_await load_reference(file);
  if (!user) staged_.erase(id);
  co_return user;
}

Task<Status> FileTier::convert_to_staged(FileRef user, StagedRecord record, bool shared) {
  SHOAL_CO_RETURN_IF_ERROR(check_record(record));
  auto* found = static_cast<File*>(user.get());
  std::shared_ptr<File> file = found->shared_from_this();
  if (file->record_ || record.base_etag != file->etag_) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("{}: the base must be the cached version", record.object));
  }
  if (record.write_id.is_zero() || staged_.contains(record.write_id)) {
    co_return fail(Code::kAlreadyExists, "the write id is in use");
  }
  if (shared || file->holds_ > 0 || !file->in_index_) {
    co_return fail(Code::kBusy, fmt::format("{}: the version is in use; clone it", file->object_));
  }
  file->hold();  // no new eviction from here
  while (!file->punching_.empty() || file->flushing_ || file->internal_refs_ > 0) {
    (void)co_await file->changed_.wait({});
  }
  // Bytes that do not prove intact stay behind: the base has them.
  Status status = co_await file->verify();
  if (!status && status.error().code() == Code::kCorrupt) status = Status();
  Result<Permit> alone = co_await file->lock_.acquire(File::kAlone, {});
  SHOAL_ASSERT(alone.has_value());
  bool ours = status && file->in_index_ && !staged_.contains(record.write_id);
  if (status && !ours) status = fail(Code::kBusy, "the version was dropped meanwhile");
  if (ours) {
    Hash128 id = record.write_id;
    unindex(*file);
    staged_[id] = file;
    while (file->flushing_) (void)co_await file->changed_.wait({});
    status = co_await disk_io::sync_data(disk(), file->data_);
    if (status) {
      file->data_unsynced_ = false;
      MetaHeader header = file->header_now();
      header.record = std::move(record);
      status = co_await file->publish_staged(std::move(header));
    }
    if (!status) {
      staged_.erase(id);
      if (file->record_ || clean_.contains(ByName::Key(file->object_, file->etag_))) {
        file->dropped_ = true;
        leaving_[file.get()] = file;
      } else {
        index(file);
      }
    }
  }
  file->unhold();
  co_return status;
}

Task<Result<FileRef>> FileTier::clone_staged(FileRef from, StagedRecord record) {
  auto* origin = static_cast<File*>(from.get());
  std::shared_ptr<File> source = origin->shared_from_this();
  File::RangeMark mark(*source, source->in_use_, {0, source->size_});
  while (!source->punching_.empty()) (void)co_await source->changed_.wait({});
  Permit permit;
  if (source->record_) {
    Result<Permit> alone = co_await source->lock_.acquire(File::kAlone, {});
    SHOAL_ASSERT(alone.has_value());
    permit = std::move(*alone);
  }
  if (source->record_) SHOAL_CO_RETURN_IF_ERROR(co_await source->write_again());
  Status checked = co_await source->check(0, source->table_.pieces());
  if (!checked && (source->record_ || checked.error().code() != Code::kCorrupt)) {
    co_return fail(std::move(checked).error());
  }
  SHOAL_CO_ASSIGN_OR_RETURN(FileRef user, co_await create_staged(std::move(record)));
  auto* copy = static_cast<File*>(user.get());
  Status status = co_await copy_pieces(*source, *copy);
  if (!status) {
    co_await abandon(copy->shared_from_this());
    co_return fail(std::move(status).error());
  }
  co_return user;
}

Task<Status> FileTier::copy_pieces(File& source, File& copy) {
  uint64_t size = source.size_;
  uint64_t pieces = pieces_of(size);
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::set_size(disk(), copy.data_, size));
  copy.size_ = size;
  copy.table_.resize(pieces);
  copy.chunks_.resize((size + kChunkBytesDefault - 1) / kChunkBytesDefault);
  copy.table_changed_ = copy.data_unsynced_ = true;
  auto wanted = [&](uint64_t i) {
    return source.table_.get(i).present() && !source.table_.get(i).hole();
  };
  for (uint64_t i = 0; i < pieces;) {
    if (!wanted(i)) {
      Piece piece = source.table_.get(i);
      if (piece.present()) copy.put_piece(i, {piece.crc, piece.bits & ~Piece::kSynced});
      ++i;
      continue;
    }
    uint64_t stop = i + 1;
    while (stop < pieces && stop - i < kPiecesPerChunk && wanted(stop)) ++stop;
    uint64_t start = i * kPieceBytes;
    SHOAL_CO_RETURN_IF_ERROR(co_await reserve((stop - i) * kPieceBytes));
    Status copied = co_await disk_io::copy_range(disk(), source.data_, start, copy.data_, start,
                                                 std::min(stop * kPieceBytes, size) - start);
    for (; i < stop; ++i) {
      // Only a failed check can have dropped it meanwhile; its bytes are not worth having.
      if (copied && wanted(i)) {
        Piece piece = source.table_.get(i);
        copy.put_piece(i, {piece.crc, piece.bits & ~Piece::kSynced});
      } else {
        refund(kPieceBytes);
      }
    }
    SHOAL_CO_RETURN_IF_ERROR(std::move(copied));
  }
  co_return Status();
}

// Forgets a staged version that nobody was promised.
Task<void> FileTier::abandon(std::shared_ptr<File> file) {
  staged_.erase(file->record_->write_id);
  file->dropped_ = true;
  leaving_[file.get()] = file;
  if (!file->in_use()) co_await file->settle();
}

Task<Status> FileTier::commit_staged(FileRef user, std::string etag) {
  auto* found = static_cast<File*>(user.get());
  std::shared_ptr<File> file = found->shared_from_this();
  Result<Permit> alone = co_await file->lock_.acquire(File::kAlone, {});
  SHOAL_ASSERT(alone.has_value());
  if (!file->record_ || file->dropped_) {
    co_return fail(Code::kNotFound, fmt::format("{}: not staged", file->object_));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await file->recompute());
  auto other = clean_.find(ByName::Key(file->record_->object, etag));
  if (other != clean_.end()) co_await discard(*other);
  // The header first: a chunk may be evicted only when the disk no longer calls it staged.
  if (file->header_written_) {
    MetaHeader header = file->header_now();
    header.staged = header.rewriting = false;
    header.object = file->record_->object;
    header.etag = etag;
    SHOAL_CO_RETURN_IF_ERROR(co_await file->write_header(std::move(header)));
    file->commit_unsynced_ = true;
    // Durable, so that a crash cannot bring back a version that was replaced or removed since.
    SHOAL_CO_RETURN_IF_ERROR(co_await file->ensure_commit_durable());
  }
  if (clean_.contains(ByName::Key(file->record_->object, etag))) {
    co_await discard(*clean_.find(ByName::Key(file->record_->object, etag)));
  }
  staged_.erase(file->record_->write_id);
  file->object_ = file->record_->object;
  file->etag_ = std::move(etag);
  file->record_.reset();
  file->rewriting_ = file->loose_ = false;
  refund(std::exchange(file->reserved_, 0));
  for (uint64_t i = 0; i < file->table_.pieces(); ++i) {
    if (file->table_.get(i).has(Piece::kBad)) file->drop_piece(i);
  }
  index(file);
  if (file->staged_name_) {
    std::string before = file->meta_path();
    file->staged_name_ = false;
    Status renamed = co_await disk_io::rename(disk(), before, file->meta_path());
    if (!renamed) file->staged_name_ = true;  // the name matters only when no header is readable
  }
  co_return Status();
}

Task<Status> FileTier::drop_staged(FileRef user) {
  auto* found = static_cast<File*>(user.get());
  std::shared_ptr<File> file = found->shared_from_this();
  Result<Permit> alone = co_await file->lock_.acquire(File::kAlone, {});
  SHOAL_ASSERT(alone.has_value());
  if (!file->record_ || file->dropped_) {
    co_return fail(Code::kNotFound, fmt::format("{}: not staged", file->object_));
  }
  // The data file stays for open users; without its meta file it is garbage after a crash.
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::remove(disk(), file->meta_path()));
  Status synced = co_await disk_io::sync_directory(
      disk(), fmt::format("{}/{}", options_.directory, file->id_.to_hex().substr(0, 2)));
  co_await abandon(file);
  co_return synced;
}

Task<Result<FileRef>> FileTier::find_staged(Hash128 write_id) {
  auto found = staged_.find(write_id);
  if (found == staged_.end()) co_return FileRef();
  co_return co_await load_reference(found->second);
}

// --- the end ---

// Whether close() has something to write about it.
bool FileTier::unvouched(const File& file) const {
  if (file.loaded_ || file.data_unsynced_) return true;
  bool checked = std::ranges::all_of(
      file.chunks_, [](const ChunkState& chunk) { return chunk.present == 0 || chunk.vouched; });
  return checked && file.present_ > 0 && file.vouched_at_ <= options_.unclean_through;
}

Task<Status> FileTier::close_one(std::shared_ptr<File> file) {
  SHOAL_CO_RETURN_IF_ERROR(co_await file->load());
  SHOAL_CO_RETURN_IF_ERROR(co_await file->vouch_on_disk(options_.generation));
  file->unload();
  co_return co_await file->close_files();
}

Task<Status> FileTier::close() {
  idle_.clear();
  co_await gate_.close();
  idle_.clear();
  alive_.reset();
  Status status;
  std::vector<Task<Status>> tasks;
  for (const auto& file : clean_) {
    if (!unvouched(*file)) continue;
    tasks.push_back(close_one(file));
    if (tasks.size() < kCloseBatch) continue;
    Status batch = co_await run_all(world_.executor, std::exchange(tasks, {}), kCloseParallel);
    if (status) status = std::move(batch);
  }
  Status batch = co_await run_all(world_.executor, std::move(tasks), kCloseParallel);
  if (status) status = std::move(batch);
  for (const auto& [id, file] : staged_) {
    if (file->in_use()) log_.warning("{}: still open while the store closes", file->object_);
    Status closed = co_await file->close_files();
    if (!closed && status) status = std::move(closed);
  }
  for (const auto& file : clean_) {
    (void)co_await file->close_files();
    file->leave_sieve();
  }
  for (const auto& [raw, file] : leaving_) (void)co_await file->close_files();
  leaving_.clear();
  clean_.clear();
  staged_.clear();
  co_return status;
}

}  // namespace shoal::store_internal
