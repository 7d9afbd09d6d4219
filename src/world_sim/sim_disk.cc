#include "world_sim/sim_disk.h"

#include <algorithm>
#include <cerrno>

namespace shoal {

namespace {

constexpr uint64_t kOperationBytesMax = kGiB;
constexpr uint64_t kFileBytesMax = uint64_t{1} << 60;

bool reads(DiskOp::Kind kind) { return kind == DiskOp::Kind::kRead; }
// A copy within the disk counts once.
bool writes(DiskOp::Kind kind) {
  return kind == DiskOp::Kind::kWrite || kind == DiskOp::Kind::kCopyRange;
}
bool is_sync(DiskOp::Kind kind) {
  return kind == DiskOp::Kind::kSync || kind == DiskOp::Kind::kSyncData ||
         kind == DiskOp::Kind::kSyncDirectory;
}

FileStat stat_of(const SimNode& node) {
  if (!node.file) return {0, 0, true};
  return {node.file->size(), node.file->allocated(), false};
}

bool has_parent_step(std::string_view path) {
  while (!path.empty()) {
    size_t slash = std::min(path.find('/'), path.size());
    if (path.substr(0, slash) == "..") return true;
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return false;
}

}  // namespace

SimDiskState::SimDiskState(SimDiskOptions options)
    : options_(options), space_(std::make_shared<SimSpace>()) {
  set_capacity(options_.capacity);
  set_rates(options_.bytes_per_second, options_.read_bytes_per_second);
}

void SimDiskState::set_rates(uint64_t write, uint64_t read) {
  options_.bytes_per_second = write;
  options_.read_bytes_per_second = read;
  pacer_.set_rate(write);
  read_pacer_.set_rate(read);
}

void SimDiskState::wipe() {
  tree_ = SimTree();
  locked_.clear();
}

void SimDiskState::set_capacity(uint64_t bytes) {
  options_.capacity = bytes;
  space_->pages_max = bytes / kSimPageBytes;
}

std::shared_ptr<SimNode> SimDiskState::make_file() {
  auto node = std::make_shared<SimNode>();
  node->file = std::make_unique<SimFile>(space_);
  return node;
}

SimFile* SimDiskState::file(std::string_view path) const {
  SimNodePtr node = tree_.find(path);
  return node ? node->file.get() : nullptr;
}

std::string SimDiskState::content(std::string_view path) const {
  SimFile* found = file(path);
  if (found == nullptr) return "";
  std::string text(found->size(), '\0');
  found->read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

SimDisk::SimDisk(SimDiskState& state, SimExecutor& executor, SeededRandom random)
    : state_(state), executor_(executor), random_(random) {}

SimDisk::~SimDisk() { SHOAL_ASSERT(in_flight_.empty(), "disk operations are still in flight"); }

SteadyTime SimDisk::end_of(Duration base, uint64_t reads, uint64_t writes) {
  const SimDiskOptions& options = state_.options_;
  SteadyTime now = executor_.now();
  // Uniform in [base / 2, base * 3 / 2), so that concurrent operations end in any order.
  SteadyTime end =
      now + base / 2 +
      Duration(static_cast<int64_t>(random_.below(static_cast<uint64_t>(base.count()) + 1)));
  if (random_.chance(options.faults.slow)) end += options.faults.slow_time;
  if (reads + writes < options.free_bytes) return end;
  bool apart = options.read_bytes_per_second > 0;
  uint64_t together = apart ? writes : reads + writes;
  Duration wait{0};
  if (together > 0) wait = state_.pacer_.reserve(now, together) - now;
  if (apart && reads > 0) wait = std::max(wait, state_.read_pacer_.reserve(now, reads) - now);
  return end + wait;
}

SteadyTime SimDisk::begin_read_for_send(uint64_t length) {
  ++state_.operations_;
  return end_of(state_.options_.latency, length, 0);
}

int64_t SimDisk::read_for_send(FileId id, uint64_t offset, uint64_t length,
                               std::vector<SimPagePtr>& pages) {
  Open* open = opened(id);
  if (open == nullptr) return -EBADF;
  SimFile& file = *open->node->file;
  if (read_fails(file, offset, length)) return -EIO;
  return static_cast<int64_t>(file.read_pages(offset, length, pages));
}

void SimDisk::submit(DiskOp& op) {
  SHOAL_ASSERT(executor_.alive(), "an operation of a dead process");
  SHOAL_ASSERT(executor_.on_thread());
  bool transfers = reads(op.kind) || writes(op.kind);
  SHOAL_ASSERT(!transfers || op.length <= kOperationBytesMax);
  ++state_.operations_;
  uint64_t number = ++submitted_;
  Flight& flight = in_flight_[number];
  flight.op = &op;
  begin(flight);
  Duration base = is_sync(op.kind) ? state_.options_.sync_latency : state_.options_.latency;
  SteadyTime end = end_of(base, reads(op.kind) ? op.length : 0, writes(op.kind) ? op.length : 0);
  executor_.scheduler().at(end, &executor_, [this, number] {
    auto found = in_flight_.find(number);
    SHOAL_ASSERT(found != in_flight_.end());
    Flight ended = std::move(found->second);
    in_flight_.erase(found);
    DiskOp& done = *ended.op;
    done.result = execute(ended);
    executor_.scheduler().note(static_cast<uint64_t>(done.kind) * 1000003 +
                               static_cast<uint64_t>(done.result));
    executor_.post(done);
  });
}

// A sync covers what was written before it began, and nothing later.
void SimDisk::begin(Flight& flight) {
  const DiskOp& op = *flight.op;
  if (op.kind == DiskOp::Kind::kSync || op.kind == DiskOp::Kind::kSyncData) {
    Open* file = opened(op.file);
    if (file == nullptr) return;
    flight.node = file->node;
    flight.snapshot = file->node->file->begin_sync();
  } else if (op.kind == DiskOp::Kind::kSyncDirectory) {
    flight.node = state_.tree_.find(op.path);
    flight.names_up_to = state_.tree_.sequence();
  }
}

SimDisk::Open* SimDisk::opened(FileId id) {
  auto found = files_.find(static_cast<int32_t>(id));
  return found == files_.end() ? nullptr : &found->second;
}

FileId SimDisk::remember(Open open) {
  int32_t id = next_file_++;
  SHOAL_ASSERT(id > 0);
  files_.emplace(id, std::move(open));
  return static_cast<FileId>(id);
}

int64_t SimDisk::execute(Flight& flight) {
  DiskOp& op = *flight.op;
  switch (op.kind) {
    case DiskOp::Kind::kClose:
    case DiskOp::Kind::kRead:
    case DiskOp::Kind::kWrite:
    case DiskOp::Kind::kSync:
    case DiskOp::Kind::kSyncData:
    case DiskOp::Kind::kStartWriteback:
    case DiskOp::Kind::kSetSize:
    case DiskOp::Kind::kAllocate:
    case DiskOp::Kind::kPunch:
    case DiskOp::Kind::kCopyRange:
    case DiskOp::Kind::kStatFile:
      return execute_on_file(op, flight);
    case DiskOp::Kind::kSyncDirectory:
      if (flight.node == nullptr) return -ENOENT;
      if (flight.node->file) return -ENOTDIR;
      if (random_.chance(state_.options_.faults.sync_error)) return -EIO;
      state_.tree_.sync_directory(flight.node, flight.names_up_to);
      return 0;
    default:
      return execute_on_path(op);
  }
}

int64_t SimDisk::execute_on_path(DiskOp& op) {
  if (has_parent_step(op.path) || has_parent_step(op.path2)) return -EINVAL;
  switch (op.kind) {
    case DiskOp::Kind::kOpen:
      return open(op);
    case DiskOp::Kind::kLock:
      return lock(op);
    case DiskOp::Kind::kRename:
      return rename(op);
    case DiskOp::Kind::kRemove:
      return remove(op);
    case DiskOp::Kind::kMakeDirectory:
      return make_directory(op);
    case DiskOp::Kind::kList:
      return list(op);
    case DiskOp::Kind::kStat: {
      SimNodePtr node = state_.tree_.find(op.path);
      if (!node) return -ENOENT;
      op.stat = stat_of(*node);
      return 0;
    }
    case DiskOp::Kind::kSpace: {
      if (!state_.tree_.find(op.path)) return -ENOENT;
      op.space.total = state_.options_.capacity;
      // Removed files count until their removal is durable; a file system hurries when it is short.
      if (state_.used() > op.space.total / 10 * 9) state_.tree_.sync_all();
      op.space.free = op.space.total - std::min(op.space.total, state_.used());
      return 0;
    }
    default:
      break;
  }
  SHOAL_ASSERT(false, "an unknown operation");
}

int64_t SimDisk::execute_on_file(DiskOp& op, Flight& flight) {
  Open* open = opened(op.file);
  if (open == nullptr) return -EBADF;
  SimFile& file = *open->node->file;
  const SimDiskFaults& faults = state_.options_.faults;
  bool changes = op.kind == DiskOp::Kind::kWrite || op.kind == DiskOp::Kind::kSetSize ||
                 op.kind == DiskOp::Kind::kAllocate || op.kind == DiskOp::Kind::kPunch;
  if (changes && (open->flags & DiskOp::kOpenWrite) == 0) return -EBADF;
  if (op.offset > kFileBytesMax || op.length > kFileBytesMax) return -EFBIG;
  bool transfer = op.kind == DiskOp::Kind::kRead || op.kind == DiskOp::Kind::kWrite;
  if (transfer && (open->flags & DiskOp::kOpenDirect) != 0) {
    auto address = reinterpret_cast<uintptr_t>(op.data);
    uint64_t block = state_.options_.direct_block;
    if ((op.offset | op.length) % block != 0 || address % kSimPageBytes != 0) return -EINVAL;
  }
  switch (op.kind) {
    case DiskOp::Kind::kClose:
      if (open->lock) state_.locked_.erase(open->node.get());
      files_.erase(static_cast<int32_t>(op.file));
      return 0;
    case DiskOp::Kind::kRead:
      if (read_fails(file, op.offset, op.length)) return -EIO;
      return static_cast<int64_t>(file.read(op.offset, {op.data, op.length}));
    case DiskOp::Kind::kWrite:
      return write(op, file);
    case DiskOp::Kind::kCopyRange:
      return copy(op, file);
    case DiskOp::Kind::kSync:
    case DiskOp::Kind::kSyncData:
      if (flight.node != open->node) return -EBADF;
      if (random_.chance(faults.sync_error)) {
        file.fail_sync(flight.snapshot);
        return -EIO;
      }
      file.end_sync(flight.snapshot);
      return 0;
    case DiskOp::Kind::kStartWriteback:
      return 0;
    case DiskOp::Kind::kSetSize:
      file.set_size(op.offset);
      return 0;
    case DiskOp::Kind::kAllocate:
      return with_space([&] { return file.allocate(op.offset, op.length); }) ? 0 : -ENOSPC;
    case DiskOp::Kind::kPunch:
      file.punch(op.offset, op.length);
      return 0;
    case DiskOp::Kind::kStatFile:
      op.stat = stat_of(*open->node);
      return 0;
    default:
      break;
  }
  SHOAL_ASSERT(false, "an unknown operation");
}

// Also flips stored bits, when it is time.
bool SimDisk::read_fails(SimFile& file, uint64_t offset, uint64_t length) {
  const SimDiskFaults& faults = state_.options_.faults;
  if (random_.chance(faults.read_error)) return true;
  if (length > 0 && random_.chance(faults.bit_flip)) {
    file.flip_bit(offset + random_.below(length), static_cast<unsigned>(random_.below(8)));
  }
  return false;
}

int64_t SimDisk::write(const DiskOp& op, SimFile& file) {
  ConstByteSpan bytes{op.data, op.length};
  if (random_.chance(state_.options_.faults.write_error)) {
    // A failed write may have written a part.
    (void)file.write(op.offset, bytes.first(random_.below(op.length + 1)));
    return -EIO;
  }
  if (!with_space([&] { return file.write(op.offset, bytes); })) return -ENOSPC;
  return static_cast<int64_t>(op.length);
}

int64_t SimDisk::copy(const DiskOp& op, SimFile& from) {
  Open* target = opened(op.file2);
  if (target == nullptr || (target->flags & DiskOp::kOpenWrite) == 0) return -EBADF;
  if (op.offset + op.length > from.size()) return -EINVAL;
  Buffer bytes(op.length);
  size_t count = from.read(op.offset, bytes.span());
  SHOAL_ASSERT(count == op.length);
  SimFile& to = *target->node->file;
  if (!with_space([&] { return to.write(op.offset2, bytes.span()); })) return -ENOSPC;
  return static_cast<int64_t>(op.length);
}

// Tries again after what was removed has given its space back.
bool SimDisk::with_space(const std::function<bool()>& change) {
  if (change()) return true;
  state_.tree_.sync_all();
  return change();
}

int64_t SimDisk::open(DiskOp& op) {
  std::string leaf;
  SimNodePtr directory = state_.tree_.parent(op.path, leaf);
  if (!directory) return -ENOENT;
  if (leaf.empty()) return -EISDIR;
  auto found = directory->seen.find(leaf);
  SimNodePtr node = found == directory->seen.end() ? nullptr : found->second;
  bool direct = (op.flags & DiskOp::kOpenDirect) != 0;
  if (direct && state_.options_.direct_block == 0) return -EINVAL;
  bool create = (op.flags & DiskOp::kOpenCreate) != 0;
  if (node == nullptr) {
    if (!create) return -ENOENT;
    node = state_.make_file();
    state_.tree_.link(directory, leaf, node);
  } else if (create && (op.flags & DiskOp::kOpenExclusive) != 0) {
    return -EEXIST;
  }
  if (!node->file) return -EISDIR;
  if ((op.flags & DiskOp::kOpenTruncate) != 0) {
    if ((op.flags & DiskOp::kOpenWrite) == 0) return -EINVAL;
    node->file->set_size(0);
  }
  return static_cast<int64_t>(remember({std::move(node), op.flags, false}));
}

int64_t SimDisk::lock(DiskOp& op) {
  std::string leaf;
  SimNodePtr directory = state_.tree_.parent(op.path, leaf);
  if (!directory || leaf.empty()) return -ENOENT;
  auto found = directory->seen.find(leaf);
  SimNodePtr node = found == directory->seen.end() ? nullptr : found->second;
  if (node == nullptr) {
    node = state_.make_file();
    state_.tree_.link(directory, leaf, node);
  }
  if (!node->file) return -EISDIR;
  if (!state_.locked_.insert(node.get()).second) return -EAGAIN;
  return static_cast<int64_t>(remember({std::move(node), DiskOp::kOpenWrite, true}));
}

int64_t SimDisk::rename(const DiskOp& op) {
  std::string from_name;
  std::string to_name;
  SimNodePtr from = state_.tree_.parent(op.path, from_name);
  SimNodePtr to = state_.tree_.parent(op.path2, to_name);
  if (!from || !to || from_name.empty() || to_name.empty()) return -ENOENT;
  auto source = from->seen.find(from_name);
  if (source == from->seen.end()) return -ENOENT;
  auto target = to->seen.find(to_name);
  if (target != to->seen.end()) {
    if (target->second == source->second) return 0;
    bool target_directory = !target->second->file;
    bool source_directory = !source->second->file;
    if (target_directory && !source_directory) return -EISDIR;
    if (!target_directory && source_directory) return -ENOTDIR;
    if (target_directory && !target->second->seen.empty()) return -ENOTEMPTY;
  }
  std::string_view inner = op.path2;
  if (inner.starts_with(op.path) && inner.substr(op.path.size()).starts_with("/")) return -EINVAL;
  state_.tree_.rename(from, from_name, to, to_name);
  return 0;
}

int64_t SimDisk::remove(const DiskOp& op) {
  std::string leaf;
  SimNodePtr directory = state_.tree_.parent(op.path, leaf);
  if (!directory || leaf.empty()) return -ENOENT;
  auto found = directory->seen.find(leaf);
  if (found == directory->seen.end()) return -ENOENT;
  if (!found->second->file && !found->second->seen.empty()) return -ENOTEMPTY;
  state_.tree_.unlink(directory, leaf);
  return 0;
}

int64_t SimDisk::make_directory(const DiskOp& op) {
  std::string leaf;
  SimNodePtr directory = state_.tree_.parent(op.path, leaf);
  if (!directory) return -ENOENT;
  if (leaf.empty()) return 0;
  auto found = directory->seen.find(leaf);
  if (found != directory->seen.end()) return found->second->file ? -EEXIST : 0;
  state_.tree_.link(directory, leaf, std::make_shared<SimNode>());
  return 0;
}

int64_t SimDisk::list(DiskOp& op) {
  SimNodePtr node = state_.tree_.find(op.path);
  if (!node) return -ENOENT;
  if (node->file) return -ENOTDIR;
  op.entries.clear();
  for (const auto& [name, child] : node->seen) op.entries.push_back({name, !child->file});
  // A directory has no order that anybody may rely on.
  for (size_t i = op.entries.size(); i > 1; --i) {
    std::swap(op.entries[i - 1], op.entries[random_.below(i)]);
  }
  return 0;
}

std::vector<DiskOp*> SimDisk::crash(CrashKind kind) {
  SHOAL_ASSERT(!executor_.alive(), "kill the executor first");
  std::vector<DiskOp*> operations;
  for (auto& [number, flight] : in_flight_) {
    operations.push_back(flight.op);
    bool read_only = flight.op->kind == DiskOp::Kind::kRead;
    if (!read_only && random_.below(2) == 0) (void)execute(flight);
  }
  in_flight_.clear();
  for (auto& [id, open] : files_) {
    if (open.lock) state_.locked_.erase(open.node.get());
  }
  files_.clear();
  if (kind == CrashKind::kPowerLoss) state_.tree_.power_loss(random_);
  return operations;
}

}  // namespace shoal
