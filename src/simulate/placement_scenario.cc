#include "simulate/placement_scenario.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "placement/compare.h"
#include "placement/evenness.h"
#include "placement/slot_map.h"

namespace shoal::simulate {
namespace {

using placement::Placement;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kChunkCounts[] = {16, 64, 256, 1'000, 10'000};
constexpr uint64_t kWindows[] = {32, 256};
static_assert(kPlacementNodesMax < kMembersMax);
// So many hashes are computed for one figure at most.
constexpr uint64_t kHashesMax = 100'000'000;

struct Row {
  std::string name;
  std::optional<double> value;
  std::string unit;
  std::optional<double> ceiling;  // the best that any placement could do
  std::optional<double> target;   // at most
  bool met() const { return !target || (value && *value <= *target); }
};

// What one placement shows at one number of nodes.
struct Figures {
  uint64_t nodes = 0;
  std::string placement;
  std::vector<double> whole;                // per kChunkCounts: mean over objects
  std::vector<placement::Evenness> window;  // per kWindows
  std::optional<double> join, leave;        // share moved over the minimum
  double lookup_ns = 0;
  uint64_t bytes = 0;
};

Member make_member(uint64_t number) {
  Member member;
  member.id = hash_string("node " + std::to_string(number));
  member.name = "node-" + std::to_string(number);
  return member;
}

uint64_t object_hash(uint64_t number) {
  return hash_string("object " + std::to_string(number)).low;
}

// Most chunks that one node has, over the mean.
double busiest(const Placement& placement, uint64_t object, uint64_t first, uint64_t chunks,
               std::vector<uint32_t>& count) {
  uint32_t most = 0;
  std::vector<uint32_t> touched;
  touched.reserve(chunks);
  for (uint64_t chunk = first; chunk < first + chunks; chunk++) {
    uint32_t owner = placement.owner(object, chunk);
    most = std::max(most, ++count[owner]);
    touched.push_back(owner);
  }
  for (uint32_t owner : touched) count[owner] = 0;
  return most * static_cast<double>(placement.members().size()) / static_cast<double>(chunks);
}

// All windows of the first 4096 chunks of one object: for the slot map these are all there are.
placement::Evenness window_evenness(const Placement& placement, uint64_t window) {
  std::vector<uint32_t> owners;
  for (uint64_t chunk = 0; chunk < kSlots + window; chunk++) {
    owners.push_back(placement.owner(object_hash(0), chunk));
  }
  auto nodes = placement.members().size();
  std::vector<uint32_t> count(nodes);
  placement::Evenness result;
  for (uint64_t first = 0; first < kSlots; first++) {
    uint32_t most = 0;
    for (uint64_t i = first; i < first + window; i++) most = std::max(most, ++count[owners[i]]);
    for (uint64_t i = first; i < first + window; i++) count[owners[i]] = 0;
    double ratio = most * static_cast<double>(nodes) / static_cast<double>(window);
    result.mean += ratio / kSlots;
    result.worst = std::max(result.worst, ratio);
  }
  return result;
}

double lookup_ns(const Placement& placement, uint64_t hashes_of_lookup) {
  uint64_t lookups = std::clamp<uint64_t>(kHashesMax / 4 / hashes_of_lookup, 1'000, 1'000'000);
  double best = 0;
  uint64_t sum = 0;
  for (int round = 0; round < 3; round++) {
    auto begun = Clock::now();
    for (uint64_t i = 0; i < lookups; i++) {
      sum += placement.owner(i * 0x9e3779b97f4a7c15, i & 1'023);
    }
    double ns = std::chrono::duration<double, std::nano>(Clock::now() - begun).count();
    ns /= static_cast<double>(lookups);
    if (round == 0 || ns < best) best = ns;
  }
  // The sum is used, so that the loop stays.
  return sum == 1 ? best + 1e-9 : best;
}

// The least that any placement could show: chunks are whole.
double least_busiest(uint64_t nodes, uint64_t chunks) {
  uint64_t most = (chunks + nodes - 1) / nodes;
  return static_cast<double>(most * nodes) / static_cast<double>(chunks);
}

// One kind of placement at one number of nodes, with neighbours: other members joined, or left.
struct Subject {
  std::unique_ptr<Placement> placement;
  std::vector<std::unique_ptr<Placement>> joined, left;
};

Figures measure(const Subject& subject, const PlacementCommand& command) {
  const Placement& placement = *subject.placement;
  uint64_t nodes = placement.members().size();
  bool every_node_hashed = placement.name() == "rendezvous";
  uint64_t hashes = every_node_hashed ? nodes : 1;
  Figures figures;
  figures.nodes = nodes;
  figures.placement = placement.name();
  std::vector<uint32_t> count(nodes);
  for (uint64_t chunks : kChunkCounts) {
    uint64_t objects =
        std::clamp<uint64_t>(kHashesMax / 10 / (hashes * chunks), 2, command.objects);
    double sum = 0;
    for (uint64_t object = 0; object < objects; object++) {
      sum += busiest(placement, object_hash(object + command.seed * 1'000'000), 0, chunks, count);
    }
    figures.whole.push_back(sum / static_cast<double>(objects));
  }
  for (uint64_t window : kWindows) figures.window.push_back(window_evenness(placement, window));

  // The slot map repeats after kSlots chunks; the others need samples, and many of them where a
  // small share moves.
  bool exact = placement.name() == "slot map";
  uint64_t keys =
      exact ? kSlots
            : std::min<uint64_t>(kHashesMax / 50, kHashesMax / 4 / hashes) / subject.joined.size();
  if (exact || keys / nodes >= 2'000 / subject.joined.size()) {
    double join = 0, leave = 0;
    for (const auto& after : subject.joined) join += share_moved(placement, *after, keys);
    for (const auto& after : subject.left) leave += share_moved(placement, *after, keys);
    figures.join =
        join / static_cast<double>(subject.joined.size()) * static_cast<double>(nodes + 1);
    figures.leave = leave / static_cast<double>(subject.left.size()) * static_cast<double>(nodes);
  }
  figures.lookup_ns = lookup_ns(placement, hashes);
  figures.bytes = placement.bytes();
  return figures;
}

// The cluster grows one by one to a hundred, then in bulk: as real ones do, at their worst.
SlotMap grow(SlotMap map, uint64_t nodes) {
  uint64_t next = map.members.size();
  for (; next < std::min<uint64_t>(nodes, 100); next++)
    map = placement::join(map, make_member(next));
  std::vector<Member> rest;
  for (; next < nodes; next++) rest.push_back(make_member(next));
  return rest.empty() ? map : placement::join(map, std::move(rest));
}

std::vector<Figures> measure_all(const SlotMap& map, const PlacementCommand& command) {
  uint64_t nodes = map.members.size();
  uint64_t repeats = nodes <= 100 ? 4 : 1;
  Subject subjects[3];
  auto make = [](int kind, const SlotMap& of) {
    if (kind == 0) return placement::make_slot_map_placement(of);
    if (kind == 1) return placement::make_ring_placement(of.members);
    return placement::make_rendezvous_placement(of.members);
  };
  std::mt19937_64 random(command.seed);
  std::vector<SlotMap> joined, left;
  for (uint64_t i = 0; i < repeats; i++) {
    joined.push_back(placement::join(map, make_member(1'000'000 + command.seed * 1'000 + i)));
    left.push_back(placement::leave(map, NodeId(map.members[random() % nodes].id)));
  }
  std::vector<Figures> all;
  for (int kind = 0; kind < 3; kind++) {
    Subject& subject = subjects[kind];
    subject.placement = make(kind, map);
    for (const SlotMap& after : joined) subject.joined.push_back(make(kind, after));
    for (const SlotMap& after : left) subject.left.push_back(make(kind, after));
    all.push_back(measure(subject, command));
    subject = {};
  }
  return all;
}

// The worst of random joins and leaves: a map that has lived.
struct Churned {
  double moved_over_minimum = 0;
  placement::Evenness window[std::size(kWindows)];  // each the worst of all maps
};

Churned churn(const PlacementCommand& command) {
  SlotMap map =
      grow(placement::first_map("reef", hash_string("reef"), "/data", 3, make_member(0)), 16);
  std::mt19937_64 random(command.seed);
  Churned result;
  for (uint64_t i = 0; i < command.changes; i++) {
    SlotMap next;
    double least = 0;
    size_t nodes = map.members.size();
    if (nodes == 12 || (nodes < 16 && random() % 2 == 0)) {
      next = placement::join(map, make_member(2'000'000 + i));
      least = 1.0 * kSlots / static_cast<double>(nodes + 1);
    } else {
      auto leaver = static_cast<uint16_t>(random() % nodes);
      next = placement::leave(map, NodeId(map.members[leaver].id));
      for (uint32_t slot = 0; slot < kSlots; slot++) least += map.owners_of(slot)[0] == leaver;
    }
    result.moved_over_minimum =
        std::max(result.moved_over_minimum, placement::primaries_moved(map, next) / least);
    for (size_t w = 0; w < std::size(kWindows); w++) {
      auto evenness = placement::window_evenness(next, static_cast<uint32_t>(kWindows[w]));
      result.window[w].mean = std::max(result.window[w].mean, evenness.mean);
      result.window[w].worst = std::max(result.window[w].worst, evenness.worst);
    }
    map = std::move(next);
  }
  return result;
}

std::optional<double> window_target(uint64_t nodes, uint64_t window) {
  if (nodes > 16) return std::nullopt;
  return window == 32 ? 1.5 : 1.1;
}

void add_rows(std::vector<Row>& rows, const Figures& figures) {
  bool ours = figures.placement == "slot map";
  std::string prefix = fmt::format("{} nodes, {}: ", figures.nodes, figures.placement);
  for (size_t i = 0; i < figures.whole.size(); i++) {
    rows.push_back({prefix + fmt::format("object of {} chunks, busiest over mean", kChunkCounts[i]),
                    figures.whole[i],
                    "ratio",
                    least_busiest(figures.nodes, kChunkCounts[i]),
                    {}});
  }
  for (size_t i = 0; i < figures.window.size(); i++) {
    std::string name = prefix + fmt::format("windows of {} chunks, busiest over mean", kWindows[i]);
    double least = least_busiest(figures.nodes, kWindows[i]);
    rows.push_back({name + ", mean", figures.window[i].mean, "ratio", least,
                    ours ? window_target(figures.nodes, kWindows[i]) : std::nullopt});
    rows.push_back({name + ", worst", figures.window[i].worst, "ratio", least, {}});
  }
  // With more than a hundred nodes a slot more or less is more than 1.05 of a share.
  std::optional<double> moved_target;
  if (ours && figures.nodes <= 100) moved_target = 1.05;
  rows.push_back(
      {prefix + "moved on join, over the minimum", figures.join, "ratio", 1, moved_target});
  rows.push_back(
      {prefix + "moved on leave, over the minimum", figures.leave, "ratio", 1, moved_target});
  rows.push_back({prefix + "look-up", figures.lookup_ns, "ns", {}, {}});
  rows.push_back({prefix + "size of the map", static_cast<double>(figures.bytes), "B", {}, {}});
}

void add_rows(std::vector<Row>& rows, const Churned& churned, uint64_t changes) {
  std::string prefix = fmt::format("12 to 16 nodes, slot map, {} random changes: ", changes);
  rows.push_back(
      {prefix + "moved over the minimum, most", churned.moved_over_minimum, "ratio", 1, 1.05});
  for (size_t i = 0; i < std::size(kWindows); i++) {
    std::string name = prefix + fmt::format("windows of {} chunks, busiest over mean", kWindows[i]);
    rows.push_back(
        {name + ", mean", churned.window[i].mean, "ratio", {}, window_target(16, kWindows[i])});
    rows.push_back({name + ", worst", churned.window[i].worst, "ratio", {}, {}});
  }
}

Json number(std::optional<double> value) {
  if (!value) return nullptr;
  return std::stod(fmt::format("{:.5g}", *value));
}

void print_json(const PlacementCommand& command, const std::vector<Row>& rows) {
  utsname system{};
  uname(&system);
  Json out{{"scenario", "placement"},
           {"parameters",
            {{"nodes", command.nodes},
             {"seed", command.seed},
             {"objects", command.objects},
             {"changes", command.changes},
             {"slots", kSlots},
             {"virtual_nodes", placement::kVirtualNodes}}},
           {"machine",
            {{"kernel", fmt::format("{} {}", system.sysname, system.release)},
             {"architecture", system.machine},
             {"cores", std::thread::hardware_concurrency()}}},
           {"rows", Json::array()}};
  for (const Row& row : rows) {
    std::optional<double> ratio;
    if (row.value && row.ceiling) ratio = *row.value / *row.ceiling;
    Json met = nullptr;
    if (row.target) met = row.met();
    out["rows"].push_back({{"name", row.name},
                           {"value", number(row.value)},
                           {"unit", row.unit},
                           {"ceiling", number(row.ceiling)},
                           {"ratio", number(ratio)},
                           {"target", number(row.target)},
                           {"met", met}});
  }
  fmt::print("{}\n", out.dump(2));
}

std::string shown(std::optional<double> value) {
  if (!value) return "-";
  return *value >= 100 ? fmt::format("{:.0f}", *value) : fmt::format("{:.2f}", *value);
}

void print_table(const std::vector<Figures>& all) {
  fmt::print(
      "Busiest node over the mean: objects of so many chunks (mean over objects), windows of "
      "consecutive\nchunks (mean/worst of all windows). \"best\": what no placement could "
      "beat, chunks being whole.\nMoved on join and leave: over the minimum; -: too few "
      "samples.\n\n");
  fmt::print("{:>6} {:<10}", "nodes", "placement");
  for (uint64_t chunks : kChunkCounts) fmt::print(" {:>7}", chunks);
  fmt::print(" {:>11} {:>11} {:>5} {:>5} {:>8} {:>9}\n", "windows 32", "256", "join", "leave",
             "look-up", "bytes");
  for (const Figures& figures : all) {
    if (figures.placement == "slot map") {
      fmt::print("{:>6} {:<10}", figures.nodes, "best");
      for (uint64_t chunks : kChunkCounts) {
        fmt::print(" {:>7}", shown(least_busiest(figures.nodes, chunks)));
      }
      for (uint64_t window : kWindows) {
        fmt::print(" {:>11}", shown(least_busiest(figures.nodes, window)));
      }
      fmt::print("\n");
    }
    fmt::print("{:>6} {:<10}", figures.nodes, figures.placement);
    for (double value : figures.whole) fmt::print(" {:>7}", shown(value));
    for (const auto& window : figures.window) {
      fmt::print(" {:>11}", shown(window.mean) + "/" + shown(window.worst));
    }
    fmt::print(" {:>5} {:>5} {:>5} ns {:>9}\n", shown(figures.join), shown(figures.leave),
               fmt::format("{:.0f}", figures.lookup_ns), figures.bytes);
  }
}

}  // namespace

int run_placement_command(const PlacementCommand& command) {
  std::vector<Figures> all;
  std::vector<Row> rows;
  SlotMap map = placement::first_map("reef", hash_string("reef"), "/data", 3, make_member(0));
  auto nodes_wanted = command.nodes;
  std::ranges::sort(nodes_wanted);
  for (uint64_t nodes : nodes_wanted) {
    map = grow(std::move(map), nodes);
    for (Figures& figures : measure_all(map, command)) {
      add_rows(rows, figures);
      all.push_back(std::move(figures));
    }
  }
  std::optional<Churned> churned;
  if (command.changes > 0) {
    churned = churn(command);
    add_rows(rows, *churned, command.changes);
  }
  bool met = std::ranges::all_of(rows, &Row::met);
  if (command.json) {
    print_json(command, rows);
    return met ? 0 : 1;
  }
  print_table(all);
  if (churned) {
    fmt::print(
        "\nSlot map through {} random joins and leaves, 12 to 16 nodes: moved at most {:.3f} of "
        "the minimum;\nwindows of 32 at most {:.3f} (mean), {:.2f} (worst); of 256 {:.3f}, "
        "{:.2f}\n",
        command.changes, churned->moved_over_minimum, churned->window[0].mean,
        churned->window[0].worst, churned->window[1].mean, churned->window[1].worst);
  }
  fmt::print("\n");
  for (const Row& row : rows) {
    if (!row.met()) fmt::print("missed: {}: {} > {}\n", row.name, shown(row.value), *row.target);
  }
  fmt::print("targets of the slot map: {}\n", met ? "all met" : "NOT all met");
  return met ? 0 : 1;
}

}  // namespace shoal::simulate
