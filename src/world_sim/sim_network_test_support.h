// Simulated machines and the tasks that move bytes between them, for the tests of the network.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "async/gate.h"
#include "async/net_contract_test_support.h"
#include "world_sim/sim_world.h"

namespace shoal {

inline constexpr uint64_t kGigabyte = 1'000'000'000;

// Machines whose tasks run until all have ended.
class Net {
 public:
  explicit Net(size_t count, uint64_t seed = 1) : sim({.seed = seed}) {
    for (size_t i = 0; i < count; ++i) {
      machines.push_back(&sim.add_machine("m" + std::to_string(i), {}));
      machines.back()->boot();
    }
  }
  World& world(size_t i) { return machines[i]->world(); }
  SimFabric& network() { return sim.network(); }
  SimHostId host(size_t i) { return machines[i]->host(); }
  Gate& spawn(size_t i, Task<void> task) {
    Gate& gate = machines[i]->own(std::make_unique<Gate>(world(i).executor));
    gate.spawn(std::move(task));
    gates.push_back(&gate);
    return gate;
  }
  // False: not all ended within the time.
  bool run(Duration limit = std::chrono::hours(1)) {
    return sim.run_until(
        [&] {
          for (Gate* gate : gates) {
            if (gate->count() > 0) return false;
          }
          return true;
        },
        limit);
  }
  double seconds_passed() const { return to_seconds(sim.now().time_since_epoch()); }
  net_contract::Pair pair(size_t server, size_t client);

  Simulation sim;
  std::vector<SimMachine*> machines;
  std::vector<Gate*> gates;
};

inline Task<void> keep_pair(World& server, World& client, std::string at,
                            net_contract::Pair& pair) {
  pair = co_await net_contract::make_pair(server, client, at);
}
inline net_contract::Pair Net::pair(size_t server, size_t client) {
  auto* made = new net_contract::Pair;  // owned by the machine: a crash may leave it behind
  machines[server]->own(std::unique_ptr<net_contract::Pair>(made));
  spawn(server, keep_pair(world(server), world(client), machines[server]->address() + ":0", *made));
  EXPECT_TRUE(run());
  return *made;
}

struct Outcome {
  int64_t result = 1;
  SteadyTime at{};
  bool done = false;
};

// Sends `bytes` of one pattern and waits until the socket has them.
inline Task<void> send_bytes(World& world, SocketId socket, uint64_t bytes, Outcome& outcome) {
  Buffer block(std::min<uint64_t>(bytes, kMiB));
  std::memset(block.data(), 'x', block.size());
  for (uint64_t done = 0; done < bytes && outcome.result >= 0;) {
    std::vector<ConstByteSpan> parts = {
        block.part(0, std::min<uint64_t>(block.size(), bytes - done))};
    net_contract::Probe send(world, NetOp::Kind::kSend);
    send.socket = socket;
    send.parts = parts;
    outcome.result = co_await send.go();
    done += parts[0].size();
  }
  outcome.at = world.executor.now();
  outcome.done = true;
}

inline Task<void> receive_bytes(World& world, SocketId socket, uint64_t bytes, Outcome& outcome) {
  Buffer block(std::min<uint64_t>(bytes, kMiB));
  for (uint64_t done = 0; done < bytes && outcome.result > 0;) {
    uint64_t want = std::min<uint64_t>(block.size(), bytes - done);
    net_contract::Probe receive(world, NetOp::Kind::kReceive);
    net_contract::fill(receive, socket, block.part(0, want), want);
    outcome.result = co_await receive.go();
    if (outcome.result > 0) done += static_cast<uint64_t>(outcome.result);
  }
  outcome.at = world.executor.now();
  outcome.done = true;
}

}  // namespace shoal
