#include "simulate/plan.h"

#include <fmt/format.h>

#include "world_sim/sim_random.h"

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

template <typename T>
T pick(SeededRandom& random, std::initializer_list<T> choices) {
  return *(choices.begin() + random.below(choices.size()));
}

void choose_knobs(SeededRandom& random, Plan& plan) {
  plan.shuffle = random.chance(0.8);
  NodeOptions& node = plan.node;
  node.name = "sim";
  node.attr_ttl = pick<Duration>(random, {Duration(0), milliseconds(200), seconds(1), seconds(5)});
  node.negative_ttl = pick<Duration>(random, {Duration(0), milliseconds(500), seconds(2)});
  node.ack = random.chance(0.25) ? AckLevel::kDurable : AckLevel::kLocal;
  node.upload_delay =
      pick<Duration>(random, {Duration(0), milliseconds(20), milliseconds(500), seconds(60)});
  node.memory = pick<uint64_t>(random, {kMiB, 64 * kMiB, 256 * kMiB});
  node.prefetch_bytes_max = pick<uint64_t>(random, {256 * kKiB, 2 * kMiB, 16 * kMiB});
  node.uploads_max = pick<uint32_t>(random, {1, 2, 4});
  node.upload_blocks_max = pick<uint32_t>(random, {1, 4, 16});
  plan.store.directory = "/cache";
  plan.store.capacity = pick<uint64_t>(random, {48 * kMiB, 96 * kMiB, kGiB});
  plan.store.memory = pick<uint64_t>(random, {256 * kKiB, 2 * kMiB});
  plan.store.disk_reserve = 0;
}

void choose_workload(SeededRandom& random, Plan& plan) {
  plan.clients = 1 + static_cast<uint32_t>(random.below(3));
  plan.readers = static_cast<uint32_t>(random.below(3));
  plan.operations = 6 + static_cast<uint32_t>(random.below(30));
  plan.files = 2 + static_cast<uint32_t>(random.below(6));
  plan.size_max = pick<uint64_t>(random, {64 * kKiB, 600 * kKiB, 600 * kKiB, 3 * kMiB});
  if (random.chance(0.08)) {
    plan.size_max = 20 * kMiB;
    plan.operations /= 3;
    plan.clients = 1;
  }
  uint64_t crashes = random.below(4);
  for (uint64_t i = 0; i < crashes; ++i) {
    Plan::Crash crash;
    // From the first steps of recovery to long after everything settled.
    crash.after_steps = uint64_t{20} << random.below(8);
    crash.after_steps += random.below(crash.after_steps);
    crash.kind = random.chance(0.5) ? CrashKind::kPowerLoss : CrashKind::kProcess;
    crash.clean = random.chance(0.15);
    plan.crashes.push_back(crash);
  }
}

void choose_faults(SeededRandom& random, Plan& plan) {
  plan.blob.latency = pick<Duration>(random, {milliseconds(1), milliseconds(5), milliseconds(40)});
  plan.blob.latency_jitter = plan.blob.latency;
  plan.blob.connection_bytes_per_second = pick<uint64_t>(random, {0, 60'000'000, 5'000'000});
  plan.foreign = random.chance(0.5);
  plan.contested = plan.foreign && random.chance(0.4);
  plan.clock_jumps = random.chance(0.2);
  plan.bit_flips = random.chance(0.3);
  if (random.chance(0.25)) return;  // a calm network

  constexpr BlobFault kFaults[] = {
      BlobFault::kBusy,        BlobFault::kServerError,   BlobFault::kResetBefore,
      BlobFault::kLostReply,   BlobFault::kResetInBody,   BlobFault::kShortBody,
      BlobFault::kStallInBody, BlobFault::kSlowFirstByte,
  };
  for (BlobFault fault : kFaults) {
    if (!random.chance(0.35)) continue;
    plan.any_blob_fault = true;
    plan.blob.set(fault, pick<double>(random, {0.01, 0.05, 0.2}));
  }
  plan.outages = random.chance(0.3);
  plan.impatient = random.chance(0.25);
  plan.small_disk = random.chance(0.2);
  if (random.chance(0.2)) {
    plan.disk.faults.slow = 0.02;
    plan.disk.faults.slow_time = milliseconds(200);
  }
}

}  // namespace

Plan make_plan(uint64_t seed) {
  SeededRandom random(seed * 2 + 1);
  Plan plan;
  choose_knobs(random, plan);
  choose_workload(random, plan);
  choose_faults(random, plan);
  return plan;
}

std::string Plan::describe() const {
  std::string out;
  auto add = [&out](std::string_view word) {
    if (!out.empty()) out += ",";
    out += word;
  };
  for (size_t i = 0; i < blob.chance.size(); ++i) {
    if (blob.chance[i] > 0) {
      add(fmt::format("{}={}", blob_fault_name(static_cast<BlobFault>(i)), blob.chance[i]));
    }
  }
  if (outages) add("outages");
  if (foreign) add("foreign");
  if (contested) add("contested");
  if (clock_jumps) add("clock_jumps");
  if (small_disk) add("small_disk");
  if (bit_flips) add("bit_flips");
  if (impatient) add("impatient");
  if (disk.faults.slow > 0) add("slow_disk");
  if (node.ack == AckLevel::kDurable) add("durable");
  add(fmt::format("attr_ttl={}ms",
                  std::chrono::duration_cast<milliseconds>(node.attr_ttl).count()));
  add(fmt::format("size_max={}", size_max));
  for (const Crash& crash : crashes) {
    add(fmt::format("{}@{}",
                    crash.clean                           ? "restart"
                    : crash.kind == CrashKind::kPowerLoss ? "power"
                                                          : "kill",
                    crash.after_steps));
  }
  return out;
}

}  // namespace shoal::simulate
