#include "origin/directory_origin.h"

#include <fmt/format.h>

#include <algorithm>

#include "async/backoff.h"
#include "async/disk_io.h"
#include "base/object_name.h"

namespace shoal {

namespace {

constexpr size_t kReadStep = 4 * kMiB;
constexpr Duration kLockPatience = std::chrono::seconds(60);  // without a deadline
// Objects are plain files for any tool: readable as the umask says.
constexpr uint32_t kCreate =
    DiskOp::kOpenWrite | DiskOp::kOpenCreate | DiskOp::kOpenExclusive | DiskOp::kShared;
constexpr std::string_view kFolderName = "hdi_isfolder";

bool is_folder(const Metadata& metadata) {
  auto entry = metadata.find(std::string(kFolderName));
  return entry != metadata.end() && entry->second == "true";
}

}  // namespace

DirectoryOrigin::DirectoryOrigin(std::string root, World& world, Registry& registry, const Log& log)
    : layout_(std::move(root)),
      world_(world),
      log_(log),
      metrics_(registry),
      turn_(world.executor, 1),
      uploads_(layout_, world) {}

// ---- what is there ----

Task<Result<FileStat>> DirectoryOrigin::stat_of(std::string path) {
  DiskCall call(world_.disk, DiskOp::Kind::kStat);
  call.path = std::move(path);
  call.flags = DiskOp::kNoFollow;
  int64_t result = co_await call;
  if (result < 0) {
    co_return fail(error_from_errno(static_cast<int>(-result), call.path));
  }
  co_return call.stat;
}

Task<Result<StoredMetadata>> DirectoryOrigin::load_metadata(FileStat stat) {
  Result<std::string> text =
      co_await disk_io::read_file(world_.disk, layout_.metadata_path(stat), kMetadataFileBytesMax);
  if (!text) {
    if (text.error().code() == Code::kNotFound) co_return StoredMetadata{};
    co_return fail(std::move(text).error());
  }
  Result<StoredMetadata> stored = parse_metadata(*text);
  if (!stored) {
    log_.warning("{} is damaged; the metadata of its object is lost", layout_.metadata_path(stat));
    co_return StoredMetadata{};
  }
  co_return std::move(stored);
}

Task<Status> DirectoryOrigin::store_metadata(FileStat stat, StoredMetadata stored) {
  std::string directory = layout_.metadata_directory(stat);
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::make_directory(world_.disk, directory));
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync_directory(world_.disk, layout_.metadata()));
  co_return co_await disk_io::replace_file(world_.disk, layout_.metadata_path(stat),
                                           format_metadata(stored));
}

Task<void> DirectoryOrigin::forget_metadata(FileStat stat) {
  Status removed = co_await disk_io::remove(world_.disk, layout_.metadata_path(stat));
  (void)removed;  // most files have none; one that stays belongs to no file
}

Task<Result<DirectoryOrigin::Found>> DirectoryOrigin::find(std::string object) {
  Found found;
  SHOAL_CO_ASSIGN_OR_RETURN(found.stat, co_await stat_of(layout_.path_of(object)));
  if (found.stat.is_other) {
    co_return fail(Code::kNotSupported,
                   fmt::format("{} is a link or special file; only plain files are served",
                               layout_.path_of(object)));
  }
  SHOAL_CO_ASSIGN_OR_RETURN(found.stored, co_await load_metadata(found.stat));
  found.info.name = std::move(object);
  found.info.size = found.stat.is_directory ? 0 : found.stat.size;
  found.info.etag = directory_etag(found.stat, found.stored.generation);
  found.info.modified = WallTime(Duration(static_cast<int64_t>(found.stat.mtime_ns)));
  found.info.metadata = found.stored.metadata;
  if (found.stat.is_directory) found.info.metadata[std::string(kFolderName)] = "true";
  co_return std::move(found);
}

