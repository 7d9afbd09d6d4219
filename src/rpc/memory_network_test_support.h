// For tests and the fuzzer: a network inside one thread, with virtual time. Bytes go through
// bounded inboxes, can be changed on their way, and can stop flowing.
#pragma once

#include <cerrno>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "async/timer_queue.h"
#include "world/world.h"

namespace shoal {

// Virtual time, one thread.
class MemoryExecutor final : public Executor {
 public:
  SteadyTime now() const override { return now_; }
  WallTime wall_now() const override {
    return WallTime(std::chrono::seconds(1'800'000'000)) + now_.time_since_epoch();
  }
  void post(Runnable& item) override { queue_.push_back(&item); }
  void post_remote(Runnable& item) override { post(item); }
  bool on_thread() const override { return true; }
  void start_timer(Timer& timer, SteadyTime when) override { timers_.add(timer, when); }
  void stop_timer(Timer& timer) override { timers_.remove(timer); }

  // False: nothing is left to do, or only timers beyond `until`.
  bool step(SteadyTime until = kNever) {
    if (!queue_.empty()) {
      Runnable* item = queue_.front();
      queue_.pop_front();
      item->run();
      return true;
    }
    auto next = timers_.next();
    if (!next || *next > until) return false;
    now_ = std::max(now_, *next);
    timers_.take_due(now_)->run();
    return true;
  }

 private:
  SteadyTime now_ = SteadyTime(std::chrono::seconds(1));
  std::deque<Runnable*> queue_;
  TimerQueue timers_;
};

class MemoryRandom final : public Random {
 public:
  uint64_t next() override {
    state_ += 0x9E3779B97F4A7C15ull;
    uint64_t mixed = (state_ ^ (state_ >> 30)) * 0xBF58476D1CE4E5B9ull;
    return mixed ^ (mixed >> 27);
  }

 private:
  uint64_t state_ = 0;
};

// No disk and no HTTP in these tests.
class NoDisk final : public Disk {
 public:
  explicit NoDisk(Executor& executor) : executor_(executor) {}
  void submit(DiskOp& op) override {
    op.result = -ENOSYS;
    executor_.post(op);
  }
  int native_descriptor(FileId) const override { return -1; }

 private:
  Executor& executor_;
};

class MemoryNetwork final : public Network {
 public:
  explicit MemoryNetwork(Executor& executor) : executor_(executor) {}

  size_t inbox_bytes_max = 64 * kKiB;
  // Sees bytes on their way into the inbox of a stream whose other end called connect()
  // (`to_server`: that has accepted).
  std::function<void(bool to_server, std::string& bytes)> tamper;
  // While set, no byte that would make the count of bytes towards callers exceed it is delivered.
  uint64_t to_callers_max = UINT64_MAX;
  uint64_t to_callers = 0;
  std::map<int32_t, std::string> files;  // for kSendFile
  // By the address that callers dialled.
  std::set<std::string> silent;  // nothing passes, either way; who dials it waits
  std::map<std::string, uint64_t> bytes_from;
  std::map<std::string, uint64_t> dialled;

  void start(NetOp& op) override {
    switch (op.kind) {
      case NetOp::Kind::kListen:
        return listen(op);
      case NetOp::Kind::kAccept:
        if (End* end = find(op.socket)) {
          end->receive = &op;
          return pump();
        }
        return finish(op, -EBADF);
      case NetOp::Kind::kConnect:
        return connect(op);
      case NetOp::Kind::kReceive:
        if (End* end = find(op.socket)) {
          SHOAL_ASSERT(end->receive == nullptr && op.minimum >= 1 && op.minimum <= op.length);
          end->receive = &op;
          end->received = 0;
          return pump();
        }
        return finish(op, -EBADF);
      case NetOp::Kind::kSend:
      case NetOp::Kind::kSendFile:
        if (End* end = find(op.socket)) return start_send(*end, op);
        return finish(op, -EBADF);
    }
  }
  void cancel(NetOp& op) override {
    if (std::erase(waiting_, &op) > 0) return finish(op, -ECANCELED);
    for (auto& [id, end] : ends_) {
      if (end.receive == &op) {
        // What came is not lost.
        int64_t result = end.received > 0 ? static_cast<int64_t>(end.received) : -ECANCELED;
        end.receive = nullptr;
        return finish(op, result);
      }
      if (end.send == &op) {
        end.send = nullptr;
        return finish(op, -ECANCELED);
      }
    }
  }
  void close(SocketId socket) override {
    auto found = ends_.find(static_cast<int32_t>(socket));
    if (found == ends_.end()) return;
    End end = std::move(found->second);
    ends_.erase(found);
    if (end.receive != nullptr) finish(*end.receive, -ECANCELED);
    if (end.send != nullptr) finish(*end.send, -ECANCELED);
    for (int32_t waiting : end.arrivals) close(static_cast<SocketId>(waiting));
    if (End* other = find(end.other)) other->ended = true;
    pump();
  }
  Result<std::vector<NetworkInterface>> interfaces() override {
    return std::vector<NetworkInterface>{{"lo", "127.0.0.1", true}};
  }
  size_t open_ends() const { return ends_.size(); }
  void resume() { pump(); }
  // For who counts the memory of streams: gives back what the network itself keeps.
  void release_idle_memory() {
    for (auto& [id, end] : ends_) {
      end.inbox.shrink_to_fit();
      end.outgoing.shrink_to_fit();
    }
  }

 private:
  struct End {
    std::string address;  // listeners: where; else the peer's
    std::string dialled;
    bool listener = false;
    bool accepted = false;
    std::deque<int32_t> arrivals;
    SocketId other = SocketId::kNone;
    std::string inbox;
    bool ended = false;
    NetOp* receive = nullptr;  // or accept
    uint64_t received = 0;
    NetOp* send = nullptr;
    std::string outgoing;  // what is left of it
    uint64_t sending = 0;
  };

  End* find(SocketId socket) {
    auto found = ends_.find(static_cast<int32_t>(socket));
    return found == ends_.end() ? nullptr : &found->second;
  }
  void finish(NetOp& op, int64_t result) {
    op.result = result;
    executor_.post(op);
  }
  void listen(NetOp& op) {
    if (op.address.ends_with(":0")) {
      op.address = op.address.substr(0, op.address.size() - 1) + std::to_string(++port_);
    }
    for (auto& [id, end] : ends_) {
      if (end.listener && end.address == op.address) return finish(op, -EADDRINUSE);
    }
    End& end = ends_[++last_];
    end.listener = true;
    end.address = op.address;
    finish(op, last_);
  }
  void connect(NetOp& op) {
    ++dialled[op.address];
    if (silent.contains(op.address)) {
      waiting_.push_back(&op);
      return;
    }
    for (auto& [id, listener] : ends_) {
      if (!listener.listener || listener.address != op.address) continue;
      int32_t near = ++last_;
      int32_t far = ++last_;
      ends_[near].address = op.address;
      ends_[near].other = static_cast<SocketId>(far);
      ends_[far].address = "10.0.0.1:" + std::to_string(++port_);
      ends_[far].other = static_cast<SocketId>(near);
      ends_[far].dialled = ends_[near].dialled = op.address;
      ends_[far].accepted = true;
      listener.arrivals.push_back(far);
      finish(op, near);
      return pump();
    }
    finish(op, -ECONNREFUSED);
  }
  void start_send(End& end, NetOp& op) {
    SHOAL_ASSERT(end.send == nullptr);
    if (op.kind == NetOp::Kind::kSendFile) {
      const std::string& file = files[static_cast<int32_t>(op.file)];
      if (op.offset + op.length > file.size()) return finish(op, -ENODATA);
      end.outgoing = file.substr(op.offset, op.length);
    } else {
      end.outgoing.clear();
      for (ConstByteSpan part : op.parts) end.outgoing += as_text(part);
    }
    end.sending = end.outgoing.size();
    end.send = &op;
    pump();
  }
  void pump() {
    while (pump_once()) {
    }
  }
  bool pump_once() {
    for (auto& [id, end] : ends_) {
      if (end.send != nullptr && push(end)) return true;
      if (end.receive != nullptr && (end.listener ? take_arrival(end) : pull(end))) return true;
    }
    return false;
  }
  bool push(End& end) {
    End* other = find(end.other);
    if (other == nullptr || end.ended) {
      finish(*std::exchange(end.send, nullptr), -EPIPE);
      return true;
    }
    if (silent.contains(end.dialled)) return false;
    size_t room = inbox_bytes_max - std::min(inbox_bytes_max, other->inbox.size());
    size_t length = std::min(room, end.outgoing.size());
    if (end.accepted) {
      length = std::min<size_t>(length, to_callers_max - std::min(to_callers_max, to_callers));
      to_callers += length;
      bytes_from[end.dialled] += length;
    }
    if (length > 0) {
      std::string bytes = end.outgoing.substr(0, length);
      end.outgoing.erase(0, length);
      if (tamper) tamper(!end.accepted, bytes);
      other->inbox += bytes;
    }
    if (end.outgoing.empty()) {
      finish(*std::exchange(end.send, nullptr), static_cast<int64_t>(end.sending));
      return true;
    }
    return length > 0;
  }
  bool pull(End& end) {
    NetOp& op = *end.receive;
    size_t length = std::min<size_t>(end.inbox.size(), op.length - end.received);
    std::memcpy(op.data + end.received, end.inbox.data(), length);
    end.inbox.erase(0, length);
    end.received += length;
    bool over = end.inbox.empty() && end.ended;
    if (end.received < op.minimum && !over) return length > 0;
    end.receive = nullptr;
    finish(op, static_cast<int64_t>(end.received));
    return true;
  }
  bool take_arrival(End& end) {
    if (end.arrivals.empty()) return false;
    int32_t id = end.arrivals.front();
    end.arrivals.pop_front();
    NetOp& op = *std::exchange(end.receive, nullptr);
    op.address = ends_[id].address;
    finish(op, id);
    return true;
  }

  Executor& executor_;
  std::vector<NetOp*> waiting_;  // connects that nobody answers
  std::map<int32_t, End> ends_;
  int32_t last_ = 0;
  int port_ = 40000;
};

}  // namespace shoal
