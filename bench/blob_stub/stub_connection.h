// One connection of the stub: reads a request, waits as the fault model says, answers; then the
// next one. Belongs to its worker's thread.
#pragma once

#include <sys/epoll.h>
#include <sys/uio.h>

#include "blob_stub/stub_worker.h"

namespace shoal::stub {

class Connection {
 public:
  Connection(Worker& worker, int fd);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const { return fd_; }
  // Goes on until it has to wait. False: it is over, destroy it.
  bool pump();
  void on_timer() { waiting_ = false; }
  void on_event(uint32_t events) {
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) readable_ = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) writable_ = true;
  }

  SteadyTime timer_at{};
  bool timer_set = false;
  bool queued = false;  // in the worker's ready list
  bool dead = false;

 private:
  enum class State { kHead, kBody, kDecide, kExecute, kReply, kStalled };
  enum class Step { kGoOn, kWait, kEnd };
  Step read_head();
  Step read_body();
  Step decide();
  Step execute();
  Step receive(std::byte* into, size_t room, size_t& count);
  Step write_reply();
  Step reply_done();
  Step refuse(int status, std::string_view message);
  Step reset();
  void wait_until(SteadyTime when);
  Step take_head(size_t head_bytes);
  void begin_reply(BlobReply reply);
  SteadyTime pace(uint64_t bytes, bool in);
  size_t gather(iovec* vectors, size_t bytes_max, size_t& total) const;
  Step stalled();

  Worker& worker_;
  int fd_;
  const uint64_t client_;  // stands for the address at the other end
  State state_ = State::kHead;
  bool readable_ = true;
  bool writable_ = true;
  bool waiting_ = false;  // for the timer
  size_t turn_bytes_ = 0;

  std::string input_;  // received and not yet used
  size_t scanned_ = 0;
  RequestHead head_;
  std::shared_ptr<Buffer> filling_;  // shared with the content once it is full
  size_t filled_ = 0;
  uint64_t body_left_ = 0;
  bool low_water_ = false;
  bool paced_in_ = false;
  bool paced_out_ = false;
  Pacer pacer_;  // this connection's bandwidth, both directions

  BlobFate fate_;
  BlobReply reply_;
  std::string reply_head_;
  uint64_t reply_total_ = 0;  // head and body, as far as it will be sent
  uint64_t sent_ = 0;
};

}  // namespace shoal::stub
