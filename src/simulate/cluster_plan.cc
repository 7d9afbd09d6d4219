#include "simulate/cluster_plan.h"

#include <fmt/format.h>

#include "world_sim/sim_random.h"

namespace shoal::simulate {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

template <typename T>
T pick(SeededRandom& random, std::initializer_list<T> choices) {
  return *(choices.begin() + random.below(choices.size()));
}

void choose_shape(SeededRandom& random, ClusterPlan& plan, uint32_t nodes) {
  plan.shuffle = random.chance(0.8);
  plan.nodes = 3 + static_cast<uint32_t>(random.below(4));
  if (random.chance(0.06)) plan.nodes = 10 + static_cast<uint32_t>(random.below(11));
  if (nodes != 0) plan.nodes = nodes;
  plan.zones = random.chance(0.3) ? 1 + static_cast<uint32_t>(random.below(3)) : 1;
  plan.cluster.name = "sim";
  plan.cluster.copies = pick<uint32_t>(random, {2, 3, 3});
  plan.cluster.grace = pick<Duration>(random, {seconds(15), seconds(30), seconds(120)});
  plan.cluster.attr_ttl = pick<Duration>(random, {Duration(0), milliseconds(500), seconds(5)});
  plan.cluster.negative_ttl = pick<Duration>(random, {Duration(0), milliseconds(500), seconds(2)});
  plan.cluster.pool.lanes = pick<uint32_t>(random, {1, 2, 4});
  plan.cluster.reader.chunk_bytes =
      pick<uint64_t>(random, {128 * kKiB, 256 * kKiB, 256 * kKiB, kMiB, 8 * kMiB});
}

void choose_knobs(SeededRandom& random, ClusterPlan& plan) {
  NodeOptions& node = plan.node;
  node.attr_ttl = plan.cluster.attr_ttl;
  node.negative_ttl = plan.cluster.negative_ttl;
  node.ack = random.chance(0.5) ? AckLevel::kDurable : AckLevel::kLocal;
  node.upload_delay = pick<Duration>(random, {Duration(0), milliseconds(20), milliseconds(500)});
  node.memory = pick<uint64_t>(random, {2 * kMiB, 32 * kMiB, 256 * kMiB});
  node.prefetch_bytes_max = pick<uint64_t>(random, {256 * kKiB, 2 * kMiB, 16 * kMiB});
  plan.small_cache = random.chance(0.15);
  plan.store.directory = "/cache";
  plan.store.capacity = plan.small_cache ? 24 * kMiB : kGiB;
  plan.store.memory = 512 * kKiB;
  plan.store.disk_reserve = 0;
  plan.network.link.latency = pick<Duration>(random, {microseconds(30), microseconds(300)});
  plan.network.link.jitter = plan.network.link.latency;
  uint64_t nic = pick<uint64_t>(random, {0, 1'250'000'000, 125'000'000});
  plan.network.nic_in = nic;
  plan.network.nic_out = nic;
  plan.blob.latency = pick<Duration>(random, {milliseconds(1), milliseconds(8), milliseconds(30)});
  plan.blob.latency_jitter = plan.blob.latency;
  plan.blob.connection_bytes_per_second = pick<uint64_t>(random, {0, 60'000'000, 10'000'000});
}

void choose_work(SeededRandom& random, ClusterPlan& plan) {
  bool large = plan.nodes >= 10;
  plan.programs = 1 + static_cast<uint32_t>(random.below(large ? 1 : 3));
  plan.operations = 4 + static_cast<uint32_t>(random.below(large ? 6 : 14));
  plan.objects = 3 + static_cast<uint32_t>(random.below(6));
  plan.size_max = pick<uint64_t>(random, {200 * kKiB, kMiB, kMiB, 3 * kMiB});
  if (large) plan.size_max = std::min(plan.size_max, kMiB);
  plan.changes = random.chance(0.5);
  plan.writes = random.chance(0.4);
  plan.joins = random.chance(0.25);
}

void choose_faults(SeededRandom& random, ClusterPlan& plan) {
  if (random.chance(0.2)) return;  // calm
  double each = pick<double>(random, {0.12, 0.12, 0.3});
  for (bool* fault :
       {&plan.kills, &plan.power_losses, &plan.partitions, &plan.one_way, &plan.slow_nodes,
        &plan.bad_links, &plan.corrupt, &plan.blob_away, &plan.blob_bursts, &plan.map_away,
        &plan.clock_jumps, &plan.full_disks, &plan.blob_noise}) {
    *fault = random.chance(each);
  }
  bool dies = plan.kills || plan.power_losses;
  plan.long_downs = dies && random.chance(0.4);
  plan.lost_caches = dies && random.chance(0.4);
  plan.early = random.chance(0.2);
  if (plan.blob_noise) {
    constexpr BlobFault kFaults[] = {
        BlobFault::kBusy,        BlobFault::kServerError,   BlobFault::kResetBefore,
        BlobFault::kLostReply,   BlobFault::kResetInBody,   BlobFault::kShortBody,
        BlobFault::kStallInBody, BlobFault::kSlowFirstByte,
    };
    for (BlobFault fault : kFaults) {
      if (random.chance(0.3)) plan.blob.set(fault, pick<double>(random, {0.01, 0.05, 0.2}));
    }
  }
}

}  // namespace

ClusterPlan make_cluster_plan(uint64_t seed, uint32_t nodes) {
  SeededRandom random(seed * 2 + 77);
  ClusterPlan plan;
  choose_shape(random, plan, nodes);
  choose_knobs(random, plan);
  choose_work(random, plan);
  choose_faults(random, plan);
  plan.two_addresses = random.chance(0.25);
  return plan;
}

std::string ClusterPlan::describe() const {
  std::string out = fmt::format("{} nodes, {} KiB chunks, attr_ttl {} ms, grace {} s", nodes,
                                cluster.reader.chunk_bytes / kKiB,
                                std::chrono::duration_cast<milliseconds>(cluster.attr_ttl).count(),
                                std::chrono::duration_cast<seconds>(cluster.grace).count());
  std::string words;
  auto add = [&words](bool on, std::string_view word) {
    if (!on) return;
    if (!words.empty()) words += ",";
    words += word;
  };
  add(zones > 1, fmt::format("zones={}", zones));
  add(kills, "kills");
  add(power_losses, "power_losses");
  add(long_downs, "long_downs");
  add(lost_caches, "lost_caches");
  add(partitions, "partitions");
  add(one_way, "one_way");
  add(slow_nodes, "slow_nodes");
  add(bad_links, "bad_links");
  add(corrupt, "corrupt");
  add(blob_away, "blob_away");
  add(blob_bursts, "blob_bursts");
  add(blob_noise, "blob_noise");
  add(map_away, "map_away");
  add(clock_jumps, "clock_jumps");
  add(full_disks, "full_disks");
  add(contested, "contested");
  add(disk.read_bytes_per_second > 0, "slow_writes");
  add(small_cache, "small_cache");
  add(changes, "changes");
  add(writes, "writes");
  add(joins, "joins");
  add(early, "early");
  add(two_addresses, "two_addresses");
  return out + "; " + (words.empty() ? "calm" : words);
}

}  // namespace shoal::simulate
