#include "world_linux/linux_network.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "world_linux/network_steps.h"

namespace shoal {

namespace {

using Kind = NetOp::Kind;

// A SocketId is the place in the table and how often that place was used before, so that an old one
// does not name a new stream.
constexpr uint32_t kPlaceBits = 12;
constexpr uint32_t kGenerations = 1u << (31 - kPlaceBits);
static_assert(LinuxNetwork::kSocketsMax <= 1u << kPlaceBits);
constexpr int kBacklog = 1024;

void check(const NetOp& op) {
  switch (op.kind) {
    case Kind::kReceive:
      SHOAL_ASSERT(op.data != nullptr && op.minimum >= 1 && op.minimum <= op.length);
      break;
    case Kind::kSend:
      SHOAL_ASSERT(op.parts.size() <= NetOp::kPartsMax);
      break;
    case Kind::kSendFile:
      SHOAL_ASSERT(op.file != FileId::kNone);
      break;
    default:
      break;
  }
}

bool is_valid_range(uint64_t offset, uint64_t length) {
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  return offset <= kMax && length <= kMax - offset;
}

}  // namespace

LinuxNetwork::LinuxNetwork(Executor& executor, Ring& ring, HelperPool& helpers,
                           std::string congestion)
    : executor_(executor),
      ring_(ring),
      congestion_(std::move(congestion)),
      lookups_(helpers, 1),
      cold_slices_(helpers, kColdSlicesMax) {}

LinuxNetwork::~LinuxNetwork() {
  SHOAL_ASSERT(is_idle(), "network operations are under way");
  for (Entry& entry : table_) {
    if (entry.socket != nullptr) ::close(entry.socket->descriptor);
  }
}

Status LinuxNetwork::check_congestion(const std::string& congestion) {
  if (congestion.empty()) return {};
  int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return fail(error_from_errno(errno, "making a socket"));
  int answer = setsockopt(descriptor, IPPROTO_TCP, TCP_CONGESTION, congestion.data(),
                          static_cast<socklen_t>(congestion.size()));
  int error = errno;
  ::close(descriptor);
  if (answer == 0) return {};
  return fail(
      error == EPERM ? Code::kPermissionDenied : Code::kInvalidArgument,
      fmt::format("TCP congestion control \"{}\" cannot be used here ({}); what can: sysctl "
                  "net.ipv4.tcp_allowed_congestion_control",
                  congestion, std::strerror(error)));
}

void LinuxNetwork::start(NetOp& op) {
  SHOAL_ASSERT(executor_.on_thread());
  ++under_way_;
  op.transport = nullptr;
  check(op);
  if (op.kind == Kind::kListen || op.kind == Kind::kConnect) {
    (new OpenStep(*this, op))->begin();
  } else {
    start_on_socket(op);
  }
}

void LinuxNetwork::start_on_socket(NetOp& op) {
  Socket* socket = find(op.socket);
  if (socket == nullptr) return end(op, -EBADF);
  Step* step = nullptr;
  switch (op.kind) {
    case Kind::kAccept:
      // Before one is taken: in the kernel's queue it may wait until there is a place.
      if (sockets_ >= kSocketsMax) return end(op, -EMFILE);
      step = new AcceptStep(*this, op, *socket);
      break;
    case Kind::kReceive:
      step = new ReceiveStep(*this, op, *socket, 0);
      break;
    case Kind::kSend:
      step = new SendStep(*this, op, *socket);
      break;
    case Kind::kSendFile:
      if (!is_valid_range(op.offset, op.length)) return end(op, -EINVAL);
      if (op.length == 0) return end(op, 0);
      step = new SendFileStep(*this, op, *socket);
      break;
    case Kind::kListen:
    case Kind::kConnect:
      break;
  }
  SHOAL_ASSERT(step != nullptr, "not an operation on a socket");
  step->begin();
}

void LinuxNetwork::cancel(NetOp& op) {
  SHOAL_ASSERT(executor_.on_thread());
  if (op.transport != nullptr) static_cast<Step*>(op.transport)->cancel();
}

void LinuxNetwork::cancel_all() {
  for (Step* step = steps_; step != nullptr;) {
    Step* following = step->following;  // a step that ends at once takes only itself away
    step->cancel();
    step = following;
  }
}

void LinuxNetwork::close(SocketId id) {
  SHOAL_ASSERT(executor_.on_thread());
  Socket* socket = find(id);
  if (socket == nullptr) return;
  socket->closed = true;
  // Neither ends at once: both are with the kernel or a helper, so the socket is still there.
  if (socket->in != nullptr) socket->in->cancel();
  if (socket->out != nullptr) socket->out->cancel();
  forget_if_done(*socket);
}

void LinuxNetwork::end(NetOp& op, int64_t result) {
  SHOAL_ASSERT(under_way_ > 0);
  --under_way_;
  op.transport = nullptr;
  op.result = result;
  executor_.post(op);
}

LinuxNetwork::Socket* LinuxNetwork::add_socket(int descriptor) {
  if (sockets_ >= kSocketsMax) {
    ::close(descriptor);
    return nullptr;
  }
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(table_.size()));
    table_.emplace_back();
  }
  uint32_t place = free_.back();
  free_.pop_back();
  Entry& entry = table_[place];
  SHOAL_ASSERT(entry.socket == nullptr);
  entry.socket = std::make_unique<Socket>();
  entry.socket->descriptor = descriptor;
  entry.socket->id = static_cast<SocketId>(entry.generation << kPlaceBits | place);
  ++sockets_;
  return entry.socket.get();
}