Task<Result<std::optional<DirectoryOrigin::Found>>> DirectoryOrigin::find_or_nothing(
    std::string object) {
  Result<Found> found = co_await find(std::move(object));
  if (found) co_return std::optional<Found>(std::move(*found));
  Code code = found.error().code();
  if (code == Code::kNotFound || code == Code::kNotDirectory) co_return std::optional<Found>();
  co_return fail(std::move(found).error());
}

Status DirectoryOrigin::check(const Condition& condition, const std::optional<Found>& found,
                              std::string_view object) const {
  switch (condition.kind) {
    case Condition::Kind::kNone:
      return {};
    case Condition::Kind::kAbsent:
      if (!found) return {};
      return fail(Code::kAlreadyExists,
                  fmt::format("{}: it exists already", layout_.path_of(object)));
    case Condition::Kind::kMatch:
      if (found && found->info.etag == condition.etag) return {};
      return fail(Code::kConflict, fmt::format("{}: somebody else {} it", layout_.path_of(object),
                                               found ? "changed" : "removed"));
  }
  return fail(Code::kInternal, "unknown condition");
}

Task<Result<ObjectInfo>> DirectoryOrigin::head(std::string object, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(object));
  metrics_.heads.add();
  Result<Found> found = co_await find(std::move(object));
  if (found) co_return std::move(found->info);
  Code code = found.error().code();
  // A path through a plain file, or a link: no such object.
  if (code == Code::kNotDirectory || code == Code::kNotSupported) code = Code::kNotFound;
  co_return fail(code, found.error().message());
}

Task<Status> DirectoryOrigin::read(std::string object, std::string etag, uint64_t offset,
                                   ByteSpan into, std::function<void(uint64_t)> progress,
                                   Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(object));
  metrics_.reads.add();
  std::string path = layout_.path_of(object);
  Result<FileId> file = co_await disk_io::open(world_.disk, path, DiskOp::kNoFollow);
  if (!file) {
    if (file.error().code() == Code::kNotFound || file.error().code() == Code::kNotDirectory) {
      co_return fail(Code::kStale, fmt::format("{} was removed; open it again", path));
    }
    co_return fail(std::move(file).error());
  }
  Status status = co_await read_open_file(*file, std::move(object), std::move(etag), offset, into,
                                          std::move(progress));
  Status closed = co_await disk_io::close(world_.disk, *file);
  if (status) metrics_.bytes_read.add(into.size());
  if (!status && status.error().code() == Code::kDiskError) metrics_.errors.add();
  co_return status ? std::move(closed) : std::move(status);
}

Task<Status> DirectoryOrigin::read_open_file(FileId file, std::string object, std::string etag,
                                             uint64_t offset, ByteSpan into,
                                             std::function<void(uint64_t)> progress) {
  std::string path = layout_.path_of(object);
  SHOAL_CO_ASSIGN_OR_RETURN(FileStat before, co_await disk_io::stat(world_.disk, file));
  SHOAL_CO_ASSIGN_OR_RETURN(StoredMetadata stored, co_await load_metadata(before));
  if (before.is_directory) co_return fail(Code::kIsDirectory, path + " is a directory");
  if (directory_etag(before, stored.generation) != etag) {
    co_return fail(Code::kStale, fmt::format("{} was replaced; open it again", path));
  }
  if (offset > before.size || into.size() > before.size - offset) {
    co_return fail(Code::kInvalidArgument,
                   fmt::format("reading {}: bytes {} to {} lie past its end at {}", path, offset,
                               offset + into.size(), before.size));
  }
  for (size_t done = 0; done < into.size();) {
    ByteSpan step = into.subspan(done, std::min(kReadStep, into.size() - done));
    SHOAL_CO_ASSIGN_OR_RETURN(size_t count,
                              co_await disk_io::read_some(world_.disk, file, offset + done, step));
    if (count == 0) co_return fail(Code::kStale, path + " was cut short; open it again");
    done += count;
    // Early bytes are told only of files that cannot be caught half-written: see the check below.
    if (progress && done < into.size()) {
      SHOAL_CO_ASSIGN_OR_RETURN(FileStat now, co_await disk_io::stat(world_.disk, file));
      if (same_identity(before, now)) progress(done);
    }
  }
  SHOAL_CO_ASSIGN_OR_RETURN(FileStat after, co_await disk_io::stat(world_.disk, file));
  if (!same_identity(before, after)) {
    co_return fail(Code::kStale, path + " was changed while it was being read; open it again");
  }
  if (progress && !into.empty()) progress(into.size());
  co_return Status();
}

