// ForecastRun: one simulated cluster of a forecast of reads. See forecast.h.
#pragma once

#include <vector>

#include "simulate/forecast_cluster.h"

namespace shoal::simulate {

// One simulated chunk. The smallest that the cache knows: one piece.
inline constexpr uint64_t kForecastChunk = kPieceBytes;

class ForecastRun final : public ForecastCluster {
 public:
  // `together`: they form a cluster; else every node is by itself.
  ForecastRun(const ForecastOptions& options, uint64_t nodes, bool together);

  // Seconds until each node, in order of nodes, has read the object.
  Result<std::vector<double>> read_everywhere();
  // The object into the caches of its owners.
  Result<double> warm();
  // One more machine, no member, reads the object through the client library. Seconds.
  Result<double> read_by_client();

  double origin_bytes() const;  // real ones, not scaled
  uint64_t origin_gets() const;
  uint64_t origin_lookups() const;

 private:
  static Task<void> read_one(ForecastRun* self, Daemon* daemon, double* seconds);
  static Task<void> warm_one(ForecastRun* self, Daemon* daemon);
  static Task<void> read_as_client(ForecastRun* self, World* world);
  void scale_rates() override;
  Duration in_flight_time(uint64_t nodes) const;
};

}  // namespace shoal::simulate
