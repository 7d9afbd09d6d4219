#include "blob_stub/stub_worker.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "blob_stub/stub_connection.h"

namespace shoal::stub {

namespace {

constexpr int kEventsMax = 256;
constexpr int kAcceptsPerTurn = 64;

}  // namespace

SteadyTime steady_now() { return SteadyTime(std::chrono::steady_clock::now().time_since_epoch()); }
WallTime wall_now() { return std::chrono::system_clock::now(); }

BufferPool::BufferPool(uint64_t bytes) : free_max_(std::max(kFreeMax, bytes / kBufferBytes)) {
  free_.reserve(free_max_);
  for (uint64_t made = 0; made + kBufferBytes <= bytes; made += kBufferBytes) {
    auto buffer = std::make_unique<Buffer>(kBufferBytes);
    std::memset(buffer->data(), 0, buffer->size());
    free_.push_back(std::move(buffer));
  }
}

std::shared_ptr<Buffer> BufferPool::take() {
  std::unique_ptr<Buffer> buffer;
  {
    std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      buffer = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (!buffer) buffer = std::make_unique<Buffer>(kBufferBytes);
  SHOAL_ASSERT(buffer->size() == kBufferBytes);
  return std::shared_ptr<Buffer>(buffer.release(), [pool = shared_from_this()](Buffer* memory) {
    pool->give_back(std::unique_ptr<Buffer>(memory));
  });
}

void BufferPool::give_back(std::unique_ptr<Buffer> buffer) {
  std::lock_guard lock(mutex_);
  if (free_.size() < free_max_) free_.push_back(std::move(buffer));
}

Worker::Worker(Shared& shared, std::shared_ptr<BufferPool> pool, int listen_fd)
    : shared_(shared), pool_(std::move(pool)), listen_fd_(listen_fd) {
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  SHOAL_ASSERT(epoll_fd_ >= 0 && wake_fd_ >= 0, "out of descriptors at start");
  epoll_event event{};
  event.events = EPOLLIN | EPOLLEXCLUSIVE;
  event.data.ptr = &listen_fd_;
  SHOAL_ASSERT(epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, listen_fd_, &event) == 0);
  event.events = EPOLLIN;
  event.data.ptr = &wake_fd_;
  SHOAL_ASSERT(epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event) == 0);
}

Worker::~Worker() {
  stop();
  connections_.clear();
  ::close(epoll_fd_);
  ::close(wake_fd_);
}

void Worker::start() {
  thread_ = std::thread([this] { loop(); });
}

void Worker::stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  uint64_t one = 1;
  SHOAL_ASSERT(::write(wake_fd_, &one, sizeof one) == sizeof one);
  thread_.join();
}

void Worker::loop() {
  while (!stopping_.load()) {
    wait_and_dispatch();
    drop_dead();
  }
}

void Worker::set_timer(Connection& connection, SteadyTime when) {
  SHOAL_ASSERT(!connection.timer_set);
  connection.timer_at = when;
  connection.timer_set = true;
  timers_.emplace(when, &connection);
}

void Worker::run_again(Connection& connection) {
  if (connection.queued) return;
  connection.queued = true;
  ready_.push_back(&connection);
}

void Worker::pump(Connection& connection) {
  if (connection.dead || connection.pump()) return;
  connection.dead = true;
  dead_.push_back(&connection);
}

void Worker::drop_dead() {
  for (Connection* connection : dead_) {
    if (connection->timer_set) timers_.erase({connection->timer_at, connection});
    std::erase(ready_, connection);
    connections_.erase(connection);
    shared_.open.fetch_sub(1, std::memory_order_relaxed);
  }
  dead_.clear();
}

void Worker::accept_some() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;  // EAGAIN, or out of descriptors: the event comes again
    if (shared_.open.fetch_add(1, std::memory_order_relaxed) >= shared_.connections_max) {
      shared_.open.fetch_sub(1, std::memory_order_relaxed);
      ::close(fd);
      continue;
    }
    shared_.accepted.fetch_add(1, std::memory_order_relaxed);
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    auto connection = std::make_unique<Connection>(*this, fd);
    Connection* added = connection.get();
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.ptr = added;
    if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
      shared_.open.fetch_sub(1, std::memory_order_relaxed);
      continue;
    }
    connections_.emplace(added, std::move(connection));
    pump(*added);
  }
}

void Worker::wait_and_dispatch() {
  timespec limit{1, 0};
  if (!timers_.empty()) {
    auto left = std::max(Duration(0), timers_.begin()->first - steady_now());
    left = std::min(left, Duration(std::chrono::seconds(1)));
    limit = {left.count() / 1000000000, left.count() % 1000000000};
  }
  if (!ready_.empty()) limit = {0, 0};
  epoll_event events[kEventsMax];
  int count = epoll_pwait2(epoll_fd_, events, kEventsMax, &limit, nullptr);
  SHOAL_ASSERT(count >= 0 || errno == EINTR, "epoll is broken");
  for (int i = 0; i < count; ++i) {
    void* who = events[i].data.ptr;
    if (who == &listen_fd_) {
      accept_some();
    } else if (who == &wake_fd_) {
      return;  // only stop() wakes
    } else {
      auto* connection = static_cast<Connection*>(who);
      connection->on_event(events[i].events);
      pump(*connection);
    }
  }
  SteadyTime now = steady_now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    Connection* connection = timers_.begin()->second;
    timers_.erase(timers_.begin());
    connection->timer_set = false;
    connection->on_timer();
    pump(*connection);
  }
  std::vector<Connection*> again;
  again.swap(ready_);
  for (Connection* connection : again) {
    connection->queued = false;
    pump(*connection);
  }
}

}  // namespace shoal::stub
