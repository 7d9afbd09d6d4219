// The real Http: libcurl on one side thread, which all shards share. CurlClient is the thread with
// its connections; CurlHttp is one shard's face of it. HTTP/1.1 with keep-alive; TLS certificates
// are always verified; no redirects, no proxy from the environment, no cookies.
//
// The bodies of 2xx answers are written by the side thread straight into HttpCall::into. That
// memory is given back (the call runs on its shard) only after libcurl let go of it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "base/error.h"
#include "world/executor.h"
#include "world/http.h"

namespace shoal {

class CurlEngine;
class CurlExchange;
class CurlHttp;

struct CurlOptions {
  std::string ca_file = {};         // PEM bundle; empty: the system's
  std::string proxy = {};           // empty: none, whatever the environment says
  std::string tcp_congestion = {};  // "reno", "cubic", ...; empty: the system's default
  std::string user_agent = "shoal/0.1";
  std::chrono::milliseconds connect_timeout{10000};
  std::chrono::milliseconds idle_timeout{60000};  // idle connections are closed after this
  size_t connections_max = 128;                   // calls above wait their turn, first in first out
  size_t connections_per_host_max = 64;
};

// Outlives every shard that uses it. The thread starts with the first call.
class CurlClient {
 public:
  // Fails if an option cannot work here (unknown congestion control, unreadable CA file).
  static Result<std::unique_ptr<CurlClient>> create(CurlOptions options);
  ~CurlClient();

  // The face for one shard; made and destroyed while the client lives.
  std::unique_ptr<CurlHttp> attach(Executor& executor);

 private:
  CurlClient();
  std::unique_ptr<CurlEngine> engine_;
};

class CurlHttp final : public Http {
 public:
  CurlHttp(Executor& executor, CurlEngine& engine) : executor_(executor), engine_(engine) {}
  // Every call must have run.
  ~CurlHttp() override;

  void start(HttpCall& call) override;
  // From any thread, as long as the caller keeps the call alive.
  void cancel(HttpCall& call) override;
  // Shard's thread, like the rest.
  void cancel_all();
  uint64_t in_flight() const { return in_flight_; }

 private:
  friend class CurlExchange;
  void end(CurlExchange& exchange);

  Executor& executor_;
  CurlEngine& engine_;
  uint64_t in_flight_ = 0;
  CurlExchange* first_ = nullptr;  // those in flight
  // Guards HttpCall::transport, because cancel() may come from another thread.
  std::mutex mutex_;
};

}  // namespace shoal
