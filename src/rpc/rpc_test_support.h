// For rpc's tests: worlds to run a scenario in, a handler that does what requests tell it, and
// parts that every test needs. A scenario is a coroutine, so that it runs in any world.
#pragma once

#include <gtest/gtest.h>

#include <coroutine>
#include <memory>
#include <string>
#include <vector>

#include "async/gate.h"
#include "async/sync.h"
#include "base/piece_crcs.h"
#include "rpc/memory_network_test_support.h"
#include "rpc/rpc.h"
#include "rpc/tls.h"
#include "wire/messages.pb.h"

namespace shoal {

class NoHttp final : public Http {
 public:
  void start(HttpCall&) override { SHOAL_ASSERT(false, "no HTTP here"); }
  void cancel(HttpCall&) override {}
};

// Goes on on that executor: what belongs to a machine is touched on its own only.
class Hop final : private Runnable {
 public:
  explicit Hop(World& world) : executor_(world.executor) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    executor_.post_remote(*this);
  }
  void await_resume() const noexcept {}

 private:
  void run() noexcept override { handle_.resume(); }
  Executor& executor_;
  std::coroutine_handle<> handle_;
};

// Where scenarios run. Machine 0 calls, machine 1 serves; they may be one.
class Bed {
 public:
  virtual ~Bed() = default;
  virtual World& caller() = 0;
  virtual World& server() = 0;
  virtual std::string listen() const = 0;
  virtual std::string listen_further() const = 0;
  bool tls = false;  // set before the scenario runs
  virtual void run(Task<void> scenario) = 0;
};

class MemoryBed final : public Bed {
 public:
  World& caller() override { return world_; }
  World& server() override { return world_; }
  std::string listen() const override { return "10.0.0.2:0"; }
  std::string listen_further() const override { return "10.0.1.2:0"; }
  void run(Task<void> scenario) override {
    bool done = false;
    Gate gate(executor_);
    gate.spawn(mark(std::move(scenario), done));
    uint64_t steps = 0;
    while (!done) {
      SHOAL_ASSERT(++steps < 50'000'000 && executor_.step(), "the scenario waits for ever");
    }
    while (gate.count() > 0) executor_.step(executor_.now());
  }
  MemoryNetwork& network() { return network_; }
  MemoryExecutor& executor() { return executor_; }

 private:
  static Task<void> mark(Task<void> scenario, bool& done) {
    co_await scenario;
    done = true;
  }
  MemoryExecutor executor_;
  MemoryRandom random_;
  NoDisk disk_{executor_};
  NoHttp http_;
  MemoryNetwork network_{executor_};
  World world_{executor_, random_, disk_, http_, network_};
};

class FixedVersions final : public MapVersions {
 public:
  uint64_t current() const override { return version; }
  void seen(const Hash128& peer, uint64_t other) override {
    last_peer = peer;
    last_seen = other;
    ++count;
  }
  uint64_t version = 7;
  Hash128 last_peer;
  uint64_t last_seen = 0;
  uint64_t count = 0;
};

inline std::string make_payload(uint64_t length, uint64_t seed) {
  std::string bytes(length, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>((i * 131 + (i >> 12) * 17 + seed * 29) & 0xFF);
  }
  return bytes;
}

// kHead: answers the body. kRead: `length` bytes of payload, seed `size`, from the file `file` if
// that is set. kPing: waits until let go or told to end. kList: an answer that is too long. Others:
// kNotSupported.
class TestHandler final : public RpcHandler {
 public:
  explicit TestHandler(Executor& executor) : released_(executor) {}

  Task<Result<std::string>> handle(RpcRequest request, RpcResponder& responder,
                                   Context context) override {
    ++running;
    running_max = std::max(running_max, running);
    last_peer = request.peer;
    last_deadline = context.deadline;
    auto result = co_await answer(std::move(request), responder, context);
    if (!result && result.error().code() == Code::kCancelled) ++cancelled;
    --running;
    co_return result;
  }
  void release() {
    open = true;
    released_.notify_all();
  }

  uint32_t running = 0;
  uint32_t running_max = 0;
  uint32_t cancelled = 0;
  bool open = false;
  bool wrong_crc = false;
  FileId file = FileId::kNone;
  Hash128 last_peer;
  SteadyTime last_deadline{};

