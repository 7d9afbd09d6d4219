#include "apps/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/units.h"
#include "base/bytes.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

// The keys that docs/operating.md promises, and nothing else: per node and as the sums.
Json stable_keys(const NodeReport& r) {
  Json out;
  out["origin"] = {{"reads", r.origin_io.reads},   {"bytes_read", r.origin_io.bytes_read},
                   {"writes", r.origin_io.writes}, {"bytes_written", r.origin_io.bytes_written},
                   {"errors", r.origin_io.errors}, {"retries", r.origin_io.retries}};
  out["peer"] = {{"bytes_sent", r.peer.bytes_sent}, {"bytes_received", r.peer.bytes_received}};
  out["read"] = {{"hits_local", r.read.hits_local},
                 {"hits_peer", r.read.hits_peer},
                 {"misses", r.read.misses}};
  out["files"] = {{"bytes", r.files.bytes}, {"capacity", r.files.capacity}};
  out["blocks"] = {
      {"bytes", r.blocks.bytes}, {"capacity", r.blocks.capacity}, {"count", r.blocks.count}};
  out["dirty"] = {{"objects", r.dirty.objects},
                  {"bytes", r.dirty.bytes},
                  {"oldest_seconds", r.dirty.oldest_seconds},
                  {"objects_per_second", r.dirty.objects_per_second},
                  {"bytes_per_second", r.dirty.bytes_per_second},
                  {"eta_seconds", r.dirty.eta_seconds < 0 ? Json() : Json(r.dirty.eta_seconds)}};
  out["replication"] = {{"records", r.replication.records},
                        {"replicas", r.replication.replicas},
                        {"replica_bytes", r.replication.replica_bytes},
                        {"degraded", r.replication.degraded},
                        {"last_error", r.replication.last_error}};
  out["map"] = {{"version", r.map.version}, {"members", r.map.members}};
  out["memory"] = {{"rss_bytes", r.memory.rss_bytes}};
  return out;
}

void add_to(NodeReport& sum, const NodeReport& r) {
  sum.origin_io.reads += r.origin_io.reads;
  sum.origin_io.bytes_read += r.origin_io.bytes_read;
  sum.origin_io.writes += r.origin_io.writes;
  sum.origin_io.bytes_written += r.origin_io.bytes_written;
  sum.origin_io.errors += r.origin_io.errors;
  sum.origin_io.retries += r.origin_io.retries;
  sum.peer.bytes_sent += r.peer.bytes_sent;
  sum.peer.bytes_received += r.peer.bytes_received;
  sum.read.hits_local += r.read.hits_local;
  sum.read.hits_peer += r.read.hits_peer;
  sum.read.misses += r.read.misses;
  sum.files.bytes += r.files.bytes;
  sum.files.capacity += r.files.capacity;
  sum.blocks.bytes += r.blocks.bytes;
  sum.blocks.capacity += r.blocks.capacity;
  sum.blocks.count += r.blocks.count;
  // The slowest counts; where one that waits does not get on, nobody knows.
  bool known = (sum.dirty.objects == 0 || sum.dirty.eta_seconds >= 0) &&
               (r.dirty.objects == 0 || r.dirty.eta_seconds >= 0);
  sum.dirty.eta_seconds = known ? std::max({0.0, sum.dirty.eta_seconds, r.dirty.eta_seconds}) : -1;
  sum.dirty.objects += r.dirty.objects;
  sum.dirty.objects_per_second += r.dirty.objects_per_second;
  sum.dirty.bytes_per_second += r.dirty.bytes_per_second;
  sum.dirty.bytes += r.dirty.bytes;
  sum.dirty.oldest_seconds = std::max(sum.dirty.oldest_seconds, r.dirty.oldest_seconds);
  sum.replication.records += r.replication.records;
  sum.replication.replicas += r.replication.replicas;
  sum.replication.replica_bytes += r.replication.replica_bytes;
  sum.replication.degraded = sum.replication.degraded || r.replication.degraded;
  if (sum.replication.last_error.empty()) sum.replication.last_error = r.replication.last_error;
  sum.map.version = std::max(sum.map.version, r.map.version);
  sum.memory.rss_bytes += r.memory.rss_bytes;
}

