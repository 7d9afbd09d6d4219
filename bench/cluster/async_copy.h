// What teams do today, as well as it can be done: the file lies on the local disk, and a separate
// process uploads it to Blob in parallel blocks, repeats what was refused, and commits. The bytes
// go by sendfile over keep-alive connections, so nothing but the network and the origin limits it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "cluster/reporting_child.h"

namespace shoal::bench {

struct AsyncCopy {
  std::string file;     // on the local disk
  std::string target;   // Stub::target of the object
  std::string address;  // of the stub
  uint16_t port = 0;
  int network = -1;  // descriptor of the network namespace it runs in; -1: ours
  // As azcopy and its like do it: enough requests in flight to fill a limited link many times over.
  unsigned connections = 32;
  uint64_t block_bytes = 8 * kMiB;
};

struct AsyncCopyOutcome {
  double seconds = 0;  // from its first connection to the committed object
  double cpu = 0;      // seconds
  uint64_t bytes = 0;
};

class AsyncCopier {
 public:
  static Result<std::unique_ptr<AsyncCopier>> start(const WorkDirectory& work,
                                                    const AsyncCopy& copy);
  Result<AsyncCopyOutcome> wait(std::chrono::milliseconds patience);
  // As its node dies.
  void kill9() { child_.kill_now(); }

 private:
  explicit AsyncCopier(ReportingChild child) : child_(std::move(child)) {}
  ReportingChild child_;
};

}  // namespace shoal::bench