LinuxNetwork::Socket* LinuxNetwork::find(SocketId id) {
  SHOAL_ASSERT(id != SocketId::kNone, "an operation on a socket that is not open");
  size_t place = static_cast<uint32_t>(id) & ((1u << kPlaceBits) - 1);
  if (place >= table_.size()) return nullptr;
  Socket* socket = table_[place].socket.get();
  return socket != nullptr && socket->id == id && !socket->closed ? socket : nullptr;
}

void LinuxNetwork::forget_if_done(Socket& socket) {
  if (!socket.closed || socket.in != nullptr || socket.out != nullptr) return;
  // Does not wait: there is no SO_LINGER, and the kernel sends what is left by itself.
  ::close(socket.descriptor);
  uint32_t place = static_cast<uint32_t>(socket.id) & ((1u << kPlaceBits) - 1);
  Entry& entry = table_[place];
  entry.generation = (entry.generation + 1) % kGenerations;
  entry.socket.reset();
  free_.push_back(place);
  SHOAL_ASSERT(sockets_ > 0);
  --sockets_;
}

int64_t LinuxNetwork::open_listener(NetOp& op, const std::vector<SocketAddress>& addresses) {
  SHOAL_ASSERT(!addresses.empty());
  const SocketAddress& address = addresses.front();
  int made = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (made < 0) return -errno;
  int on = 1;
  int off = 0;
  int64_t error = set_stream_options(made, congestion_);
  if (error == 0 && setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) error = -errno;
  // "[::]" takes IPv4 peers too, whatever the system's default.
  if (error == 0 && address.storage.ss_family == AF_INET6 &&
      setsockopt(made, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0) {
    error = -errno;
  }
  if (error == 0 && bind(made, address.get(), address.length) != 0) error = -errno;
  if (error == 0 && listen(made, kBacklog) != 0) error = -errno;
  if (error != 0) {
    ::close(made);
    return error;
  }
  op.address = bound_address(made);
  Socket* listener = add_socket(made);
  return listener != nullptr ? static_cast<int64_t>(listener->id) : -EMFILE;
}

Result<std::vector<NetworkInterface>> LinuxNetwork::interfaces() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) {
    return fail(error_from_errno(errno, "listing the network interfaces"));
  }
  std::vector<NetworkInterface> found;
  for (const ifaddrs* one = first; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0) continue;
    int family = one->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    SocketAddress address;
    address.length = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    std::memcpy(&address.storage, one->ifa_addr, address.length);
    if (is_link_local(address)) continue;  // means nothing to another machine
    found.push_back({one->ifa_name, host_text(address), (one->ifa_flags & IFF_LOOPBACK) != 0});
  }
  freeifaddrs(first);
  return found;
}

void LinuxNetwork::JobQueue::submit(HelperJob& job) {
  if (running_ < limit_) {
    ++running_;
    return helpers_.submit(job);
  }
  job.next = nullptr;
  (last_ != nullptr ? last_->next : first_) = &job;
  last_ = &job;
}

void LinuxNetwork::JobQueue::job_is_back() {
  SHOAL_ASSERT(running_ > 0);
  --running_;
  if (first_ == nullptr) return;
  auto* job = static_cast<HelperJob*>(first_);
  first_ = job->next;
  if (first_ == nullptr) last_ = nullptr;
  ++running_;
  helpers_.submit(*job);
}

}  // namespace shoal