Json cluster_json(const NodeReport& r) {
  return {{"name", r.cluster.name},
          {"node_id", r.cluster.node_id},
          {"address", r.cluster.address},
          {"further_addresses", r.cluster.further_addresses},
          {"tls", r.cluster.tls},
          {"map_store", r.cluster.store},
          {"map_store_reachable", r.cluster.store_reachable},
          {"map_store_writable", r.cluster.store_writable},
          {"last_error", r.cluster.last_error},
          {"slots", r.cluster.slots}};
}

Json members_json(const NodeReport& r) {
  Json list = Json::array();
  for (const NodeReport::Member& member : r.members) {
    list.push_back({{"name", member.name},
                    {"id", member.id},
                    {"address", member.address},
                    {"http", member.http},
                    {"zone", member.zone},
                    {"state", member.state},
                    {"weight", member.weight},
                    {"slots", member.slots},
                    {"suspected", member.suspected}});
  }
  return list;
}

Json backlog_json(const NodeReport& r) {
  Json list = Json::array();
  for (const NodeReport::Backlog& item : r.backlog) {
    list.push_back({{"object", item.object},
                    {"bytes", item.bytes},
                    {"uploaded", item.uploaded},
                    {"state", item.state},
                    {"last_error", item.last_error}});
  }
  return list;
}

// Reads out.<key> if it is there and of the right type.
template <typename T>
void take(const Json& json, const char* key, T& out) {
  auto found = json.find(key);
  if (found == json.end()) return;
  if constexpr (std::is_same_v<T, std::string>) {
    if (found->is_string()) out = found->template get<T>();
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    if (!found->is_array()) return;
    for (const Json& one : *found) {
      if (one.is_string()) out.push_back(one.template get<std::string>());
    }
  } else {
    if (found->is_number() || found->is_boolean()) out = found->template get<T>();
  }
}

const Json& part(const Json& json, const char* key) {
  static const Json empty = Json::object();
  auto found = json.find(key);
  return found != json.end() && found->is_object() ? *found : empty;
}

void take_stable_keys(const Json& json, NodeReport& r) {
  const Json& origin = part(json, "origin");
  take(origin, "reads", r.origin_io.reads);
  take(origin, "bytes_read", r.origin_io.bytes_read);
  take(origin, "writes", r.origin_io.writes);
  take(origin, "bytes_written", r.origin_io.bytes_written);
  take(origin, "errors", r.origin_io.errors);
  take(origin, "retries", r.origin_io.retries);
  take(part(json, "read"), "hits_local", r.read.hits_local);
  take(part(json, "read"), "hits_peer", r.read.hits_peer);
  take(part(json, "read"), "misses", r.read.misses);
  take(part(json, "files"), "bytes", r.files.bytes);
  take(part(json, "files"), "capacity", r.files.capacity);
  take(part(json, "blocks"), "bytes", r.blocks.bytes);
  take(part(json, "blocks"), "capacity", r.blocks.capacity);
  take(part(json, "blocks"), "count", r.blocks.count);
  take(part(json, "dirty"), "objects", r.dirty.objects);
  take(part(json, "dirty"), "bytes", r.dirty.bytes);
  take(part(json, "dirty"), "oldest_seconds", r.dirty.oldest_seconds);
  take(part(json, "dirty"), "objects_per_second", r.dirty.objects_per_second);
  take(part(json, "dirty"), "bytes_per_second", r.dirty.bytes_per_second);
  take(part(json, "dirty"), "eta_seconds", r.dirty.eta_seconds);
  take(part(json, "replication"), "records", r.replication.records);
  take(part(json, "replication"), "replicas", r.replication.replicas);
  take(part(json, "replication"), "replica_bytes", r.replication.replica_bytes);
  take(part(json, "replication"), "degraded", r.replication.degraded);
  take(part(json, "replication"), "last_error", r.replication.last_error);
  take(part(json, "map"), "version", r.map.version);
  take(part(json, "map"), "members", r.map.members);
  take(part(json, "memory"), "rss_bytes", r.memory.rss_bytes);
  take(part(json, "peer"), "bytes_sent", r.peer.bytes_sent);
  take(part(json, "peer"), "bytes_received", r.peer.bytes_received);
}

