// Client: what programs do with the bytes of files.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/object_name.h"
#include "simulate/workload.h"

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kSettlesMax = 600;

bool is_writer(uint32_t flags) { return (flags & O_ACCMODE) != O_RDONLY; }

}  // namespace

// Sizes and offsets near the borders of tiers and pieces are where the bugs are.
uint64_t Client::choose_size() {
  uint64_t max = ground_.plan.size_max;
  uint64_t size = 0;
  switch (random_.below(6)) {
    case 0:
      size = random_.below(200);
      break;
    case 1:
      size = 64 * kKiB * (1 + random_.below(5)) + random_.below(3) - 1;
      break;
    case 2:
      size = 256 * kKiB + random_.below(3) - 1;
      break;
    case 3:
      size = random_.below(64 * kKiB);
      break;
    default:
      size = random_.below(max + 1);
  }
  return std::min(size, max);
}

// --- one open file ---

Task<bool> Client::open_for_session(std::string path, uint32_t flags, OpenFile* open,
                                    FilePtr* file) {
  Slot& slot = model_.slot(path);
  bool existed = slot.now != nullptr;
  bool discard = existed && (flags & O_TRUNC) != 0;
  *file = existed ? slot.now : model_.new_file();
  if (!existed) model_.begin_create(path, *file);
  if (discard) model_.begin_discard(**file);
  trace("open {} {:#o}", path, flags);
  auto opened = co_await kernel_.open(path, flags, context());
  if (opened) {
    if (!existed) model_.created(path, *file);
    if (discard) model_.discarded(**file);
    *open = std::move(*opened);
    if (existed && !discard && is_writer(flags) && (*file)->live.size() > kFetchWhole) {
      (*file)->in_files_tier = true;
    }
    co_return true;
  }
  if (discard) model_.discard_failed(**file);
  tolerate(opened.error(), fmt::format("open {} {:#o}", path, flags));
  if (discard) {
    // Whether the old or the new version is there shows what happened.
    OpenFile again;
    co_await look_again({path});
  } else if (!existed) {
    co_await look_again({path});
  }
  co_return false;
}

Task<void> Client::session(std::string path) {
  bool exists = model_.slot(path).now != nullptr;
  uint32_t flags = random_.chance(0.7) ? O_RDWR : O_WRONLY;
  if (!exists) flags |= O_CREAT;
  if (exists && random_.chance(0.5)) flags |= O_TRUNC;
  if (random_.chance(0.15)) flags |= O_APPEND;
  OpenFile open;
  FilePtr file;
  if (!co_await open_for_session(path, flags, &open, &file)) co_return;
  uint64_t steps = 1 + random_.below(6);
  for (uint64_t i = 0; i < steps && !session_.ending; ++i) {
    co_await session_step(open, file, path, flags);
    if (!file->known) co_await settle(open, *file, path);
    if (!file->known || !ground_.findings.failures.empty()) break;
  }
  co_await close(std::move(open), file, path);
  if (model_.slot(path).now == file) file->unlinked = false;
  if (!file->known) co_await look_again({path});
}

Task<void> Client::session_step(OpenFile& open, FilePtr file, std::string& path, uint32_t flags) {
  switch (random_.below(12)) {
    case 0:
      co_await change_size(open, *file);
      break;
    case 1:
      co_await seal(open, file, path, false);
      break;
    case 2:
      co_await allocate_some(open, *file);
      break;
    case 3:
    case 4:
      if ((flags & O_ACCMODE) == O_RDWR) co_await read_some(open, *file, path);
      break;
    case 5:
      co_await seek_some(open, *file);
      break;
    case 6:
      if (random_.chance(0.3)) {
        std::string to = some_path();
        // Half a rename may have taken away what was open.
        if (!co_await rename(path, to)) file->unlinked = true;
        if (model_.slot(to).now == file) path = to;
      }
      break;
    default:
      co_await write_some(open, *file, (flags & O_APPEND) != 0);
  }
}

