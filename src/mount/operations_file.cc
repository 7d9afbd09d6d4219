// Requests about open files.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "mount/dispatcher.h"
#include "mount/reply.h"

namespace shoal::fuse {
namespace {

constexpr uint32_t kPermissionBits = 07777;
constexpr size_t kSmallReadMax = 128 * kKiB;  // below: memory of just that size

template <typename T>
ConstByteSpan bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

bool reads_only(uint32_t flags) { return (flags & O_ACCMODE) == O_RDONLY; }

}  // namespace

// How the kernel is to treat an open file.
//
// While the kernel reads an inode by itself it refuses every other kind of open of it with EIO. So
// a reader joins what is there, and a writer is told to look the name up again (ESTALE), which gets
// it an inode of its own.
Status Dispatcher::choose_mode(const OpenResult& opened, uint32_t flags, OpenFile& file,
                               OpenOut& out) {
  if (reads_only(flags)) out.open_flags |= kOpenNoFlush;
  std::optional<int32_t> backing = backings_.acquire_existing(file.inode);
  if (backing && !reads_only(flags)) {
    auto mapped = backings_.release(file.inode);
    SHOAL_ASSERT(!mapped.has_value(), "others have it open");
    return fail(Code::kStale, "the kernel is reading this version by itself");
  }
  bool wanted = opened.mode == OpenResult::Mode::kPassthrough && can_passthrough() &&
                reads_only(flags) && !plain_opens_.contains(file.inode);
  if (!backing && wanted) {
    SHOAL_ASSERT(opened.backing_descriptor >= 0);
    auto id = backings_.acquire(file.inode, opened.backing_descriptor, is_mapped(file.inode));
    if (id) {
      backing = *id;
    } else {
      can_passthrough_.store(false, std::memory_order_relaxed);
      log_.warning("passthrough is off from now on, reads go through the daemon: {}",
                   id.error().to_string());
    }
  }
  if (backing) {
    out.open_flags |= kOpenPassthrough;
    out.backing_id = *backing;
    file.backed = true;
    metrics_.passthrough_opens.add();
    return {};
  }
  ++plain_opens_[file.inode];
  if (opened.mode == OpenResult::Mode::kCached) {
    if (opened.keep_cache) out.open_flags |= kOpenKeepCache;
  } else {
    out.open_flags |= kOpenDirectIo;
  }
  return {};
}

Task<void> Dispatcher::close_file(OpenFile file) {
  SHOAL_ASSERT(!file.directory);
  if (file.backed) {
    auto descriptor = backings_.release(file.inode);
    // One handle is enough to keep the bytes, however often the file is opened and closed.
    if (descriptor && !is_mapped(file.inode)) {
      file.view.reset();
      mapped_.push_back({std::move(file), std::move(*descriptor)});
      mapped_count_.store(mapped_.size(), std::memory_order_relaxed);
      if (!std::exchange(watching_, true)) watch_gate_.spawn(watch_mapped());
      co_return;
    }
  } else {
    auto at = plain_opens_.find(file.inode);
    SHOAL_ASSERT(at != plain_opens_.end() && at->second > 0);
    if (--at->second == 0) plain_opens_.erase(at);
  }
  file.view.reset();
  co_await file_system_.release(file.handle);
}

// Looks every second which mappings have ended; over when there are none.
Task<void> Dispatcher::watch_mapped() {
  constexpr Duration kInterval = std::chrono::seconds(1);
  while (!mapped_.empty()) {
    Status slept = co_await sleep_for(executor_, kInterval, {kNever, &stop_watching_});
    if (!slept) break;
    auto ended = std::ranges::partition(
        mapped_, [](const Mapped& mapped) { return used_elsewhere(mapped.descriptor.get()); });
    std::vector<HandleId> released;
    for (const Mapped& mapped : ended) released.push_back(mapped.file.handle);
    mapped_.erase(ended.begin(), ended.end());
    mapped_count_.store(mapped_.size(), std::memory_order_relaxed);
    for (HandleId handle : released) co_await file_system_.release(handle);
  }
  watching_ = false;
}

bool Dispatcher::is_mapped(InodeId inode) const {
  return std::ranges::any_of(mapped_,
                             [&](const Mapped& mapped) { return mapped.file.inode == inode; });
}

Task<void> Dispatcher::open(Message& message) {
  const Request& request = message.request;
  InodeId inode{request.node};
  auto opened =
      co_await file_system_.open(inode, request.flags, can_passthrough(), context_of(message));
  if (!opened) {
    reply_error(message, opened.error());
    co_return;
  }
  OpenFile file;
  file.handle = opened->handle;
  file.inode = inode;
  file.view = opened->view;
  OpenOut out{};
  Status chosen = choose_mode(*opened, request.flags, file, out);
  if (!chosen) {
    co_await file_system_.release(opened->handle);
    reply_error(message, chosen.error());
    co_return;
  }
  out.handle = handles_.add(file);
  if (reply(message, bytes_of(out))) co_return;
  handles_.remove(out.handle);
  co_await close_file(std::move(file));
}

Task<void> Dispatcher::create(Message& message) {
  const Request& request = message.request;
  auto created = co_await file_system_.create(InodeId{request.node}, std::string(request.name),
                                              request.mode & kPermissionBits, request.flags,
                                              caller_of(message), context_of(message));
  if (!created) {
    reply_error(message, created.error());
    co_return;
  }
  OpenFile file;
  file.inode = created->entry.attributes.inode;
  file.handle = created->open.handle;
  file.view = created->open.view;
  SHOAL_ASSERT(file.inode != InodeId::kNone);
  struct {
    EntryOut entry;
    OpenOut open;
  } out{encode_entry(created->entry), {}};
  static_assert(sizeof(out) == sizeof(EntryOut) + sizeof(OpenOut));
  Status chosen = choose_mode(created->open, request.flags, file, out.open);
  if (!chosen) {
    co_await file_system_.release(file.handle);
    file_system_.forget(file.inode, 1);
    reply_error(message, chosen.error());
    co_return;
  }
  out.open.handle = handles_.add(file);
  if (reply(message, bytes_of(out))) co_return;
  handles_.remove(out.open.handle);
  InodeId inode = file.inode;
  co_await close_file(std::move(file));
  file_system_.forget(inode, 1);
}

Task<void> Dispatcher::read(Message& message) {
  auto file = file_of(message);
  if (!file) co_return;
  const Request& request = message.request;
  Context context = context_of(message);
  bool fits_small = request.size <= kSmallReadMax;
  uint64_t memory = fits_small ? request.size : pool_.bytes_each();
  auto permit = co_await read_budget_.acquire(memory, context);
  if (!permit) {
    reply_error(message, permit.error());
    co_return;
  }
  Buffer small;
  BufferPool::Lease large;
  ByteSpan into;
  if (fits_small) {
    small = Buffer(request.size);
    into = small.span();
  } else {
    large = pool_.get();
    into = large.span().first(std::min<size_t>(request.size, large.span().size()));
  }
  Lent lent;
  auto got = co_await file_system_.read_or_lend(file->handle, request.offset, into, lent, context);
  if (!got) {
    reply_error(message, got.error());
    co_return;
  }
  SHOAL_ASSERT(*got <= into.size());
  metrics_.read_bytes.add(*got);
  if (lent.parts().empty()) {
    reply(message, into.first(*got));
    co_return;
  }
  std::vector<ConstByteSpan> parts;
  for (const Lent::Part& part : lent.parts()) parts.push_back(part.bytes);
  send_reply(message.descriptor(), message.request.unique, parts);
}

// What the kernel asks for with HANDLE_KILLPRIV_V2: set-user-id and, with group execute,
// set-group-id go when somebody without the privilege changes the file.
Task<Status> Dispatcher::drop_privileges(InodeId inode, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Entry entry, co_await file_system_.attributes(inode, context));
  uint32_t mode = entry.attributes.mode & kPermissionBits;
  uint32_t kept = mode & ~static_cast<uint32_t>(S_ISUID);
  if (mode & S_IXGRP) kept &= ~static_cast<uint32_t>(S_ISGID);
  if (kept == mode || !S_ISREG(entry.attributes.mode)) co_return Status();
  SetAttributes change;
  change.mode = kept;
  SHOAL_CO_RETURN_IF_ERROR(co_await file_system_.set_attributes(inode, change, Caller{}, context));
  co_return Status();
}