void take_cluster(const Json& json, NodeReport& r) {
  const Json& cluster = part(json, "cluster");
  take(cluster, "name", r.cluster.name);
  take(cluster, "node_id", r.cluster.node_id);
  take(cluster, "address", r.cluster.address);
  take(cluster, "further_addresses", r.cluster.further_addresses);
  take(cluster, "tls", r.cluster.tls);
  take(cluster, "map_store", r.cluster.store);
  take(cluster, "map_store_reachable", r.cluster.store_reachable);
  take(cluster, "map_store_writable", r.cluster.store_writable);
  take(cluster, "last_error", r.cluster.last_error);
  take(cluster, "slots", r.cluster.slots);
  auto list = json.find("members");
  if (list == json.end() || !list->is_array()) return;
  for (const Json& entry : *list) {
    NodeReport::Member member;
    take(entry, "name", member.name);
    take(entry, "id", member.id);
    take(entry, "address", member.address);
    take(entry, "http", member.http);
    take(entry, "zone", member.zone);
    take(entry, "state", member.state);
    take(entry, "weight", member.weight);
    take(entry, "slots", member.slots);
    take(entry, "suspected", member.suspected);
    r.members.push_back(std::move(member));
  }
}

std::string usage(uint64_t bytes, uint64_t capacity) {
  return capacity == 0 ? format_size(bytes)
                       : fmt::format("{} of {} ({})", format_size(bytes), format_size(capacity),
                                     format_share(bytes, capacity));
}

}  // namespace

std::string status_json(const NodeReport& r, const std::vector<NodeReport>& others) {
  NodeReport sum = r;
  Json nodes = {{r.name, stable_keys(r)}};
  for (const NodeReport& other : others) {
    add_to(sum, other);
    // Two nodes may have one name; ids differ.
    std::string name =
        nodes.contains(other.name) ? other.name + "-" + other.cluster.node_id : other.name;
    nodes[name] = stable_keys(other);
  }
  Json out = stable_keys(sum);
  out["self"] = r.name;
  out["nodes"] = std::move(nodes);
  if (!r.cluster.name.empty()) {
    out["cluster"] = cluster_json(r);
    out["members"] = members_json(r);
  }
  out["shoal"] = {{"version", r.version},
                  {"pid", r.pid},
                  {"uptime_seconds", r.uptime_seconds},
                  {"origin", r.origin},
                  {"mountpoint", r.mountpoint},
                  {"mode", r.mode},
                  {"cache_dir", r.cache_dir},
                  {"http", r.http},
                  {"ack", r.ack},
                  {"last_origin_error", r.origin_io.last_error}};
  out["backlog"] = backlog_json(r);
  out["warnings"] = r.warnings;
  // Names may hold bytes that are not UTF-8; a status must not fail for them.
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string brief_status_json(const NodeReport& r) {
  Json out;
  out["self"] = r.name;
  out["nodes"] = {{r.name, stable_keys(r)}};
  out["cluster"] = {{"node_id", r.cluster.node_id}};
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<NodeReport> parse_status_json(std::string_view text) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) {
    return fail(Code::kUnavailable, "the answer is not a Shoal status; is it a Shoal node?");
  }
  NodeReport r;
  take(json, "self", r.name);
  const Json& facts = part(json, "shoal");
  take(facts, "version", r.version);
  take(facts, "pid", r.pid);
  take(facts, "uptime_seconds", r.uptime_seconds);
  take(facts, "origin", r.origin);
  take(facts, "mountpoint", r.mountpoint);
  take(facts, "mode", r.mode);
  take(facts, "cache_dir", r.cache_dir);
  take(facts, "http", r.http);
  take(facts, "ack", r.ack);
  take(facts, "last_origin_error", r.origin_io.last_error);
  // The sums on top are the cluster's; the node's own are under its name.
  const Json& nodes = part(json, "nodes");
  take_stable_keys(nodes.contains(r.name) ? part(nodes, r.name.c_str()) : json, r);
  take_cluster(json, r);
  if (auto list = json.find("backlog"); list != json.end() && list->is_array()) {
    for (const Json& entry : *list) {
      NodeReport::Backlog item;
      take(entry, "object", item.object);
      take(entry, "bytes", item.bytes);
      take(entry, "uploaded", item.uploaded);
      take(entry, "state", item.state);
      take(entry, "last_error", item.last_error);
      r.backlog.push_back(std::move(item));
    }
  }
  if (auto list = json.find("warnings"); list != json.end() && list->is_array()) {
    for (const Json& entry : *list) {
      if (entry.is_string()) r.warnings.push_back(entry.get<std::string>());
    }
  }
  return r;
}

