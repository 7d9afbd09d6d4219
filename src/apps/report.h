// What a node says about itself: the facts behind `shoal status`, /status.json and the web page.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace shoal {

struct NodeReport {
  std::string name;        // of the node
  std::string version;     // of the program
  std::string origin;      // without secrets
  std::string mountpoint;  // empty for `shoal serve`
  std::string mode;        // how the kernel is served, e.g. "passthrough"
  std::string cache_dir;
  std::string http;  // address of the admin page, empty when off
  std::string ack;   // what close() waits for
  int64_t pid = 0;
  double uptime_seconds = 0;

  struct Origin {
    uint64_t reads = 0, bytes_read = 0, writes = 0, bytes_written = 0, errors = 0, retries = 0;
    std::string last_error;
  } origin_io;
  struct Peer {
    uint64_t bytes_sent = 0, bytes_received = 0;
  } peer;
  struct Read {
    uint64_t hits_local = 0, hits_peer = 0, misses = 0;  // passthrough reads are not seen
  } read;
  struct Files {
    uint64_t bytes = 0, capacity = 0;
  } files;
  struct Blocks {
    uint64_t bytes = 0, capacity = 0, count = 0;
  } blocks;
  struct Dirty {
    uint64_t objects = 0, bytes = 0;
    double oldest_seconds = 0;
    double objects_per_second = 0, bytes_per_second = 0;  // over the last minute
    double eta_seconds = -1;                              // at that rate; negative: not known
  } dirty;
  // What this node keeps of versions that the origin does not have yet, for any node.
  struct Replication {
    uint64_t records = 0;   // in its ledger
    uint64_t replicas = 0;  // versions of which it holds chunks for others
    uint64_t replica_bytes = 0;
    bool degraded = false;  // something was acknowledged with fewer replicas than wanted
    std::string last_error;
  } replication;
  struct Map {
    uint64_t version = 0, members = 1;
  } map;
  struct ClusterFacts {
    std::string name;                            // empty: a node by itself
    std::string node_id;                         // hexadecimal
    std::string address;                         // that other nodes were told
    std::vector<std::string> further_addresses;  // of this node's other network cards
    std::string store;                           // where the map lies
    bool tls = false;                            // what passes between nodes is encrypted
    bool store_reachable = true, store_writable = true;
    std::string last_error;
    uint64_t slots = 0;  // that this node owns
  } cluster;
  struct Member {
    std::string name, id, address, http, zone, state;  // state: "up", "down", "draining"
    uint64_t weight = 0, slots = 0;
    bool suspected = false;  // by the answering node
  };
  std::vector<Member> members;  // empty without a cluster
  struct Memory {
    uint64_t rss_bytes = 0;
  } memory;

  struct Backlog {
    std::string object;
    uint64_t bytes = 0;
    uint64_t uploaded = 0;
    std::string state;       // "open", "waiting", "uploading", "retrying"
    std::string last_error;  // empty: none so far
  };
  std::vector<Backlog> backlog;  // at most 100
  std::vector<std::string> warnings;
};

// One object with stable keys: the sums over `self` and `others` on top, then `self`, `nodes` (name
// -> the same keys) and the facts of the answering node. `others`: what other nodes told of
// themselves.
std::string status_json(const NodeReport& self, const std::vector<NodeReport>& others = {});
// What a node tells another that sums up: its own keys and its id, nothing of the cluster. Some 1
// KiB, where the whole is as many times 350 bytes as there are members, and each member sends one.
std::string brief_status_json(const NodeReport& self);
// The answering node's report out of status_json's text. Tolerates keys that it does not know.
Result<NodeReport> parse_status_json(std::string_view text);
// Prometheus text: gauges, and what no room counts itself.
std::string status_metrics(const NodeReport& report);
// For people; the answer of a cluster lists its members.
std::string status_table(const NodeReport& report);
// The other nodes in status_json's text, with what is summed of them.
std::vector<NodeReport> parse_status_nodes(std::string_view text);

}  // namespace shoal
