#include "world_sim/sim_fabric.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "base/assert.h"
#include "world_sim/internal/sim_stream.h"
#include "world_sim/sim_network.h"

namespace shoal {

namespace {

constexpr uint64_t kFabricSalt = 0x6e65'7477'6f72'6bull;  // "network"
constexpr uint16_t kFirstFreePort = 32768;
constexpr uint16_t kLastFreePort = 60999;
// A sender finds out that a link works again at its next retransmission.
constexpr Duration kRetransmitMin = std::chrono::milliseconds(1);
constexpr Duration kRetransmitMax = std::chrono::seconds(4);

size_t index_of(SimHostId id) { return static_cast<size_t>(id); }

std::vector<bool> set_of(const std::vector<SimHostId>& hosts, size_t count) {
  std::vector<bool> set(count);
  for (SimHostId id : hosts) set.at(index_of(id)) = true;
  return set;
}
bool holds(const std::vector<bool>& set, SimHostId id) {
  return index_of(id) < set.size() && set[index_of(id)];
}

}  // namespace

void SimNetworkOptions::set_chunk(uint64_t bytes) {
  chunk_bytes = bytes;
  // No more than a stream needs at 100 Gbit/s: thousands of streams may fill them.
  send_buffer = std::max(256 * kKiB, bytes);
  receive_window = std::max(kMiB, 2 * bytes);
}

SimFabric::Host::Host(SimScheduler& scheduler, uint64_t quantum)
    : out(scheduler, quantum), in(scheduler, quantum) {}
SimFabric::Host::~Host() = default;

// A random stream of its own: the network's faults leave all other draws of a seed as they are.
SimFabric::SimFabric(SimScheduler& scheduler, uint64_t seed)
    : scheduler_(scheduler), random_(seed ^ kFabricSalt) {}

SimFabric::~SimFabric() = default;

void SimFabric::set_options(const SimNetworkOptions& options) {
  SHOAL_ASSERT(options.chunk_bytes >= kKiB && options.chunk_bytes <= 64 * kMiB);
  SHOAL_ASSERT(options.send_buffer >= options.chunk_bytes);
  SHOAL_ASSERT(options.receive_window >= options.chunk_bytes);
  SHOAL_ASSERT(options.user_timeout_min <= options.user_timeout_max);
  if (options.chunk_bytes != options_.chunk_bytes) spare_.clear();
  options_ = options;
  for (auto& host : hosts_) {
    host->out.set_quantum(options.chunk_bytes);
    host->in.set_quantum(options.chunk_bytes);
  }
}

SimHostId SimFabric::add_host(const std::string& name) {
  auto id = static_cast<SimHostId>(hosts_.size());
  hosts_.push_back(std::make_unique<Host>(scheduler_, options_.chunk_bytes));
  Host& added = *hosts_.back();
  size_t number = hosts_.size();  // 10.0.0.1 is the first
  SHOAL_ASSERT(number < (1u << 24));
  added.address =
      fmt::format("10.{}.{}.{}", (number >> 16) & 255, (number >> 8) & 255, number & 255);
  added.out.set_rate(options_.nic_out);
  added.in.set_rate(options_.nic_in);
  names_.emplace(added.address, id);
  names_.emplace(name, id);  // the first machine of a name keeps it
  return id;
}

SimFabric::Host& SimFabric::host(SimHostId id) { return *hosts_.at(index_of(id)); }
const SimFabric::Host& SimFabric::host(SimHostId id) const { return *hosts_.at(index_of(id)); }

const SimHostTraffic& SimFabric::traffic(SimHostId id) const { return host(id).traffic; }
const std::string& SimFabric::address(SimHostId id) const { return host(id).address; }

void SimFabric::set_nic(SimHostId id, uint64_t out, uint64_t in) {
  host(id).out.set_rate(out);
  host(id).in.set_rate(in);
}

void SimFabric::set_link(SimHostId from, SimHostId to, const SimLink& link) {
  for (double chance : {link.loss, link.corrupt, link.reset}) {
    SHOAL_ASSERT(chance >= 0 && chance <= 1);
  }
  links_[{from, to}] = link;
}

void SimFabric::set_slow(SimHostId id, Duration delay) {
  SHOAL_ASSERT(delay >= Duration(0));
  host(id).slow = delay;
}

const SimLink& SimFabric::link(SimHostId from, SimHostId to) const {
  auto found = links_.find({from, to});
  return found == links_.end() ? options_.link : found->second;
}

// To the first byte.
Duration SimFabric::delay(SimHostId from, SimHostId to) {
  if (from == to) return options_.loopback_latency + host(from).slow;
  const SimLink& between = link(from, to);
  Duration total = between.latency + host(from).slow + host(to).slow;
  if (between.jitter > Duration(0)) {
    total += Duration(
        static_cast<int64_t>(random_.below(static_cast<uint64_t>(between.jitter.count()) + 1)));
  }
  return total;
}

bool SimFabric::reachable(SimHostId from, SimHostId to) const {
  if (from == to) return true;
  for (const auto& [number, cut] : cuts_) {
    if (holds(cut.from, from) && holds(cut.to, to)) return false;
    if (cut.both && holds(cut.from, to) && holds(cut.to, from)) return false;
  }
  return true;
}

bool SimFabric::can_arrive(SimHostId from, SimHostId to) const {
  return host(to).up && reachable(from, to);
}

uint64_t SimFabric::partition(const std::vector<SimHostId>& from, const std::vector<SimHostId>& to,
                              SimCut cut) {
  uint64_t number = next_cut_++;
  cuts_.emplace(number, Cut{set_of(from, hosts_.size()), set_of(to, hosts_.size()),
                            cut == SimCut::kBothWays});
  scheduler_.note(number * 16 + 5);
  topology_changed();
  return number;
}

uint64_t SimFabric::isolate(SimHostId alone) {
  std::vector<SimHostId> others;
  for (size_t i = 0; i < hosts_.size(); ++i) {
    if (i != index_of(alone)) others.push_back(static_cast<SimHostId>(i));
  }
  return partition({alone}, others, SimCut::kBothWays);
}

void SimFabric::heal(uint64_t number) {
  cuts_.erase(number);
  scheduler_.note(number * 16 + 6);
  topology_changed();
}

void SimFabric::heal_all() {
  cuts_.clear();
  scheduler_.note(6);
  topology_changed();
}

void SimFabric::set_up(SimHostId id, bool up) {
  Host& changed = host(id);
  if (changed.up == up) return;
  changed.up = up;
  topology_changed();
}

std::vector<uint64_t> SimFabric::numbers() const {
  std::vector<uint64_t> sorted;
  sorted.reserve(connections_.size());
  for (const auto& [number, connection] : connections_) sorted.push_back(number);
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

void SimFabric::reset_streams(SimHostId a, SimHostId b) {
  for (uint64_t number : numbers()) {
    SimConnection* connection = find(number);
    if (connection == nullptr) continue;
    auto ends = std::pair(connection->ends[0].host, connection->ends[1].host);
    if (ends != std::pair(a, b) && ends != std::pair(b, a)) continue;
    reset_both(number);
  }
}

// Both ways: without acknowledgements bytes may arrive, but nothing goes on.
bool SimFabric::path_works(const SimConnection& connection, int end) const {
  SimHostId from = connection.ends[end].host;
  SimHostId to = connection.ends[1 - end].host;
  return can_arrive(from, to) && can_arrive(to, from);
}

// What waits for an answer that cannot come begins to count the time; what waits for a path that
// has come back goes on at its next retransmission.
void SimFabric::topology_changed() {
  for (uint64_t number : numbers()) {
    SimConnection& connection = *find(number);
    for (int end : {0, 1}) {
      SimPipe& pipe = connection.pipes[end];
      bool waits = !pipe.queued.empty() || !pipe.transit.empty();
      if (waits && !path_works(connection, end)) stall(connection, end);
    }
  }
  std::set<PipeId> still;
  for (PipeId id : stalled_) {
    SimConnection* connection = find(id / 2);
    if (connection == nullptr) continue;
    int end = static_cast<int>(id % 2);
    if (!path_works(*connection, end)) {
      still.insert(still.end(), id);
      continue;
    }
    Duration passed = scheduler_.now() - connection->pipes[end].stalled_at;
    Duration longest = std::clamp(passed, kRetransmitMin, kRetransmitMax);
    Duration wait =
        Duration(static_cast<int64_t>(random_.below(static_cast<uint64_t>(longest.count())) + 1));
    scheduler_.at(scheduler_.now() + wait, nullptr, [this, id] { resume(id); });
  }
  stalled_ = std::move(still);
}

std::optional<SimHostId> SimFabric::resolve(const std::string& name) const {
  auto found = names_.find(name);
  if (found == names_.end()) return std::nullopt;
  return found->second;
}

SimListener* SimFabric::find_listener(SimHostId id, const std::string& ip, uint16_t port) {
  auto& listeners = host(id).listeners;
  auto found = listeners.find({port, ip});
  if (found == listeners.end()) found = listeners.find({port, std::string()});
  return found == listeners.end() ? nullptr : found->second.get();
}

uint16_t SimFabric::free_port(Host& on) {
  for (int i = 0; i <= kLastFreePort - kFirstFreePort; ++i) {
    uint16_t port = on.next_port;
    on.next_port = port == kLastFreePort ? kFirstFreePort : static_cast<uint16_t>(port + 1);
    auto first = on.listeners.lower_bound({port, std::string()});
    if (first == on.listeners.end() || first->first.first != port) return port;
  }
  return 0;
}

void SimFabric::remove_listener(SimHostId id, SimListener& listener) {
  auto waiting = std::move(listener.waiting);
  host(id).listeners.erase({listener.port, listener.ip});
  for (uint64_t number : waiting) {
    if (SimConnection* connection = find(number)) close_end(*connection, 1, true);
  }
}

SimNicPort* SimFabric::http_out(SimHostId id) {
  SimNicPort& port = host(id).out;
  return options_.http_through_nic && port.limited() ? &port : nullptr;
}

SimNicPort* SimFabric::http_in(SimHostId id) {
  SimNicPort& port = host(id).in;
  return options_.http_through_nic && port.limited() ? &port : nullptr;
}

}  // namespace shoal
