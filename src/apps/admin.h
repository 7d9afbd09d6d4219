// The admin face of a node: HTTP on the private Unix socket, and on --http.
//
//   GET  /metrics  /healthz  /status.json[?scope=node]  /        both; read only
//   POST /v1/sync|warm|pin|unpin|evict              socket: whoever may open it (mode 0600);
//                                                   port: with the token of the runtime file
// A POST answers NDJSON: lines {"event":"progress",...}, then one {"event":"done"} or
// {"event":"failed","code":..,"message":..}. Its asker going away cancels the job, unless it asked
// with "detach": true, which answers {"event":"started"} at once.
//
// Threads: one per listener, and workers that come with requests and go when idle, at most 16.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "apps/node_control.h"
#include "base/error.h"
#include "observe/metrics.h"

namespace shoal {

struct AdminOptions {
  std::string socket_path;
  std::string http = "127.0.0.1:7071";  // or "off"
  bool http_explicit = false;           // a busy port is an error, not a reason to take the next
  std::string token;
};

class AdminServer {
 public:
  // Takes the port, so that its address can be told to others before there is anything to serve:
  // who connects waits for serve(). Errors: kBusy (the address is taken), kInvalidArgument (no such
  // address).
  static Result<std::unique_ptr<AdminServer>> bind(AdminOptions options, const Registry& registry);
  // Makes the socket and serves both. Call once; `node` outlives the server.
  virtual Status serve(NodeControl& node) = 0;
  // Both at once.
  static Result<std::unique_ptr<AdminServer>> start(AdminOptions options, NodeControl& node,
                                                    const Registry& registry);
  // Ends running requests and joins all threads.
  virtual ~AdminServer() = default;
  // Where it listens: "127.0.0.1:7071", empty when off. Tells whether the default was taken.
  virtual const std::string& http_address() const = 0;
};

// Where a client finds a node: the socket if it is set, else the port.
struct AdminAddress {
  std::string socket;
  std::string http;   // "host:port"
  std::string token;  // for changes through the port
};

class AdminClient {
 public:
  explicit AdminClient(AdminAddress address) : address_(std::move(address)) {}

  Result<NodeReport> status();
  Result<std::string> get(const std::string& path);
  // Runs a job to its end. `on_progress` hears of it about five times a second and answers whether
  // to go on. With `detach` returns when the job has begun.
  Status run(const JobRequest& request, bool detach,
             const std::function<bool(const JobProgress&)>& on_progress, JobProgress& last);

 private:
  AdminAddress address_;
};

// The web page.
std::string_view admin_page();

}  // namespace shoal
