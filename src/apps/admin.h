// The admin face of a node: HTTP on the private Unix socket, and on --http.
//
//   GET  /metrics  /healthz  /status.json[?scope=node]  /        both; read only
//   POST /v1/sync|warm|pin|unpin|evict              socket: whoever may open it (mode 0600);
//                                                   port: with the token of the runtime file
// A POST answers NDJSON: lines {"event":"progress",...}, then one {"event":"done"} or
// {"event":"failed","code":..,"message":..}. Its asker going away cancels the job, unless it asked
// with "detach": true, which answers {"event":"started"} at once.
//
// Threads: one per listener, and workers that come with requests and go when idle, at most 48.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "apps/node_control.h"
#include "base/error.h"
#include "control/admin_client.h"
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

// What the node says about itself.
Result<NodeReport> node_status(const AdminClient& client);

// The web page.
std::string_view admin_page();

}  // namespace shoal
