// AttributeCache: the origin's answers about the names whose slots this node owns, kept for a
// while, absences too, so that the whole cluster costs the origin one HEAD or LIST per TTL and
// name. One request per name is in flight.
//
// Bounded: the older half is dropped when it is full. Shard's thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <unordered_map>

#include "async/gate.h"
#include "async/single_flight.h"
#include "observe/metrics.h"
#include "origin/origin.h"
#include "replication/replication.h"
#include "world/world.h"

namespace shoal {

// Where a page of a listing begins: names after `after` on the origin's page `origin`. A page of
// the origin is cut where too many un-uploaded names lie between its own; then it is `continued`.
struct ListMarker {
  std::string after;
  std::string origin;
  bool continued = false;

  std::string text() const;
  // What the origin itself answered is a marker too, of a page whose beginning is not known.
  static ListMarker parse(const std::string& text);
};
// A page of the origin's, for a marker that a member gave.
Task<Result<ListPage>> list_at_origin(Origin& origin, ListOptions options, Context context);

class AttributeCache {
 public:
  struct Head {
    std::optional<ObjectInfo> object;  // nothing: the origin has no such object
    SteadyTime asked{};                // when the request began
  };

  // `bytes_max`: about what the answers may take together.
  AttributeCache(World& world, Origin& origin, Registry& registry, uint64_t bytes_max);

  // An answer that was asked for at most `age_max` ago (`negative_age_max`, if it says absent),
  // else the origin's. The origin's errors, but for kNotFound.
  Task<Result<Head>> head(std::string object, Duration age_max, Duration negative_age_max,
                          Context context);
  // Pages by their options; `age` is filled in.
  Task<Result<ListPage>> list(ListOptions options, Duration age_max, Context context);
  // An object changed: what was asked before now no longer serves, nor do listings of its
  // directory.
  void forget(const std::string& object);

  // Versions that the origin does not have yet come before its answers. Null: there are none.
  void set_replication(Replication* replication);

  // Ends the running requests; before destruction.
  Task<void> close();

 private:
  struct Page {
    ListPage page;
    SteadyTime asked{};
  };
  // Two generations: what is used moves to the young one; a full young one becomes the old one.
  template <typename Map>
  struct Aging {
    using Value = Map::mapped_type;
    Map young;
    Map old;
    uint64_t young_bytes = 0;
    Value* find(const std::string& key);
    void put(const std::string& key, Value value, uint64_t bytes, uint64_t bytes_max);
    void erase(const std::string& key) {
      young.erase(key);
      old.erase(key);
    }
  };
  Task<Result<Page>> page_of(ListOptions options, Duration age_max, Context context);
  // The newest version that waits for the origin: as known here, and for a while after the map has
  // changed to others, who may have had the slot before.
  Task<std::optional<LedgerRecord>> find_waiting(std::string object, Context context);
  Task<Result<Head>> ask_head(std::string object);
  Task<Result<Page>> ask_page(std::string key, ListOptions options);

  World& world_;
  Origin& origin_;
  const uint64_t bytes_max_;
  Replication* replication_ = nullptr;
  uint64_t map_version_ = 0;  // seen by the last look-up
  SteadyTime map_since_{};
  Counter& hits_;
  Counter& misses_;
  Gate gate_;
  Cancel stopping_;
  SingleFlight<std::string, Head> head_flights_;
  SingleFlight<std::string, Page> list_flights_;
  Aging<std::unordered_map<std::string, Head>> heads_;
  Aging<std::map<std::string, Page>> pages_;  // in order: those of one directory go together
  uint64_t forgotten_ = 0;  // an answer under way when something is forgotten is not kept
};

}  // namespace shoal
