#include "cluster/raw_tcp.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <barrier>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "base/assert.h"
#include "cluster/lab.h"
#include "one_node/load.h"

namespace shoal::bench {

namespace {

constexpr uint64_t kSendBytes = kMiB;
constexpr uint64_t kReceiveBytes = 512 * kKiB;

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  int get() const { return number_; }

 private:
  int number_;
};

struct Run {
  const TcpLoad& load;
  std::barrier<> start;
  std::mutex mutex;
  Status outcome;
  double sender_cpu = 0;
  double receiver_cpu = 0;
  uint64_t received = 0;

  void note(Status status) {
    std::lock_guard lock(mutex);
    if (outcome && !status) outcome = std::move(status);
  }
};

double cpu_seconds_of_this_thread() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Result<Descriptor> listen_in(int network, sockaddr_in& address) {
  SHOAL_ASSIGN_OR_RETURN(int number, socket_in(network, SOCK_STREAM));
  Descriptor socket(number);
  socklen_t length = sizeof address;
  if (bind(number, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(number, SOMAXCONN) != 0 ||
      getsockname(number, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return fail(error_from_errno(errno, "cannot listen in a place"));
  }
  return socket;
}

Result<Descriptor> connect_from(int network, const sockaddr_in& address) {
  SHOAL_ASSIGN_OR_RETURN(int number, socket_in(network, SOCK_STREAM));
  Descriptor socket(number);
  if (connect(number, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail(error_from_errno(errno, "cannot connect to a place"));
  }
  return socket;
}

Status send_part(int socket, int file, uint64_t bytes, uint64_t file_size) {
  while (bytes > 0) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    off_t offset = static_cast<off_t>(bytes % (file_size - kSendBytes + 1));
    ssize_t n = sendfile(socket, file, &offset, std::min(bytes, kSendBytes));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(error_from_errno(errno, "sendfile"));
    bytes -= static_cast<uint64_t>(n);
  }
  shutdown(socket, SHUT_WR);
  return {};
}

Result<uint64_t> receive_all(int socket, Buffer& buffer) {
  uint64_t received = 0;
  while (true) {
    ssize_t n = recv(socket, buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR && !interrupted()) continue;
    if (n < 0) return fail(error_from_errno(errno, "recv"));
    if (n == 0) return received;
    received += static_cast<uint64_t>(n);
  }
}

void send_connection(Run& run, int socket, int file, uint64_t file_size, uint64_t bytes) {
  run.start.arrive_and_wait();
  double before = cpu_seconds_of_this_thread();
  run.note(send_part(socket, file, bytes, file_size));
  std::lock_guard lock(run.mutex);
  run.sender_cpu += cpu_seconds_of_this_thread() - before;
}

void receive_connection(Run& run, int socket) {
  Buffer buffer(kReceiveBytes);
  std::memset(buffer.data(), 1, buffer.size());
  run.start.arrive_and_wait();
  double before = cpu_seconds_of_this_thread();
  auto received = receive_all(socket, buffer);
  if (!received) run.note(fail(received.error()));
  std::lock_guard lock(run.mutex);
  run.receiver_cpu += cpu_seconds_of_this_thread() - before;
  if (received) run.received += *received;
}

}  // namespace

Result<TcpOutcome> run_tcp(const TcpLoad& load) {
  size_t connections = load.senders.size() * load.connections;
  SHOAL_ASSERT(connections > 0 && load.bytes >= connections);
  Descriptor file(open(load.file.c_str(), O_RDONLY | O_CLOEXEC));
  off_t file_size = lseek(file.get(), 0, SEEK_END);
  if (file_size < static_cast<off_t>(kSendBytes)) {
    return fail(error_from_errno(errno, "cannot send " + load.file));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (inet_pton(AF_INET, load.address.c_str(), &address.sin_addr) != 1) {
    return fail(Code::kInvalidArgument, load.address + " is no address");
  }
  SHOAL_ASSIGN_OR_RETURN(Descriptor listener, listen_in(load.receiver, address));
  std::vector<Descriptor> sending;
  std::vector<Descriptor> receiving;
  for (size_t i = 0; i < connections; ++i) {
    SHOAL_ASSIGN_OR_RETURN(Descriptor out,
                           connect_from(load.senders[i % load.senders.size()], address));
    receiving.emplace_back(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (receiving.back().get() < 0) return fail(error_from_errno(errno, "accept"));
    sending.push_back(std::move(out));
  }
  Run run{load, std::barrier<>(static_cast<ptrdiff_t>(2 * connections + 1)), {}, {}, 0, 0, 0};
  double begun = 0;
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < connections; ++i) {
      uint64_t bytes = load.bytes / connections + (i < load.bytes % connections ? 1 : 0);
      threads.emplace_back([&run, &file, file_size, bytes, out = sending[i].get()] {
        send_connection(run, out, file.get(), static_cast<uint64_t>(file_size), bytes);
      });
      threads.emplace_back([&run, in = receiving[i].get()] { receive_connection(run, in); });
    }
    run.start.arrive_and_wait();
    begun = seconds_now();
  }
  double seconds = seconds_now() - begun;
  SHOAL_RETURN_IF_ERROR(run.outcome);
  if (run.received != load.bytes) {
    return fail(Code::kCorrupt, fmt::format("{} of {} bytes arrived", run.received, load.bytes));
  }
  return TcpOutcome{static_cast<double>(load.bytes), seconds, run.sender_cpu, run.receiver_cpu};
}

}  // namespace shoal::bench