// ---- turns and temporary files ----

Task<Status> DirectoryOrigin::make_own_directories() {
  if (own_directories_made_) co_return Status();
  for (const std::string& path : {layout_.state(), layout_.own(), layout_.temporary(),
                                  layout_.metadata(), layout_.uploads()}) {
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::make_directory(world_.disk, path));
  }
  for (const std::string& path : {layout_.path_of(""), layout_.state(), layout_.own()}) {
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync_directory(world_.disk, path));
  }
  own_directories_made_ = true;
  co_return Status();
}

Task<Result<DirectoryOrigin::Turn>> DirectoryOrigin::begin_write(Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await make_own_directories());
  if (context.deadline == kNever) context = context.tightened(world_.executor, kLockPatience);
  Turn turn;
  SHOAL_CO_ASSIGN_OR_RETURN(turn.permit, co_await turn_.acquire(1, context));
  Backoff backoff(world_.random, std::chrono::milliseconds(1), std::chrono::milliseconds(50));
  while (true) {
    Result<FileId> lock = co_await disk_io::lock(world_.disk, layout_.lock());
    if (lock) {
      turn.lock = *lock;
      co_return std::move(turn);
    }
    if (lock.error().code() != Code::kBusy) co_return fail(std::move(lock).error());
    Status slept = co_await sleep_for(world_.executor, backoff.next(), context);
    if (!slept) {
      if (slept.error().code() == Code::kCancelled) co_return fail(std::move(slept).error());
      co_return fail(Code::kBusy, fmt::format("another process holds {}; if no node uses this "
                                              "directory, look for it with fuser",
                                              layout_.lock()));
    }
  }
}

Task<void> DirectoryOrigin::end_write(Turn turn) {
  SHOAL_ASSERT(turn.lock != FileId::kNone && turn.permit.amount() == 1);
  Status closed = co_await disk_io::close(world_.disk, turn.lock);
  if (!closed) log_.warning("{}: {}", layout_.lock(), closed.error().message());
}

std::string DirectoryOrigin::temporary_path() {
  return layout_.temporary() + "/" + world_.random.id128().to_hex();
}

Task<Result<DirectoryOrigin::NewFile>> DirectoryOrigin::write_temporary(ConstByteSpan bytes,
                                                                        bool secret) {
  NewFile out{temporary_path(), {}};
  uint32_t flags = secret ? kCreate & ~DiskOp::kShared : kCreate;
  SHOAL_CO_ASSIGN_OR_RETURN(FileId file, co_await disk_io::open(world_.disk, out.path, flags));
  Status status;
  if (!bytes.empty()) status = co_await disk_io::write(world_.disk, file, 0, bytes);
  if (status) status = co_await disk_io::sync(world_.disk, file);
  Result<FileStat> stat = co_await disk_io::stat(world_.disk, file);
  Status closed = co_await disk_io::close(world_.disk, file);
  if (status && !stat) status = fail(stat.error());
  if (status) status = std::move(closed);
  if (!status) {
    co_await drop_temporary(out.path);
    co_return fail(std::move(status).error());
  }
  SHOAL_ASSERT(stat->size == bytes.size(), "the file has another size than was written");
  out.stat = *stat;
  co_return std::move(out);
}

