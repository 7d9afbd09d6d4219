#include "cluster/lookups.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "base/assert.h"
#include "base/bytes.h"
#include "cluster/grpc_wire.h"
#include "one_node/child.h"
#include "one_node/load.h"

namespace shoal::bench {

namespace {

using std::chrono::milliseconds;

constexpr uint16_t kRedisPort = 6379;
constexpr uint16_t kEtcdPort = 2379;
// Name, size, ETag, time and two entries of metadata take about so much.
constexpr size_t kValueBytes = 200;
constexpr milliseconds kStartPatience{20'000};

std::string key_of(uint64_t index) { return fmt::format("data/dir/f{:08}", index); }
std::string value_of(uint64_t index) {
  std::string value = fmt::format("{:08}", index);
  value.resize(kValueBytes, 'v');
  return value;
}

// A blocking connection to 127.0.0.1 with a buffer of what came in.
class Connection {
 public:
  static Result<Connection> open(uint16_t port) {
    Connection out;
    out.socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (out.socket_ < 0) return fail(error_from_errno(errno, "cannot make a socket"));
    int yes = 1;
    setsockopt(out.socket_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(out.socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return fail(error_from_errno(errno, fmt::format("cannot connect to 127.0.0.1:{}", port)));
    }
    return out;
  }
  Connection(Connection&& other) noexcept
      : socket_(std::exchange(other.socket_, -1)), held_(std::move(other.held_)) {}
  Connection& operator=(Connection&&) = delete;
  ~Connection() {
    if (socket_ >= 0) close(socket_);
  }

  Status send(std::string_view bytes) {
    while (!bytes.empty()) {
      ssize_t n = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR && !interrupted()) continue;
      if (n <= 0) return fail(error_from_errno(errno, "sending a look-up"));
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return {};
  }
  // Waits for more; all that came and was not taken.
  Result<std::string_view> receive() {
    held_.erase(0, taken_);
    taken_ = 0;
    size_t before = held_.size();
    held_.resize(before + kReadBytes);
    ssize_t n = -1;
    do {
      n = recv(socket_, held_.data() + before, kReadBytes, 0);
    } while (n < 0 && errno == EINTR && !interrupted());
    held_.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0) return fail(error_from_errno(errno, "waiting for a look-up"));
    if (n == 0) return fail(Code::kUnavailable, "the server closed the connection");
    return held_;
  }
  void take(size_t bytes) { taken_ += bytes; }

 private:
  Connection() = default;
  static constexpr size_t kReadBytes = 64 * kKiB;
  int socket_ = -1;
  std::string held_;
  size_t taken_ = 0;
};

// One way to ask a server.
class Asker {
 public:
  virtual ~Asker() = default;
  virtual void append_request(std::string& out, uint64_t index) = 0;
  // Takes whole answers from the front of `bytes`; how many bytes, adding to `answers`. What must
  // be said in return goes to `out`.
  virtual Result<size_t> take_answers(std::string_view bytes, uint64_t& answers,
                                      std::string& out) = 0;
};

// Asks until the clock or the count says stop, with `in_flight` on their way.
Result<LookupOutcome> ask(Connection& connection, Asker& asker, const LookupLoad& load,
                          uint64_t requests_max) {
  LookupOutcome outcome;
  std::string out;
  uint64_t asked = 0;
  uint64_t answered = 0;
  double begun = seconds_now();
  double cpu = cpu_seconds_of_this_process();
  bool ending = false;
  while (!ending || answered < asked) {
    while (!ending && asked < requests_max && asked - answered < load.in_flight) {
      // A stride over all keys: neighbours are not asked one after the other.
      asker.append_request(out, asked * 7919 % load.keys);
      ++asked;
    }
    SHOAL_RETURN_IF_ERROR(connection.send(out));
    out.clear();
    SHOAL_ASSIGN_OR_RETURN(std::string_view bytes, connection.receive());
    SHOAL_ASSIGN_OR_RETURN(size_t taken, asker.take_answers(bytes, answered, out));
    connection.take(taken);
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    ending = asked == requests_max || seconds_now() - begun >= load.seconds;
  }
  outcome.lookups = static_cast<double>(answered);
  outcome.seconds = seconds_now() - begun;
  outcome.client_cpu = cpu_seconds_of_this_process() - cpu;
  return outcome;
}

Result<LookupOutcome> measure(const Child& server, Connection& connection, Asker& asker,
                              const LookupLoad& load) {
  SHOAL_ASSIGN_OR_RETURN(double before, server.cpu_seconds());
  SHOAL_ASSIGN_OR_RETURN(LookupOutcome outcome, ask(connection, asker, load, UINT64_MAX));
  SHOAL_ASSIGN_OR_RETURN(double after, server.cpu_seconds());
  outcome.server_cpu = after - before;
  return outcome;
}

Result<Child> start_server(const std::vector<std::string>& argv, const std::string& log,
                           uint16_t port) {
  SHOAL_ASSIGN_OR_RETURN(Child child, Child::execute(argv, log));
  double until = seconds_now() + std::chrono::duration<double>(kStartPatience).count();
  while (seconds_now() < until && child.running()) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    if (Connection::open(port)) return child;
    std::this_thread::sleep_for(milliseconds(5));
  }
  if (!child.running() && WEXITSTATUS(child.exit_status()) == 127) {
    return fail(Code::kNotFound, argv[0] + " is not installed");
  }
  return fail(Code::kUnavailable, argv[0] + " did not start:" + last_lines(log, 5));
}

// --- Redis ---

class RedisGet : public Asker {
 public:
  void append_request(std::string& out, uint64_t index) override {
    std::string key = key_of(index);
    fmt::format_to(std::back_inserter(out), "*2\r\n$3\r\nGET\r\n${}\r\n{}\r\n", key.size(), key);
  }
  Result<size_t> take_answers(std::string_view bytes, uint64_t& answers, std::string&) override {
    size_t at = 0;
    const size_t length = head_.size() + kValueBytes + 2;
    for (; bytes.size() - at >= length; at += length, ++answers) {
      if (bytes.substr(at, head_.size()) == head_) continue;
      return fail(Code::kCorrupt, fmt::format("Redis answered {}", bytes.substr(at, 40)));
    }
    return at;
  }

