#include "blob_stub/stub_connection.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace shoal::stub {

namespace {

constexpr size_t kReadBytes = 16 * kKiB;   // one read while a head is awaited
constexpr size_t kTurnBytes = 4 * kMiB;    // before other connections get their turn
constexpr size_t kPacedBytes = 64 * kKiB;  // one write under a bandwidth limit
constexpr size_t kVectors = 64;
constexpr int kLowWater = 256 * 1024;  // fewer wake-ups while a large body arrives
constexpr uint64_t kLargeBodyBytes = kMiB;
constexpr auto kSoonEnough = std::chrono::microseconds(50);

void set_low_water(int fd, int bytes) {
  // Best effort: without it there are more wake-ups, nothing else.
  (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

// 0 for what is not IPv4.
uint64_t address_of_peer(int fd) {
  sockaddr_in address{};
  socklen_t length = sizeof address;
  bool known = getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  return known && address.sin_family == AF_INET ? ntohl(address.sin_addr.s_addr) : 0;
}

BlobReply plain_error(int status, std::string_view message) {
  BlobReply reply;
  reply.status = status;
  reply.body = BlobContent::copy_of(message);
  reply.headers.emplace_back("content-length", fmt::format("{}", message.size()));
  return reply;
}

}  // namespace

Connection::Connection(Worker& worker, int fd)
    : worker_(worker), fd_(fd), client_(address_of_peer(fd)) {}

Connection::~Connection() { ::close(fd_); }

bool Connection::pump() {
  turn_bytes_ = 0;
  Step step = Step::kGoOn;
  while (step == Step::kGoOn) {
    if (waiting_) return true;
    if (turn_bytes_ >= kTurnBytes) {
      worker_.run_again(*this);
      return true;
    }
    switch (state_) {
      case State::kHead:
        step = read_head();
        break;
      case State::kBody:
        step = read_body();
        break;
      case State::kDecide:
        step = decide();
        break;
      case State::kExecute:
        step = execute();
        break;
      case State::kReply:
        step = write_reply();
        break;
      case State::kStalled:
        step = stalled();
        break;
    }
  }
  return step != Step::kEnd;
}

// Sets waiting_, which the loop in pump() sees.
void Connection::wait_until(SteadyTime when) {
  if (when <= steady_now() + kSoonEnough) return;
  waiting_ = true;
  worker_.set_timer(*this, when);
}

Connection::Step Connection::reset() {
  linger hard{1, 0};
  (void)setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  return Step::kEnd;
}

// Answers and closes: what follows in the stream cannot be understood.
Connection::Step Connection::refuse(int status, std::string_view message) {
  head_ = {};
  head_.close = true;
  fate_ = {};
  begin_reply(plain_error(status, message));
  return Step::kGoOn;
}

Connection::Step Connection::receive(std::byte* into, size_t room, size_t& count) {
  count = 0;
  if (!readable_) return Step::kWait;
  ssize_t got = ::recv(fd_, into, room, 0);
  if (got == 0) return Step::kEnd;
  if (got > 0) {
    count = static_cast<size_t>(got);
    turn_bytes_ += count;
    return Step::kGoOn;
  }
  if (errno == EINTR) return Step::kGoOn;
  if (errno != EAGAIN) return Step::kEnd;
  readable_ = false;
  return Step::kWait;
}

// Only the client can end this: whatever it sends is ignored until it hangs up.
Connection::Step Connection::stalled() {
  std::byte scratch[512];
  size_t count = 0;
  return receive(scratch, sizeof scratch, count);
}

Connection::Step Connection::read_head() {
  size_t end = input_.find("\r\n\r\n", scanned_);
  if (end != std::string::npos) return take_head(end + 4);
  scanned_ = input_.size() < 3 ? 0 : input_.size() - 3;
  if (input_.size() > kHeadBytesMax) return refuse(400, "the request's head is too long");
  std::byte piece[kReadBytes];
  size_t count = 0;
  Step step = receive(piece, sizeof piece, count);
  input_.append(as_text({piece, count}));
  return step;
}

Connection::Step Connection::take_head(size_t head_bytes) {
  auto parsed = parse_head(std::string_view(input_).substr(0, head_bytes));
  input_.erase(0, head_bytes);
  scanned_ = 0;
  if (!parsed) {
    Code code = parsed.error().code();
    int status = code == Code::kTooLarge ? 413 : code == Code::kNotSupported ? 411 : 400;
    return refuse(status, parsed.error().message());
  }
  head_ = std::move(*parsed);
  body_left_ = head_.body_bytes;
  {
    std::lock_guard lock(worker_.shared().mutex);
    const BlobFaultModel& faults = worker_.shared().faults;
    uint64_t own = faults.faults().connection_bytes_per_second;
    pacer_.set_rate(own);
    paced_in_ = own > 0 || faults.paces(true);
    paced_out_ = own > 0 || faults.paces(false);
  }
  state_ = State::kDecide;
  if (body_left_ == 0) return Step::kGoOn;
  state_ = State::kBody;
  if (head_.expects_continue) {
    constexpr std::string_view kGoAhead = "HTTP/1.1 100 Continue\r\n\r\n";
    if (::send(fd_, kGoAhead.data(), kGoAhead.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(kGoAhead.size())) {
      return Step::kEnd;
    }
  }
  if (body_left_ >= kLargeBodyBytes && !paced_in_) {
    set_low_water(fd_, kLowWater);
    low_water_ = true;
  }
  return Step::kGoOn;
}

Connection::Step Connection::read_body() {
  if (!filling_) {
    // Small bodies get memory of their own size, large ones pieces from the pool.
    filling_ = body_left_ >= BufferPool::kBufferBytes
                   ? worker_.pool().take()
                   : std::make_shared<Buffer>(static_cast<size_t>(body_left_));
    filled_ = 0;
  }
  size_t room = std::min<uint64_t>(filling_->size() - filled_, body_left_);
  SHOAL_ASSERT(room > 0);
  if (paced_in_) room = std::min(room, kPacedBytes);
  size_t count = std::min(room, input_.size());
  if (count > 0) {
    std::memcpy(filling_->data() + filled_, input_.data(), count);
    input_.erase(0, count);
  } else if (Step step = receive(filling_->data() + filled_, room, count); count == 0) {
    return step;
  }
  filled_ += count;
  body_left_ -= count;
  if (low_water_ && body_left_ < static_cast<uint64_t>(kLowWater)) {
    set_low_water(fd_, 1);
    low_water_ = false;
    readable_ = true;  // what stayed below the mark made no event
  }
  if (filled_ == filling_->size() || body_left_ == 0) {
    head_.request.body.append(BlobContent::of(std::move(filling_)).slice(0, filled_));
    filling_.reset();
  }
  if (body_left_ == 0) state_ = State::kDecide;
  if (paced_in_) wait_until(pace(count, true));
  return Step::kGoOn;
}

// Reserves bandwidth of the connection, the client and the account.
SteadyTime Connection::pace(uint64_t bytes, bool in) {
  SteadyTime now = steady_now();
  SteadyTime due = pacer_.reserve(now, bytes);
  std::lock_guard lock(worker_.shared().mutex);
  return std::max(due, worker_.shared().faults.reserve(in, client_, now, bytes));
}

Connection::Step Connection::decide() {
  SHOAL_ASSERT(head_.request.body.size() == head_.body_bytes);
  state_ = State::kExecute;
  fate_ = {};
  if (head_.request.target.starts_with("/__stub/")) return Step::kGoOn;
  {
    std::lock_guard lock(worker_.shared().mutex);
    fate_ =
        worker_.shared().faults.decide(head_.request.method, head_.request.target, steady_now());
  }
  if (fate_.fault == BlobFault::kResetBefore) return reset();
  if (fate_.first_byte > Duration(0)) wait_until(steady_now() + fate_.first_byte);
  return Step::kGoOn;
}

Connection::Step Connection::execute() {
  const BlobRequest& request = head_.request;
  if (request.target.starts_with("/__stub/")) {
    begin_reply(handle_control(worker_.shared(), request));
    return Step::kGoOn;
  }
  BlobReply reply;
  {
    std::lock_guard lock(worker_.shared().mutex);
    BlobService& service = worker_.shared().service;
    switch (fate_.fault) {
      case BlobFault::kBusy:
      case BlobFault::kServerError:
      case BlobFault::kExpiredToken:
        reply = service.refuse(request, fate_.fault, worker_.shared().faults.faults().retry_after,
                               wall_now());
        break;
      case BlobFault::kChangeEtag:
        service.touch_target(request, wall_now());
        [[fallthrough]];
      default:
        reply = service.handle(request, wall_now());
    }
  }
  if (fate_.fault == BlobFault::kLostReply) return reset();
  begin_reply(std::move(reply));
  return Step::kGoOn;
}

void Connection::begin_reply(BlobReply reply) {
  reply_ = std::move(reply);
  reply_head_ = format_head(reply_, head_.close);
  uint64_t body = reply_.body.size();
  bool cut = fate_.fault == BlobFault::kResetInBody || fate_.fault == BlobFault::kShortBody ||
             fate_.fault == BlobFault::kStallInBody;
  // A body without bytes cannot be cut; then these faults end the connection after the answer.
  if (cut) body = static_cast<uint64_t>(fate_.cut * static_cast<double>(body));
  SHOAL_ASSERT(body <= reply_.body.size());
  reply_total_ = reply_head_.size() + body;
  sent_ = 0;
  state_ = State::kReply;
}

// Collects what is to be sent next, straight from the stored memory.
size_t Connection::gather(iovec* vectors, size_t bytes_max, size_t& total) const {
  size_t count = 0;
  total = 0;
  uint64_t at = sent_;
  while (count < kVectors && total < bytes_max && at < reply_total_) {
    ConstByteSpan span = at < reply_head_.size()
                             ? as_bytes(reply_head_).subspan(static_cast<size_t>(at))
                             : reply_.body.span_at(at - reply_head_.size());
    size_t take = std::min<uint64_t>({span.size(), bytes_max - total, reply_total_ - at});
    vectors[count++] = {const_cast<std::byte*>(span.data()), take};
    total += take;
    at += take;
  }
  return count;
}

Connection::Step Connection::write_reply() {
  if (sent_ == reply_total_) return reply_done();
  if (!writable_) return Step::kWait;
  iovec vectors[kVectors];
  size_t total = 0;
  msghdr message{};
  message.msg_iov = vectors;
  message.msg_iovlen = gather(vectors, paced_out_ ? kPacedBytes : kTurnBytes, total);
  ssize_t count = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
  if (count < 0) {
    if (errno == EINTR) return Step::kGoOn;
    if (errno != EAGAIN) return Step::kEnd;
    writable_ = false;
    return Step::kWait;
  }
  sent_ += static_cast<uint64_t>(count);
  turn_bytes_ += static_cast<size_t>(count);
  if (paced_out_ && sent_ > reply_head_.size()) {
    wait_until(pace(static_cast<uint64_t>(count), false));
  }
  return Step::kGoOn;
}

Connection::Step Connection::reply_done() {
  switch (fate_.fault) {
    case BlobFault::kResetInBody:
      return reset();
    case BlobFault::kShortBody:
      return Step::kEnd;
    case BlobFault::kStallInBody:
      if (reply_.body.empty()) break;
      state_ = State::kStalled;
      readable_ = true;
      return Step::kGoOn;
    default:
      break;
  }
  if (head_.close) {
    ::shutdown(fd_, SHUT_WR);
    return Step::kEnd;
  }
  head_ = {};
  reply_ = {};
  state_ = State::kHead;
  return Step::kGoOn;
}

}  // namespace shoal::stub
