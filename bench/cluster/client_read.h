// Reading through the client library: no mount, not a member.
#pragma once

#include <string>

#include "base/bytes.h"
#include "base/error.h"

namespace shoal::bench {

struct ClientRead {
  std::string origin;  // as a user types it
  std::string cluster;
  std::string object;
  uint64_t size = 0;
  uint64_t seed = 0;
  uint64_t window = 64 * kMiB;  // of one call of the library; two at a time
};

struct ClientOutcome {
  double seconds = 0;   // from the first read to the last byte
  double cpu = 0;       // of this process
  double received = 0;  // bytes from peers
};

// One pass over the object into the same memory again and again; samples of the bytes are compared.
Result<ClientOutcome> read_through_client(const ClientRead& wanted);

}  // namespace shoal::bench