Task<void> Client::write_some(OpenFile& open, File& file, bool append) {
  uint64_t size = file.live.size();
  uint64_t offset = size;
  if (!append && random_.chance(0.6)) offset = std::min(choose_size(), size + 70'000);
  uint64_t length = 1 + choose_size() / (random_.chance(0.5) ? 1 : 8);
  uint64_t max = std::max(ground_.plan.size_max, size);
  if (offset >= max) offset = append ? size : max / 2;
  if (append && size >= max) co_return;
  length = std::min(length, max - offset);
  if (length == 0) co_return;
  Buffer bytes(length);
  Patch patch{offset, length, model_.next_write(), std::max(size, offset + length)};
  fill_content(patch.id, offset, bytes.span());
  model_.begin_change(file, patch);
  ground_.findings.count("bytes_written", length);
  trace("write #{} at {} + {}, was {}", file.number, offset, length, size);
  auto written = co_await kernel_.write(open.handle, offset, bytes.span(), context());
  if (!written) {
    model_.change_failed(file, patch);
    if (!file.unlinked || written.error().code() != Code::kStale) {
      tolerate(written.error(), "write");
    }
    co_return;
  }
  model_.changed(file, patch);
  if (*written != length) failed("write", fmt::format("took {} of {} bytes", *written, length));
}

Task<void> Client::change_size(OpenFile& open, File& file) {
  SetAttributes change;
  change.size = choose_size();
  change.handle = open.handle;
  Patch patch{0, 0, kZeros, *change.size};
  model_.begin_change(file, patch);
  trace("ftruncate #{} {}", file.number, *change.size);
  auto changed = co_await kernel_.fs.set_attributes(open.walk.inode(), change, {}, context());
  if (!changed) {
    model_.change_failed(file, patch);
    tolerate(changed.error(), "ftruncate");
    co_return;
  }
  model_.changed(file, patch);
  if (changed->attributes.size != *change.size) {
    failed("ftruncate", fmt::format("to {} gave {}", *change.size, changed->attributes.size));
  }
}

Task<void> Client::allocate_some(OpenFile& open, File& file) {
  uint64_t size = file.live.size();
  Range range{random_.below(size + 70'000), 1 + random_.below(200'000)};
  range.length = std::min(range.length, ground_.plan.size_max);
  constexpr uint32_t kModes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE};
  uint32_t mode = kModes[random_.below(5)];
  bool zeros = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
  Patch patch{0, 0, kZeros, size};
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0) patch.size_after = std::max(size, range.end());
  if (zeros && range.offset < patch.size_after) {
    patch.offset = range.offset;
    patch.length = std::min(range.length, patch.size_after - range.offset);
  }
  model_.begin_change(file, patch);
  trace("fallocate #{} mode {} at {} + {}", file.number, mode, range.offset, range.length);
  Status status = co_await kernel_.fs.allocate(open.handle, mode, range, context());
  if (!status) {
    model_.change_failed(file, patch);
    tolerate(status.error(), "fallocate");
    co_return;
  }
  model_.changed(file, patch);
}

Task<void> Client::read_some(OpenFile& open, File& file, const std::string& path) {
  uint64_t offset = random_.below(file.live.size() + 10);
  Buffer buffer(1 + choose_size());
  auto count = co_await kernel_.read(open.handle, offset, buffer.span(), context());
  ground_.findings.count("reads");
  if (!count) {
    if (file.unlinked && count.error().code() == Code::kStale) co_return;
    tolerate(count.error(), "read " + path);
    co_return;
  }
  uint64_t there =
      offset >= file.live.size() ? 0 : std::min<uint64_t>(buffer.size(), file.live.size() - offset);
  if (*count != there) {
    failed(path, fmt::format("read at {} gave {} bytes, expected {}", offset, *count, there));
  } else if (as_text(buffer.span().first(there)) !=
             std::string_view(file.live).substr(std::min(offset, file.live.size()), there)) {
    failed(path, fmt::format("read at {}: {}", offset,
                             first_difference(file.live.substr(offset, there),
                                              std::string(as_text(buffer.span().first(there))))));
  }
}

Task<void> Client::seek_some(OpenFile& open, File& file) {
  if (file.live.empty()) co_return;
  uint64_t from = random_.below(file.live.size());
  auto data = co_await kernel_.fs.seek(open.handle, from, true, context());
  uint64_t end = file.live.size();
  if (data) {
    end = *data;
  } else if (data.error().code() != Code::kNoData) {
    tolerate(data.error(), "seek");
    co_return;
  }
  // What is skipped is a hole: nothing but zeros.
  for (uint64_t i = from; i < end; ++i) {
    if (file.live[i] == '\0') continue;
    failed("seek", fmt::format("SEEK_DATA from {} skips the byte at {}", from, i));
    co_return;
  }
}

