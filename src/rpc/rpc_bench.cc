// What calls cost: small ones, pipelined, per core with both ends counted; payload per lane, from
// memory and from a file, in CPU seconds per GiB of each side; beside it what raw TCP gives.
// Two shards on loopback. Prints one line per row.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <string_view>
#include <thread>

#include "async/disk_io.h"
#include "rpc/rpc_test_support.h"
#include "world_linux/shard.h"

namespace shoal {
namespace {

constexpr double kSeconds = 1.5;
constexpr uint64_t kReadBytes = 8 * kMiB;
constexpr uint64_t kFileBytes = 64 * kMiB;

double thread_cpu() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}
double process_cpu() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}
double wall() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Answers look-ups as a node would, and reads from memory or a file.
class BenchHandler final : public RpcHandler {
 public:
  BenchHandler() : bytes_(make_payload(kReadBytes, 1)), crcs_(piece_crcs(as_bytes(bytes_))) {}
  Task<Result<std::string>> handle(RpcRequest request, RpcResponder& responder,
                                   Context /*context*/) override {
    if (request.method == Method::kHead) co_return head(request.body);
    if (file != FileId::kNone) {
      uint64_t offset = next_++ % (kFileBytes / kReadBytes) * kReadBytes;
      SHOAL_CO_RETURN_IF_ERROR(co_await responder.send_file(0, file, offset, kReadBytes, crcs_));
    } else {
      SHOAL_CO_RETURN_IF_ERROR(co_await responder.send(0, as_bytes(bytes_), crcs_));
    }
    co_return wire::ReadReply().SerializeAsString();
  }
  FileId file = FileId::kNone;
  const std::string& bytes() const { return bytes_; }

 private:
  static Result<std::string> head(const std::string& body) {
    wire::HeadRequest request;
    if (!request.ParseFromString(body)) return fail(Code::kInvalidArgument, "bad body");
    wire::HeadReply reply;
    reply.set_found(true);
    wire::ObjectBody& object = *reply.mutable_object();
    object.set_name(request.object());
    object.set_size(123456789);
    object.set_etag("0x8DCABCDEF012345");
    object.set_modified_ns(1'700'000'000'000'000'000);
    wire::MetadataEntry& mode = *object.add_metadata();
    mode.set_name("mode");
    mode.set_value("0644");
    return reply.SerializeAsString();
  }
  std::string bytes_;
  std::vector<uint32_t> crcs_;
  uint64_t next_ = 0;
};

struct Side {
  explicit Side(uint64_t id) {
    ShardOptions options;
    options.tcp_congestion = "reno";
    auto started = Shard::start(options);
    SHOAL_ASSERT(started.has_value(), "no shard");
    shard = std::move(*started);
    node = std::make_unique<TestNode>(shard->world(), id);
  }
  ~Side() { shard->stop(); }
  double cpu() {
    return run_blocking(*shard, [](int) -> Task<double> { co_return thread_cpu(); }(0));
  }
  std::unique_ptr<Shard> shard;
  std::unique_ptr<TestNode> node;
};

struct Load {
  RpcPool& pool;
  std::string address;
  double until;
  uint64_t count = 0;
  uint64_t failed = 0;
};

Task<void> look_up(Load& load, World& world) {
  for (uint64_t i = 0; (i % 16 != 0) || wall() < load.until; ++i) {
    wire::HeadRequest request;
    request.set_object("training/run-17/checkpoint-000123/model-00042-of-00128.safetensors");
    request.set_age_ms_max(5000);
    Context context = Context::within(world.executor, std::chrono::seconds(10));
    auto body = co_await load.pool.call(load.address, {}, Method::kHead,
                                        request.SerializeAsString(), nullptr, 0, context);
    wire::HeadReply reply;
    bool good = body && reply.ParseFromString(*body) && reply.object().size() == 123456789;
    ++(good ? load.count : load.failed);
  }
}

