// What the benchmark plays on: a directory on a real disk, the Blob stub, mounts. All of it is gone
// when the objects are, also after an error or Ctrl-C; after kill -9 only the directory stays.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "one_node/child.h"
#include "one_node/raw_http.h"
#include "one_node/report.h"

namespace shoal::bench {

// A new directory below `parent`, removed with all it holds. kNotSupported on tmpfs.
class WorkDirectory {
 public:
  static Result<std::unique_ptr<WorkDirectory>> make(const std::string& parent, bool keep);
  ~WorkDirectory();
  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  WorkDirectory(std::string path, bool keep) : path_(std::move(path)), keep_(keep) {}
  std::string path_;
  bool keep_;
};

// Where a daemon of root's publishes itself.
inline constexpr char kRuntimeDirectory[] = "/run/shoal";

// Where it runs, as root: network and mounts of our own, so that loopback speaks reno (BBR, the
// default of some kernels, halves it), ports are free and no mount outlives us. Must be called
// before any thread exists. Answers what came of it, for the report.
Facts enter_namespaces();
// The same where nothing else will do; the error says what is missing.
Status enter_own_namespaces();
Facts machine_facts(const std::string& directory);

// What the network and the account look like to the daemon and to the plain download alike.
struct OriginShape {
  double latency_ms = 0;                // to the first byte
  double account_bytes_per_second = 0;  // each way; 0: as fast as loopback is
  double client_bytes_per_second = 0;   // of one address, each way; 0: not limited
  double busy = 0;                      // share of requests that is answered 503
  bool outage = false;                  // every connection is reset
};

// The Blob stub in a process of its own; see bench/blob_stub.
class Stub {
 public:
  // `pool_bytes` of memory for uploaded bodies are touched at the start. `address`: to listen on;
  // it is steered over 127.0.0.1, so that must be among them.
  static Result<std::unique_ptr<Stub>> start(const WorkDirectory& work, uint64_t pool_bytes,
                                             const std::string& address = "127.0.0.1");

  uint16_t port() const { return port_; }
  pid_t pid() const { return child_.pid(); }
  std::string url(std::string_view host = "127.0.0.1") const;
  std::string target(std::string_view object) const;  // for RawHttp
  Status shape(const OriginShape& shape);
  Status add_blob(std::string_view name, uint64_t size, uint64_t seed);
  // PREFIX00000000 and so on; the seed counts up.
  Status add_many(std::string_view prefix, uint64_t count, uint64_t size, uint64_t seed);
  // As GET /__stub/stats answers: requests by kind, bytes_in, bytes_out, gets of each object.
  Result<nlohmann::json> stats() const;
  Status reset_stats();
  // What the stub answers to any request, if with 200.
  Result<std::string> ask(std::string_view method, std::string_view target,
                          const std::string& body = {}) const;

 private:
  Stub(Child child, uint16_t port) : child_(std::move(child)), port_(port) {}
  Status control(std::string_view target, const std::string& body);
  Child child_;
  uint16_t port_;
};

struct MountChoice {
  std::string cache = "cache";  // name of the cache directory in the work directory
  bool passthrough = true;
  std::string ack = "local";
  std::string memory = {};      // empty: the daemon's own default
  std::string cache_size = {};  // the same
};

// `shoal mount --foreground` in a process of its own.
class Mount {
 public:
  static Result<std::unique_ptr<Mount>> start(const std::string& shoal, const WorkDirectory& work,
                                              const Stub& stub, const MountChoice& choice);
  ~Mount();

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  const Child& process() const { return child_; }

  Result<nlohmann::json> status() const;
  // A number of the status by its path, "origin.bytes_read".
  Result<double> number(const std::string& where) const;
  // The same, once it no longer changes (prefetch goes on after the read that asked for it).
  Result<double> settled_number(const std::string& where) const;
  // What the node says about itself: "mode", "http".
  Result<std::string> fact(const std::string& name) const;
  // A counter of /metrics.
  Result<double> metric(const std::string& name) const;
  Status sync();
  Status warm(const std::string& name);
  Status evict(const std::string& name);
  // Unmounts and waits for the daemon's end.
  Status stop();
  // kill -9, and the dead mount is taken away.
  Status kill();

 private:
  Mount(std::string shoal, std::string path, std::string log)
      : shoal_(std::move(shoal)), path_(std::move(path)), log_(std::move(log)) {}
  Status wait_until_mounted();
  Status command(const std::vector<std::string>& words) const;

  std::string shoal_;
  std::string path_;
  std::string log_;
  Child child_;
};

// bench/minimal_fuse.h in a process of its own.
class MinimalMount {
 public:
  static Result<std::unique_ptr<MinimalMount>> start(const WorkDirectory& work,
                                                     const std::string& file);
  ~MinimalMount();
  std::string file() const { return path_ + "/file"; }
  const Child& process() const { return child_; }

 private:
  explicit MinimalMount(std::string path) : path_(std::move(path)) {}
  std::string path_;
  Child child_;
};

}  // namespace shoal::bench
