// BlobStub: the fake Blob service (world_sim/blob_service.h) behind a real HTTP/1.1 server.
//
// For tests and benchmarks only: it listens on loopback unless told otherwise, and its memory is
// bounded by what clients store in it. Its threads are its own; the methods are safe from any
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/error.h"
#include "world_sim/blob_faults.h"
#include "world_sim/blob_service.h"

namespace shoal {

struct BlobStubOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;                // 0: any free one
  unsigned threads = 1;             // 1 to 64
  std::string congestion = "reno";  // BBR halves loopback throughput; empty: the system's default
  uint32_t connections_max = 20000;
  uint64_t pool_bytes = 0;  // touched at start and reused for bodies, for upload benchmarks
  BlobServiceConfig service;
  BlobFaults faults;
  uint64_t seed = 1;  // of the faults
};

class BlobStub {
 public:
  // Listens and serves on return.
  static Result<std::unique_ptr<BlobStub>> start(BlobStubOptions options);
  ~BlobStub();
  BlobStub(const BlobStub&) = delete;
  BlobStub& operator=(const BlobStub&) = delete;

  // Closes every connection and joins the threads. Idempotent.
  void stop();
  uint16_t port() const;
  // "http://127.0.0.1:PORT/ACCOUNT": append "/container/blob".
  std::string url() const;
  // The congestion control that the listening socket has.
  const std::string& congestion() const;

  // Calls with the service locked: answers stop meanwhile, so be brief.
  template <typename Function>
  auto with_service(Function&& function) {
    std::lock_guard lock(service_mutex());
    return function(service());
  }
  void set_faults(BlobFaults faults);
  // As GET /__stub/stats answers.
  std::string stats_json();

 private:
  struct Parts;
  explicit BlobStub(std::unique_ptr<Parts> parts);
  std::mutex& service_mutex();
  BlobService& service();
  std::unique_ptr<Parts> parts_;
};

// The command shoal-blob-stub; --help explains. Returns the exit status (0, 1, 2).
int blob_stub_main(int argc, char** argv);

}  // namespace shoal
