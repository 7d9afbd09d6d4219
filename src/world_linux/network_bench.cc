// What TCP between two shards on one machine can do: the ceiling of whatever is built on it. One
// shard sends, one receives; each line: connections, how it is sent and received, GB/s, and CPU
// seconds per GiB of either shard's thread and of everything else in this process (helpers, the
// kernel's workers). Then small messages there and back.
//
//   network_bench [seconds per line, 1] [congestion control, reno]
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "async/disk_io.h"
#include "async/gate.h"
#include "async/net_io.h"
#include "world_linux/shard.h"

namespace shoal {
namespace {

constexpr size_t kMessage = kMiB;
constexpr uint64_t kFileBytes = 64 * kMiB;

double seconds_of(clockid_t clock) {
  timespec time{};
  SHOAL_ASSERT(clock_gettime(clock, &time) == 0);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}
double cpu_of_process() {
  rusage usage{};
  SHOAL_ASSERT(getrusage(RUSAGE_SELF, &usage) == 0);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}
Task<double> cpu_of_thread() { co_return seconds_of(CLOCK_THREAD_CPUTIME_ID); }

enum class Sending { kMemory, kFile, kFileByHand };
const char* const kSendingNames[] = {"memory", "sendfile", "read+send"};

struct Stream {
  SocketId near = SocketId::kNone;
  SocketId far = SocketId::kNone;
};

Task<Result<net_io::Listener>> open(World& world) {
  return net_io::listen(world.network, world.executor, "127.0.0.1:0");
}
Task<Result<SocketId>> connect(World& world, std::string address) {
  co_return co_await net_io::connect(world.network, world.executor, address, {});
}
Task<Result<net_io::Accepted>> accept(World& world, SocketId listener) {
  co_return co_await net_io::accept(world.network, world.executor, listener, {});
}
Task<void> close(World& world, SocketId socket) {
  world.network.close(socket);
  co_return;
}

Stream connect_shards(Shard& near, Shard& far) {
  auto listener = run_blocking(far, open(far.world()));
  SHOAL_ASSERT(listener.has_value());
  auto one = run_blocking(near, connect(near.world(), listener->address));
  auto other = run_blocking(far, accept(far.world(), listener->socket));
  SHOAL_ASSERT(one.has_value() && other.has_value());
  run_blocking(far, close(far.world(), listener->socket));
  return {*one, other->socket};
}

Task<void> send_on(World& world, SocketId socket, Sending sending, int file, SteadyTime end) {
  Buffer message(kMessage);
  std::memset(message.data(), 'x', message.size());
  ConstByteSpan part = message.span();
  uint64_t offset = 0;
  while (world.executor.now() < end) {
    Status status;
    if (sending == Sending::kMemory) {
      status = co_await net_io::send(world.network, world.executor, socket, {&part, 1}, false, {});
    } else if (sending == Sending::kFile) {
      status = co_await net_io::send_file(world.network, world.executor, socket,
                                          static_cast<FileId>(file), offset, kMessage, {});
      offset = (offset + kMessage) % kFileBytes;
    } else {
      status = co_await disk_io::read_exactly(world.disk, static_cast<FileId>(file), offset,
                                              message.span());
      SHOAL_ASSERT(status.has_value());
      status = co_await net_io::send(world.network, world.executor, socket, {&part, 1}, false, {});
      offset = (offset + kMessage) % kFileBytes;
    }
    SHOAL_ASSERT(status.has_value());
  }
  world.network.close(socket);
}

Task<void> receive_on(World& world, SocketId socket, size_t minimum, uint64_t& bytes) {
  Buffer into(kMessage);
  std::memset(into.data(), 0, into.size());
  while (true) {
    auto count =
        co_await net_io::receive(world.network, world.executor, socket, into.span(), minimum, {});
    if (!count) break;
    bytes += *count;
  }
  world.network.close(socket);
}

Task<void> send_all(World& world, const std::vector<Stream>& streams, Sending sending, int file,
                    Duration length) {
  Gate gate(world.executor);
  SteadyTime end = world.executor.now() + length;
  for (const Stream& stream : streams) {
    gate.spawn(send_on(world, stream.near, sending, file, end));
  }
  co_await gate.close();
}
Task<void> receive_all(World& world, const std::vector<Stream>& streams, size_t minimum,
                       uint64_t& bytes) {
  Gate gate(world.executor);
  for (const Stream& stream : streams) {
    gate.spawn(receive_on(world, stream.far, minimum, bytes));
  }
  co_await gate.close();
}

void measure(Shard& near, Shard& far, int connections, Sending sending, size_t minimum, int file,
             Duration length) {
  std::vector<Stream> streams;
  for (int i = 0; i < connections; ++i) streams.push_back(connect_shards(near, far));
  uint64_t bytes = 0;
  double near_cpu = run_blocking(near, cpu_of_thread());
  double far_cpu = run_blocking(far, cpu_of_thread());
  double all_cpu = cpu_of_process();
  double begin = seconds_of(CLOCK_MONOTONIC);
  std::thread receiver(
      [&] { run_blocking(far, receive_all(far.world(), streams, minimum, bytes)); });
  run_blocking(near, send_all(near.world(), streams, sending, file, length));
  receiver.join();
  double took = seconds_of(CLOCK_MONOTONIC) - begin;
  near_cpu = run_blocking(near, cpu_of_thread()) - near_cpu;
  far_cpu = run_blocking(far, cpu_of_thread()) - far_cpu;
  all_cpu = cpu_of_process() - all_cpu;
  double gib = static_cast<double>(bytes) / static_cast<double>(kGiB);
  std::printf("%d  %-9s  %-14s  %6.2f GB/s   send %.3f  receive %.3f  rest %.3f  CPU s/GiB\n",
              connections, kSendingNames[static_cast<size_t>(sending)],
              minimum == 1 ? "any bytes" : "whole messages",
              static_cast<double>(bytes) / took / 1e9, near_cpu / gib, far_cpu / gib,
              std::max(0.0, all_cpu - near_cpu - far_cpu) / gib);
  std::fflush(stdout);
}

Task<void> answer_on(World& world, SocketId socket, size_t size) {
  Buffer message(size);
  ConstByteSpan part = message.span();
  while (
      co_await net_io::receive(world.network, world.executor, socket, message.span(), size, {})) {
    if (!co_await net_io::send(world.network, world.executor, socket, {&part, 1}, false, {})) break;
  }
  world.network.close(socket);
}
Task<void> answer_all(World& world, const std::vector<Stream>& streams, size_t size) {
  Gate gate(world.executor);
  for (const Stream& stream : streams) gate.spawn(answer_on(world, stream.far, size));
  co_await gate.close();
}
Task<void> ask_on(World& world, SocketId socket, size_t size, SteadyTime end,
                  std::vector<double>& microseconds) {
  Buffer message(size);
  std::memset(message.data(), 'x', message.size());
  ConstByteSpan part = message.span();
  while (world.executor.now() < end) {
    double begin = seconds_of(CLOCK_MONOTONIC);
    Status status =
        co_await net_io::send(world.network, world.executor, socket, {&part, 1}, false, {});
    SHOAL_ASSERT(status.has_value());
    auto count =
        co_await net_io::receive(world.network, world.executor, socket, message.span(), size, {});
    SHOAL_ASSERT(count.has_value());
    microseconds.push_back(1e6 * (seconds_of(CLOCK_MONOTONIC) - begin));
  }
  world.network.close(socket);
}
Task<void> ask_all(World& world, const std::vector<Stream>& streams, size_t size, Duration length,
                   std::vector<double>& microseconds) {
  Gate gate(world.executor);
  SteadyTime end = world.executor.now() + length;
  for (const Stream& stream : streams) {
    gate.spawn(ask_on(world, stream.near, size, end, microseconds));
  }
  co_await gate.close();
}

void measure_round_trips(Shard& near, Shard& far, int connections, size_t size, Duration length) {
  std::vector<Stream> streams;
  for (int i = 0; i < connections; ++i) streams.push_back(connect_shards(near, far));
  std::vector<double> times;
  double cpu = cpu_of_process();
  std::thread server([&] { run_blocking(far, answer_all(far.world(), streams, size)); });
  run_blocking(near, ask_all(near.world(), streams, size, length, times));
  server.join();
  cpu = cpu_of_process() - cpu;
  auto count = static_cast<double>(times.size());
  std::sort(times.begin(), times.end());
  std::printf(
      "%2d round trips of %zu bytes at once: %8.0f /s, p50 %5.1f us, p99 %5.1f us, "
      "CPU %4.1f us each\n",
      connections, size, count / to_seconds(length), times[times.size() / 2],
      times[times.size() * 99 / 100], 1e6 * cpu / count);
  std::fflush(stdout);
}

int make_file() {
  const char* place = std::getenv("TMPDIR");
  int file = ::open(place != nullptr ? place : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  SHOAL_ASSERT(file >= 0, "no place for a file; set TMPDIR");
  std::string block(kMiB, 'x');
  for (uint64_t at = 0; at < kFileBytes; at += kMiB) {
    SHOAL_ASSERT(::pwrite(file, block.data(), kMiB, static_cast<off_t>(at)) ==
                 static_cast<ssize_t>(kMiB));
  }
  return file;
}

int run(double seconds, const std::string& congestion) {
  ShardOptions options;
  options.tcp_congestion = congestion;
  auto near = Shard::start(options);
  auto far = Shard::start(options);
  if (!near || !far) {
    std::fprintf(stderr, "%s\n", (near ? far : near).error().to_string().c_str());
    return 1;
  }
  auto length = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  int file = make_file();
  for (Sending sending : {Sending::kMemory, Sending::kFile, Sending::kFileByHand}) {
    for (size_t minimum : {size_t{1}, kMessage}) {
      for (int connections : {1, 2, 4, 8}) {
        measure(**near, **far, connections, sending, minimum, file, length);
      }
    }
  }
  for (size_t size : {size_t{64}, size_t{16 * kKiB}}) {
    for (int connections : {1, 32}) {
      measure_round_trips(**near, **far, connections, size, length);
    }
  }
  ::close(file);
  return 0;
}

}  // namespace
}  // namespace shoal

int main(int count, char** arguments) {
  double seconds = count > 1 ? std::atof(arguments[1]) : 1;
  if (!(seconds > 0)) {
    std::fprintf(stderr, "usage: network_bench [seconds per line] [congestion control]\n");
    return 2;
  }
  return shoal::run(seconds, count > 2 ? arguments[2] : "reno");
}
