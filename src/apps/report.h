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
  } dirty;
  struct Map {
    uint64_t version = 0, members = 1;
  } map;
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

// One object with stable keys: the sums on top, then `self`, `nodes` (name -> the same keys) and
// the facts of the answering node.
std::string status_json(const NodeReport& self);
// The answering node's report out of status_json's text. Tolerates keys that it does not know.
Result<NodeReport> parse_status_json(std::string_view text);
// Prometheus text: gauges, and what no room counts itself.
std::string status_metrics(const NodeReport& report);
// For people.
std::string status_table(const NodeReport& report);

}  // namespace shoal
