// What goes wrong in a simulated cluster.
#include <fmt/format.h>

#include <algorithm>

#include "simulate/cluster_world.h"

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

}  // namespace

void ClusterWorld::begin_faults() {
  working_ = true;
  bool any =
      !plan().calm() || plan().map_away || plan().clock_jumps || plan().changes || plan().joins;
  faults_until_ = sim_.now() + (any ? seconds(10 + random_.below(30)) : seconds(0));
  if (faults_on_) return;
  faults_on_ = true;
  schedule_fault();
}

void ClusterWorld::end_faults() {
  faults_on_ = false;
  working_ = false;
  sim_.network().heal_all();
  sim_.network().clear_links();
  sim_.network().set_options(plan().network);
  for (SimNode& node : nodes_) {
    sim_.network().set_slow(node.machine->host(), Duration(0));
    node.machine->disk().set_capacity(kTiB);
    if (node.machine->running()) node.machine->process().http.set_partitioned(false);
  }
  BlobFaults calm;
  calm.latency = milliseconds(2);
  account_->faults.set(calm);
}

void ClusterWorld::schedule_fault() {
  sim_.at(milliseconds(100 + random_.below(2500)), [this] {
    if (!faults_on_ || sim_.now() > faults_until_) return;
    std::vector<Fault> known;
    auto add = [&known](bool on, Fault fault) {
      if (on) known.push_back(fault);
    };
    add(plan().kills || plan().power_losses, &ClusterWorld::kill);
    add(plan().partitions, &ClusterWorld::part_both);
    add(plan().one_way, &ClusterWorld::part_one_way);
    add(plan().slow_nodes, &ClusterWorld::slow_node);
    add(plan().bad_links, &ClusterWorld::bad_link);
    add(plan().corrupt, &ClusterWorld::corrupt_links);
    add(plan().blob_away, &ClusterWorld::lose_blob);
    add(plan().blob_bursts, &ClusterWorld::burst_blob);
    add(plan().map_away, &ClusterWorld::lose_map);
    add(plan().clock_jumps, &ClusterWorld::jump_clock);
    add(plan().full_disks, &ClusterWorld::fill_disk);
    add(plan().changes, &ClusterWorld::change_object);
    add(plan().joins && !joined_, &ClusterWorld::join_node);
    if (!known.empty()) (this->*known[random_.below(known.size())])();
    schedule_fault();
  });
}

Duration ClusterWorld::disturb(Duration least, Duration most) {
  auto span = static_cast<uint64_t>((most - least) / milliseconds(1));
  Duration length = least + milliseconds(random_.below(span + 1));
  ground_.disturbances.add(sim_.now(), sim_.now() + length);
  ground_.findings.count("faults");
  return length;
}

SimNode* ClusterWorld::some_living() {
  std::vector<SimNode*> nodes = living();
  return nodes.empty() ? nullptr : nodes[random_.below(nodes.size())];
}

std::vector<SimHostId> ClusterWorld::some_hosts() {
  std::vector<SimHostId> hosts;
  for (const SimNode& node : nodes_) hosts.push_back(node.machine->host());
  size_t count = 1 + random_.below(hosts.size() - 1);
  for (size_t i = 0; i < count; ++i) {
    std::swap(hosts[i], hosts[i + random_.below(hosts.size() - i)]);
  }
  hosts.resize(count);
  return hosts;
}

void ClusterWorld::kill() {
  size_t running = 0;
  for (const SimNode& node : nodes_) running += node.machine->running() ? 1 : 0;
  if (running * 2 <= nodes_.size() + 1) return;  // enough for now
  SimNode& victim = nodes_[random_.below(nodes_.size())];
  if (!victim.machine->running() || victim.gone) return;
  bool power = plan().power_losses && (!plan().kills || random_.chance(0.5));
  crash(victim, power ? CrashKind::kPowerLoss : CrashKind::kProcess);
  bool lost = plan().lost_caches && random_.chance(0.4);
  if (lost) {
    log_.info("--- {} loses its cache", victim.machine->name());
    ground_.findings.count("lost_caches");
    victim.machine->disk().wipe();
    for (auto& [object, history] : ground_.history.objects()) {
      for (ObjectVersion& version : history.versions) {
        if (version.acknowledged_by == victim.machine->name()) version.acknowledged_by.clear();
      }
    }
  }
  Duration grace = plan().cluster.grace;
  bool late = plan().long_downs && grace <= seconds(30) && random_.chance(0.5);
  Duration down = late ? disturb(grace + seconds(5), grace + seconds(20))
                       : disturb(milliseconds(50), std::min<Duration>(grace / 2, seconds(8)));
  victim.returning = true;
  sim_.at(down, [this, &victim] {
    if (victim.returning && !victim.machine->running()) boot(victim);
  });
}

void ClusterWorld::part_both() {
  std::vector<SimHostId> side = some_hosts();
  std::vector<SimHostId> others;
  for (const SimNode& node : nodes_) {
    if (std::ranges::find(side, node.machine->host()) == side.end()) {
      others.push_back(node.machine->host());
    }
  }
  uint64_t cut = sim_.network().partition(side, others, SimCut::kBothWays);
  sim_.at(disturb(milliseconds(200), seconds(12)), [this, cut] { sim_.network().heal(cut); });
}

