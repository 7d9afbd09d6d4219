// Look-ups in a cluster: the owner of an object's slot asks the origin for all nodes. And
// TellingOrigin, which tells owners what this node has changed.
//
// Shard's thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "membership/membership.h"
#include "node/attribute_cache.h"
#include "node/lookups.h"
#include "rpc/rpc.h"

namespace shoal {

struct LookupLimits {
  Duration attr_ttl = std::chrono::seconds(5);
  Duration negative_ttl = std::chrono::seconds(2);
  Duration peer_timeout = std::chrono::milliseconds(1500);  // then the next owner is asked
};

class ClusterLookups final : public Lookups {
 public:
  // All outlive it.
  ClusterLookups(World& world, Origin& origin, AttributeCache& cache, RpcPool& pool,
                 ClusterView& view, Gate& gate, LookupLimits limits);

  Task<Result<ObjectInfo>> head(std::string object, Context context) override;
  Task<Result<ListPage>> list(ListOptions options, Context context) override;
  void changed(const std::string& object, bool tree) override;

 private:
  // The members to ask for the slot, best first; this node by an empty address.
  std::vector<Member> candidates(uint32_t slot) const;
  // How old an answer about the name may be.
  Duration age_max(const std::string& name, Duration ttl) const;
  // Whether the member, which failed so, seems to be dead or cut off rather than slow.
  Task<bool> is_silent(Member member, Error error, Context context);
  Task<Result<ObjectInfo>> head_at(Member member, std::string object, Context context);
  Task<Result<ListPage>> list_at(Member member, ListOptions options, Context context);
  Task<void> tell(Member member, std::string object);
  void remember(const std::string& name);

  World& world_;
  Origin& origin_;
  AttributeCache& cache_;
  RpcPool& pool_;
  ClusterView& view_;
  Gate& gate_;
  const LookupLimits limits_;
  // What this node changed lately (objects and prefixes of listings), and when: older answers of
  // other nodes do not serve. Entries live as long as the TTL.
  std::map<std::string, SteadyTime, std::less<>> changed_;
  SteadyTime swept_{};
  SteadyTime all_changed_{};  // of a tree: everything is suspect for one TTL
};

// An Origin that reports every change that succeeded, or may have, to the look-ups.
std::unique_ptr<Origin> make_telling_origin(Origin& origin, Lookups& lookups);

}  // namespace shoal
