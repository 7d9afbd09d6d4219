// The mount's half on the shard: turns requests into FileSystem calls, each in a coroutine of its
// own, and sends the answers. Everything here runs on the shard's thread; the session's threads
// hand requests over as Messages.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "async/gate.h"
#include "async/sync.h"
#include "base/bytes.h"
#include "mount/backing_table.h"
#include "mount/buffer_pool.h"
#include "mount/channel.h"
#include "mount/handle_table.h"
#include "mount/request.h"
#include "node/file_system.h"
#include "observe/log.h"

namespace shoal::fuse {

class Dispatcher;

// A request on its way, with the memory that it points into. Made by a thread of the session with
// new, handed over with post_remote(), from then on owned by the dispatcher.
class Message final : public Runnable {
 public:
  Message(Dispatcher& dispatcher, int descriptor)
      : dispatcher_(dispatcher), descriptor_(descriptor) {}
  ~Message();

  void run() noexcept override;

  int descriptor() const { return descriptor_; }
  Cancel& cancel() { return cancel_; }

  Request request;
  // One of them holds the bytes.
  Buffer bytes;
  BufferPool::Lease lease;
  // Of the write budget; given back at the end.
  Budget* budget = nullptr;
  uint64_t budget_bytes = 0;

 private:
  Dispatcher& dispatcher_;
  const int descriptor_;
  Cancel cancel_;
};

struct DispatcherOptions {
  int device = -1;  // borrowed
  Duration request_timeout{std::chrono::minutes(5)};
  uint64_t read_bytes_max = 64 * kMiB;  // in answers being put together
  bool can_passthrough = false;
};

class Dispatcher final : private Timer {
 public:
  // Everything referred to outlives it. Any thread; the rest is for the shard's.
  Dispatcher(Executor& executor, FileSystem& file_system, const Log& log, Metrics& metrics,
             BufferPool& pool, HandleTable& handles, DispatcherOptions options);
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // Owns the message.
  void accept(std::unique_ptr<Message> message);
  // No more messages may come. Waits for the requests under way, cancels those that are not done
  // within `grace`, then closes every file that the kernel did not.
  Task<void> finish(Duration grace);
  // Any thread.
  size_t mapped_files() const { return mapped_count_.load(std::memory_order_relaxed); }
  bool can_passthrough() const { return can_passthrough_.load(std::memory_order_relaxed); }

 private:
  void run() noexcept override;  // the timer: gives idle memory back

  Task<void> handle(std::unique_ptr<Message> message);
  Task<void> serve(Message& message);
  Task<void> serve_tree(Message& message);
  Task<void> serve_file(Message& message);

  // Names and inodes (operations_tree.cc).
  Task<void> lookup(Message& message);
  Task<void> get_attributes(Message& message);
  Task<void> set_attributes(Message& message);
  Task<void> read_link(Message& message);
  Task<void> make(Message& message);  // MKDIR, SYMLINK
  Task<void> make_node(Message& message);
  Task<void> remove(Message& message);  // UNLINK, RMDIR
  Task<void> rename(Message& message);
  Task<void> set_xattr(Message& message);
  Task<void> get_xattr(Message& message);
  Task<void> list_xattrs(Message& message);
  Task<void> remove_xattr(Message& message);
  Task<void> stat_file_system(Message& message);
  Task<void> open_directory(Message& message);
  Task<void> read_directory(Message& message);
  Task<void> release_directory(Message& message);

  // Open files (operations_file.cc).
  Task<void> open(Message& message);
  Task<void> create(Message& message);
  Task<void> read(Message& message);
  Task<void> write(Message& message);
  Task<void> flush(Message& message);
  Task<void> sync(Message& message);
  Task<void> release(Message& message);
  Task<void> allocate(Message& message);
  Task<void> seek(Message& message);
  Status choose_mode(const OpenResult& opened, uint32_t flags, OpenFile& file, OpenOut& out);
  Task<Status> drop_privileges(InodeId inode, Context context);
  // Takes the file out of the books and closes it; later if the kernel still maps it.
  Task<void> close_file(OpenFile file);
  Task<void> watch_mapped();
  bool is_mapped(InodeId inode) const;

  // The open file a request names; answers EBADF by itself if there is none.
  std::optional<OpenFile> file_of(Message& message);
  Context context_of(Message& message) const;
  Caller caller_of(const Message& message) const;

  bool reply(Message& message, ConstByteSpan first = {}, ConstByteSpan second = {});
  void reply_errno(Message& message, int error);
  void reply_error(Message& message, const Error& error);
  void reply_status(Message& message, const Status& status);
  // An entry counts one look-up, which is given back if the kernel does not take the answer.
  void reply_entry(Message& message, const Result<Entry>& entry);
  // A value of an extended attribute, after the rules of getxattr(2) for short buffers.
  void reply_value(Message& message, std::string_view value);

  void interrupt(uint64_t target);
  void interrupted(Message& message);
  // The kernel tells a request's first signal only.
  Task<void> watch_interrupted();
  bool take_early_interrupt(uint64_t unique);
  void keep_trimming();

  Executor& executor_;
  FileSystem& file_system_;
  const Log& log_;
  Metrics& metrics_;
  BufferPool& pool_;
  HandleTable& handles_;
  const DispatcherOptions options_;
  // Relaxed: written on the shard, read elsewhere for display only.
  std::atomic<bool> can_passthrough_;
  BackingTable backings_;
  // Opens that the kernel does not read by itself, per inode: while there are any, the kernel may
  // refuse passthrough of the inode (a shared mapping of one makes it), so we do not offer it.
  std::unordered_map<InodeId, uint64_t> plain_opens_;

  // Closed by the kernel, but still mapped: their handles stay open in the FileSystem, so that it
  // keeps the bytes in place.
  struct Mapped {
    OpenFile file;
    Descriptor descriptor;
  };
  std::vector<Mapped> mapped_;
  std::atomic<size_t> mapped_count_{0};
  bool watching_ = false;
  Cancel stop_watching_;

  Gate gate_;
  Gate watch_gate_;
  Semaphore read_budget_;
  std::unordered_map<uint64_t, Message*> in_flight_;
  // Interrupts that overtook their requests. Ids never come again, so stale ones do no harm.
  std::array<uint64_t, 64> early_interrupts_{};
  size_t early_next_ = 0;
  std::vector<uint64_t> interrupted_;  // that go on for now
  bool watching_interrupted_ = false;

  SteadyTime log_window_{};
  uint64_t logged_in_window_ = 0;
};

}  // namespace shoal::fuse
