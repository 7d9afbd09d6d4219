#include "store/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "async/disk_io.h"
#include "base/checksum.h"
#include "base/object_name.h"
#include "store/internal/codec.h"
#include "store/internal/file_tier.h"
#include "store/internal/small_tier.h"

namespace shoal {

using store_internal::FileTier;
using store_internal::SmallTier;
using store_internal::StoreMetrics;

namespace {

constexpr std::string_view kMarkerName = "shoal-cache";
constexpr std::string_view kStateName = "state";
constexpr std::string_view kPinsName = "pins";
constexpr std::string_view kLockName = "lock";
constexpr std::string_view kNodeIdName = "node-id";
constexpr int kFormat = 1;
constexpr uint64_t kVisitsPerTurn = 256;
constexpr size_t kPinsBytesMax = 64 * kMiB;
constexpr uint64_t kSmallCapacityMin = 64 * kMiB;
constexpr uint64_t kSmallCapacityMax = 16 * kGiB;

// Where the store is between an open and the next.
struct State {
  uint64_t generation = 0;       // counts opens
  uint64_t unclean_through = 0;  // the last generation that did not end by close()
  bool closed = true;
};

std::string encode_state(const State& state) {
  std::string text = fmt::format("shoal-state {}\ngeneration {}\nunclean {}\nclosed {}\n", kFormat,
                                 state.generation, state.unclean_through, state.closed ? 1 : 0);
  return text + fmt::format("crc {:08x}\n", crc32c(as_bytes(text)));
}

bool take_number(std::string_view& text, std::string_view prefix, uint64_t& value) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data() + text.size() || *end != '\n') return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()) + 1);
  return true;
}

bool parse_state(std::string_view text, State& state) {
  std::string_view all = text;
  uint64_t format = 0;
  uint64_t closed = 0;
  if (!take_number(text, "shoal-state ", format) || format != kFormat ||
      !take_number(text, "generation ", state.generation) ||
      !take_number(text, "unclean ", state.unclean_through) ||
      !take_number(text, "closed ", closed)) {
    return false;
  }
  state.closed = closed == 1;
  std::string_view covered = all.substr(0, all.size() - text.size());
  return text == fmt::format("crc {:08x}\n", crc32c(as_bytes(covered))) &&
         state.unclean_through <= state.generation && state.generation < UINT64_MAX / 2;
}

std::string encode_pins(const std::vector<std::string>& pins) {
  std::string text;
  store_internal::Writer out(text);
  out.number(uint32_t{0});
  out.number(static_cast<uint32_t>(pins.size()));
  for (const std::string& pin : pins) out.text(pin);
  store_internal::put_u32(text, 0, crc32c(as_bytes(text).subspan(4)));
  return text;
}

bool parse_pins(std::string_view text, std::vector<std::string>& pins) {
  store_internal::Reader in(as_bytes(text));
  uint32_t crc = in.number<uint32_t>();
  if (!in.ok() || crc != crc32c(as_bytes(text).subspan(4))) return false;
  uint32_t count = in.number<uint32_t>();
  for (uint32_t i = 0; i < count && in.ok(); ++i) pins.push_back(in.text());
  return in.ok() && in.left() == 0;
}

Task<Status> make_directories(Disk& disk, std::string path) {
  std::vector<std::string> todo = {path};
  while (!todo.empty()) {
    Status made = co_await disk_io::make_directory(disk, todo.back());
    std::string parent(parent_of(todo.back()));
    if (made) {
      std::string above = !parent.empty() ? parent : todo.back().starts_with('/') ? "/" : ".";
      (void)co_await disk_io::sync_directory(disk, above);  // it may not be ours to sync
      todo.pop_back();
      continue;
    }
    if (made.error().code() != Code::kNotFound || parent.empty()) {
      co_return fail(std::move(made).error().with_context("cache directory"));
    }
    todo.push_back(std::move(parent));
  }
  co_return Status();
}

class StoreImpl final : public Store {
 public:
  StoreImpl(World& world, Registry& registry, const Log& log, StoreOptions options)
      : world_(world), log_(log), options_(std::move(options)), metrics_(registry) {}
  ~StoreImpl() override { SHOAL_ASSERT(lock_ == FileId::kNone, "close() was not called"); }

  Task<Status> start();
  Task<Status> close() override;

