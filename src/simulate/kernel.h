// What the kernel does between a program's system call and the file system: walks paths, counts
// look-ups, looks again after ESTALE, flushes before it releases.
//
// One per incarnation of the node; on the node's executor.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "async/gate.h"
#include "node/file_system.h"

namespace shoal::simulate {

// Look-ups held; given back when destroyed.
class Walk {
 public:
  Walk() = default;
  explicit Walk(FileSystem& file_system) : file_system_(&file_system) {}
  Walk(Walk&& other) noexcept
      : file_system_(other.file_system_), held_(std::exchange(other.held_, {})) {}
  Walk& operator=(Walk&& other) noexcept {
    release();
    file_system_ = other.file_system_;
    held_ = std::exchange(other.held_, {});
    return *this;
  }
  ~Walk() { release(); }

  void hold(const Entry& entry) { held_.push_back(entry); }
  void release();
  InodeId inode() const { return held_.empty() ? InodeId::kRoot : held_.back().attributes.inode; }
  // The last entry; only when the walk was not of the root.
  const Attributes& attributes() const { return held_.back().attributes; }

 private:
  FileSystem* file_system_ = nullptr;
  std::vector<Entry> held_;
};

struct OpenFile {
  HandleId handle = HandleId::kNone;
  Walk walk;
};

class Kernel {
 public:
  Kernel(FileSystem& file_system, Executor& executor)
      : fs(file_system), executor_(executor), writes_(executor) {}
  // Waits for the writes that were answered early. Before the store is closed.
  Task<void> close() { return writes_.close(); }

  Task<Result<Walk>> walk(std::string path, Context context);
  // O_CREAT creates when the name is absent. Looks the name up again after kStale.
  Task<Result<OpenFile>> open(std::string path, uint32_t flags, Context context);
  Task<Status> unlink(std::string path, Context context);
  Task<Status> make_directory(std::string path, Context context);
  Task<Status> remove_directory(std::string path, Context context);
  Task<Status> rename(std::string from, std::string to, uint32_t flags, Context context);
  Task<Result<Entry>> set_attributes(std::string path, SetAttributes change, Context context);
  // Names, without "." and "..".
  Task<Result<std::vector<std::string>>> list(std::string path, bool plus, Context context);
  // read(2): takes what the file system lends, as the mount does.
  Task<Result<size_t>> read(HandleId handle, uint64_t offset, ByteSpan into, Context context);
  // write(2): returns when the file system answers, as the mount does; the bytes may go then.
  Task<Result<size_t>> write(HandleId handle, uint64_t offset, ConstByteSpan bytes,
                             Context context);
  // The whole file, in pieces of `step` bytes.
  Task<Result<std::string>> read_all(HandleId handle, uint64_t step, Context context);
  // open, read_all, release. kNotFound if there is no such file.
  Task<Result<std::string>> read_path(std::string path, uint64_t step, Context context);

  FileSystem& fs;

 private:
  struct WriteRequest;
  Task<Result<OpenFile>> open_once(std::string path, uint32_t flags, Context context);
  static Task<void> serve(FileSystem* fs, std::shared_ptr<WriteRequest> request);

  Executor& executor_;
  Gate writes_;
};

}  // namespace shoal::simulate