Task<Result<DirectoryOrigin::NewFile>> DirectoryOrigin::copy_temporary(FileId source,
                                                                       uint64_t size) {
  NewFile out{temporary_path(), {}};
  SHOAL_CO_ASSIGN_OR_RETURN(FileId file, co_await disk_io::open(world_.disk, out.path, kCreate));
  Status status;
  if (size > 0) status = co_await disk_io::copy_range(world_.disk, source, 0, file, 0, size);
  if (status) status = co_await disk_io::sync(world_.disk, file);
  Result<FileStat> stat = co_await disk_io::stat(world_.disk, file);
  Status closed = co_await disk_io::close(world_.disk, file);
  if (status && !stat) status = fail(stat.error());
  if (status) status = std::move(closed);
  if (!status) {
    co_await drop_temporary(out.path);
    co_return fail(std::move(status).error());
  }
  out.stat = *stat;
  co_return std::move(out);
}

Task<void> DirectoryOrigin::drop_temporary(std::string path) {
  Status removed = co_await disk_io::remove(world_.disk, std::move(path));
  (void)removed;  // sweep() takes what stays
}

// ---- publishing ----

Task<Result<ObjectInfo>> DirectoryOrigin::publish(NewFile file, std::string object,
                                                  PutOptions options, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Turn turn, co_await begin_write(context));
  Result<ObjectInfo> info = co_await publish_in_turn(std::move(file), object, std::move(options));
  co_await end_write(std::move(turn));
  if (!info) co_return fail(std::move(info).error());
  metrics_.writes.add();
  // Durable before it is acknowledged; after the turn, so that writers sync side by side.
  SHOAL_CO_RETURN_IF_ERROR(
      co_await disk_io::sync_directory(world_.disk, layout_.path_of(parent_of(object))));
  co_return std::move(info);
}

Task<Result<ObjectInfo>> DirectoryOrigin::publish_in_turn(NewFile file, std::string object,
                                                          PutOptions options) {
  std::string path = layout_.path_of(object);
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<Found> old, co_await find_or_nothing(object));
  SHOAL_CO_RETURN_IF_ERROR(check(options.condition, old, object));
  if (old && old->stat.is_directory) {
    co_return fail(Code::kIsDirectory, path + " is a directory");
  }
  uint64_t newest = std::max(newest_gone_mtime_ns_, old ? old->stat.mtime_ns : 0);
  SHOAL_CO_ASSIGN_OR_RETURN(file.stat, co_await make_newer(file, newest));
  bool has_metadata = !options.metadata.empty();
  if (has_metadata) {
    StoredMetadata stored{world_.random.next() | 1, options.metadata};
    SHOAL_CO_RETURN_IF_ERROR(co_await store_metadata(file.stat, std::move(stored)));
  }
  Status renamed = co_await rename_making_parents(file.path, object);
  if (!renamed) {
    if (has_metadata) co_await forget_metadata(file.stat);
    co_return fail(std::move(renamed).error());
  }
  if (old) {
    newest_gone_mtime_ns_ = std::max(newest_gone_mtime_ns_, old->stat.mtime_ns);
    co_await forget_metadata(old->stat);
  }
  SHOAL_CO_ASSIGN_OR_RETURN(Found found, co_await find(std::move(object)));
  co_return std::move(found.info);
}

// Clocks of file systems tick every few milliseconds, and inode numbers come back at once: two
// versions must not share both.
Task<Result<FileStat>> DirectoryOrigin::make_newer(NewFile file, uint64_t than_mtime_ns) {
  for (int attempt = 0; file.stat.mtime_ns <= than_mtime_ns && attempt < 20; ++attempt) {
    if (file.stat.mtime_ns == 0) break;  // a disk without times
    SHOAL_CO_RETURN_IF_ERROR(
        co_await sleep_for(world_.executor, std::chrono::milliseconds(2), Context{}));
    SHOAL_CO_ASSIGN_OR_RETURN(FileId id,
                              co_await disk_io::open(world_.disk, file.path, DiskOp::kOpenWrite));
    Status touched = co_await disk_io::set_size(world_.disk, id, file.stat.size);
    Result<FileStat> stat = co_await disk_io::stat(world_.disk, id);
    Status closed = co_await disk_io::close(world_.disk, id);
    SHOAL_CO_RETURN_IF_ERROR(std::move(touched));
    if (!stat) co_return fail(std::move(stat).error());
    SHOAL_CO_RETURN_IF_ERROR(std::move(closed));
    file.stat = *stat;
  }
  co_return file.stat;
}

