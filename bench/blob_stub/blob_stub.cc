#include "blob_stub/blob_stub.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "blob_stub/stub_worker.h"

namespace shoal {

namespace {

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

struct BlobStub::Parts {
  explicit Parts(BlobStubOptions given)
      : options(std::move(given)),
        shared(options.service, options.faults, options.seed),
        listener(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {}
  BlobStubOptions options;
  stub::Shared shared;
  Socket listener;
  uint16_t port = 0;
  std::string congestion;
  std::vector<std::unique_ptr<stub::Worker>> workers;
};

BlobStub::BlobStub(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
BlobStub::~BlobStub() { stop(); }

Result<std::unique_ptr<BlobStub>> BlobStub::start(BlobStubOptions options) {
  if (options.threads < 1 || options.threads > 64) {
    return fail(Code::kInvalidArgument, "threads must be 1 to 64");
  }
  auto parts = std::make_unique<Parts>(std::move(options));
  int fd = parts->listener.get();
  const BlobStubOptions& given = parts->options;
  std::string place = fmt::format("listening on {}:{}", given.address, given.port);
  if (fd < 0) return fail(error_from_errno(errno, place));
  int on = 1;
  (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!given.congestion.empty() &&
      setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, given.congestion.data(),
                 static_cast<socklen_t>(given.congestion.size())) != 0) {
    return fail(error_from_errno(errno, "congestion control " + given.congestion));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(given.port);
  if (inet_pton(AF_INET, given.address.c_str(), &address.sin_addr) != 1) {
    return fail(Code::kInvalidArgument, given.address + " is not an IPv4 address");
  }
  socklen_t length = sizeof address;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(fd, 4096) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return fail(error_from_errno(errno, place));
  }
  parts->port = ntohs(address.sin_port);
  char name[32] = {};
  socklen_t name_length = sizeof name;
  if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &name_length) == 0) {
    parts->congestion = std::string(name, strnlen(name, name_length));
  }
  parts->shared.connections_max = given.connections_max;
  auto pool = std::make_shared<stub::BufferPool>(given.pool_bytes);
  for (unsigned i = 0; i < given.threads; ++i) {
    parts->workers.push_back(std::make_unique<stub::Worker>(parts->shared, pool, fd));
    parts->workers.back()->start();
  }
  return std::unique_ptr<BlobStub>(new BlobStub(std::move(parts)));
}

void BlobStub::stop() {
  for (auto& worker : parts_->workers) worker->stop();
  parts_->workers.clear();
}

uint16_t BlobStub::port() const { return parts_->port; }
std::string BlobStub::url() const {
  return fmt::format("http://{}:{}/{}", parts_->options.address, parts_->port,
                     parts_->options.service.account);
}
const std::string& BlobStub::congestion() const { return parts_->congestion; }
std::mutex& BlobStub::service_mutex() { return parts_->shared.mutex; }
BlobService& BlobStub::service() { return parts_->shared.service; }

void BlobStub::set_faults(BlobFaults faults) {
  std::lock_guard lock(parts_->shared.mutex);
  parts_->shared.faults.set(std::move(faults));
}

std::string BlobStub::stats_json() { return stub::stats_json(parts_->shared); }

}  // namespace shoal
