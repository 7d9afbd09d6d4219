#include "rpc/rpc.h"

namespace shoal {

RpcMetrics::RpcMetrics(Registry& registry)
    : bytes_sent(registry.counter("shoal_peer_bytes_sent_total", "Payload sent to peers")),
      bytes_received(
          registry.counter("shoal_peer_bytes_received_total", "Payload received from peers")),
      requests_sent(registry.counter("shoal_peer_requests_sent_total", "Requests made to peers")),
      requests_served(
          registry.counter("shoal_peer_requests_served_total", "Requests answered for peers")),
      connects(registry.counter("shoal_peer_connects_total", "Connections made to peers")),
      failures(registry.counter("shoal_peer_failures_total",
                                "Connections to peers that broke or could not be made")),
      corrupt(registry.counter("shoal_peer_corrupt_total",
                               "Frames or pieces from peers with a wrong checksum or layout")),
      refused(registry.counter("shoal_peer_refused_total", "Handshakes that this node refused")),
      detours(registry.counter("shoal_peer_detours_total",
                               "Times that a further address of a peer could not be used")) {}

}  // namespace shoal