  Task<Result<FileRef>> find_file(std::string object, std::string etag) override {
    return files_->find(std::move(object), std::move(etag));
  }
  Task<Result<FileRef>> open_file(std::string object, std::string etag, uint64_t size) override {
    return files_->open(std::move(object), std::move(etag), size);
  }
  Task<Result<Buffer>> get_small(std::string object, std::string etag) override {
    return small_->get(std::move(object), std::move(etag));
  }
  Task<Status> put_small(std::string object, std::string etag, ConstByteSpan bytes) override {
    return small_->put(std::move(object), std::move(etag), bytes);
  }
  Task<Result<uint64_t>> evict(std::string object, bool tree) override;
  Task<Status> rekey(std::string from, std::string etag, std::string to,
                     std::string new_etag) override;
  uint64_t cached_bytes(const std::string& object, const std::string& etag) const override {
    return files_->cached_bytes(object, etag) + small_->cached_bytes(object, etag);
  }
  std::vector<CachedChunks> cached_after(const std::string& object, const std::string& etag,
                                         size_t count_max) const override {
    return files_->cached_after(object, etag, count_max);
  }
  Task<Result<std::vector<CachedChunks>>> cached_small() override { return small_->cached(); }
  void classify(const std::function<bool(const std::string&, uint64_t)>& is_copy) override {
    files_->classify(is_copy);
  }

  Task<Result<FileRef>> create_staged(StagedRecord record) override {
    return files_->create_staged(std::move(record));
  }
  Task<Status> convert_to_staged(const FileRef& file, StagedRecord record) override {
    SHOAL_ASSERT(file != nullptr);
    bool shared = file.use_count() > 1;
    return files_->convert_to_staged(file, std::move(record), shared);
  }
  Task<Result<FileRef>> clone_staged(const FileRef& from, StagedRecord record) override {
    SHOAL_ASSERT(from != nullptr);
    return files_->clone_staged(from, std::move(record));
  }
  Task<Status> commit_staged(const FileRef& file, std::string etag) override {
    SHOAL_ASSERT(file != nullptr);
    return files_->commit_staged(file, std::move(etag));
  }
  Task<Status> drop_staged(const FileRef& file) override {
    SHOAL_ASSERT(file != nullptr);
    return files_->drop_staged(file);
  }
  Task<Result<FileRef>> find_staged(Hash128 write_id) override {
    return files_->find_staged(write_id);
  }

  Task<Status> stage_small(StagedRecord record, ConstByteSpan bytes) override {
    return small_->stage(std::move(record), bytes);
  }
  Task<Result<Buffer>> read_staged_small(Hash128 write_id) override {
    return small_->read_staged(write_id);
  }
  Task<Status> commit_small(Hash128 write_id, std::string etag) override {
    return small_->commit(write_id, std::move(etag));
  }
  Task<Status> drop_staged_small(Hash128 write_id) override { return small_->drop(write_id); }

  std::vector<Staged> staged() const override;
  Task<void> visit_staged(std::function<void(const Staged&)> visit) const override;
  Task<Status> set_pins(std::vector<std::string> objects) override;
  const std::vector<std::string>& pins() const override { return pins_; }
  StoreStats stats() const override;
  const Hash128& node_id() const override { return node_id_; }
  uint64_t generation() const override { return state_.generation; }

 private:
  std::string path(std::string_view name) const {
    return fmt::format("{}/{}", options_.directory, name);
  }
  Task<Status> claim();
  Task<Status> check_marker();
  Task<Status> begin_generation();
  Task<Status> load_pins();
  Task<Status> load_node_id();
  Task<Status> start_tiers();

  World& world_;
  const Log& log_;
  const StoreOptions options_;
  StoreMetrics metrics_;
  State state_;
  Hash128 node_id_;
  std::vector<std::string> pins_;
  FileId lock_ = FileId::kNone;
  std::unique_ptr<FileTier> files_;
  std::unique_ptr<SmallTier> small_;
};

// Makes the directory ours: refuses foreign ones, takes the lock, checks or writes the marker.
Task<Status> StoreImpl::claim() {
  Disk& disk = world_.disk;
  SHOAL_CO_RETURN_IF_ERROR(co_await make_directories(disk, options_.directory));
  SHOAL_CO_ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries,
                            co_await disk_io::list(disk, options_.directory));
  bool marked = std::ranges::any_of(entries, [](const auto& e) { return e.name == kMarkerName; });
  for (const DirectoryEntry& entry : entries) {
    // A crash may have cut short the first start, before the marker was there.
    bool half_written = entry.name == std::string(kMarkerName) + ".new" ||
                        entry.name == kStateName || entry.name == std::string(kStateName) + ".new";
    if (marked || entry.name == kLockName || half_written || entry.name == "lost+found") {
      continue;
    }
    co_return fail(Code::kInvalidArgument,
                   fmt::format("cache directory {} holds something else ({}); pass an empty or new "
                               "directory as --cache-dir",
                               options_.directory, entry.name));
  }
  Result<FileId> lock = co_await disk_io::lock(disk, path(kLockName));
  if (!lock) {
    if (lock.error().code() != Code::kBusy) co_return fail(std::move(lock).error());
    co_return fail(Code::kBusy,
                   fmt::format("another shoal daemon uses the cache directory {}; stop it or pass "
                               "another --cache-dir",
                               options_.directory));
  }
  lock_ = *lock;
  co_return co_await check_marker();
}

