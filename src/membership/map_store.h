// MapStore: where the slot map lies so that every node finds it, changed by compare-and-swap. Not
// on the data path: nodes tell each other about new maps; the store decides between two publishers.
//
// Shard's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "async/context.h"
#include "async/task.h"
#include "base/bytes.h"
#include "observe/log.h"
#include "origin/origin.h"
#include "placement/slot_map.h"
#include "world/world.h"

namespace shoal {

struct StoredMap {
  SlotMap map;
  std::string token;  // opaque: names this state for compare_and_swap
};

class MapStore {
 public:
  virtual ~MapStore() = default;
  // "origin az://a/c/.shoal/NAME/map", "etcd http://host:2379", "static /etc/nodes".
  virtual std::string display_name() const = 0;
  // Whether the members are who stands in it from the beginning: nobody joins or leaves.
  virtual bool is_fixed() const { return false; }
  // Nothing when there is no map yet. kCorrupt: it is no map; kNotSupported: of a newer version.
  virtual Task<Result<std::optional<StoredMap>>> load(Context context) = 0;
  // Whether the store is still in the state that `token` names. A false alarm (false) is allowed;
  // cheaper than load() where the store can be.
  virtual Task<Result<bool>> is_unchanged(std::string /*token*/, Context /*context*/) {
    co_return false;
  }
  // Empty token: there must be none yet. kConflict when somebody else was first (load again);
  // kPermissionDenied, kReadOnly: this node may not. The new token.
  virtual Task<Result<std::string>> compare_and_swap(SlotMap next, std::string token,
                                                     Context context) = 0;
  // Returns when the map may differ from `token`'s, or the context ends. kNotSupported: this store
  // cannot tell; ask load() now and then.
  virtual Task<Status> watch(std::string token, Context context) = 0;
  // The cluster's secret, 32 bytes; made by the first who asks. Who can read it can join.
  virtual Task<Result<std::string>> key(Context context) = 0;
};

// The map is the object .shoal/CLUSTER/map of the origin, the key .shoal/CLUSTER/key.
std::unique_ptr<MapStore> make_origin_map_store(Origin& origin, World& world, std::string cluster);
// etcd v3 through its JSON gateway. `endpoints`: "http://host:2379", several by comma. The key of
// the cluster lies in etcd too.
Result<std::unique_ptr<MapStore>> make_etcd_map_store(std::string endpoints, World& world,
                                                      const Log& log, std::string cluster);
// A fixed list: text lines "NAME ADDRESS:PORT [weight=N] [zone=Z] [id=HEX]", '#' comments. Every
// node computes the same map; nobody joins or leaves. `key`: the secret, from a file of the user's.
Result<std::unique_ptr<MapStore>> make_static_map_store(std::string_view text, std::string name,
                                                        std::string cluster, std::string origin,
                                                        uint32_t copies, std::string key);
// The id that the list gives to the member called `name`: the one it must run with.
Result<NodeId> static_member_id(std::string_view text, std::string_view name,
                                std::string_view cluster);

// Of a whole map at rest: what a store may hold.
inline constexpr uint64_t kMapBytesMax = 4 * kMiB;

// 1 to 63 of a-z, 0-9 and '-'; else kInvalidArgument. Stores check it too, before the first
// request.
Status check_cluster_name(std::string_view name);

// What lies in the store: a header with magic, format version, length and CRC32C, then MapBody.
std::string encode_map(const SlotMap& map);
Result<SlotMap> decode_map(std::string_view bytes);
// The map in the answer to kGetMap (also of kJoin's); checked by validate().
Result<SlotMap> map_from_reply(const std::string& body);

}  // namespace shoal