Task<void> Client::settle(OpenFile& open, File& file, const std::string& path) {
  ground_.findings.count("doubts");
  for (int i = 0; i < kSettlesMax; ++i) {
    OpenFile reader;
    auto opened = co_await kernel_.fs.open(open.walk.inode(), O_RDONLY, false, patient());
    if (opened) {
      auto bytes = co_await kernel_.read_all(opened->handle, kMiB, patient());
      co_await kernel_.fs.release(opened->handle);
      if (bytes) {
        if (auto wrong = model_.settle(file, *bytes)) failed(path, "after an error: " + *wrong);
        co_return;
      }
      if (file.unlinked && bytes.error().code() == Code::kStale) co_return;
      tolerate(bytes.error(), "reading after an error " + path);
    } else {
      if (file.unlinked && opened.error().code() == Code::kStale) co_return;
      tolerate(opened.error(), "opening after an error " + path);
    }
    if (!ground_.findings.failures.empty()) co_return;
    Status slept = co_await sleep_for(session_.executor, seconds(2), {});
    static_cast<void>(slept);
  }
  failed(path, "could not be read for twenty minutes after an error");
}

Task<void> Client::seal(OpenFile& open, FilePtr file, const std::string& path, bool close) {
  bool named = model_.slot(path).now == file;
  model_.begin_seal(*file);
  trace("{} {} #{}", close ? "flush" : "fsync", path, file->number);
  Status status = close ? co_await kernel_.fs.flush(open.handle, context())
                        : co_await kernel_.fs.sync(open.handle, false, context());
  if (!status) {
    tolerate(status.error(), (close ? "close " : "fsync ") + path);
    co_return;
  }
  trace("acknowledged #{}", file->number);
  ground_.findings.count("acknowledged");
  model_.sealed(named ? path : "", file);
  if (!named || ground_.plan.node.ack != AckLevel::kDurable) co_return;
  auto blob = ground_.service->find(kContainer, path);
  if (!blob) {
    failed(path, "acknowledged as durable, but the origin has no such object");
  } else if (blob->content.to_string() != file->live) {
    failed(path, "acknowledged as durable, but the origin has: " +
                     first_difference(file->live, blob->content.to_string()));
  }
}

Task<void> Client::release_late(Kernel* kernel, Executor* executor, OpenFile open, Duration delay) {
  Status slept = co_await sleep_for(*executor, delay, {});
  static_cast<void>(slept);
  co_await kernel->fs.release(open.handle);
}

Task<void> Client::close(OpenFile open, FilePtr file, std::string path) {
  if (!file->known) {  // a failure was found; nothing more to learn
    co_await kernel_.fs.release(open.handle);
    co_return;
  }
  co_await seal(open, file, path, true);
  // The kernel releases after close(2) has returned.
  Duration delay = milliseconds(random_.below(50));
  if (random_.chance(0.3)) {
    bool spawned =
        session_.gate.spawn(release_late(&kernel_, &session_.executor, std::move(open), delay));
    SHOAL_ASSERT(spawned);
    co_return;
  }
  co_await kernel_.fs.release(open.handle);
}

// --- whole operations ---