Task<Status> StoreImpl::check_marker() {
  Disk& disk = world_.disk;
  std::string identity = percent_encode(options_.identity, true);
  std::string expected = fmt::format("shoal-cache {}\nidentity {}\n", kFormat, identity);
  Result<std::string> marker = co_await disk_io::read_file(disk, path(kMarkerName), 64 * kKiB);
  if (!marker && marker.error().code() == Code::kNotFound) {
    SHOAL_CO_RETURN_IF_ERROR(
        co_await disk_io::replace_file(disk, path(kStateName), encode_state(State{})));
    co_return co_await disk_io::replace_file(disk, path(kMarkerName), expected);
  }
  if (!marker) co_return fail(std::move(marker).error());
  if (*marker == expected) co_return Status();
  std::string_view text = *marker;
  uint64_t format = 0;
  if (!take_number(text, "shoal-cache ", format)) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("{} is damaged; pass another --cache-dir, or remove the directory "
                               "(un-uploaded data in it would be lost)",
                               path(kMarkerName)));
  }
  if (format != kFormat) {
    co_return fail(Code::kNotSupported,
                   fmt::format("cache directory {} has format {}, this shoal knows {}; use the "
                               "newer shoal or another --cache-dir",
                               options_.directory, format, kFormat));
  }
  std::string other = "something unreadable";
  if (text.starts_with("identity ") && text.ends_with('\n')) {
    Result<std::string> decoded = percent_decode(text.substr(9, text.size() - 10));
    if (decoded) other = *decoded;
  }
  co_return fail(Code::kInvalidArgument,
                 fmt::format("cache directory {} belongs to {}, not to {}; pass another "
                             "--cache-dir, or remove it when nothing in it waits for upload",
                             options_.directory, other, options_.identity));
}

// From here until close() a crash leaves the clean pieces to be checked again.
Task<Status> StoreImpl::begin_generation() {
  Result<std::string> text = co_await disk_io::read_file(world_.disk, path(kStateName), 4 * kKiB);
  if (!text && text.error().code() != Code::kNotFound) co_return fail(std::move(text).error());
  if (!text || !parse_state(*text, state_)) {
    log_.warning("{} is damaged: every cached piece will be checked when it is read",
                 path(kStateName));
    // Above every generation that this directory can have seen.
    auto now = std::chrono::duration_cast<std::chrono::seconds>(
        world_.executor.wall_now().time_since_epoch());
    state_ = {(uint64_t{1} << 61) + static_cast<uint64_t>(std::max<int64_t>(now.count(), 0)), 0,
              false};
  }
  if (!state_.closed) state_.unclean_through = state_.generation;
  ++state_.generation;
  state_.closed = false;
  co_return co_await disk_io::replace_file(world_.disk, path(kStateName), encode_state(state_));
}

Task<Status> StoreImpl::load_pins() {
  Result<std::string> text =
      co_await disk_io::read_file(world_.disk, path(kPinsName), kPinsBytesMax);
  if (!text && text.error().code() == Code::kNotFound) co_return Status();
  if (!text) co_return fail(std::move(text).error());
  if (!parse_pins(*text, pins_)) {
    pins_.clear();
    log_.error("{} is damaged: no object is pinned any more; pin them again", path(kPinsName));
  }
  co_return Status();
}

// The bytes that lie here make the node what it is to others: so its id lies beside them, and is
// made with the directory.
Task<Status> StoreImpl::load_node_id() {
  Result<std::string> text = co_await disk_io::read_file(world_.disk, path(kNodeIdName), 256);
  if (!text && text.error().code() != Code::kNotFound) co_return fail(std::move(text).error());
  if (text) {
    Result<Hash128> id = Hash128::from_hex(std::string_view(*text).substr(0, text->find('\n')));
    if (!id || id->is_zero()) {
      co_return fail(Code::kInvalidArgument,
                     fmt::format("{} is damaged; remove it, and the node joins as a new one",
                                 path(kNodeIdName)));
    }
    node_id_ = *id;
    co_return Status();
  }
  node_id_ = world_.random.id128();
  co_return co_await disk_io::replace_file(world_.disk, path(kNodeIdName),
                                           node_id_.to_hex() + "\n");
}

