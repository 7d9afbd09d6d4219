// What lies in a map store, the list of a static cluster, and a cluster's key.
#include <cstddef>
#include <cstdint>

#include "base/assert.h"
#include "membership/internal/cluster_key.h"
#include "membership/internal/map_body.h"
#include "membership/map_store.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto map = shoal::decode_map(text)) {
    SHOAL_ASSERT(shoal::validate(*map).has_value());
    auto again = shoal::decode_map(shoal::encode_map(*map));
    SHOAL_ASSERT(again && *again == *map);
  }
  // The body alone: a fuzzer does not find checksums.
  shoal::wire::MapBody body;
  if (body.ParseFromArray(data, static_cast<int>(size))) {
    if (auto map = shoal::take_map(body)) {
      auto again = shoal::decode_map(shoal::encode_map(*map));
      SHOAL_ASSERT(again && *again == *map);
    }
  }
  if (auto key = shoal::parse_cluster_key(text)) {
    SHOAL_ASSERT(key->size() == shoal::kClusterKeyBytes);
    SHOAL_ASSERT(shoal::parse_cluster_key(shoal::format_cluster_key(*key)).value_or("") == *key);
  }
  (void)shoal::make_static_map_store(text, "list", "c", "o", 3, "");
  (void)shoal::static_member_id(text, "a", "c");
  return 0;
}
