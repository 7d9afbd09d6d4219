// Awaitable forms of world/disk.h. Operations live in the awaiting frame.
#pragma once

#include <coroutine>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/bytes.h"
#include "world/disk.h"

namespace shoal {

// Awaiting it submits the operation; the answer is op.result. Use the functions below.
class [[nodiscard]] DiskCall : public DiskOp {
 public:
  DiskCall(Disk& disk, Kind operation) : disk_(disk) { kind = operation; }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    disk_.submit(*this);
  }
  int64_t await_resume() const noexcept { return result; }

 private:
  void run() noexcept override { handle_.resume(); }
  Disk& disk_;
  std::coroutine_handle<> handle_;
};

namespace disk_io {

// Errors name the path and the reason. Flags are DiskOp::kOpen*.
Task<Result<FileId>> open(Disk& disk, std::string path, uint32_t flags);
Task<Status> close(Disk& disk, FileId file);
// Reads exactly into.size() bytes, or fails (kCorrupt when the file ends before).
Task<Status> read_exactly(Disk& disk, FileId file, uint64_t offset, ByteSpan into);
// May be short at the end of file.
Task<Result<size_t>> read_some(Disk& disk, FileId file, uint64_t offset, ByteSpan into);
// flags: DiskOp::kBackground or nothing.
Task<Status> write(Disk& disk, FileId file, uint64_t offset, ConstByteSpan bytes,
                   uint32_t flags = 0);
Task<Status> sync(Disk& disk, FileId file);
Task<Status> sync_data(Disk& disk, FileId file);
Task<Status> start_writeback(Disk& disk, FileId file, uint64_t offset, uint64_t length);
Task<Status> set_size(Disk& disk, FileId file, uint64_t size);
Task<Status> allocate(Disk& disk, FileId file, uint64_t offset, uint64_t length);
Task<Status> punch(Disk& disk, FileId file, uint64_t offset, uint64_t length);
Task<Status> copy_range(Disk& disk, FileId from, uint64_t from_offset, FileId to,
                        uint64_t to_offset, uint64_t length);
Task<Result<FileStat>> stat(Disk& disk, std::string path);
Task<Result<FileStat>> stat(Disk& disk, FileId file);
Task<Status> rename(Disk& disk, std::string from, std::string to);
Task<Status> remove(Disk& disk, std::string path);
// flags: DiskOp::kShared or nothing.
Task<Status> make_directory(Disk& disk, std::string path, uint32_t flags = 0);
Task<Result<std::vector<DirectoryEntry>>> list(Disk& disk, std::string path);
Task<Status> sync_directory(Disk& disk, std::string path);
Task<Result<DiskSpace>> space(Disk& disk, std::string path);
// kBusy when another process holds it.
Task<Result<FileId>> lock(Disk& disk, std::string path);

// A whole small file (kTooLarge above `bytes_max`).
Task<Result<std::string>> read_file(Disk& disk, std::string path, size_t bytes_max);
// Writes beside, syncs, renames over and syncs the directory: old or new, never half.
Task<Status> replace_file(Disk& disk, std::string path, std::string content);

}  // namespace disk_io
}  // namespace shoal
