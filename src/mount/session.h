// FuseSession: a FileSystem attached to a directory, served by threads of its own. This is the
// outer edge: start() and stop() block and are called by main (never by the shard), the threads
// read requests and answer what they can by themselves, everything else goes to the FileSystem on
// the shard. When the process dies the kernel ends all requests with ENOTCONN.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "mount/dispatcher.h"
#include "mount/mount_point.h"
#include "mount/negotiate.h"
#include "world/executor.h"

namespace shoal {

struct MountOptions {
  std::string mountpoint;
  std::string source = "shoal";  // what mount(8) and df(1) show; no secrets
  bool read_only = false;
  bool allow_other = true;  // tried as root; an ordinary user needs user_allow_other
  bool nonempty = false;
  bool passthrough = true;                             // where the kernel offers it
  unsigned threads = 0;                                // 0: one per core, at most 8
  Duration request_timeout = std::chrono::minutes(5);  // then EIO
  Duration stop_grace = std::chrono::seconds(30);      // for requests under way when stopping
  uint64_t write_bytes_max = 64 * kMiB;                // of write requests in memory
  uint64_t read_bytes_max = 64 * kMiB;                 // of answers being put together
  // The kernel ended the mount (unmounted by hand, or aborted). Called once, by a thread of the
  // session, not after stop() began; it must not call stop() itself.
  std::function<void()> on_end;
};

class FuseSession {
 public:
  // Mounts and serves. The executor runs on another thread, already; everything referred to
  // outlives the session.
  static Result<std::unique_ptr<FuseSession>> start(Executor& executor, FileSystem& file_system,
                                                    const Log& log, Registry& registry,
                                                    MountOptions options);
  ~FuseSession();
  FuseSession(const FuseSession&) = delete;
  FuseSession& operator=(const FuseSession&) = delete;

  // Unmounts (lazily if files are open), lets the requests under way end, closes every file in the
  // FileSystem. The executor must still run. Idempotent.
  void stop();
  // Whether the kernel has ended the mount.
  bool ended() const { return ended_.load(std::memory_order_acquire); }

  const std::string& mountpoint() const { return attached_.mountpoint; }
  // Files that were closed but are still mapped; each keeps its handle in the FileSystem.
  size_t mapped_files() const { return dispatcher_ ? dispatcher_->mapped_files() : 0; }
  // "passthrough" or "direct".
  std::string mode() const;
  // "FUSE 7.45, passthrough, shared mappings, 2 threads": for status and the log.
  std::string describe() const;

 private:
  // One thread with its own descriptor of the connection.
  struct Worker {
    fuse::Descriptor device;
    std::thread thread;
    fuse::BufferPool::Lease buffer;
    std::atomic<bool> exited{false};
  };

  FuseSession(Executor& executor, const Log& log, Registry& registry, MountOptions options);
  Status introduce();
  Status start_workers();
  void set_read_ahead();
  fuse::Descriptor clone_device();
  void detach_quietly();

  void work(Worker& worker);
  // False: the connection is gone or we are stopping.
  bool take(Worker& worker);
  void handle(Worker& worker, ConstByteSpan message);
  bool read_fast(Worker& worker, const fuse::Request& request);
  void hand_over(Worker& worker, ConstByteSpan message, const fuse::Request& request);
  void note_end();
  void join_workers();

  Executor& executor_;
  const Log& log_;
  const MountOptions options_;
  fuse::Metrics metrics_;
  fuse::Attached attached_;
  fuse::Negotiated negotiated_;
  uint32_t device_major_ = 0;
  uint32_t device_minor_ = 0;
  fuse::BufferPool pool_;
  fuse::Budget write_budget_;
  fuse::HandleTable handles_;
  std::unique_ptr<fuse::Dispatcher> dispatcher_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};
  bool stopped_ = false;
  std::mutex exit_mutex_;
  std::condition_variable exit_changed_;
};

namespace fuse {
// `shoal unmount`: ends the mount at a directory; the daemon behind it notices and stops.
inline Status unmount(const std::string& mountpoint, bool lazy) { return detach(mountpoint, lazy); }
}  // namespace fuse

}  // namespace shoal
