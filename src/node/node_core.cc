#include "node/node_core.h"

#include "node/chunk_filler.h"
#include "node/cluster.h"
#include "node/cluster_lookups.h"
#include "node/origin_and_nodes.h"

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
      served_bytes(registry.counter("shoal_served_bytes_total", "Bytes sent to other nodes.")),
      read_bytes(registry.counter("shoal_read_bytes_total", "Bytes that programs read here.")),
      origin_read_us(
          registry.histogram("shoal_origin_read_microseconds", "Time of one fetched range.")) {}

namespace {

constexpr uint64_t kCopiesWaitingMax = 64 * kMiB;

std::unique_ptr<Lookups> make_lookups(World& world, Origin& origin, const NodeOptions& options,
                                      Cluster* cluster, Gate& gate) {
  if (cluster == nullptr) return std::make_unique<OriginLookups>(origin);
  LookupLimits limits;
  limits.attr_ttl = options.attr_ttl;
  limits.negative_ttl = options.negative_ttl / 2;  // NodeCore::negative_ttl_here()
  return std::make_unique<ClusterLookups>(world, origin, cluster->attributes(), cluster->pool(),
                                          cluster->membership(), gate, limits);
}

}  // namespace

NodeCore::NodeCore(World& world_in, Origin& origin_in, Store& store_in, Registry& registry,
                   const Log& log_in, NodeOptions options_in, Cluster* cluster_in)
    : world(world_in),
      options(std::move(options_in)),
      gate(world_in.executor),
      upload_rate(world_in.executor, options.upload_rate),
      lookups(make_lookups(world_in, origin_in, options, cluster_in, gate)),
      telling_origin(cluster_in != nullptr ? make_telling_origin(origin_in, *lookups) : nullptr),
      replication(
          cluster_in != nullptr
              ? std::make_unique<Replication>(
                    ReplicationParts{world_in, store_in, *telling_origin, cluster_in->pool(),
                                     cluster_in->membership(), registry, log_in, upload_rate},
                    options.replication)
              : nullptr),
      origin_and_nodes(cluster_in != nullptr ? make_origin_and_nodes(*telling_origin, *replication)
                                             : nullptr),
      origin(cluster_in != nullptr ? *origin_and_nodes : origin_in),
      store(store_in),
      log(log_in),
      metrics(registry),
      cluster(cluster_in),
      peers(cluster_in != nullptr ? &cluster_in->reader() : nullptr),
      buffers(world_in.executor),
      fetch_memory(world_in.executor, std::max<uint64_t>(options.memory / 2, 16 * kMiB)),
      copies(world_in.executor, registry, std::min(fetch_memory.limit() / 4, kCopiesWaitingMax)),
      serve_memory(world_in.executor, std::max<uint64_t>(options.memory / 8, 16 * kMiB)),
      relay_memory(world_in.executor, std::max<uint64_t>(options.memory / 8, 16 * kMiB)),
      upload_memory(world_in.executor, std::max<uint64_t>(options.memory / 4, 16 * kMiB)),
      filler(std::make_unique<ChunkFiller>(*this)) {}

NodeCore::~NodeCore() = default;

uint64_t NodeCore::map_version() const {
  return cluster == nullptr ? 0 : cluster->membership().current();
}

void NodeCore::sign(Metadata& metadata) const {
  if (replication != nullptr) metadata[kWriterName] = replication->self().to_hex();
}

bool NodeCore::has_signed(const Metadata& metadata) const {
  auto writer = metadata.find(kWriterName);
  return replication != nullptr && writer != metadata.end() &&
         writer->second == replication->self().to_hex();
}

}  // namespace shoal
