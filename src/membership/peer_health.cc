#include "membership/peer_health.h"

#include <algorithm>

namespace shoal {
namespace {

constexpr Duration kFailuresWithin = std::chrono::seconds(1);
constexpr Duration kPauseFirst = std::chrono::seconds(1);
constexpr Duration kPauseMax = std::chrono::seconds(10);

}  // namespace

bool PeerHealth::usable(const NodeId& member) const {
  auto entry = entries_.find(member);
  return entry == entries_.end() || entry->second.unusable_until <= executor_.now();
}

void PeerHealth::report(const NodeId& member, bool reached) {
  if (reached) {
    entries_.erase(member);
    return;
  }
  SteadyTime now = executor_.now();
  auto [place, first] = entries_.try_emplace(member);
  Entry& entry = place->second;
  // Requests that were under way when it was put aside say nothing new.
  if (entry.unusable_until > now) return;
  bool again = entry.pause > Duration(0) || (!first && now - entry.failed_at <= kFailuresWithin);
  entry.failed_at = now;
  if (!again) return;
  entry.pause = entry.pause == Duration(0) ? kPauseFirst : std::min(kPauseMax, 2 * entry.pause);
  entry.unusable_until = now + entry.pause;
}

void PeerHealth::keep_members_of(const SlotMap& map) {
  std::erase_if(entries_, [&map](const auto& entry) { return map.find(entry.first) == nullptr; });
}

}  // namespace shoal
