// What a Blob account does to its clients besides answering: latency, bandwidth, limits, faults.
// One model, used by the simulator in virtual time and by the stub server in real time.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "world/time.h"
#include "world_sim/sim_random.h"

namespace shoal {

enum class BlobFault {
  kNone,
  kBusy,           // 503 ServerBusy with Retry-After; not executed
  kServerError,    // 500 OperationTimedOut; not executed
  kResetBefore,    // connection reset before the request was executed
  kLostReply,      // executed, then the connection is reset: was it done?
  kResetInBody,    // part of the answer's body, then a reset
  kShortBody,      // part of the body, then an orderly close
  kStallInBody,    // part of the body, then nothing
  kSlowFirstByte,  // the first byte comes late
  kChangeEtag,     // the blob is rewritten just before the request is executed
  kExpiredToken,   // 403 or 401, as for an expired credential; not executed
};
inline constexpr size_t kBlobFaults = static_cast<size_t>(BlobFault::kExpiredToken) + 1;
std::string_view blob_fault_name(BlobFault fault);  // "busy", "reset_in_body"
Result<BlobFault> parse_blob_fault(std::string_view name);

// A fault at a chosen request rather than by chance.
struct ScriptedFault {
  BlobFault fault = BlobFault::kNone;
  std::string method;       // empty: any
  std::string target_part;  // must occur in the target; empty: any
  uint64_t skip = 0;        // matching requests that pass first
  uint64_t count = 1;       // matching requests that then suffer
};

struct BlobFaults {
  // Time to the first byte of an answer: latency plus up to jitter, uniform.
  Duration latency{0};
  Duration latency_jitter{0};
  // Bytes per second; 0 is unlimited. "in" is towards the account.
  uint64_t connection_bytes_per_second = 0;
  uint64_t account_in_bytes_per_second = 0;
  uint64_t account_out_bytes_per_second = 0;
  // Of all connections of one machine together: a single client seldom gets what the account gives.
  uint64_t client_in_bytes_per_second = 0;
  uint64_t client_out_bytes_per_second = 0;
  // Requests per second; above it (with a burst of a tenth of a second) 503.
  uint64_t requests_per_second = 0;
  bool outage = false;                       // every connection is reset
  std::array<double, kBlobFaults> chance{};  // by BlobFault, 0..1
  std::vector<ScriptedFault> script;
  Duration retry_after = std::chrono::seconds(1);
  Duration slow_first_byte = std::chrono::seconds(5);

  void set(BlobFault fault, double probability) {
    chance[static_cast<size_t>(fault)] = probability;
  }
};

// {"latency_ms": 5, "latency_jitter_ms": 1, "connection_mibps": 60, "account_in_mibps": 0,
//  "account_out_mibps": 0, "client_in_mibps": 0, "client_out_mibps": 0, "requests_per_second": 0,
//  "outage": false, "retry_after_ms": 1000, "slow_first_byte_ms": 5000, "chance": {"busy": 0.01},
//  "script": [{"fault": "reset_in_body", "method": "GET", "target": "x", "skip": 0, "count": 1}]}
// Fields that are absent keep the value they have in `base`.
Result<BlobFaults> blob_faults_from_json(std::string_view json, BlobFaults base);
std::string blob_faults_to_json(const BlobFaults& faults);

// Bandwidth as a reservation: when will these bytes have passed?
class Pacer {
 public:
  // A pacer that was idle lets `burst` pass at once.
  explicit Pacer(Duration burst = std::chrono::milliseconds(2)) : burst_(burst) {}
  void set_rate(uint64_t bytes_per_second) { rate_ = bytes_per_second; }
  uint64_t rate() const { return rate_; }
  SteadyTime reserve(SteadyTime now, uint64_t bytes);

 private:
  uint64_t rate_ = 0;
  Duration burst_;
  SteadyTime free_at_{};
};

struct BlobFate {
  BlobFault fault = BlobFault::kNone;
  Duration first_byte{0};  // before the first byte of the answer
  double cut = 1.0;        // part of the body that passes, for the faults in the body
};

// Deterministic: the same seed and the same sequence of calls, the same fates. One thread at a
// time.
class BlobFaultModel {
 public:
  BlobFaultModel(BlobFaults faults, uint64_t seed);

  void set(BlobFaults faults);
  const BlobFaults& faults() const { return faults_; }
  BlobFate decide(std::string_view method, std::string_view target, SteadyTime now);
  // When the account and the client (a number that stands for its machine) have let these bytes
  // pass. In: towards the account.
  SteadyTime reserve(bool in, uint64_t client, SteadyTime now, uint64_t bytes);
  // Bytes have to wait in this direction.
  bool paces(bool in) const;
  uint64_t injected(BlobFault fault) const { return injected_[static_cast<size_t>(fault)]; }

 private:
  bool over_limit(SteadyTime now);
  BlobFaults faults_;
  SeededRandom random_;
  struct Direction {
    Pacer account;
    std::map<uint64_t, Pacer> clients;
  };
  uint64_t client_rate(bool in) const;
  Direction in_;
  Direction out_;
  SteadyTime request_slot_{};
  std::array<uint64_t, kBlobFaults> injected_{};
};

}  // namespace shoal