void ClusterWorld::part_one_way() {
  std::vector<SimHostId> from = some_hosts();
  std::vector<SimHostId> to;
  for (const SimNode& node : nodes_) {
    bool inside = std::ranges::find(from, node.machine->host()) != from.end();
    if (!inside && random_.chance(0.7)) to.push_back(node.machine->host());
  }
  if (to.empty()) return;
  uint64_t cut = sim_.network().partition(from, to, SimCut::kOneWay);
  sim_.at(disturb(milliseconds(200), seconds(12)), [this, cut] { sim_.network().heal(cut); });
}

void ClusterWorld::slow_node() {
  SimHostId host = nodes_[random_.below(nodes_.size())].machine->host();
  sim_.network().set_slow(host, milliseconds(1 << random_.below(12)));
  sim_.at(disturb(milliseconds(500), seconds(10)),
          [this, host] { sim_.network().set_slow(host, Duration(0)); });
}

void ClusterWorld::bad_link() {
  SimHostId host = nodes_[random_.below(nodes_.size())].machine->host();
  SimLink bad = plan().network.link;
  bad.loss = random_.chance(0.6) ? 0.02 + 0.2 * random_.unit() : 0;
  bad.reset = random_.chance(0.4) ? 0.02 : 0;
  bad.stream_bytes_per_second = random_.chance(0.5) ? 200'000 + random_.below(2'000'000) : 0;
  for (const SimNode& node : nodes_) {
    if (node.machine->host() == host) continue;
    sim_.network().set_link(host, node.machine->host(), bad);
    if (random_.chance(0.5)) sim_.network().set_link(node.machine->host(), host, bad);
  }
  uint64_t number = ++links_changed_;
  sim_.at(disturb(milliseconds(500), seconds(10)), [this, number] {
    if (number == links_changed_) sim_.network().clear_links();
  });
}

void ClusterWorld::corrupt_links() {
  SimNetworkOptions options = plan().network;
  options.link.corrupt = 0.002 + 0.03 * random_.unit();
  sim_.network().set_options(options);
  sim_.at(disturb(milliseconds(500), seconds(8)),
          [this] { sim_.network().set_options(plan().network); });
}

void ClusterWorld::lose_blob() {
  bool all = random_.chance(0.3);
  Duration length = disturb(milliseconds(200), seconds(15));
  for (SimNode& node : nodes_) {
    if (!node.machine->running() || (!all && !random_.chance(0.4))) continue;
    node.machine->process().http.set_partitioned(true);
    uint64_t boot_number = node.machine->boots();
    sim_.at(length, [&node, boot_number] {
      bool same = node.machine->running() && node.machine->boots() == boot_number;
      if (same) node.machine->process().http.set_partitioned(false);
    });
  }
}

void ClusterWorld::set_blob_faults() {
  if (!faults_on_) return;
  BlobFaults faults = plan().blob;
  if (bursts_ > 0) {
    faults.set(BlobFault::kBusy, 0.5);
    faults.set(BlobFault::kResetInBody, 0.1);
    faults.set(BlobFault::kSlowFirstByte, 0.1);
  }
  if (map_losses_ > 0) {
    ScriptedFault refuse;
    refuse.fault = random_.chance(0.5) ? BlobFault::kBusy : BlobFault::kServerError;
    refuse.method = "PUT";
    refuse.target_part = ".shoal";
    refuse.count = UINT64_MAX;
    faults.script.push_back(refuse);
  }
  account_->faults.set(std::move(faults));
}

void ClusterWorld::burst_blob() {
  ++bursts_;
  set_blob_faults();
  sim_.at(disturb(milliseconds(300), seconds(8)), [this] {
    --bursts_;
    set_blob_faults();
  });
}

void ClusterWorld::lose_map() {
  ++map_losses_;
  set_blob_faults();
  sim_.at(disturb(seconds(1), seconds(20)), [this] {
    --map_losses_;
    set_blob_faults();
  });
}

void ClusterWorld::jump_clock() {
  SimNode* node = some_living();
  if (node == nullptr) return;
  auto offset = seconds(static_cast<int64_t>(random_.below(1200)) - 600);
  node->machine->process().executor.set_wall_offset(offset);
}

void ClusterWorld::fill_disk() {
  SimNode& node = nodes_[random_.below(nodes_.size())];
  SimDiskState& disk = node.machine->disk();
  disk.set_capacity(disk.used() + random_.below(kMiB));
  sim_.at(disturb(milliseconds(100), seconds(15)), [&disk] { disk.set_capacity(kTiB); });
}

void ClusterWorld::change_object() {
  std::vector<std::string> theirs;
  for (const std::string& object : ground_.common) {
    if (ground_.history.at(object).writer.empty()) theirs.push_back(object);
  }
  const std::string& object = theirs[random_.below(theirs.size())];
  ground_.findings.count("changes");
  if (ground_.history.at(object).now().exists && random_.chance(0.15)) {
    return ground_.history.remove(account_->service, object, sim_.now());
  }
  ground_.history.put(account_->service, object,
                      make_content(ground_.next_write++, random_.below(plan().size_max + 1)),
                      sim_.now(), sim_.scheduler().wall_now());
}

void ClusterWorld::join_node() {
  joined_ = true;
  ground_.disturbances.add(sim_.now(), sim_.now());
  boot(add_node());
}

}  // namespace shoal::simulate