Task<Status> DirectoryOrigin::rename_making_parents(std::string from, std::string object) {
  std::string path = layout_.path_of(object);
  std::string parent(parent_of(object));
  Result<FileStat> above = co_await stat_of(layout_.path_of(parent));
  if (above && above->is_other) {
    co_return fail(Code::kNotSupported, fmt::format("{} is a link or special file; write to a real "
                                                    "directory",
                                                    layout_.path_of(parent)));
  }
  Status renamed = co_await disk_io::rename(world_.disk, from, path);
  if (renamed || renamed.error().code() != Code::kNotFound) co_return renamed;
  SHOAL_CO_RETURN_IF_ERROR(co_await make_parents(std::move(object)));
  co_return co_await disk_io::rename(world_.disk, std::move(from), std::move(path));
}

Task<Status> DirectoryOrigin::make_parents(std::string object) {
  for (size_t slash = object.find('/'); slash != std::string::npos;
       slash = object.find('/', slash + 1)) {
    std::string parent = object.substr(0, slash);
    Status made =
        co_await disk_io::make_directory(world_.disk, layout_.path_of(parent), DiskOp::kShared);
    if (!made) {
      bool file = made.error().code() == Code::kAlreadyExists;
      co_return fail(file ? Code::kNotDirectory : made.error().code(), made.error().message());
    }
    SHOAL_CO_RETURN_IF_ERROR(
        co_await disk_io::sync_directory(world_.disk, layout_.path_of(parent_of(parent))));
  }
  co_return Status();
}

Task<Result<ObjectInfo>> DirectoryOrigin::put(std::string object, ConstByteSpan bytes,
                                              PutOptions options, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(object));
  if (is_folder(options.metadata)) {
    co_return co_await put_directory(std::move(object), std::move(options), context);
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await make_own_directories());
  SHOAL_CO_ASSIGN_OR_RETURN(NewFile file, co_await write_temporary(bytes, options.secret));
  std::string path = file.path;
  Result<ObjectInfo> info =
      co_await publish(std::move(file), std::move(object), std::move(options), context);
  if (info) metrics_.bytes_written.add(bytes.size());
  if (!info) co_await drop_temporary(std::move(path));
  co_return std::move(info);
}

Task<Result<ObjectInfo>> DirectoryOrigin::put_directory(std::string object, PutOptions options,
                                                        Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Turn turn, co_await begin_write(context));
  Result<ObjectInfo> info = co_await put_directory_in_turn(object, std::move(options));
  co_await end_write(std::move(turn));
  if (!info) co_return fail(std::move(info).error());
  metrics_.writes.add();
  SHOAL_CO_RETURN_IF_ERROR(
      co_await disk_io::sync_directory(world_.disk, layout_.path_of(parent_of(object))));
  co_return std::move(info);
}

Task<Result<ObjectInfo>> DirectoryOrigin::put_directory_in_turn(std::string object,
                                                                PutOptions options) {
  std::string path = layout_.path_of(object);
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<Found> old, co_await find_or_nothing(object));
  SHOAL_CO_RETURN_IF_ERROR(check(options.condition, old, object));
  if (old && !old->stat.is_directory) co_return fail(Code::kNotDirectory, path + " is a file");
  if (!old) {
    SHOAL_CO_RETURN_IF_ERROR(co_await make_parents(object));
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::make_directory(world_.disk, path, DiskOp::kShared));
  }
  SHOAL_CO_ASSIGN_OR_RETURN(FileStat stat, co_await stat_of(path));
  StoredMetadata stored{world_.random.next() | 1, std::move(options.metadata)};
  SHOAL_CO_RETURN_IF_ERROR(co_await store_metadata(stat, std::move(stored)));
  SHOAL_CO_ASSIGN_OR_RETURN(Found found, co_await find(std::move(object)));
  co_return std::move(found.info);
}

// ---- other changes ----