std::vector<NodeReport> parse_status_nodes(std::string_view text) {
  std::vector<NodeReport> result;
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) return result;
  std::string self;
  take(json, "self", self);
  for (const auto& [name, keys] : part(json, "nodes").items()) {
    if (name == self || !keys.is_object()) continue;
    NodeReport node;
    node.name = name;
    take_stable_keys(keys, node);
    result.push_back(std::move(node));
  }
  return result;
}

std::string status_metrics(const NodeReport& r) {
  std::string out;
  auto gauge = [&out](std::string_view name, std::string_view help, auto value) {
    fmt::format_to(std::back_inserter(out), "# HELP {} {}\n# TYPE {} gauge\n{} {}\n", name, help,
                   name, name, value);
  };
  gauge("shoal_files_bytes", "Bytes of cached and staged files.", r.files.bytes);
  gauge("shoal_files_capacity_bytes", "Most bytes of files.", r.files.capacity);
  gauge("shoal_blocks_bytes", "Bytes of small objects.", r.blocks.bytes);
  gauge("shoal_blocks_capacity_bytes", "Most bytes of small objects.", r.blocks.capacity);
  gauge("shoal_blocks_count", "Small objects.", r.blocks.count);
  gauge("shoal_dirty_objects", "Objects that wait for upload.", r.dirty.objects);
  gauge("shoal_dirty_bytes", "Bytes that wait for upload.", r.dirty.bytes);
  gauge("shoal_dirty_oldest_seconds", "Age of the oldest of them.", r.dirty.oldest_seconds);
  gauge("shoal_upload_objects_per_second", "Objects uploaded, over the last minute.",
        r.dirty.objects_per_second);
  gauge("shoal_ledger_records", "Versions in this node's ledger.", r.replication.records);
  gauge("shoal_replica_versions", "Versions of which this node holds chunks for others.",
        r.replication.replicas);
  gauge("shoal_replica_bytes", "Bytes of them.", r.replication.replica_bytes);
  gauge("shoal_resident_memory_bytes", "Memory of the daemon.", r.memory.rss_bytes);
  gauge("shoal_uptime_seconds", "Time since the start.", r.uptime_seconds);
  return out;
}

namespace {

void add_members(std::string& out, const NodeReport& r) {
  auto to = std::back_inserter(out);
  fmt::format_to(to, "cluster {}: {} members{}, map version {} in {}{}{}\n", r.cluster.name,
                 r.members.size(), r.cluster.tls ? ", TLS" : "", r.map.version, r.cluster.store,
                 !r.cluster.store_reachable  ? ", which cannot be reached"
                 : !r.cluster.store_writable ? ", which this node may not write"
                                             : "",
                 r.cluster.last_error.empty() ? "" : ": " + r.cluster.last_error);
  size_t width = 4;
  size_t place = 7;
  for (const NodeReport::Member& m : r.members) {
    width = std::max(width, m.name.size());
    place = std::max(place, m.address.size());
  }
  fmt::format_to(to, "  {:<{}}  {:<{}}  {:<9}  {:>5}  {:>8}  {}\n", "node", width, "address", place,
                 "state", "slots", "weight", "zone");
  for (const NodeReport::Member& m : r.members) {
    fmt::format_to(to, "  {:<{}}  {:<{}}  {:<9}  {:>5}  {:>8}  {}\n", m.name, width, m.address,
                   place, m.suspected ? "suspected" : m.state, m.slots,
                   fmt::format("{} GiB", m.weight), m.zone.empty() ? "-" : m.zone);
  }
}

}  // namespace