Task<void> Dispatcher::write(Message& message) {
  auto file = file_of(message);
  if (!file) co_return;
  const Request& request = message.request;
  Context context = context_of(message);
  if ((request.flags & kWriteKillSuidGid) && handles_.take_privileges(request.handle)) {
    Status dropped = co_await drop_privileges(file->inode, context);
    if (!dropped) {
      handles_.keep_privileges(file->inode);
      reply_error(message, dropped.error());
      co_return;
    }
  }
  bool answered = false;
  auto answer = [&](size_t wrote) {
    SHOAL_ASSERT(wrote <= request.payload.size());
    answered = true;
    metrics_.written_bytes.add(wrote);
    WriteOut out{static_cast<uint32_t>(wrote), 0};
    reply(message, bytes_of(out));
  };
  auto wrote = co_await file_system_.write(
      file->handle, request.offset, request.payload, [&] { answer(request.payload.size()); },
      context);
  if (answered) co_return;
  if (wrote) {
    answer(*wrote);
  } else {
    reply_error(message, wrote.error());
  }
}

Task<void> Dispatcher::flush(Message& message) {
  auto file = file_of(message);
  if (!file) co_return;
  Status status = co_await file_system_.flush(file->handle, context_of(message));
  reply_status(message, status);
}

Task<void> Dispatcher::sync(Message& message) {
  auto file = file_of(message);
  if (!file) co_return;
  bool data_only = (message.request.flags & kFsyncDataOnly) != 0;
  Status status = co_await file_system_.sync(file->handle, data_only, context_of(message));
  reply_status(message, status);
}

