#include "node/node_core.h"

namespace shoal {

NodeMetrics::NodeMetrics(Registry& registry)
    : read_hits(registry.counter("shoal_read_hits_local_total", "Reads served from the cache.")),
      read_misses(registry.counter("shoal_read_misses_total", "Reads that waited for the origin.")),
      uploads(registry.counter("shoal_uploads_total", "Versions committed to the origin.")),
      upload_errors(registry.counter("shoal_upload_errors_total", "Failed upload attempts.")),
      conflicts(registry.counter("shoal_conflicts_total", "Uploads that met another writer.")),
      hidden_names(
          registry.counter("shoal_hidden_names_total", "Listed objects that no path can show.")),
      stale_served(registry.counter("shoal_stale_attributes_total",
                                    "Look-ups answered from old attributes in an outage.")),
      origin_read_us(
          registry.histogram("shoal_origin_read_microseconds", "Time of one fetched range.")) {}

NodeCore::NodeCore(World& world_in, Origin& origin_in, Store& store_in, Registry& registry,
                   const Log& log_in, NodeOptions options_in)
    : world(world_in),
      origin(origin_in),
      store(store_in),
      log(log_in),
      options(std::move(options_in)),
      metrics(registry),
      buffers(world_in.executor),
      fetch_memory(world_in.executor, std::max<uint64_t>(options.memory / 2, 16 * kMiB)),
      upload_memory(world_in.executor, std::max<uint64_t>(options.memory / 4, 16 * kMiB)),
      gate(world_in.executor) {}

}  // namespace shoal
