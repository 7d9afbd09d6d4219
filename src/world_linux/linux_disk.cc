#include "world_linux/linux_disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <liburing.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <utility>

#include "base/assert.h"
#include "world_linux/helper_pool.h"
#include "world_linux/ring.h"

namespace shoal {

namespace {

using Kind = DiskOp::Kind;

constexpr uint64_t kMiddle = uint64_t{8} * kMiB;  // bytes moved by one kernel operation, at most
constexpr uint64_t kWritebackStep = kGiB;         // the opcode's length has 32 bits
constexpr unsigned kRetriesMax = 64;              // of an operation that was interrupted
constexpr unsigned kStatMask =
    STATX_TYPE | STATX_SIZE | STATX_BLOCKS | STATX_INO | STATX_MTIME | STATX_CTIME;

int open_flags_of(uint32_t flags) {
  int out = O_CLOEXEC | O_NOFOLLOW;
  out |= (flags & DiskOp::kOpenWrite) != 0 ? O_RDWR : O_RDONLY;
  if ((flags & DiskOp::kOpenCreate) != 0) out |= O_CREAT;
  if ((flags & DiskOp::kOpenExclusive) != 0) out |= O_EXCL;
  if ((flags & DiskOp::kOpenTruncate) != 0) out |= O_TRUNC;
  if ((flags & DiskOp::kOpenDirect) != 0) out |= O_DIRECT;
  return out;
}

uint64_t nanoseconds_of(const struct statx_timestamp& time) {
  if (time.tv_sec < 0) return 0;  // before 1970
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

FileStat stat_of(const struct statx& from) {
  FileStat stat;
  stat.size = from.stx_size;
  stat.allocated = from.stx_blocks * 512;
  stat.is_directory = S_ISDIR(from.stx_mode);
  stat.is_other = !S_ISDIR(from.stx_mode) && !S_ISREG(from.stx_mode);
  stat.inode = from.stx_ino;
  stat.mtime_ns = nanoseconds_of(from.stx_mtime);
  stat.ctime_ns = nanoseconds_of(from.stx_ctime);
  return stat;
}

bool is_for_helper(Kind kind) {
  return kind == Kind::kSetSize || kind == Kind::kCopyRange || kind == Kind::kList ||
         kind == Kind::kSpace || kind == Kind::kLock;
}

// Whether the kernel's signed offsets can express the range.
bool is_valid_range(uint64_t offset, uint64_t length) {
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  return offset <= kMax && length <= kMax - offset;
}

bool takes_file(Kind kind) {
  switch (kind) {
    case Kind::kClose:
    case Kind::kRead:
    case Kind::kWrite:
    case Kind::kSync:
    case Kind::kSyncData:
    case Kind::kStartWriteback:
    case Kind::kSetSize:
    case Kind::kAllocate:
    case Kind::kPunch:
    case Kind::kCopyRange:
    case Kind::kStatFile:
      return true;
    default:
      return false;
  }
}

bool has_length(Kind kind) {
  return kind == Kind::kRead || kind == Kind::kWrite || kind == Kind::kStartWriteback ||
         kind == Kind::kAllocate || kind == Kind::kPunch || kind == Kind::kCopyRange;
}

// 0, or the error of an operation that the kernel cannot be asked for.
int64_t check(const DiskOp& op) {
  if (takes_file(op.kind)) {
    SHOAL_ASSERT(op.file != FileId::kNone, "an operation on a file that is not open");
  } else if (op.path.empty()) {
    return -ENOENT;
  }
  // A NUL would cut the path short.
  if (op.path.find('\0') != std::string::npos || op.path2.find('\0') != std::string::npos) {
    return -EINVAL;
  }
  if (!is_valid_range(op.offset, op.length) || !is_valid_range(op.offset2, op.length)) {
    return -EINVAL;
  }
  if (op.kind == Kind::kRead || op.kind == Kind::kWrite) {
    SHOAL_ASSERT(op.data != nullptr || op.length == 0);
  }
  if (op.kind == Kind::kCopyRange) SHOAL_ASSERT(op.file2 != FileId::kNone);
  return 0;
}

int64_t stat_file(DiskOp& op) {
  struct statx about{};
  if (statx(static_cast<int>(op.file), "", AT_EMPTY_PATH, kStatMask, &about) != 0) return -errno;
  op.stat = stat_of(about);
  return 0;
}

int64_t set_size(const DiskOp& op) {
  int answer;
  do {
    answer = ftruncate(static_cast<int>(op.file), static_cast<off_t>(op.offset));
  } while (answer != 0 && errno == EINTR);
  return answer == 0 ? 0 : -errno;
}

int64_t write_all(const DiskOp& op) {
  uint64_t done = 0;
  while (done < op.length) {
    ssize_t count = pwrite(static_cast<int>(op.file), op.data + done, op.length - done,
                           static_cast<off_t>(op.offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -errno;
    if (count == 0) return -EIO;
    done += static_cast<uint64_t>(count);
  }
  return static_cast<int64_t>(done);
}

int64_t copy_by_hand(int from, off_t from_offset, int to, off_t to_offset, uint64_t length) {
  std::vector<char> buffer(std::min<uint64_t>(length, 256 * kKiB));
  uint64_t done = 0;
  while (done < length) {
    ssize_t count = pread(from, buffer.data(), std::min<uint64_t>(length - done, buffer.size()),
                          from_offset + static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -errno;
    if (count == 0) return -EIO;  // the source ends before
    for (ssize_t written = 0; written < count;) {
      ssize_t piece = pwrite(to, buffer.data() + written, static_cast<size_t>(count - written),
                             to_offset + static_cast<off_t>(done) + written);
      if (piece < 0 && errno == EINTR) continue;
      if (piece < 0) return -errno;
      if (piece == 0) return -EIO;
      written += piece;
    }
    done += static_cast<uint64_t>(count);
  }
  return static_cast<int64_t>(done);
}

int64_t copy_range(const DiskOp& op) {
  int from = static_cast<int>(op.file);
  int to = static_cast<int>(op.file2);
  off_t from_offset = static_cast<off_t>(op.offset);
  off_t to_offset = static_cast<off_t>(op.offset2);
  uint64_t left = op.length;
  while (left > 0) {
    ssize_t count =
        copy_file_range(from, &from_offset, to, &to_offset, std::min<uint64_t>(left, 64 * kMiB), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == ENOSYS)) {
      int64_t rest = copy_by_hand(from, from_offset, to, to_offset, left);
      return rest < 0 ? rest : static_cast<int64_t>(op.length);
    }
    if (count < 0) return -errno;
    if (count == 0) return -EIO;  // the source ends before
    SHOAL_ASSERT(static_cast<uint64_t>(count) <= left);
    left -= static_cast<uint64_t>(count);
  }
  return static_cast<int64_t>(op.length);
}

// Names of files, links and directories; sockets, pipes and devices are nothing a Disk can use.
int64_t list(DiskOp& op) {
  int descriptor = open(op.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return -errno;
  DIR* directory = fdopendir(descriptor);
  if (directory == nullptr) {
    int error = errno;
    close(descriptor);
    return -error;
  }
  op.entries.clear();
  int64_t result = 0;
  while (true) {
    errno = 0;
    const dirent* entry = readdir(directory);
    if (entry == nullptr) {
      result = -errno;
      break;
    }
    std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    unsigned char type = entry->d_type;
    if (type == DT_UNKNOWN) {
      struct stat about{};
      if (fstatat(descriptor, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT) continue;  // removed meanwhile
        result = -errno;
        break;
      }
      type = IFTODT(about.st_mode);
    }
    if (type != DT_REG && type != DT_DIR && type != DT_LNK) continue;
    op.entries.push_back({std::string(name), type == DT_DIR, type != DT_DIR && type != DT_REG});
  }
  closedir(directory);
  if (result < 0) op.entries.clear();
  return result;
}

int64_t space(DiskOp& op) {
  struct statvfs about{};
  if (statvfs(op.path.c_str(), &about) != 0) return -errno;
  op.space = {about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize};
  return 0;
}

int64_t lock(const DiskOp& op) {
  int descriptor = open(op.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) return -errno;
  if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
  int error = errno;
  close(descriptor);
  return -error;
}

}  // namespace

// One DiskOp on its way through the ring, in one or several steps.
class LinuxDisk::FileOp final : public RingOp {
 public:
  explicit FileOp(LinuxDisk& disk) : disk_(disk) {}
  void begin(DiskOp& op) {
    SHOAL_ASSERT(op_ == nullptr);
    op_ = &op;
    done_ = 0;
    step_ = 0;
    retries_ = 0;
    start();
  }
  DiskOp& end() { return *std::exchange(op_, nullptr); }
  void prepare(io_uring_sqe& entry) noexcept override;
  void complete(int32_t result) noexcept override;

 private:
  void start() {
    bool copies = op_->kind == Kind::kRead && (op_->length - done_) > 0;
    bytes = copies ? std::min(op_->length - done_, kMiddle) : 0;
    disk_.ring_.start(*this);
  }
  void start_step(int step) {
    step_ = step;
    retries_ = 0;
    start();
  }
  void finish(int64_t result) { disk_.finish(*this, result); }
  void complete_transfer(int32_t result);
  void complete_directory_sync(int32_t result);

  LinuxDisk& disk_;
  DiskOp* op_ = nullptr;
  uint64_t done_ = 0;  // bytes
  int step_ = 0;
  unsigned retries_ = 0;
  int descriptor_ = -1;      // kSyncDirectory: the directory
  int32_t first_error_ = 0;  // kSyncDirectory: of the sync, while it is closed
  struct statx stat_{};
};

void LinuxDisk::FileOp::prepare(io_uring_sqe& entry) noexcept {
  DiskOp& op = *op_;
  int file = static_cast<int>(op.file);
  const char* path = op.path.c_str();
  auto amount = static_cast<unsigned>(std::min(op.length - done_, kMiddle));
  switch (op.kind) {
    case Kind::kOpen:
      return io_uring_prep_openat(&entry, AT_FDCWD, path, open_flags_of(op.flags),
                                  (op.flags & DiskOp::kShared) ? 0666 : 0600);
    case Kind::kClose:
      return io_uring_prep_close(&entry, file);
    case Kind::kRead:
      return io_uring_prep_read(&entry, file, op.data + done_, amount, op.offset + done_);
    case Kind::kWrite:
      return io_uring_prep_write(&entry, file, op.data + done_, amount, op.offset + done_);
    case Kind::kSync:
      return io_uring_prep_fsync(&entry, file, 0);
    case Kind::kSyncData:
      return io_uring_prep_fsync(&entry, file, IORING_FSYNC_DATASYNC);
    case Kind::kStartWriteback:
      return io_uring_prep_sync_file_range(
          &entry, file, static_cast<unsigned>(std::min(op.length - done_, kWritebackStep)),
          op.offset + done_, SYNC_FILE_RANGE_WRITE);
    case Kind::kAllocate:
      return io_uring_prep_fallocate(&entry, file, 0, static_cast<off_t>(op.offset),
                                     static_cast<off_t>(op.length));
    case Kind::kPunch:
      return io_uring_prep_fallocate(&entry, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
    case Kind::kStat:
      return io_uring_prep_statx(&entry, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, kStatMask, &stat_);
    case Kind::kRename:
      return io_uring_prep_renameat(&entry, AT_FDCWD, path, AT_FDCWD, op.path2.c_str(), 0);
    case Kind::kRemove:
      return io_uring_prep_unlinkat(&entry, AT_FDCWD, path, step_ == 0 ? 0 : AT_REMOVEDIR);
    case Kind::kMakeDirectory:
      if (step_ == 0) {
        return io_uring_prep_mkdirat(&entry, AT_FDCWD, path,
                                     (op.flags & DiskOp::kShared) ? 0777 : 0700);
      }
      return io_uring_prep_statx(&entry, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, kStatMask, &stat_);
    case Kind::kSyncDirectory:
      if (step_ == 0) {
        return io_uring_prep_openat(&entry, AT_FDCWD, path,
                                    O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
      }
      if (step_ == 1) return io_uring_prep_fsync(&entry, descriptor_, 0);
      return io_uring_prep_close(&entry, descriptor_);
    case Kind::kStatFile:
    case Kind::kSetSize:
    case Kind::kCopyRange:
    case Kind::kList:
    case Kind::kSpace:
    case Kind::kLock:
      break;
  }
  SHOAL_ASSERT(false, "not an operation of the ring");
}

void LinuxDisk::FileOp::complete(int32_t result) noexcept {
  DiskOp& op = *op_;
  // A close that was interrupted has closed the descriptor all the same (Linux).
  if (op.kind == Kind::kClose) return finish(result == -EINTR ? 0 : result);
  if ((result == -EINTR || result == -EAGAIN) && retries_ < kRetriesMax) {
    ++retries_;
    return start();
  }
  switch (op.kind) {
    case Kind::kRead:
    case Kind::kWrite:
    case Kind::kStartWriteback:
      return complete_transfer(result);
    case Kind::kStat:
      if (result == 0) op.stat = stat_of(stat_);
      return finish(result);
    case Kind::kRemove:
      if (step_ == 0 && result == -EISDIR) return start_step(1);
      return finish(result);
    case Kind::kMakeDirectory:
      if (step_ == 0 && result == -EEXIST) return start_step(1);
      if (step_ == 1 && result == 0) return finish(S_ISDIR(stat_.stx_mode) ? 0 : -EEXIST);
      return finish(result);
    case Kind::kSyncDirectory:
      return complete_directory_sync(result);
    default:
      return finish(result);
  }
}

void LinuxDisk::FileOp::complete_transfer(int32_t result) {
  DiskOp& op = *op_;
  // With O_DIRECT a file may end between two blocks, and the kernel refuses to be asked for more.
  if (op.kind == Kind::kRead && result == -EINVAL && done_ > 0) result = 0;
  if (result < 0) return finish(result);
  if (op.kind == Kind::kStartWriteback) {
    done_ += std::min(op.length - done_, kWritebackStep);
    return done_ < op.length ? start() : finish(0);
  }
  auto count = static_cast<uint64_t>(result);
  SHOAL_ASSERT(count <= op.length - done_, "the kernel moved more than it was asked to");
  done_ += count;
  if (count == 0) {
    // Reading: the end of the file. Writing: the kernel neither writes nor says why.
    return finish(op.kind == Kind::kRead ? static_cast<int64_t>(done_) : -EIO);
  }
  if (done_ == op.length) return finish(static_cast<int64_t>(done_));
  retries_ = 0;
  start();
}

void LinuxDisk::FileOp::complete_directory_sync(int32_t result) {
  if (step_ == 0) {
    if (result < 0) return finish(result);
    descriptor_ = result;
    return start_step(1);
  }
  if (step_ == 1) {
    first_error_ = result;
    return start_step(2);
  }
  descriptor_ = -1;
  finish(first_error_);
}

// One DiskOp on a helper thread.
class LinuxDisk::BlockingOp final : public HelperJob {
 public:
  explicit BlockingOp(LinuxDisk& disk) : disk_(disk) {}
  void work() noexcept override {
    switch (op->kind) {
      case Kind::kSetSize:
        result = set_size(*op);
        return;
      case Kind::kCopyRange:
        result = copy_range(*op);
        return;
      case Kind::kList:
        result = list(*op);
        return;
      case Kind::kSpace:
        result = space(*op);
        return;
      case Kind::kLock:
        result = lock(*op);
        return;
      case Kind::kWrite:
        result = write_all(*op);
        return;
      default:
        break;
    }
    SHOAL_ASSERT(false, "not an operation of the helpers");
  }
  void run() noexcept override { disk_.finish(*this); }

  DiskOp* op = nullptr;
  int64_t result = 0;

 private:
  LinuxDisk& disk_;
};

void LinuxDisk::WaitList::push(DiskOp& op) {
  op.next = nullptr;
  (last != nullptr ? last->next : first) = &op;
  last = &op;
}

DiskOp* LinuxDisk::WaitList::pop() {
  auto* op = static_cast<DiskOp*>(first);
  if (op == nullptr) return nullptr;
  first = op->next;
  if (first == nullptr) last = nullptr;
  op->next = nullptr;
  return op;
}

LinuxDisk::LinuxDisk(Executor& executor, Ring& ring, HelperPool& helpers)
    : executor_(executor), ring_(ring), helpers_(helpers) {}

LinuxDisk::~LinuxDisk() { SHOAL_ASSERT(is_idle(), "file operations are under way"); }

void LinuxDisk::submit(DiskOp& op) {
  SHOAL_ASSERT(executor_.on_thread());
  ++under_way_;
  if (int64_t error = check(op); error != 0) return end(op, error);
  if (has_length(op.kind) && op.length == 0) return end(op, 0);
  // Never waits for the disk, and the ring would hand it to a kernel thread.
  if (op.kind == Kind::kStatFile) return end(op, stat_file(op));
  if (is_for_helper(op.kind) || (op.flags & DiskOp::kBackground) != 0) {
    start_on_helper(op);
  } else {
    start_on_ring(op);
  }
}

void LinuxDisk::end(DiskOp& op, int64_t result) {
  SHOAL_ASSERT(under_way_ > 0);
  --under_way_;
  op.result = result;
  executor_.post(op);
}

void LinuxDisk::start_on_ring(DiskOp& op) {
  if (ring_ops_free_.empty()) {
    if (ring_ops_.size() == kRingOpsMax) return ring_waiting_.push(op);
    ring_ops_free_.push_back(ring_ops_.emplace_back(std::make_unique<FileOp>(*this)).get());
  }
  FileOp* file_op = ring_ops_free_.back();
  ring_ops_free_.pop_back();
  file_op->begin(op);
}

void LinuxDisk::finish(FileOp& file_op, int64_t result) {
  end(file_op.end(), result);
  if (DiskOp* waiting = ring_waiting_.pop()) {
    file_op.begin(*waiting);
  } else {
    ring_ops_free_.push_back(&file_op);
  }
}

void LinuxDisk::start_on_helper(DiskOp& op) {
  if (helper_ops_free_.empty()) {
    if (helper_ops_.size() == kHelperOpsMax) return helper_waiting_.push(op);
    helper_ops_free_.push_back(helper_ops_.emplace_back(std::make_unique<BlockingOp>(*this)).get());
  }
  BlockingOp* blocking = helper_ops_free_.back();
  helper_ops_free_.pop_back();
  SHOAL_ASSERT(blocking->op == nullptr);
  blocking->op = &op;
  blocking->home = &executor_;
  pool_for(op).submit(*blocking);
}

HelperPool& LinuxDisk::pool_for(const DiskOp& op) {
  return (op.flags & DiskOp::kBackground) != 0 ? background_ : helpers_;
}

void LinuxDisk::finish(BlockingOp& blocking) {
  end(*std::exchange(blocking.op, nullptr), blocking.result);
  if (DiskOp* waiting = helper_waiting_.pop()) {
    blocking.op = waiting;
    pool_for(*waiting).submit(blocking);
  } else {
    helper_ops_free_.push_back(&blocking);
  }
}

}  // namespace shoal
