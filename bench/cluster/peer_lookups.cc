#include "cluster/peer_lookups.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "async/gate.h"
#include "base/assert.h"
#include "one_node/load.h"
#include "rpc/rpc.h"
#include "wire/messages.pb.h"
#include "world_linux/shard.h"

namespace shoal::bench {

namespace {

using std::chrono::milliseconds;

constexpr uint16_t kFramingPort = 7170;
constexpr Duration kCallPatience = std::chrono::seconds(30);
// What is remembered is good for as long as a measure can take.
constexpr uint32_t kAgeMsMax = 3'600'000;

class NoMap final : public MapVersions {
 public:
  uint64_t current() const override { return 0; }
  void seen(const Hash128&, uint64_t) override {}
};

// What all the callers of one measure share. Shard's thread.
struct Lookups {
  RpcPool& pool;
  World& world;
  const PeerTarget& target;
  const std::vector<std::string>& bodies;
  uint64_t calls_max = UINT64_MAX;
  SteadyTime until = SteadyTime::max();
  uint64_t asked = 0;
  uint64_t answered = 0;
  Status outcome = {};
};

// One caller: the next look-up when the last was answered.
Task<void> look_up(Lookups& shared) {
  while (shared.outcome && shared.asked < shared.calls_max &&
         shared.world.executor.now() < shared.until) {
    const std::string& body = shared.bodies[shared.asked++ * 7919 % shared.bodies.size()];
    auto answer =
        co_await shared.pool.call(shared.target.address, {}, Method::kHead, body, nullptr, 0,
                                  Context::within(shared.world.executor, kCallPatience));
    wire::HeadReply reply;
    if (answer && (!reply.ParseFromString(*answer) || !reply.found())) {
      answer = fail(Code::kCorrupt, "a look-up did not find its object");
    }
    if (!answer && shared.outcome) shared.outcome = fail(std::move(answer).error());
    ++shared.answered;
  }
}

Task<void> look_up_many(Lookups& shared, unsigned callers) {
  Gate gate(shared.world.executor);
  for (unsigned i = 0; i < callers; ++i) gate.spawn(look_up(shared));
  co_await gate.close();
}

struct Measured {
  Status outcome;
  uint64_t lookups = 0;
  double seconds = 0;
  double client_cpu = 0;
  double server_cpu = 0;
};

// `pool` outlives it. The pass before the measure makes the peer remember every object.
Task<Measured> measure(RpcPool& pool, World& world, const PeerTarget& target, const Child& server,
                       const std::vector<std::string>& bodies, const LookupLoad& load) {
  Measured out;
  Lookups first{pool, world, target, bodies, bodies.size()};
  co_await look_up_many(first, load.in_flight);
  out.outcome = std::move(first.outcome);
  if (!out.outcome) co_return out;
  auto server_before = server.cpu_seconds();
  double begun = seconds_now();
  double cpu_before = cpu_seconds_of_this_process();
  auto length = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(load.seconds));
  Lookups timed{pool, world, target, bodies, UINT64_MAX, world.executor.now() + length};
  co_await look_up_many(timed, load.in_flight);
  out.outcome = std::move(timed.outcome);
  out.lookups = timed.answered;
  out.seconds = seconds_now() - begun;
  out.client_cpu = cpu_seconds_of_this_process() - cpu_before;
  auto server_after = server.cpu_seconds();
  if (!server_before || !server_after) {
    if (out.outcome) out.outcome = fail(Code::kUnavailable, "the peer ended");
    co_return out;
  }
  out.server_cpu = *server_after - *server_before;
  co_return out;
}

Task<Measured> measure_with_pool(RpcContext& rpc, const PeerTarget& target, const Child& server,
                                 const std::vector<std::string>& bodies, const LookupLoad& load) {
  auto pool = RpcPool::create(rpc, {});
  Measured out = co_await measure(*pool, rpc.world, target, server, bodies, load);
  co_await pool->close();
  co_return out;
}

std::string head_body(const std::string& object) {
  wire::HeadRequest request;
  request.set_object(object);
  request.set_age_ms_max(kAgeMsMax);
  request.set_negative_age_ms_max(kAgeMsMax);
  return request.SerializeAsString();
}

// Answers every request with the attributes of an object.
class PlainHandler final : public RpcHandler {
 public:
  PlainHandler() {
    wire::HeadReply reply;
    reply.set_found(true);
    wire::ObjectBody& object = *reply.mutable_object();
    object.set_name("data/dir/f00000000");
    object.set_size(4096);
    object.set_etag("0x8DC0000000000000");
    object.set_modified_ns(1);
    reply_ = reply.SerializeAsString();
  }
  Task<Result<std::string>> handle(RpcRequest request, RpcResponder&, Context) override {
    wire::HeadRequest head;
    if (!head.ParseFromString(request.body)) co_return fail(Code::kCorrupt, "no HeadRequest");
    co_return reply_;
  }

 private:
  std::string reply_;
};

// Until a signal ends the process.
int serve_plainly(const PeerTarget& target) {
  auto shard = Shard::start({});
  if (!shard) return 1;
  Log log;
  Registry registry;
  RpcMetrics metrics(registry);
  NoMap versions;
  RpcContext rpc{(*shard)->world(),
                 log,
                 metrics,
                 versions,
                 {.cluster = target.cluster,
                  .origin = target.origin,
                  .node = {1, 1},
                  .incarnation = 1,
                  .key = target.key}};
  PlainHandler handler;
  auto server = run_blocking(**shard, RpcServer::start(rpc, handler, {.listen = target.address}));
  if (!server) {
    dprintf(1, "%s\n", server.error().message().c_str());
    return 1;
  }
  dprintf(1, "listening\n");
  while (true) pause();
}

}  // namespace

Result<LookupOutcome> peer_lookups(const PeerTarget& target, const Child& server,
                                   const std::vector<std::string>& objects,
                                   const LookupLoad& load) {
  SHOAL_ASSERT(!objects.empty());
  std::vector<std::string> bodies;
  for (const std::string& object : objects) bodies.push_back(head_body(object));
  SHOAL_ASSIGN_OR_RETURN(auto shard, Shard::start({}));
  Log log;
  Registry registry;
  RpcMetrics metrics(registry);
  NoMap versions;
  RpcContext rpc{shard->world(),
                 log,
                 metrics,
                 versions,
                 {.cluster = target.cluster,
                  .origin = target.origin,
                  .node = {},
                  .incarnation = 0,
                  .key = target.key}};
  Measured measured = run_blocking(*shard, measure_with_pool(rpc, target, server, bodies, load));
  shard->stop();
  SHOAL_RETURN_IF_ERROR(measured.outcome);
  return LookupOutcome{static_cast<double>(measured.lookups), measured.seconds, measured.server_cpu,
                       measured.client_cpu};
}

Result<LookupOutcome> framing_lookups(const WorkDirectory& work, const LookupLoad& load) {
  PeerTarget target{fmt::format("127.0.0.1:{}", kFramingPort), "framing", "none", "no secret"};
  std::string log = work / "framing.log";
  SHOAL_ASSIGN_OR_RETURN(Child server,
                         Child::fork_off([&target] { return serve_plainly(target); }, log));
  double until = seconds_now() + 10;
  while (server.running() && seconds_now() < until && !last_lines(log, 1).ends_with("listening")) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    std::this_thread::sleep_for(milliseconds(2));
  }
  std::vector<std::string> objects;
  for (unsigned i = 0; i < load.keys; ++i) objects.push_back(fmt::format("data/dir/f{:08}", i));
  return peer_lookups(target, server, objects, load);
}

}  // namespace shoal::bench
