#include "world_linux/network_steps.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace shoal {

namespace {

// The kernel gathers so much before it wakes us for a payload; measured: 60-70% less CPU.
constexpr uint64_t kLowWaterMax = 512 * kKiB;
// Below it a wake-up per arrival costs less than setting the mark.
constexpr uint64_t kLowWaterMin = 32 * kKiB;
// Moved by one kernel operation, at most; and how much of it is copied while it is submitted.
constexpr uint64_t kTransferMax = 8 * kMiB;
constexpr uint64_t kCopiedAtOnce = kMiB;
// Of a file, in one go: about 0.4 ms.
constexpr uint64_t kFileSlice = kMiB;
// Brought into memory ahead of a slice that was not there.
constexpr uint64_t kReadAhead = 4 * kMiB;
constexpr unsigned kNumberOfCachestat = 451;  // of the system call, the same on every machine

struct CachestatRange {
  uint64_t offset;
  uint64_t length;
};
struct Cachestat {
  uint64_t cached;
  uint64_t dirty;
  uint64_t writeback;
  uint64_t evicted;
  uint64_t recently_evicted;
};

// False when the page is still being read from the disk, which counting does not tell.
bool is_read(int file, uint64_t offset) {
  std::byte byte{};
  iovec into{&byte, 1};
  ssize_t count = preadv2(file, &into, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  return count == 1 || (count < 0 && errno == EOPNOTSUPP);
}

// Whether every page of the range is in memory. Counting pages costs little whatever the length;
// disks read ahead in order, so the last page stands for all as to being read. Before Linux 6.5:
// no, and helpers do all the work.
bool is_resident(int file, uint64_t offset, uint64_t length) {
  static const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  CachestatRange range{offset, length};
  Cachestat found{};
  if (syscall(kNumberOfCachestat, file, &range, &found, 0) != 0) return false;
  uint64_t pages = (offset + length - 1) / page - offset / page + 1;
  return found.cached >= pages && is_read(file, offset + length - 1);
}

// Bytes sent, 0 at the end of the file, or -errno.
int64_t send_file_slice(int socket, int file, uint64_t offset, uint64_t length) {
  off_t at = static_cast<off_t>(offset);
  ssize_t count;
  do {
    count = sendfile(socket, file, &at, length);
  } while (count < 0 && errno == EINTR);
  return count >= 0 ? count : -errno;
}

}  // namespace

LinuxNetwork::Step::Step(LinuxNetwork& network, NetOp& op, Socket* socket, Way way)
    : network_(network), op_(&op), way_(way) {
  op.transport = this;
  following = network.steps_;
  if (following != nullptr) following->previous_ = this;
  network.steps_ = this;
  if (socket != nullptr) take_socket(socket);
}

LinuxNetwork::Step::~Step() {
  if (following != nullptr) following->previous_ = previous_;
  (previous_ != nullptr ? previous_->following : network_.steps_) = following;
}

void LinuxNetwork::Step::take_socket(Socket* socket) {
  SHOAL_ASSERT(socket_ == nullptr);
  Step*& place = way_ == Way::kIn ? socket->in : socket->out;
  SHOAL_ASSERT(place == nullptr, "a stream does one thing at a time in each direction");
  place = this;
  socket_ = socket;
}

void LinuxNetwork::Step::drop_socket() {
  Socket* socket = std::exchange(socket_, nullptr);
  if (socket == nullptr) return;
  (way_ == Way::kIn ? socket->in : socket->out) = nullptr;
  network_.forget_if_done(*socket);
}

void LinuxNetwork::Step::finish(int64_t result) {
  drop_socket();
  network_.end(*std::exchange(op_, nullptr), result);
  settle();
}

void LinuxNetwork::Step::settle() {
  if (op_ != nullptr || in_ring_ || elsewhere_ || cancellation_.under_way) return;
  delete this;
}

void LinuxNetwork::Step::complete(int32_t result) noexcept {
  in_ring_ = false;
  advance(result);
}

void LinuxNetwork::Step::cancel() {
  if (cancelled_ || op_ == nullptr) return;
  cancelled_ = true;
  if (!in_ring_) return on_cancel();
  cancellation_.under_way = true;
  network_.ring_.start(cancellation_);
}

void LinuxNetwork::Step::Cancellation::prepare(io_uring_sqe& entry) noexcept {
  // The ring marks an entry with its RingOp.
  io_uring_prep_cancel(&entry, static_cast<RingOp*>(&step_), 0);
}

void LinuxNetwork::Step::Cancellation::complete(int32_t) noexcept {
  // Whatever the kernel says (-ENOENT: the operation has ended already), the operation itself ends.
  under_way = false;
  step_.settle();
}

void LinuxNetwork::AcceptStep::begin() { start_on_ring(); }

void LinuxNetwork::AcceptStep::prepare(io_uring_sqe& entry) noexcept {
  peer_.length = sizeof peer_.storage;
  io_uring_prep_accept(&entry, descriptor(), peer_.get(), &peer_.length,
                       SOCK_CLOEXEC | SOCK_NONBLOCK);
}

void LinuxNetwork::AcceptStep::advance(int64_t result) {
  // A peer that gave up before its turn is no error of the listener.
  bool again = result == -ECONNABORTED || result == -EINTR || result == -EAGAIN;
  if (again && !cancelled_) return start_on_ring();
  if (result < 0) return finish(cancelled_ ? -ECANCELED : result);
  Socket* stream = network_.add_socket(static_cast<int>(result));
  if (stream == nullptr) return finish(-EMFILE);
  op_->address = to_text(peer_);
  finish(static_cast<int64_t>(stream->id));
}

void LinuxNetwork::ReceiveStep::begin() {
  uint64_t missing = op_->minimum - done_;
  int mark = missing < kLowWaterMin ? 1 : static_cast<int>(std::min(missing, kLowWaterMax));
  if (socket_->low_water != mark) {
    // Fails only where there is no such option; then it merely wakes us more often.
    (void)setsockopt(descriptor(), SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark);
    socket_->low_water = mark;
  }
  bytes = std::min(op_->length - done_, kCopiedAtOnce);
  start_on_ring();
}

void LinuxNetwork::ReceiveStep::prepare(io_uring_sqe& entry) noexcept {
  io_uring_prep_recv(&entry, descriptor(), op_->data + done_,
                     std::min(op_->length - done_, kTransferMax), 0);
  // Else the kernel would hand over what little is there, and the mark would be for nothing.
  if (socket_->low_water > 1 && network_.poll_first_) entry.ioprio |= IORING_RECVSEND_POLL_FIRST;
}

void LinuxNetwork::ReceiveStep::advance(int64_t result) {
  if (result == -EINVAL && network_.poll_first_) {  // before Linux 5.19
    network_.poll_first_ = false;
    result = -EAGAIN;
  }
  if (result == -EINTR || result == -EAGAIN) {
    return cancelled_ ? finish(-ECANCELED) : begin();
  }
  if (result < 0) return finish(result);
  SHOAL_ASSERT(static_cast<uint64_t>(result) <= op_->length - done_);
  done_ += static_cast<uint64_t>(result);
  if (result == 0 || done_ >= op_->minimum) return finish(static_cast<int64_t>(done_));
  if (cancelled_) return finish(-ECANCELED);
  begin();
}

void LinuxNetwork::SendStep::begin() {
  size_t count = 0;
  for (const ConstByteSpan& part : op_->parts) {
    if (part.empty()) continue;
    // The kernel's type is for both directions; nothing is written to the memory.
    parts_[count++] = {const_cast<std::byte*>(part.data()), part.size()};
    total_ += part.size();
  }
  if (total_ == 0) return finish(0);
  message_.msg_iov = parts_.data();
  message_.msg_iovlen = count;
  bytes = std::min(total_, kCopiedAtOnce);
  start_on_ring();
}

void LinuxNetwork::SendStep::prepare(io_uring_sqe& entry) noexcept {
  // With MSG_WAITALL the kernel goes on by itself when the socket's buffer was full.
  unsigned flags = MSG_NOSIGNAL | MSG_WAITALL | (op_->more ? MSG_MORE : 0);
  io_uring_prep_sendmsg(&entry, descriptor(), &message_, flags);
}

void LinuxNetwork::SendStep::advance(int64_t result) {
  if (result == -EINTR || result == -EAGAIN) {
    return cancelled_ ? finish(-ECANCELED) : start_on_ring();
  }
  if (result < 0) return finish(result);
  auto count = static_cast<uint64_t>(result);
  SHOAL_ASSERT(count <= total_ - done_, "the kernel sent more than it was asked to");
  done_ += count;
  if (done_ == total_) return finish(static_cast<int64_t>(total_));
  if (cancelled_) return finish(-ECANCELED);
  skip(count);
  start_on_ring();
}

void LinuxNetwork::SendStep::skip(uint64_t count) {
  while (count > 0) {
    iovec& part = *message_.msg_iov;
    if (count < part.iov_len) {
      part.iov_base = static_cast<std::byte*>(part.iov_base) + count;
      part.iov_len -= count;
      return;
    }
    count -= part.iov_len;
    ++message_.msg_iov;
    --message_.msg_iovlen;
  }
}

void LinuxNetwork::SendFileStep::begin() { send_slice(); }

void LinuxNetwork::SendFileStep::send_slice() {
  uint64_t offset = op_->offset + done_;
  uint64_t left = op_->length - done_;
  uint64_t slice = std::min(left, kFileSlice);
  int file = static_cast<int>(op_->file);
  // What follows a cold slice is being read ahead, and the shard does not wait for that.
  if (!cold_ && is_resident(file, offset, slice)) {
    return take(send_file_slice(descriptor(), file, offset, slice), slice);
  }
  cold_ = true;
  job_.home = &network_.executor_;
  job_.socket = descriptor();
  job_.file = file;
  job_.offset = offset;
  job_.length = slice;
  job_.follows = left - slice;
  job_.with_helper = elsewhere_ = true;
  network_.cold_slices_.submit(job_);
}

void LinuxNetwork::SendFileStep::Job::work() noexcept {
  uint64_t ahead = std::min(length + follows, kReadAhead);
  (void)posix_fadvise(file, static_cast<off_t>(offset), static_cast<off_t>(ahead),
                      POSIX_FADV_WILLNEED);
  result = send_file_slice(socket, file, offset, length);
}

void LinuxNetwork::SendFileStep::on_turn() {
  elsewhere_ = false;
  bool sent = std::exchange(job_.with_helper, false);
  if (sent) network_.cold_slices_.job_is_back();
  if (sent) return take(job_.result, job_.length);
  if (cancelled_) return finish(-ECANCELED);
  send_slice();
}

void LinuxNetwork::SendFileStep::take(int64_t result, uint64_t asked) {
  if (result < 0 && result != -EAGAIN) return finish(result);
  if (result == 0) return finish(-ENODATA);
  if (result > 0) {
    SHOAL_ASSERT(static_cast<uint64_t>(result) <= asked);
    done_ += static_cast<uint64_t>(result);
  }
  if (done_ == op_->length) return finish(static_cast<int64_t>(done_));
  if (cancelled_) return finish(-ECANCELED);
  // Less than asked: the socket's buffer is full (or the file ends, which the next slice tells).
  if (result < 0 || static_cast<uint64_t>(result) < asked) return start_on_ring();
  elsewhere_ = true;
  network_.executor_.post(job_);
}

void LinuxNetwork::SendFileStep::prepare(io_uring_sqe& entry) noexcept {
  io_uring_prep_poll_add(&entry, descriptor(), POLLOUT);
}

void LinuxNetwork::SendFileStep::advance(int64_t result) {
  if (cancelled_) return finish(-ECANCELED);
  if (result < 0 && result != -EINTR && result != -EAGAIN) return finish(result);
  send_slice();
}

LinuxNetwork::OpenStep::~OpenStep() { network_.executor_.stop_timer(timer_); }

void LinuxNetwork::OpenStep::begin() {
  if (!split_address(op_->address, job_.what)) return finish(-EINVAL);
  if (op_->kind == NetOp::Kind::kConnect && op_->deadline != kNever) {
    network_.executor_.start_timer(timer_, op_->deadline);
  }
  if (look_up(job_.what, true, job_.addresses) == 0) return use_addresses();
  job_.home = &network_.executor_;
  elsewhere_ = true;
  network_.lookups_.submit(job_);
}

void LinuxNetwork::OpenStep::on_addresses() {
  elsewhere_ = false;
  network_.lookups_.job_is_back();
  if (op_ == nullptr) return settle();  // it was given up meanwhile
  if (job_.result != 0) return finish(job_.result);
  use_addresses();
}

void LinuxNetwork::OpenStep::use_addresses() {
  if (op_->kind == NetOp::Kind::kListen) {
    return finish(network_.open_listener(*op_, job_.addresses));
  }
  try_next(-ENOENT);
}

void LinuxNetwork::OpenStep::try_next(int64_t error) {
  while (next_ < job_.addresses.size()) {
    int family = job_.addresses[next_].storage.ss_family;
    int made = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    error = made < 0 ? -errno : set_stream_options(made, network_.congestion_);
    if (error == 0) {
      Socket* stream = network_.add_socket(made);
      if (stream == nullptr) return finish(-EMFILE);
      take_socket(stream);
      return start_on_ring();
    }
    if (made >= 0) ::close(made);
    ++next_;
  }
  finish(error);
}

void LinuxNetwork::OpenStep::prepare(io_uring_sqe& entry) noexcept {
  const SocketAddress& address = job_.addresses[next_];
  io_uring_prep_connect(&entry, descriptor(), address.get(), address.length);
}

void LinuxNetwork::OpenStep::advance(int64_t result) {
  if (result == 0 || result == -EISCONN) return finish(static_cast<int64_t>(socket_->id));
  bool again = result == -EINTR || result == -EAGAIN || result == -EALREADY;
  if (again && !cancelled_) return start_on_ring();
  socket_->closed = true;
  drop_socket();
  if (late_) return finish(-ETIMEDOUT);
  if (cancelled_) return finish(-ECANCELED);
  ++next_;
  try_next(result);
}

void LinuxNetwork::OpenStep::on_cancel() { finish(late_ ? -ETIMEDOUT : -ECANCELED); }

void LinuxNetwork::OpenStep::DeadlineTimer::run() noexcept {
  if (step_.cancelled_ || step_.op_ == nullptr) return;
  step_.late_ = true;
  step_.cancel();
}

}  // namespace shoal
