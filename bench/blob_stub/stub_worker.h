// One thread of the stub: an epoll loop over the connections that it accepted.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "blob_stub/blob_stub.h"
#include "blob_stub/stub_http.h"
#include "world_sim/blob_faults.h"
#include "world_sim/blob_service.h"

namespace shoal::stub {

// What the threads share. The mutex is held for look-ups and bookkeeping, never across I/O.
struct Shared {
  Shared(BlobServiceConfig config, BlobFaults faults, uint64_t seed)
      : service(std::move(config)), faults(std::move(faults), seed) {}
  std::mutex mutex;
  BlobService service;    // guarded by mutex
  BlobFaultModel faults;  // guarded by mutex
  // Statistics; relaxed, nothing is ordered by them.
  std::atomic<uint64_t> accepted{0};
  std::atomic<uint32_t> open{0};
  uint32_t connections_max = 0;
};

// Memory for bodies, reused: first touch of fresh pages is several times slower than the copy.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  static constexpr size_t kBufferBytes = kMiB;
  explicit BufferPool(uint64_t bytes);  // made and touched now; as many stay for reuse
  // Of kBufferBytes. Shared because contents outlive the request; returns here at the end.
  std::shared_ptr<Buffer> take();

 private:
  static constexpr size_t kFreeMax = 512;  // kept at least
  void give_back(std::unique_ptr<Buffer> buffer);
  const size_t free_max_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Buffer>> free_;
};

// /__stub/...: faults, statistics, set-up.
BlobReply handle_control(Shared& shared, const BlobRequest& request);
std::string stats_json(Shared& shared);

SteadyTime steady_now();
WallTime wall_now();

class Connection;

class Worker {
 public:
  Worker(Shared& shared, std::shared_ptr<BufferPool> pool, int listen_fd);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void start();
  void stop();  // joins

  // For its connections, on its thread.
  void set_timer(Connection& connection, SteadyTime when);
  void run_again(Connection& connection);
  Shared& shared() { return shared_; }
  BufferPool& pool() { return *pool_; }

 private:
  void loop();
  void pump(Connection& connection);
  void accept_some();
  void wait_and_dispatch();
  void drop_dead();

  Shared& shared_;
  std::shared_ptr<BufferPool> pool_;  // shared with the contents that were stored
  int listen_fd_;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  std::atomic<bool> stopping_{false};
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  std::set<std::pair<SteadyTime, Connection*>> timers_;
  std::vector<Connection*> ready_;  // have more to do without waiting for an event
  std::vector<Connection*> dead_;
  std::thread thread_;
};

}  // namespace shoal::stub