 private:
  Task<Result<std::string>> answer(RpcRequest request, RpcResponder& responder, Context context) {
    switch (request.method) {
      case Method::kHead:
        co_return request.body;
      case Method::kList:
        co_return std::string(kBodyBytesMax + 1, 'x');
      case Method::kPing:
        while (!open) SHOAL_CO_RETURN_IF_ERROR(co_await released_.wait(context));
        co_return std::string("pong");
      case Method::kRead:
        co_return co_await read(std::move(request), responder);
      default:
        co_return fail(Code::kNotSupported, "no such method\n");
    }
  }
  Task<Result<std::string>> read(RpcRequest request, RpcResponder& responder) {
    wire::ReadRequest read;
    if (!read.ParseFromString(request.body)) co_return fail(Code::kInvalidArgument, "bad body");
    std::string bytes = make_payload(read.length(), read.size());
    std::vector<uint32_t> crcs = piece_crcs(as_bytes(bytes));
    if (wrong_crc) crcs.back() ^= 1;
    if (file != FileId::kNone) {
      SHOAL_CO_RETURN_IF_ERROR(
          co_await responder.send_file(0, file, read.offset(), bytes.size(), crcs));
    } else {
      // In two calls, as a chunk that is still being fetched would be sent.
      size_t half = bytes.size() / 2 / kPieceBytes * kPieceBytes;
      std::span<const uint32_t> all(crcs);
      SHOAL_CO_RETURN_IF_ERROR(
          co_await responder.send(0, as_bytes(bytes).first(half), all.first(half / kPieceBytes)));
      SHOAL_CO_RETURN_IF_ERROR(co_await responder.send(half, as_bytes(bytes).subspan(half),
                                                       all.subspan(half / kPieceBytes)));
    }
    wire::ReadReply reply;
    reply.set_bytes(bytes.size());
    co_return reply.SerializeAsString();
  }

  Signal released_;
};

inline std::string read_request(uint64_t length, uint64_t seed) {
  wire::ReadRequest read;
  read.set_length(static_cast<uint32_t>(length));
  read.set_size(seed);
  return read.SerializeAsString();
}

// A node's worth of rpc.
struct TestNode {
  TestNode(World& world, uint64_t id)
      : metrics(registry),
        log(LogLevel::kInfo, [this](LogLevel, std::string_view line) { lines.emplace_back(line); }),
        context{world,
                log,
                metrics,
                versions,
                {"blue", "file:///data", {1, id}, id, std::string(32, 'k')}},
        handler(world.executor) {}
  void use_tls() {
    auto made = TlsContext::make(context.identity.key);
    SHOAL_ASSERT(made.has_value());
    tls = std::move(*made);
    context.tls = tls.get();
  }
  std::vector<std::string> lines;
  std::unique_ptr<TlsContext> tls;
  Registry registry;
  RpcMetrics metrics;
  Log log;
  FixedVersions versions;
  RpcContext context;
  TestHandler handler;
};

// Reads `length` bytes and says whether they and their checksums are right.
inline Task<Status> read_and_check(RpcPool& pool, std::string address, uint64_t length,
                                   uint64_t seed, uint64_t lane, Context context) {
  Buffer into(length + 1);
  std::vector<uint32_t> crcs;
  RpcSink sink;
  sink.into = into.part(0, length);
  sink.crcs = &crcs;
  uint64_t told = 0;
  bool backwards = false;
  sink.progress = [&told, &backwards](uint64_t arrived) {
    backwards = backwards || arrived <= told;
    told = arrived;
  };
  auto reply = co_await pool.call(std::move(address), {}, Method::kRead, read_request(length, seed),
                                  &sink, lane, context);
  if (!reply) co_return fail(std::move(reply).error());
  std::string right = make_payload(length, seed);
  if (as_text(into.part(0, length)) != right) co_return fail(Code::kCorrupt, "wrong bytes");
  if (crcs != piece_crcs(as_bytes(right))) co_return fail(Code::kCorrupt, "wrong checksums");
  if (backwards || told != length || sink.arrived != length) {
    co_return fail(Code::kInternal, "wrong progress");
  }
  co_return Status();
}

}  // namespace shoal