Task<Status> DirectoryOrigin::remove(std::string object, Condition condition, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(object));
  SHOAL_CO_ASSIGN_OR_RETURN(Turn turn, co_await begin_write(context));
  Status removed = co_await remove_in_turn(object, std::move(condition));
  co_await end_write(std::move(turn));
  SHOAL_CO_RETURN_IF_ERROR(std::move(removed));
  metrics_.writes.add();
  co_return co_await disk_io::sync_directory(world_.disk, layout_.path_of(parent_of(object)));
}

Task<Status> DirectoryOrigin::remove_in_turn(std::string object, Condition condition) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<Found> old, co_await find_or_nothing(object));
  if (!old) {
    co_return fail(Code::kNotFound, fmt::format("{} does not exist", layout_.path_of(object)));
  }
  SHOAL_CO_RETURN_IF_ERROR(check(condition, old, object));
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::remove(world_.disk, layout_.path_of(object)));
  if (!old->stat.is_directory) {
    newest_gone_mtime_ns_ = std::max(newest_gone_mtime_ns_, old->stat.mtime_ns);
  }
  co_await forget_metadata(old->stat);
  co_return Status();
}

Task<Result<DirectoryOrigin::NewFile>> DirectoryOrigin::copy_source(std::string from,
                                                                    std::string source_etag,
                                                                    PutOptions* options) {
  SHOAL_CO_ASSIGN_OR_RETURN(Found source, co_await find(from));
  if (!source_etag.empty() && source.info.etag != source_etag) {
    co_return fail(Code::kConflict,
                   fmt::format("copying {}: it was replaced", layout_.path_of(from)));
  }
  if (options->metadata.empty()) options->metadata = source.info.metadata;
  if (source.stat.is_directory) co_return NewFile{};
  SHOAL_CO_ASSIGN_OR_RETURN(
      FileId file, co_await disk_io::open(world_.disk, layout_.path_of(from), DiskOp::kNoFollow));
  Result<FileStat> before = co_await disk_io::stat(world_.disk, file);
  Result<NewFile> copy = fail(Code::kConflict, "it was replaced while being copied");
  if (before && same_identity(*before, source.stat)) {
    copy = co_await copy_temporary(file, source.stat.size);
  }
  Result<FileStat> after = co_await disk_io::stat(world_.disk, file);
  Status closed = co_await disk_io::close(world_.disk, file);
  if (copy && (!closed || !after || !same_identity(*after, source.stat))) {
    co_await drop_temporary(copy->path);
    co_return fail(Code::kConflict,
                   fmt::format("copying {}: it was changed meanwhile", layout_.path_of(from)));
  }
  co_return std::move(copy);
}

Task<Result<ObjectInfo>> DirectoryOrigin::copy(std::string from, std::string source_etag,
                                               std::string to, PutOptions options,
                                               Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(from));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(to));
  SHOAL_CO_RETURN_IF_ERROR(co_await make_own_directories());
  SHOAL_CO_ASSIGN_OR_RETURN(
      NewFile file, co_await copy_source(std::move(from), std::move(source_etag), &options));
  if (file.path.empty()) {
    co_return co_await put_directory(std::move(to), std::move(options), context);
  }
  std::string path = file.path;
  Result<ObjectInfo> info =
      co_await publish(std::move(file), std::move(to), std::move(options), context);
  if (!info) co_await drop_temporary(std::move(path));
  co_return std::move(info);
}

Task<Result<ObjectInfo>> DirectoryOrigin::set_metadata(std::string object, Metadata metadata,
                                                       Condition condition, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(object));
  SHOAL_CO_ASSIGN_OR_RETURN(Turn turn, co_await begin_write(context));
  Result<ObjectInfo> info =
      co_await set_metadata_in_turn(std::move(object), std::move(metadata), std::move(condition));
  co_await end_write(std::move(turn));
  if (info) metrics_.writes.add();
  co_return std::move(info);
}

