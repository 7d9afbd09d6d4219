#include "rpc/internal/peer_notes.h"

#include <cstdlib>

#include "world/time.h"

namespace shoal {

namespace {
constexpr size_t kSeenMax = 4096;
constexpr int64_t kSkewMsMax = 30'000;
}  // namespace

std::string_view host_of(std::string_view address) {
  size_t colon = address.rfind(':');
  return colon == std::string_view::npos ? address : address.substr(0, colon);
}

void PeerNotes::broke_rules(const std::string& address, const Error& error) {
  if (is_first("rules " + std::string(host_of(address)))) {
    log_.warning("peer {}: {}; more of this from its host is logged as debug", address,
                 error.to_string());
  } else {
    log_.debug("peer {}: {}", address, error.to_string());
  }
}

void PeerNotes::check_clock(const std::string& address, const HandshakePeer& peer, WallTime now) {
  if (peer.wall_ms == 0) return;  // says nothing
  int64_t now_ms = now.time_since_epoch() / std::chrono::milliseconds(1);
  // Any 64 bits may come from there: compared without subtracting.
  bool behind = peer.wall_ms < now_ms - kSkewMsMax;
  bool ahead = peer.wall_ms > now_ms + kSkewMsMax;
  if (!behind && !ahead) return;
  std::string who = peer.node.is_zero() ? std::string(host_of(address)) : peer.node.to_hex();
  if (!is_first("clock " + who)) return;
  double seconds = (static_cast<double>(peer.wall_ms) - static_cast<double>(now_ms)) / 1000;
  log_.warning(
      "peer {} (node {}): its clock is {:.0f} s {} ours: time-outs are not affected, but ages "
      "and log lines will mislead; run NTP on both",
      address, peer.node.to_hex(), std::abs(seconds), ahead ? "ahead of" : "behind");
}

bool PeerNotes::is_first(std::string what) {
  if (seen_.contains(what)) return false;
  if (seen_.size() >= kSeenMax) seen_.clear();
  seen_.insert(std::move(what));
  return true;
}

}  // namespace shoal