 private:
  std::string head_ = fmt::format("${}\r\n", kValueBytes);
};

class RedisSet : public Asker {
 public:
  void append_request(std::string& out, uint64_t) override {
    std::string key = key_of(next_);
    fmt::format_to(std::back_inserter(out), "*3\r\n$3\r\nSET\r\n${}\r\n{}\r\n${}\r\n{}\r\n",
                   key.size(), key, kValueBytes, value_of(next_));
    ++next_;
  }
  Result<size_t> take_answers(std::string_view bytes, uint64_t& answers, std::string&) override {
    constexpr std::string_view kDone = "+OK\r\n";
    size_t at = 0;
    for (; bytes.size() - at >= kDone.size(); at += kDone.size(), ++answers) {
      if (bytes.substr(at, kDone.size()) == kDone) continue;
      return fail(Code::kCorrupt, fmt::format("Redis answered {}", bytes.substr(at, 40)));
    }
    return at;
  }

 private:
  uint64_t next_ = 0;
};

// --- etcd ---

class EtcdCall : public Asker {
 public:
  EtcdCall(std::string method, size_t answer_bytes_min,
           std::function<std::string(uint64_t)> message)
      : calls_("/etcdserverpb.KV/" + std::move(method), fmt::format("127.0.0.1:{}", kEtcdPort),
               answer_bytes_min),
        message_(std::move(message)) {}
  void append_request(std::string& out, uint64_t index) override {
    calls_.append_call(out, message_(index));
  }
  Result<size_t> take_answers(std::string_view bytes, uint64_t& answers,
                              std::string& out) override {
    return calls_.take_answers(bytes, answers, out);
  }

 private:
  GrpcCalls calls_;
  std::function<std::string(uint64_t)> message_;
};

Status fill(uint16_t port, Asker& asker, const LookupLoad& load) {
  SHOAL_ASSIGN_OR_RETURN(Connection connection, Connection::open(port));
  LookupLoad all = load;
  all.seconds = 600;
  SHOAL_RETURN_IF_ERROR(ask(connection, asker, all, load.keys));
  return {};
}

}  // namespace

Result<LookupOutcome> redis_lookups(const WorkDirectory& work, const LookupLoad& load) {
  SHOAL_ASSIGN_OR_RETURN(
      Child server,
      start_server({"redis-server", "--port", fmt::format("{}", kRedisPort), "--bind", "127.0.0.1",
                    "--save", "", "--appendonly", "no", "--dir", work.path()},
                   work / "redis.log", kRedisPort));
  RedisSet set;
  SHOAL_RETURN_IF_ERROR(fill(kRedisPort, set, load));
  SHOAL_ASSIGN_OR_RETURN(Connection connection, Connection::open(kRedisPort));
  RedisGet get;
  auto outcome = measure(server, connection, get, load);
  server.stop(SIGTERM, milliseconds(5000));
  return outcome;
}

Result<LookupOutcome> etcd_lookups(const WorkDirectory& work, const LookupLoad& load,
                                   bool linearizable) {
  std::string directory = work / "etcd";
  std::error_code error;
  std::filesystem::remove_all(directory, error);
  std::string client = fmt::format("http://127.0.0.1:{}", kEtcdPort);
  std::string peer = fmt::format("http://127.0.0.1:{}", kEtcdPort + 1);
  SHOAL_ASSIGN_OR_RETURN(
      Child server,
      start_server({"etcd", "--data-dir", directory, "--listen-client-urls", client,
                    "--advertise-client-urls", client, "--listen-peer-urls", peer,
                    "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer},
                   work / "etcd.log", kEtcdPort));
  uint64_t next = 0;
  // PutRequest: key = 1, value = 2.
  EtcdCall put("Put", 1, [&next](uint64_t) {
    std::string message = protobuf_bytes(1, key_of(next)) + protobuf_bytes(2, value_of(next));
    ++next;
    return message;
  });
  SHOAL_RETURN_IF_ERROR(fill(kEtcdPort, put, load));
  SHOAL_ASSIGN_OR_RETURN(Connection connection, Connection::open(kEtcdPort));
  // RangeRequest: key = 1, serializable = 7.
  EtcdCall range("Range", kValueBytes, [linearizable](uint64_t index) {
    return protobuf_bytes(1, key_of(index)) + (linearizable ? "" : std::string("\x38\x01", 2));
  });
  auto outcome = measure(server, connection, range, load);
  server.stop(SIGTERM, milliseconds(5000));
  return outcome;
}

}  // namespace shoal::bench