Task<void> read_on(Load& load, World& world, uint64_t lane) {
  Buffer into(kReadBytes);
  std::vector<uint32_t> crcs;
  while (wall() < load.until) {
    crcs.clear();
    RpcSink sink;
    sink.into = into.span();
    sink.crcs = &crcs;
    Context context = Context::within(world.executor, std::chrono::seconds(10));
    auto body = co_await load.pool.call(load.address, {}, Method::kRead, "", &sink, lane, context);
    ++(body && sink.arrived == kReadBytes ? load.count : load.failed);
  }
}

Task<void> run_load(Load& load, World& world, uint32_t lanes, uint32_t parallel) {
  Gate gate(world.executor);
  for (uint32_t i = 0; i < parallel; ++i) {
    if (lanes == 0) {
      gate.spawn(look_up(load, world));
    } else {
      gate.spawn(read_on(load, world, i % lanes));
    }
  }
  co_await gate.close();
}

// lanes 0: look-ups.
void measure(Side& server, Side& caller, const std::string& address, const char* name,
             uint32_t lanes, uint32_t parallel) {
  RpcPoolOptions options;
  options.lanes = std::max(lanes, 1u);
  std::unique_ptr<RpcPool> pool = RpcPool::create(caller.node->context, options);
  World& world = caller.shard->world();
  Load warm{*pool, address, wall() + 0.1};
  run_blocking(*caller.shard, run_load(warm, world, lanes, parallel));
  Load load{*pool, address, wall() + kSeconds};
  double began = wall();
  double process = process_cpu();
  double caller_cpu = caller.cpu();
  double server_cpu = server.cpu();
  run_blocking(*caller.shard, run_load(load, world, lanes, parallel));
  double seconds = wall() - began;
  caller_cpu = caller.cpu() - caller_cpu;
  server_cpu = server.cpu() - server_cpu;
  // Helpers and workers of the kernel that belong to neither thread work for the server here.
  server_cpu += std::max(0.0, process_cpu() - process - caller_cpu - server_cpu);
  SHOAL_ASSERT(load.failed == 0 && load.count > 0, "calls failed");
  if (lanes == 0) {
    double calls = static_cast<double>(load.count);
    std::printf("%-34s %10.0f /s   %9.0f per core-second (caller %.2f us, server %.2f us)\n", name,
                calls / seconds, calls / (caller_cpu + server_cpu), caller_cpu / calls * 1e6,
                server_cpu / calls * 1e6);
  } else {
    double gib = static_cast<double>(load.count * kReadBytes) / static_cast<double>(kGiB);
    std::printf("%-30s %u   %7.2f GiB/s   caller %.3f  server %.3f CPU s/GiB\n", name, lanes,
                gib / seconds, caller_cpu / gib, server_cpu / gib);
  }
  run_blocking(*caller.shard, pool->close());
}

