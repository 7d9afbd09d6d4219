// HTTP in virtual time: SimHttp is one process's client, SimBlobAccount a Blob account on the
// simulated internet. The account's limits are shared by every client of it.
//
// A request that was sent whole is executed even if the client gives up or dies meanwhile: that is
// how a real service behaves, and what "was it committed?" bugs are made of.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "world/http.h"
#include "world_sim/blob_faults.h"
#include "world_sim/blob_service.h"
#include "world_sim/sim_executor.h"
#include "world_sim/sim_fabric.h"

namespace shoal {

struct SimBlobAccount {
  SimBlobAccount(std::string at, BlobServiceConfig config, BlobFaults with, uint64_t seed)
      : host(std::move(at)), service(std::move(config)), faults(std::move(with), seed) {}
  std::string host;  // "127.0.0.1:10000", as it stands in URLs
  BlobService service;
  BlobFaultModel faults;
};

// Names on the simulated internet.
using SimInternet = std::map<std::string, std::unique_ptr<SimBlobAccount>, std::less<>>;

class SimHttp final : public Http {
 public:
  SimHttp(SimInternet& internet, SimFabric& fabric, SimHostId host, SimExecutor& executor,
          SeededRandom random);
  ~SimHttp() override;

  void start(HttpCall& call) override;
  void cancel(HttpCall& call) override;
  uint64_t in_flight() const { return transfers_.size(); }
  // A network partition between this process and every service: connections are refused, running
  // transfers stall.
  void set_partitioned(bool partitioned) { partitioned_ = partitioned; }
  bool partitioned() const { return partitioned_; }

  // The process died. Requests that are on their way may still be executed.
  std::vector<HttpCall*> crash();

  struct Transfer;

 private:
  // Shared by the call and by the scheduler's events, which may outlive the call's interest in it.
  using TransferPtr = std::shared_ptr<Transfer>;
  void send_more(TransferPtr transfer);
  void sent(TransferPtr transfer);
  void receive_more(TransferPtr transfer);
  bool take(Transfer& transfer, uint64_t count);
  void complete(TransferPtr transfer);
  void end(Transfer& transfer, Result<HttpResponse> result);
  using Step = void (SimHttp::*)(TransferPtr);
  void next(TransferPtr transfer, SteadyTime when, Step step);
  void go_on(TransferPtr transfer, Step step);
  void pass(SimNicPort* port, TransferPtr transfer, uint64_t count, SteadyTime due, Step step);

  SimInternet& internet_;
  SimFabric& fabric_;
  SimHostId host_;
  SimExecutor& executor_;
  SeededRandom random_;
  bool partitioned_ = false;
  std::map<uint64_t, TransferPtr> transfers_;  // by number: an order that does not depend on memory
  uint64_t started_ = 0;
};

}  // namespace shoal