std::string status_table(const NodeReport& r) {
  std::string out;
  auto to = std::back_inserter(out);
  auto seconds = [](double s) { return format_duration(Duration(static_cast<int64_t>(s * 1e9))); };
  fmt::format_to(to, "{}{}{}\n", r.origin, r.mountpoint.empty() ? "" : " on ", r.mountpoint);
  fmt::format_to(to, "  node       {}, shoal {}, pid {}, up {}\n", r.name, r.version, r.pid,
                 seconds(r.uptime_seconds));
  if (!r.mode.empty()) fmt::format_to(to, "  mode       {}\n", r.mode);
  fmt::format_to(to, "  cache      {}\n", r.cache_dir);
  fmt::format_to(to, "  files      {}\n", usage(r.files.bytes, r.files.capacity));
  fmt::format_to(to, "  blocks     {}, {} of them\n", usage(r.blocks.bytes, r.blocks.capacity),
                 r.blocks.count);
  uint64_t hits = r.read.hits_local + r.read.hits_peer;
  fmt::format_to(to, "  reads      {} hits, {} misses{}\n", hits, r.read.misses,
                 hits + r.read.misses == 0
                     ? ""
                     : fmt::format(" ({})", format_share(hits, hits + r.read.misses)));
  if (!r.cluster.name.empty()) {
    fmt::format_to(to, "  peers      {} sent, {} received, {} hits\n",
                   format_size(r.peer.bytes_sent), format_size(r.peer.bytes_received),
                   r.read.hits_peer);
  }
  fmt::format_to(to, "  origin     {} reads ({}), {} writes ({}), {} errors, {} retries\n",
                 r.origin_io.reads, format_size(r.origin_io.bytes_read), r.origin_io.writes,
                 format_size(r.origin_io.bytes_written), r.origin_io.errors, r.origin_io.retries);
  if (!r.origin_io.last_error.empty()) {
    fmt::format_to(to, "             last error: {}\n", r.origin_io.last_error);
  }
  if (r.dirty.objects == 0) {
    fmt::format_to(to, "  to upload  nothing\n");
  } else {
    fmt::format_to(
        to, "  to upload  {} objects, {}, the oldest for {}; {:.0f} objects, {} a second{}\n",
        r.dirty.objects, format_size(r.dirty.bytes), seconds(r.dirty.oldest_seconds),
        r.dirty.objects_per_second, format_size(static_cast<uint64_t>(r.dirty.bytes_per_second)),
        r.dirty.eta_seconds < 0 ? "" : ", " + seconds(r.dirty.eta_seconds) + " left");
  }
  constexpr size_t kShown = 10;
  for (size_t i = 0; i < std::min(kShown, r.backlog.size()); ++i) {
    const NodeReport::Backlog& item = r.backlog[i];
    std::string done = item.uploaded > 0 ? " " + format_share(item.uploaded, item.bytes) : "";
    fmt::format_to(to, "    {}  {}  {}{}{}{}\n", item.object, format_size(item.bytes), item.state,
                   done, item.last_error.empty() ? "" : ": ", item.last_error);
  }
  if (r.dirty.objects > kShown && r.backlog.size() > kShown) {
    fmt::format_to(to, "    and {} more\n", r.dirty.objects - kShown);
  }
  fmt::format_to(to, "  memory     {}\n", format_size(r.memory.rss_bytes));
  if (!r.http.empty()) fmt::format_to(to, "  web page   http://{}/\n", r.http);
  for (const std::string& warning : r.warnings) fmt::format_to(to, "  warning    {}\n", warning);
  if (!r.cluster.name.empty()) add_members(out, r);
  return out;
}

}  // namespace shoal