Task<Result<ObjectInfo>> DirectoryOrigin::set_metadata_in_turn(std::string object,
                                                               Metadata metadata,
                                                               Condition condition) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<Found> old, co_await find_or_nothing(object));
  if (!old) {
    co_return fail(Code::kNotFound, fmt::format("{} does not exist", layout_.path_of(object)));
  }
  SHOAL_CO_RETURN_IF_ERROR(check(condition, old, object));
  StoredMetadata stored{world_.random.next() | 1, std::move(metadata)};
  SHOAL_CO_RETURN_IF_ERROR(co_await store_metadata(old->stat, std::move(stored)));
  SHOAL_CO_ASSIGN_OR_RETURN(Found found, co_await find(std::move(object)));
  co_return std::move(found.info);
}

Task<Status> DirectoryOrigin::rename(std::string from, std::string to, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(from));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(to));
  SHOAL_CO_ASSIGN_OR_RETURN(Turn turn, co_await begin_write(context));
  Status renamed = co_await rename_in_turn(from, to);
  co_await end_write(std::move(turn));
  SHOAL_CO_RETURN_IF_ERROR(std::move(renamed));
  metrics_.writes.add();
  SHOAL_CO_RETURN_IF_ERROR(
      co_await disk_io::sync_directory(world_.disk, layout_.path_of(parent_of(to))));
  co_return co_await disk_io::sync_directory(world_.disk, layout_.path_of(parent_of(from)));
}

Task<Status> DirectoryOrigin::rename_in_turn(std::string from, std::string to) {
  SHOAL_CO_ASSIGN_OR_RETURN(Found source, co_await find(from));
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<Found> old, co_await find_or_nothing(to));
  if (from == to) co_return Status();
  SHOAL_CO_RETURN_IF_ERROR(co_await rename_making_parents(layout_.path_of(from), std::move(to)));
  bool replaced = old && old->stat.inode != source.stat.inode;
  if (!replaced) co_return Status();
  newest_gone_mtime_ns_ = std::max(newest_gone_mtime_ns_, old->stat.mtime_ns);
  co_await forget_metadata(old->stat);
  co_return Status();
}

// ---- staged blocks ----

Task<Status> DirectoryOrigin::put_block(std::string object, std::string block_id, uint64_t offset,
                                        ConstByteSpan bytes, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(object));
  SHOAL_CO_RETURN_IF_ERROR(co_await make_own_directories());
  SHOAL_CO_RETURN_IF_ERROR(
      co_await uploads_.put_block(std::move(object), std::move(block_id), offset, bytes, context));
  metrics_.writes.add();
  metrics_.bytes_written.add(bytes.size());
  co_return Status();
}

Task<Result<std::vector<BlockInfo>>> DirectoryOrigin::staged_blocks(std::string object,
                                                                    Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(object));
  co_return co_await uploads_.staged(std::move(object));
}

Task<Result<ObjectInfo>> DirectoryOrigin::commit_blocks(std::string object,
                                                        std::vector<BlockInfo> blocks,
                                                        PutOptions options, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_RETURN_IF_ERROR(validate_directory_object(object));
  SHOAL_CO_RETURN_IF_ERROR(co_await make_own_directories());
  // Looked at before the blocks are put together, so that a lost race leaves them staged; publish()
  // looks again, under the lock.
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<Found> old, co_await find_or_nothing(object));
  SHOAL_CO_RETURN_IF_ERROR(check(options.condition, old, object));
  SHOAL_CO_ASSIGN_OR_RETURN(DirectoryUploads::Assembled assembled,
                            co_await uploads_.assemble(object, std::move(blocks)));
  SHOAL_CO_ASSIGN_OR_RETURN(FileStat stat, co_await stat_of(assembled.path));
  NewFile file{assembled.path, stat};
  Result<ObjectInfo> info = co_await publish(std::move(file), object, std::move(options), context);
  if (!info) {
    if (!assembled.is_layer) co_await drop_temporary(assembled.path);
    co_return fail(std::move(info).error());
  }
  co_await uploads_.discard(std::move(object));
  co_return std::move(info);
}

}  // namespace shoal
