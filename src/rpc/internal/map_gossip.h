// Tells membership which map version a peer has shown to know. Shard's thread.
#pragma once

#include "rpc/rpc.h"

namespace shoal {

class MapGossip {
 public:
  MapGossip(MapVersions& versions, Executor& executor) : versions_(versions), executor_(executor) {}

  // For each frame that comes in. The same difference is told at most once a second per connection:
  // a thousand frames may come before the newer map does. 0: the peer has no map.
  void heard(const Hash128& peer, uint64_t version) {
    uint64_t ours = versions_.current();
    if (version == ours || version == 0) return;
    SteadyTime now = executor_.now();
    if (version == told_ && ours == when_ours_ && now < told_at_ + std::chrono::seconds(1)) return;
    told_ = version;
    when_ours_ = ours;
    told_at_ = now;
    versions_.seen(peer, version);
  }

 private:
  MapVersions& versions_;
  Executor& executor_;
  uint64_t told_ = 0;
  uint64_t when_ours_ = 0;
  SteadyTime told_at_{};
};

}  // namespace shoal
