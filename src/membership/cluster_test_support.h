// Several nodes in the simulated world: each a machine with a server, a pool and a Membership over
// the production code, and one simulated Blob account that keeps the map.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "async/gate.h"
#include "membership/membership.h"
#include "membership/peer_health.h"
#include "origin/make_origin.h"
#include "rpc/rpc.h"
#include "world_sim/sim_world.h"

namespace shoal {

// A map store that fails on demand.
class FaultyStore final : public MapStore {
 public:
  explicit FaultyStore(std::unique_ptr<MapStore> inner) : inner_(std::move(inner)) {}
  std::string display_name() const override { return inner_->display_name(); }
  bool is_fixed() const override { return inner_->is_fixed(); }
  Task<Result<std::optional<StoredMap>>> load(Context context) override {
    if (away) co_return fail(Code::kUnavailable, "the store is away");
    co_return co_await inner_->load(context);
  }
  Task<Result<std::string>> compare_and_swap(SlotMap next, std::string token,
                                             Context context) override {
    if (away) co_return fail(Code::kUnavailable, "the store is away");
    if (read_only) co_return fail(Code::kPermissionDenied, "this identity may not write");
    co_return co_await inner_->compare_and_swap(std::move(next), std::move(token), context);
  }
  Task<Status> watch(std::string token, Context context) override {
    co_return co_await inner_->watch(std::move(token), context);
  }
  Task<Result<std::string>> key(Context context) override {
    co_return co_await inner_->key(context);
  }
  bool away = false;
  bool read_only = false;

 private:
  std::unique_ptr<MapStore> inner_;
};

struct NodeSettings {
  uint64_t id = 1;
  std::string cluster = "test";
  std::string origin = "az:test";
  std::string advertise = {};  // empty: where it listens
  std::vector<std::string> listen_also = {};
  std::vector<std::string> further = {};  // advertised too
  Duration grace = std::chrono::seconds(120);
  std::string list = {};  // not empty: of a static map store
};

// Everything of one process that dies with it.
class NodeProcess final : public RpcHandler {
 public:
  NodeProcess(World& world, std::string address, NodeSettings settings, const Log& log,
              const std::string& origin_url)
      : settings_(std::move(settings)),
        address_(std::move(address)),
        world_(world),
        log_(log),
        metrics_(registry_),
        gate_(world.executor) {
    OriginConfig config;
    config.location = origin_url;
    config.azure.credentials.account_key = BlobServiceConfig{}.key_base64;
    auto made = make_origin(std::move(config), world, registry_, log);
    SHOAL_ASSERT(made.has_value());
    origin_ = std::move(*made);
    store_ = std::make_unique<FaultyStore>(make_store());
    MembershipOptions options;
    options.self.id = {settings_.id, settings_.id};
    options.self.name = fmt::format("node-{}", settings_.id);
    options.self.address = settings_.advertise.empty() ? address_ : settings_.advertise;
    options.further = settings_.further;
    options.cluster = settings_.cluster;
    options.origin = settings_.origin;
    options.grace = settings_.grace;
    membership_ = Membership::create(world, *store_, registry_, log, options);
  }

  void start() { SHOAL_ASSERT(gate_.spawn(run())); }
  void begin_stop() { SHOAL_ASSERT(gate_.spawn(end())); }
  Task<Result<std::string>> handle(RpcRequest request, RpcResponder&, Context context) override {
    co_return co_await membership_->handle(request, context);
  }

  Membership& membership() { return *membership_; }
  FaultyStore& store() { return *store_; }
  Origin& origin() { return *origin_; }
  Gate& gate() { return gate_; }
  Registry& registry() { return registry_; }
  RpcPool& pool() { return *pool_; }
  std::optional<Status> joined;
  SteadyTime joined_at{};
  bool stopped = false;

 private:
  std::unique_ptr<MapStore> make_store() {
    if (settings_.list.empty()) return make_origin_map_store(*origin_, world_, settings_.cluster);
    auto made = make_static_map_store(settings_.list, "list", settings_.cluster, settings_.origin,
                                      3, std::string(32, 'k'));
    SHOAL_ASSERT(made.has_value());
    return std::move(*made);
  }
  Task<void> run() {
    Result<std::string> key =
        co_await store_->key(Context::within(world_.executor, std::chrono::seconds(30)));
    if (!key) {
      joined = fail(std::move(key).error());
      co_return;
    }
    context_.emplace(
        RpcContext{world_,
                   log_,
                   metrics_,
                   *membership_,
                   {settings_.cluster, settings_.origin, {settings_.id, settings_.id}, 0, *key}});
    context_->identity.further = settings_.further;
    auto server = co_await RpcServer::start(
        *context_, *this, {.listen = address_, .listen_also = settings_.listen_also});
    SHOAL_ASSERT(server.has_value(), "the server does not start");
    server_ = std::move(*server);
    pool_ = RpcPool::create(*context_, {});
    Status status = co_await membership_->join(*pool_, {});
    joined_at = world_.executor.now();
    joined = std::move(status);
  }
  Task<void> end() {
    co_await membership_->stop();
    if (server_) co_await server_->stop();
    if (pool_) co_await pool_->close();
    stopped = true;
  }

  NodeSettings settings_;
  std::string address_;
  World& world_;
  const Log& log_;
  Registry registry_;
  RpcMetrics metrics_;
  std::unique_ptr<Origin> origin_;
  std::unique_ptr<FaultyStore> store_;
  std::unique_ptr<Membership> membership_;
  std::optional<RpcContext> context_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<RpcPool> pool_;
  Gate gate_;
};

class TestCluster {
 public:
  static constexpr const char* kHost = "127.0.0.1:10000";

