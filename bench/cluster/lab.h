// Many machines on one: network namespaces ("places") around a hub, each with an address of its own
// and, if wanted, a limit on its link in both directions.
//
//   place 0 (10.77.1.1)  eth0 ---- p0 |
//   place 1 (10.77.1.2)  eth0 ---- p1 |  hub (10.77.0.1): routes, Blob stub, readers, benchmark
//
// The hub is the network namespace of this process; the places are known by open descriptors only.
// So nothing has a name on the machine and nothing is left behind, however the process ends. Places
// are routed, not bridged: on a bridge 100 nodes that know each other are 10,000 entries in the
// kernel's one table of neighbours, ten times its limit.
//
// A limit is a token bucket (tbf) on both ends of the link, so each direction has its own. There is
// no latency and no loss: this kernel has no netem; the stub's answers can be delayed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "one_node/child.h"

namespace shoal::bench {

inline constexpr char kHubAddress[] = "10.77.0.1";
inline constexpr unsigned kPlacesMax = 1000;

struct LabOptions {
  unsigned places = 8;
  double bytes_per_second = 0;  // of each link and direction; 0: no limit
  // No namespaces of their own: all places share the hub's loopback and have addresses 127.77.1.N.
  // For comparisons with raw TCP loopback.
  bool loopback = false;
};

class Lab {
 public:
  // enter_own_namespaces() must have been called. kNotFound: ip or tc is missing.
  static Result<std::unique_ptr<Lab>> make(const LabOptions& options);
  ~Lab();
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;

  unsigned places() const { return static_cast<unsigned>(places_.size()); }
  bool loopback() const { return options_.loopback; }
  // Where the hub is seen from a place.
  std::string hub_address() const;
  std::string address(unsigned place) const;
  // For children and sockets that are to be there; -1: the hub's own.
  int network(unsigned place) const;
  // Limits both directions of one link from now on; 0: no limit.
  Status limit(unsigned place, double bytes_per_second);
  // Pulls the cable of a place, or puts it back.
  Status plug(unsigned place, bool in);

 private:
  explicit Lab(const LabOptions& options) : options_(options) {}
  Status open_places();
  Status connect_places();

  LabOptions options_;
  std::vector<int> places_;  // descriptors of their network namespaces
};

// A socket in a place; later calls on it need not be there. The calling thread comes back to the
// hub.
Result<int> socket_in(int network, int type);

}  // namespace shoal::bench