Task<Status> StoreImpl::start_tiers() {
  Disk& disk = world_.disk;
  for (std::string_view name : {"files", "small"}) {
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::make_directory(disk, path(name)));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync_directory(disk, options_.directory));
  uint64_t small = std::clamp(options_.capacity / 8, kSmallCapacityMin, kSmallCapacityMax);
  small = std::min(small, options_.capacity / 2);
  files_ = std::make_unique<FileTier>(
      world_, log_, metrics_,
      store_internal::FileTierOptions{path("files"), path("lost"), options_.capacity - small,
                                      options_.disk_reserve, state_.generation,
                                      state_.unclean_through});
  small_ = std::make_unique<SmallTier>(
      world_, log_, metrics_,
      store_internal::SmallTierOptions{path("small"), path("lost"), small, options_.memory});
  files_->set_pins(pins_);
  small_->set_pinned(
      [files = files_.get()](const std::string& object) { return files->is_pinned(object); });
  SHOAL_CO_RETURN_IF_ERROR(co_await files_->recover());
  co_return co_await small_->recover();
}

Task<Status> StoreImpl::start() {
  if (options_.capacity < 2 * SmallTier::kCapacityMin) {
    co_return fail(
        Code::kInvalidArgument,
        fmt::format("a cache of {} is too small; --cache-size must be at least {}",
                    format_size(options_.capacity), format_size(2 * SmallTier::kCapacityMin)));
  }
  Status status = co_await claim();
  if (status) status = co_await begin_generation();
  if (status) status = co_await load_pins();
  if (status) status = co_await load_node_id();
  if (status) status = co_await start_tiers();
  if (status) co_return status;
  if (files_) (void)co_await files_->close();
  if (small_) (void)co_await small_->close();
  if (lock_ != FileId::kNone) {
    (void)co_await disk_io::close(world_.disk, std::exchange(lock_, FileId::kNone));
  }
  co_return status;
}

Task<Status> StoreImpl::close() {
  SHOAL_ASSERT(lock_ != FileId::kNone, "closed twice");
  Status status = co_await files_->close();
  Status small = co_await small_->close();
  if (status) status = std::move(small);
  if (status) {
    state_.closed = true;
    status = co_await disk_io::replace_file(world_.disk, path(kStateName), encode_state(state_));
  }
  Status unlocked = co_await disk_io::close(world_.disk, std::exchange(lock_, FileId::kNone));
  if (status) status = std::move(unlocked);
  co_return status;
}

Task<Result<uint64_t>> StoreImpl::evict(std::string object, bool tree) {
  SHOAL_CO_ASSIGN_OR_RETURN(uint64_t files, co_await files_->evict(object, tree));
  SHOAL_CO_ASSIGN_OR_RETURN(uint64_t small, co_await small_->evict(object, tree));
  co_return files + small;
}

Task<Status> StoreImpl::rekey(std::string from, std::string etag, std::string to,
                              std::string new_etag) {
  SHOAL_CO_RETURN_IF_ERROR(co_await files_->rekey(from, etag, to, new_etag));
  co_return co_await small_->rekey(from, etag, to, new_etag);
}

std::vector<Store::Staged> StoreImpl::staged() const {
  std::vector<Staged> all;
  files_->list_staged(all);
  small_->list_staged(all);
  return all;
}

Task<void> StoreImpl::visit_staged(std::function<void(const Staged&)> visit) const {
  std::vector<Staged> files;
  files_->list_staged(files);
  std::vector<Hash128> small = small_->staged_ids();
  uint64_t visited = 0;
  auto turn_is_over = [&] { return ++visited % kVisitsPerTurn == 0; };
  for (const Staged& staged : files) {
    visit(staged);
    if (turn_is_over()) co_await Yield(world_.executor);
  }
  for (const Hash128& id : small) {
    if (auto record = small_->staged_record(id)) visit({std::move(*record), true});
    if (turn_is_over()) co_await Yield(world_.executor);
  }
}

Task<Status> StoreImpl::set_pins(std::vector<std::string> objects) {
  std::ranges::sort(objects);
  objects.erase(std::unique(objects.begin(), objects.end()), objects.end());
  for (const std::string& object : objects) {
    if (object.size() > kObjectNameBytesMax) {
      co_return fail(Code::kNameTooLong, fmt::format("pin of {} bytes", object.size()));
    }
  }
  std::string text = encode_pins(objects);
  if (text.size() > kPinsBytesMax)
    co_return fail(Code::kTooLarge, "too many pins; pin directories");
  SHOAL_CO_RETURN_IF_ERROR(
      co_await disk_io::replace_file(world_.disk, path(kPinsName), std::move(text)));
  pins_ = std::move(objects);
  files_->set_pins(pins_);
  co_return Status();
}

StoreStats StoreImpl::stats() const {
  StoreStats stats;
  files_->add_stats(stats);
  small_->add_stats(stats);
  return stats;
}

}  // namespace

Task<Result<std::unique_ptr<Store>>> Store::open(World& world, Registry& registry, const Log& log,
                                                 StoreOptions options) {
  auto store = std::make_unique<StoreImpl>(world, registry, log, std::move(options));
  SHOAL_CO_RETURN_IF_ERROR(co_await store->start());
  co_return std::unique_ptr<Store>(std::move(store));
}

}  // namespace shoal