  explicit TestCluster(uint64_t seed, Duration origin_latency = std::chrono::milliseconds(5))
      : sim({.seed = seed}), blob(sim.add_blob_account(kHost, {}, faults_of(origin_latency))) {
    blob.service.add_container("data");
    log = Log(LogLevel::kDebug, [this](LogLevel, std::string_view line) {
      lines.push_back(fmt::format("{:.3f} {}", to_seconds(sim.now().time_since_epoch()), line));
    });
  }
  ~TestCluster() {
    for (size_t i = 0; i < nodes_.size(); ++i) stop(i);
    if (testing::Test::HasFailure()) {
      for (const std::string& line : lines) std::printf("    %s\n", line.c_str());
    }
  }

  // Machines are made when first needed; node i has id i + 1 unless told otherwise.
  SimMachine& machine(size_t i) {
    while (machines_.size() <= i) {
      machines_.push_back(&sim.add_machine(fmt::format("m{}", machines_.size()), {}));
      nodes_.push_back(nullptr);
    }
    return *machines_[i];
  }
  SimHostId host(size_t i) { return machine(i).host(); }
  std::string address(size_t i) { return machine(i).address() + ":7070"; }
  NodeProcess& start(size_t i) { return start(i, {.id = i + 1}); }
  NodeProcess& start(size_t i, NodeSettings settings) {
    SimMachine& on = machine(i);
    SHOAL_ASSERT(nodes_[i] == nullptr);
    World& world = on.boot();
    auto process =
        std::make_unique<NodeProcess>(world, address(i), std::move(settings), log,
                                      fmt::format("http://{}/devstoreaccount1/data/prefix", kHost));
    nodes_[i] = &on.own(std::move(process));
    nodes_[i]->start();
    return *nodes_[i];
  }
  // All of `count` at the same moment, and until each has joined; virtual time that it took.
  Duration start_all(size_t count, Duration limit = std::chrono::seconds(60)) {
    SteadyTime begun = sim.now();
    for (size_t i = 0; i < count; ++i) start(i);
    EXPECT_TRUE(await(limit, [&] {
      return std::ranges::all_of(nodes_, [](auto* node) { return !node || node->joined; });
    }));
    SteadyTime last = begun;
    for (NodeProcess* node : nodes_) {
      if (node == nullptr) continue;
      EXPECT_TRUE(node->joined && *node->joined)
          << (node->joined ? node->joined->error().to_string() : "not joined");
      last = std::max(last, node->joined_at);
    }
    return last - begun;
  }
  void crash(size_t i, CrashKind kind = CrashKind::kProcess) {
    nodes_[i] = nullptr;
    machine(i).crash(kind);
  }
  void stop(size_t i) {
    if (nodes_[i] == nullptr) return;
    NodeProcess& node = *nodes_[i];
    node.begin_stop();
    EXPECT_TRUE(
        await(std::chrono::minutes(2), [&] { return node.stopped && node.gate().count() == 0; }));
    nodes_[i] = nullptr;
    machine(i).shut_down();
  }
  NodeProcess& node(size_t i) {
    SHOAL_ASSERT(nodes_[i] != nullptr, "this node does not run");
    return *nodes_[i];
  }
  bool runs(size_t i) const { return i < nodes_.size() && nodes_[i] != nullptr; }
  Membership& member(size_t i) { return node(i).membership(); }

  bool await(Duration limit, const std::function<bool()>& done) {
    return sim.run_until(done, limit);
  }
  // What node `by` thinks of node `about`; nothing: not in its map.
  std::optional<MemberState> state(size_t by, uint64_t about) {
    auto map = member(by).map();
    const Member* found = map ? map->find({about, about}) : nullptr;
    return found ? std::optional(found->state) : std::nullopt;
  }
  // Whether all that run have one and the same map with so many members, so many of them up.
  bool agree(size_t members, size_t up) {
    std::set<uint64_t> versions;
    for (NodeProcess* node : nodes_) {
      if (node == nullptr) continue;
      auto map = node->membership().map();
      if (!map || map->members.size() != members) return false;
      auto is_up = [](const Member& each) { return each.state == MemberState::kUp; };
      if (static_cast<size_t>(std::ranges::count_if(map->members, is_up)) != up) return false;
      versions.insert(map->version);
    }
    return versions.size() == 1;
  }
  // Runs a task of node i to its end.
  Status run(size_t i, Task<Status> task) {
    std::optional<Status> out;
    SHOAL_ASSERT(node(i).gate().spawn(keep(std::move(task), out)));
    SHOAL_ASSERT(await(std::chrono::minutes(5), [&] { return out.has_value(); }));
    return *out;
  }
  Status drain(size_t i, uint64_t member_id) {
    return run(i, member(i).drain({member_id, member_id}, {}));
  }
  size_t count_lines(std::string_view part) const {
    return static_cast<size_t>(std::ranges::count_if(
        lines, [part](const std::string& line) { return line.find(part) != std::string::npos; }));
  }

  Simulation sim;
  SimBlobAccount& blob;
  Log log;
  std::vector<std::string> lines;

 private:
  static BlobFaults faults_of(Duration latency) {
    BlobFaults faults;
    faults.latency = latency;
    return faults;
  }
  static Task<void> keep(Task<Status> task, std::optional<Status>& out) {
    out.emplace(co_await task);
  }

  std::vector<SimMachine*> machines_;
  std::vector<NodeProcess*> nodes_;  // null: not running
};

}  // namespace shoal
