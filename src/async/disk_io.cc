#include "async/disk_io.h"

#include <fmt/format.h>

#include <cerrno>

#include "base/object_name.h"

namespace shoal::disk_io {

namespace {

using Kind = DiskOp::Kind;

Status status_of(int64_t result, std::string_view what) {
  if (result < 0) return fail(error_from_errno(static_cast<int>(-result), what));
  return {};
}

Task<Status> on_file(Disk& disk, Kind kind, FileId file, uint64_t offset, uint64_t length,
                     const char* what) {
  DiskCall call(disk, kind);
  call.file = file;
  call.offset = offset;
  call.length = length;
  co_return status_of(co_await call, what);
}

Task<Status> on_path(Disk& disk, Kind kind, std::string path, const char* what) {
  DiskCall call(disk, kind);
  call.path = std::move(path);
  int64_t result = co_await call;
  co_return result < 0 ? status_of(result, fmt::format("{} {}", what, call.path)) : Status();
}

}  // namespace

Task<Result<FileId>> open(Disk& disk, std::string path, uint32_t flags) {
  DiskCall call(disk, Kind::kOpen);
  call.path = std::move(path);
  call.flags = flags;
  int64_t result = co_await call;
  if (result < 0) {
    co_return fail(
        error_from_errno(static_cast<int>(-result), fmt::format("opening {}", call.path)));
  }
  co_return static_cast<FileId>(result);
}

Task<Status> close(Disk& disk, FileId file) {
  return on_file(disk, Kind::kClose, file, 0, 0, "closing");
}

Task<Result<size_t>> read_some(Disk& disk, FileId file, uint64_t offset, ByteSpan into) {
  DiskCall call(disk, Kind::kRead);
  call.file = file;
  call.offset = offset;
  call.data = into.data();
  call.length = into.size();
  int64_t result = co_await call;
  if (result < 0) co_return fail(error_from_errno(static_cast<int>(-result), "reading"));
  SHOAL_ASSERT(static_cast<uint64_t>(result) <= into.size());
  co_return static_cast<size_t>(result);
}

Task<Status> read_exactly(Disk& disk, FileId file, uint64_t offset, ByteSpan into) {
  SHOAL_CO_ASSIGN_OR_RETURN(size_t count, co_await read_some(disk, file, offset, into));
  if (count != into.size()) {
    co_return fail(Code::kCorrupt, fmt::format("the file ends {} bytes early at offset {}",
                                               into.size() - count, offset));
  }
  co_return Status();
}

Task<Status> write(Disk& disk, FileId file, uint64_t offset, ConstByteSpan bytes, uint32_t flags) {
  DiskCall call(disk, Kind::kWrite);
  call.flags = flags;
  call.file = file;
  call.offset = offset;
  call.data = const_cast<std::byte*>(bytes.data());
  call.length = bytes.size();
  co_return status_of(co_await call, "writing");
}

Task<Status> sync(Disk& disk, FileId file) {
  return on_file(disk, Kind::kSync, file, 0, 0, "syncing");
}
Task<Status> sync_data(Disk& disk, FileId file) {
  return on_file(disk, Kind::kSyncData, file, 0, 0, "syncing");
}
Task<Status> start_writeback(Disk& disk, FileId file, uint64_t offset, uint64_t length) {
  return on_file(disk, Kind::kStartWriteback, file, offset, length, "starting write-back");
}
Task<Status> set_size(Disk& disk, FileId file, uint64_t size) {
  return on_file(disk, Kind::kSetSize, file, size, 0, "setting the size");
}
Task<Status> allocate(Disk& disk, FileId file, uint64_t offset, uint64_t length) {
  return on_file(disk, Kind::kAllocate, file, offset, length, "allocating");
}
Task<Status> punch(Disk& disk, FileId file, uint64_t offset, uint64_t length) {
  return on_file(disk, Kind::kPunch, file, offset, length, "punching a hole");
}

Task<Status> copy_range(Disk& disk, FileId from, uint64_t from_offset, FileId to,
                        uint64_t to_offset, uint64_t length) {
  DiskCall call(disk, Kind::kCopyRange);
  call.file = from;
  call.offset = from_offset;
  call.file2 = to;
  call.offset2 = to_offset;
  call.length = length;
  co_return status_of(co_await call, "copying");
}

Task<Result<FileStat>> stat(Disk& disk, std::string path) {
  DiskCall call(disk, Kind::kStat);
  call.path = std::move(path);
  int64_t result = co_await call;
  if (result < 0) {
    co_return fail(error_from_errno(static_cast<int>(-result), fmt::format("stat {}", call.path)));
  }
  co_return call.stat;
}

Task<Result<FileStat>> stat(Disk& disk, FileId file) {
  DiskCall call(disk, Kind::kStatFile);
  call.file = file;
  int64_t result = co_await call;
  if (result < 0) co_return fail(error_from_errno(static_cast<int>(-result), "stat"));
  co_return call.stat;
}

Task<Status> rename(Disk& disk, std::string from, std::string to) {
  DiskCall call(disk, Kind::kRename);
  call.path = std::move(from);
  call.path2 = std::move(to);
  int64_t result = co_await call;
  co_return result < 0 ? status_of(result, fmt::format("renaming {} to {}", call.path, call.path2))
                       : Status();
}

Task<Status> remove(Disk& disk, std::string path) {
  return on_path(disk, Kind::kRemove, std::move(path), "removing");
}
Task<Status> make_directory(Disk& disk, std::string path, uint32_t flags) {
  DiskCall call(disk, Kind::kMakeDirectory);
  call.path = std::move(path);
  call.flags = flags;
  int64_t result = co_await call;
  co_return result < 0 ? status_of(result, fmt::format("making directory {}", call.path))
                       : Status();
}
Task<Status> sync_directory(Disk& disk, std::string path) {
  return on_path(disk, Kind::kSyncDirectory, std::move(path), "syncing directory");
}

Task<Result<std::vector<DirectoryEntry>>> list(Disk& disk, std::string path) {
  DiskCall call(disk, Kind::kList);
  call.path = std::move(path);
  int64_t result = co_await call;
  if (result < 0) {
    co_return fail(
        error_from_errno(static_cast<int>(-result), fmt::format("listing {}", call.path)));
  }
  co_return std::move(call.entries);
}

Task<Result<DiskSpace>> space(Disk& disk, std::string path) {
  DiskCall call(disk, Kind::kSpace);
  call.path = std::move(path);
  int64_t result = co_await call;
  if (result < 0) co_return fail(error_from_errno(static_cast<int>(-result), call.path));
  co_return call.space;
}

Task<Result<FileId>> lock(Disk& disk, std::string path) {
  DiskCall call(disk, Kind::kLock);
  call.path = std::move(path);
  int64_t result = co_await call;
  if (result < 0) {
    co_return fail(
        error_from_errno(static_cast<int>(-result), fmt::format("locking {}", call.path)));
  }
  co_return static_cast<FileId>(result);
}

Task<Result<std::string>> read_file(Disk& disk, std::string path, size_t bytes_max) {
  SHOAL_CO_ASSIGN_OR_RETURN(FileId file, co_await open(disk, path, 0));
  Result<FileStat> about = co_await stat(disk, file);
  Status status;
  std::string content;
  if (!about) {
    status = fail(std::move(about).error());
  } else if (about->size > bytes_max) {
    status = fail(Code::kTooLarge, fmt::format("{} has {} bytes", path, about->size));
  } else {
    content.resize(about->size);
    status = co_await read_exactly(disk, file, 0, std::as_writable_bytes(std::span(content)));
  }
  Status closed = co_await close(disk, file);
  SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  SHOAL_CO_RETURN_IF_ERROR(std::move(closed));
  co_return std::move(content);
}

Task<Status> replace_file(Disk& disk, std::string path, std::string content) {
  std::string beside = path + ".new";
  uint32_t flags = DiskOp::kOpenWrite | DiskOp::kOpenCreate | DiskOp::kOpenTruncate;
  SHOAL_CO_ASSIGN_OR_RETURN(FileId file, co_await open(disk, beside, flags));
  Status status = co_await write(disk, file, 0, as_bytes(content));
  if (status) status = co_await sync(disk, file);
  Status closed = co_await close(disk, file);
  SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  SHOAL_CO_RETURN_IF_ERROR(std::move(closed));
  SHOAL_CO_RETURN_IF_ERROR(co_await rename(disk, beside, path));
  co_return co_await sync_directory(disk, std::string(parent_of(path)));
}

}  // namespace shoal::disk_io
