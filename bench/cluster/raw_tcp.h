// What TCP alone gives between places of the lab: sendfile on one side, recv into a buffer on the
// other, a blocking thread for each end of each connection. The ceiling of what nodes move.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace shoal::bench {

struct TcpLoad {
  std::vector<int> senders;           // network of each (Lab::network)
  int receiver = -1;                  // network
  std::string address = "127.0.0.1";  // of the receiver
  unsigned connections = 1;           // of each sender
  uint64_t bytes = kGiB;              // of all together
  std::string file;                   // that is sent again and again; at least 1 MiB
};

struct TcpOutcome {
  double bytes = 0;
  double seconds = 0;     // from the first byte to the end of the last connection
  double sender_cpu = 0;  // seconds, of all senders
  double receiver_cpu = 0;
  double rate() const { return bytes / seconds; }
};

// Starts threads and joins them before it returns.
Result<TcpOutcome> run_tcp(const TcpLoad& load);

}  // namespace shoal::bench
