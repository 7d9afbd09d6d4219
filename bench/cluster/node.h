// Nodes of a cluster: `shoal mount` or `shoal serve`, each in a place of the lab with a cache
// directory, a mountpoint and a log of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/lab.h"
#include "one_node/child.h"
#include "one_node/stage.h"

namespace shoal::bench {

inline constexpr uint16_t kDataPort = 7070;
inline constexpr uint16_t kAdminPort = 7071;

struct NodeChoice {
  bool mount = true;              // false: `shoal serve`
  std::string cluster = "bench";  // empty: a node by itself
  std::string cache_size = "4GiB";
  std::vector<std::string> flags = {};  // behind all others
  std::string origin = {};              // empty: the stub
  std::string cache = {};               // directory of the cache; empty: its own
  std::string advertise = {};           // empty: its place's address
};

class ClusterNode {
 public:
  ClusterNode(const Lab& lab, const WorkDirectory& work, std::string shoal, unsigned place);
  ~ClusterNode();

  // Starts the daemon; wait_until_ready() tells what came of it. So many can start at once.
  Status begin(const Stub& stub, const NodeChoice& choice);
  // The daemon has published itself: it is mounted, and member of its cluster. What it said last if
  // it ended instead.
  Status wait_until_ready(std::chrono::milliseconds patience);
  // The same daemon once more, with its cache, after kill9() or stop().
  Status begin_again();

  // Unmounts or SIGTERM, and waits for the end; the exit status must be 0.
  Status stop();
  // kill -9; the dead mount is taken away.
  Status kill9();
  // Stops it with SIGSTOP, or lets it go on.
  Status freeze(bool frozen);

  bool running() { return child_.running(); }
  const Child& process() const { return child_; }
  unsigned place() const { return place_; }
  std::string name() const;
  std::string address() const;       // of its data port, HOST:PORT
  std::string http_address() const;  // of its admin port
  const std::string& mountpoint() const { return mountpoint_; }
  std::string operator/(std::string_view file) const {
    return mountpoint_ + "/" + std::string(file);
  }
  const std::string& log_file() const { return log_; }
  const std::string& cache_directory() const { return cache_; }

  // What /status.json answers on its admin socket.
  Result<nlohmann::json> status() const;
  // A number of this node alone, "peer.bytes_sent".
  Result<double> number(std::string_view where) const;
  // `shoal WORDS...` as its administrator types it. `patience`: at most so long.
  Result<CommandResult> command(const std::vector<std::string>& words,
                                std::chrono::milliseconds patience) const;

 private:
  Status check_alive();
  Result<nlohmann::json> status_of(const char* path) const;
  void detach() const;
  Surroundings surroundings() const;
  Result<std::string> find_socket() const;

  const Lab& lab_;
  std::string shoal_;
  unsigned place_;
  std::string directory_;
  std::string mountpoint_;
  std::string log_;
  std::string cache_;
  std::vector<std::string> argv_;
  bool mounts_ = false;
  Child child_;
  std::string socket_;
};

// All of one run. Nodes are numbered as their places.
class ClusterNodes {
 public:
  ClusterNodes(const Lab& lab, const WorkDirectory& work, const Stub& stub, std::string shoal)
      : lab_(lab), work_(work), stub_(stub), shoal_(std::move(shoal)) {}
  ~ClusterNodes();

  // Starts nodes in the places [first, first + count), all at once, and waits until all are ready.
  // They belong to the cluster of the last choice.
  Status start(unsigned first, unsigned count, const NodeChoice& choice);
  // All members see a map with `members` of them.
  Status wait_for_members(unsigned members, std::chrono::milliseconds patience);
  // Stops those that run, all at once.
  Status stop();

  const NodeChoice& choice() const { return choice_; }  // the last one
  const std::string& cluster() const { return choice_.cluster; }
  ClusterNode& operator[](unsigned place);
  std::vector<ClusterNode*> running();
  // Sums over the running ones.
  Result<double> total(std::string_view where);
  Result<double> cpu_seconds();

 private:
  const Lab& lab_;
  const WorkDirectory& work_;
  const Stub& stub_;
  std::string shoal_;
  NodeChoice choice_;
  std::vector<std::unique_ptr<ClusterNode>> nodes_;  // by place; null: never started
};

}  // namespace shoal::bench