Task<void> Client::verify(std::string path) {
  FilePtr file = model_.slot(path).now;
  uint64_t step = random_.chance(0.3) ? 1 + random_.below(100'000) : 128 * kKiB;
  if (file && file->live.size() > kMiB) step = kMiB;
  uint64_t stale = session_.stale_served.value();
  auto bytes = co_await kernel_.read_path(path, step, context());
  ground_.findings.count("reads");
  if (!bytes) {
    bool absent = bytes.error().code() == Code::kNotFound;
    if (absent && file == nullptr) co_return;
    tolerate(bytes.error(), "reading " + path);
    co_return;
  }
  if (session_.stale_served.value() != stale) co_return;
  if (file == nullptr) {
    failed(path, "it was removed, and it can be read");
  } else if (*bytes != file->live) {
    failed(path, first_difference(file->live, *bytes));
  }
}

Task<void> Client::truncate_path(std::string path) {
  FilePtr file = model_.slot(path).now;
  if (file == nullptr) co_return;
  SetAttributes change;
  change.size = choose_size();
  Patch patch{0, 0, kZeros, *change.size};
  if (file->live.size() > kFetchWhole) file->in_files_tier = true;
  std::string after = file->live;
  apply_patch(after, patch);
  model_.begin_change(*file, patch);
  model_.allow(after);
  file->durable.push_back({after, {}, true});
  trace("truncate {} {}", path, *change.size);
  auto changed = co_await kernel_.set_attributes(path, change, context());
  if (changed) {
    model_.changed(*file, patch);
    co_return;
  }
  model_.change_failed(*file, patch);
  tolerate(changed.error(), "truncate " + path);
  co_await look_again({path});
}

Task<void> Client::change_attributes(std::string path) {
  FilePtr file = model_.slot(path).now;
  if (file == nullptr) co_return;
  SetAttributes change;
  change.mode = 0400 | static_cast<uint32_t>(random_.below(0400));
  if (random_.chance(0.5)) change.modified = WallTime(seconds(1'700'000'000 + random_.below(1000)));
  trace("chmod {}", path);
  auto changed = co_await kernel_.set_attributes(path, change, context());
  if (!changed) {
    tolerate(changed.error(), "chmod " + path);
    // In the origin it may have happened: the object is another version then.
    co_await look_again({path});
    co_return;
  }
  if ((changed->attributes.mode & 07777) != *change.mode) failed(path, "chmod did not take");
  auto there = co_await kernel_.walk(path, context());
  if (!there) {
    tolerate(there.error(), "stat " + path);
    co_return;
  }
  if ((there->attributes().mode & 07777) != *change.mode) failed(path, "the mode is another");
  if (there->attributes().size != file->live.size()) {
    failed(path, fmt::format("stat says {} bytes, expected {}", there->attributes().size,
                             file->live.size()));
  }
  std::string value = fmt::format("v{}", random_.below(1000));
  Status set = co_await kernel_.fs.set_xattr(there->inode(), "user.sim", value, 0, context());
  if (!set) {
    if (set.error().code() == Code::kStale) co_return;  // the walk is old by now
    tolerate(set.error(), "setxattr " + path);
    co_await look_again({path});
    co_return;
  }
  auto got = co_await kernel_.fs.get_xattr(there->inode(), "user.sim", context());
  if (!got) {
    tolerate(got.error(), "getxattr " + path);
  } else if (*got != value) {
    failed(path, "the extended attribute is another");
  }
}

Task<void> Client::create_exclusively(std::string path) {
  bool exists = model_.slot(path).now != nullptr;
  OpenFile open;
  FilePtr file;
  if (!exists) {
    if (!co_await open_for_session(path, O_RDWR | O_CREAT | O_EXCL, &open, &file)) co_return;
    co_await write_some(open, *file, false);
    if (!file->known) co_await settle(open, *file, path);
    co_await close(std::move(open), file, path);
    co_return;
  }
  auto opened = co_await kernel_.open(path, O_RDWR | O_CREAT | O_EXCL, context());
  if (opened) {
    failed(path, "O_EXCL opened a file that exists");
    co_await kernel_.fs.release(opened->handle);
  } else if (opened.error().code() != Code::kAlreadyExists) {
    tolerate(opened.error(), "open O_EXCL " + path);
  }
}

Task<void> Client::unlink_open(std::string path) {
  if (model_.slot(path).now == nullptr) co_return;
  OpenFile open;
  FilePtr file;
  if (!co_await open_for_session(path, O_RDWR, &open, &file)) co_return;
  co_await write_some(open, *file, false);
  if (!file->known) co_await settle(open, *file, path);
  if (!co_await unlink(path)) {
    if (file->known) model_.begin_seal(*file);  // the release seals what it still has
    co_await kernel_.fs.release(open.handle);
    co_await look_again({path});
    co_return;
  }
  if (model_.slot(path).now == nullptr) {
    for (int i = 0; i < 3 && ground_.findings.failures.empty(); ++i) {
      co_await write_some(open, *file, false);
      if (!file->known) break;
      co_await read_some(open, *file, path + " (unlinked)");
    }
    co_await kernel_.fs.release(open.handle);
    co_return;
  }
  co_await close(std::move(open), file, path);
}

// An object that somebody else writes too: both versions must survive somewhere.
Task<void> Client::write_contested() {
  std::string path = fmt::format("shared/x{}", random_.below(2));
  std::string bytes = make_content(model_.next_write(), choose_size());
  model_.allow(bytes);
  auto open = co_await kernel_.open(path, O_WRONLY | O_CREAT | O_TRUNC, context());
  if (!open) {
    if (open.error().code() != Code::kStale) tolerate(open.error(), "open " + path);
    co_return;
  }
  Status status;
  if (!bytes.empty()) {
    auto written = co_await kernel_.write(open->handle, 0, as_bytes(bytes), context());
    if (!written) status = fail(std::move(written).error());
  }
  if (status) status = co_await kernel_.fs.flush(open->handle, context());
  if (status) {
    ground_.contested[path] = std::move(bytes);
    ground_.findings.count("contested_writes");
  } else if (status.error().code() != Code::kStale) {
    tolerate(status.error(), "writing " + path);
  }
  co_await kernel_.fs.release(open->handle);
}

}  // namespace shoal::simulate