Task<void> Dispatcher::release(Message& message) {
  auto file = handles_.remove(message.request.handle);
  if (!file) {
    reply_errno(message, EBADF);
    co_return;
  }
  co_await close_file(std::move(*file));
  reply(message);
}

Task<void> Dispatcher::allocate(Message& message) {
  auto file = file_of(message);
  if (!file) co_return;
  const Request& request = message.request;
  Status status = co_await file_system_.allocate(
      file->handle, request.mode, Range{request.offset, request.length}, context_of(message));
  reply_status(message, status);
}

Task<void> Dispatcher::seek(Message& message) {
  auto file = file_of(message);
  if (!file) co_return;
  const Request& request = message.request;
  if (request.mode != SEEK_DATA && request.mode != SEEK_HOLE) {
    reply_errno(message, EINVAL);
    co_return;
  }
  Context context = context_of(message);
  auto entry = co_await file_system_.attributes(file->inode, context);
  if (!entry) {
    reply_error(message, entry.error());
    co_return;
  }
  uint64_t size = entry->attributes.size;
  bool data = request.mode == SEEK_DATA;
  if (request.offset >= size) {
    reply_errno(message, ENXIO);
    co_return;
  }
  auto found = co_await file_system_.seek(file->handle, request.offset, data, context);
  if (!found) {
    // No data from there on is ENXIO to lseek(2).
    if (found.error().code() == Code::kNoData) {
      reply_errno(message, ENXIO);
    } else {
      reply_error(message, found.error());
    }
    co_return;
  }
  if (data && *found >= size) {
    reply_errno(message, ENXIO);
    co_return;
  }
  LseekOut out{*found};
  reply(message, bytes_of(out));
}

}  // namespace shoal::fuse