// The same bytes through a bare socket and two threads.
void measure_raw(bool from_file, int file) {
  int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  SHOAL_ASSERT(::bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  ::listen(listener, 1);
  int near = ::socket(AF_INET, SOCK_STREAM, 0);
  ::setsockopt(near, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
  SHOAL_ASSERT(::connect(near, reinterpret_cast<sockaddr*>(&address), length) == 0);
  int far = ::accept(listener, nullptr, nullptr);
  ::setsockopt(far, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
  double sender_cpu = 0;
  double until = wall() + kSeconds;
  std::thread sender([&] {
    std::string bytes = make_payload(kReadBytes, 1);
    for (uint64_t i = 0; wall() < until; ++i) {
      if (from_file) {
        off_t offset = static_cast<off_t>(i % (kFileBytes / kMiB) * kMiB);
        while (offset % kMiB != 0 || offset == static_cast<off_t>(i % (kFileBytes / kMiB) * kMiB)) {
          size_t left = kMiB - static_cast<size_t>(offset) % kMiB;
          if (::sendfile(far, file, &offset, left) <= 0) break;
        }
      } else {
        const char* at = bytes.data() + i % 8 * kMiB;
        for (size_t done = 0; done < kMiB;) {
          ssize_t sent = ::send(far, at + done, kMiB - done, 0);
          if (sent <= 0) break;
          done += static_cast<size_t>(sent);
        }
      }
    }
    sender_cpu = thread_cpu();
    ::shutdown(far, SHUT_WR);
  });
  std::string into(kReadBytes, '\0');
  uint64_t total = 0;
  double began = wall();
  double cpu = thread_cpu();
  while (true) {
    ssize_t got = ::recv(near, into.data() + total % kReadBytes / kMiB * kMiB, kMiB, MSG_WAITALL);
    if (got <= 0) break;
    total += static_cast<uint64_t>(got);
  }
  cpu = thread_cpu() - cpu;
  double seconds = wall() - began;
  sender.join();
  double gib = static_cast<double>(total) / static_cast<double>(kGiB);
  std::printf("%-30s 1   %7.2f GiB/s   caller %.3f  server %.3f CPU s/GiB (no checksums)\n",
              from_file ? "raw TCP, sendfile" : "raw TCP, memory", gib / seconds, cpu / gib,
              sender_cpu / gib);
  for (int socket : {listener, near, far}) ::close(socket);
}

int run(const char* only, bool tls) {
  ::setvbuf(stdout, nullptr, _IOLBF, 0);
  auto wanted = [only](std::string_view what) { return only == nullptr || what == only; };
  Side server(2);
  Side caller(1);
  if (tls) {
    server.node->use_tls();
    caller.node->use_tls();
  }
  BenchHandler handler;
  RpcServerOptions options;
  options.listen = "127.0.0.1:0";
  auto started =
      run_blocking(*server.shard, RpcServer::start(server.node->context, handler, options));
  SHOAL_ASSERT(started.has_value(), "the server did not start");
  std::string address = (*started)->address();
  if (wanted("small")) {
    for (uint32_t parallel : {1u, 16u, 64u, 256u}) {
      std::string name = "look-ups, " + std::to_string(parallel) + " in flight";
      measure(server, caller, address, name.c_str(), 0, parallel);
    }
  }
  std::string path = "/tmp/rpc_bench_" + std::to_string(::getpid());
  int file = ::open(path.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  for (uint64_t at = 0; at < kFileBytes; at += kReadBytes) {
    SHOAL_ASSERT(::pwrite(file, handler.bytes().data(), kReadBytes, static_cast<off_t>(at)) ==
                 static_cast<ssize_t>(kReadBytes));
  }
  if (wanted("payload")) {
    measure_raw(false, file);
    for (uint32_t lanes : {1u, 2u, 4u}) {
      measure(server, caller, address, "reads from memory, lanes:", lanes, lanes * 2);
    }
  }
  if (wanted("file")) {
    measure_raw(true, file);
    Disk& disk = server.shard->world().disk;
    auto opened = run_blocking(*server.shard, disk_io::open(disk, path, 0));
    SHOAL_ASSERT(opened.has_value());
    handler.file = *opened;
    for (uint32_t lanes : {1u, 2u, 4u}) {
      measure(server, caller, address, "reads from a file, lanes:", lanes, lanes * 2);
    }
    SHOAL_ASSERT(run_blocking(*server.shard, disk_io::close(disk, *opened)).has_value());
  }
  ::close(file);
  ::unlink(path.c_str());
  run_blocking(*server.shard, (*started)->stop());
  return 0;
}

}  // namespace
}  // namespace shoal

// rpc_bench [small|payload|file] [tls]
int main(int argc, char** argv) {
  bool tls = std::string_view(argv[argc - 1]) == "tls";
  int words = argc - (tls ? 1 : 0);
  return shoal::run(words > 1 ? argv[1] : nullptr, tls);
}
