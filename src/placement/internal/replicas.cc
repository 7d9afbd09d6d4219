#include "placement/internal/replicas.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "placement/internal/primaries.h"
#include "placement/internal/window_cost.h"

namespace shoal::placement {
namespace {

// For so many members it is counted how often each one follows each other one (2 MiB).
constexpr size_t kPairedMax = 1024;
// Places that are compared before one of them moves.
constexpr uint32_t kLooksMax = 64;

class Rows {
 public:
  explicit Rows(const ReplicasInput& input)
      : input_(input),
        cost_(input.primary, input.weight),
        copies_(input.copies),
        members_(input.weight.size()),
        rows_(size_t{kSlots} * input.copies, kNoMember),
        replicas_(members_),
        primaries_(members_),
        seconds_(members_),
        exhausted_(members_) {
    for (uint64_t weight : input.weight) total_weight_ += weight;
    for (uint32_t zone : input.zone) zones_ = std::max(zones_, zone + 1);
    zone_stuck_.resize(zones_);
    zone_weight_.resize(zones_);
    for (size_t i = 0; i < members_; i++) zone_weight_[input.zone[i]] += input.weight[i];
    zones_used_ = static_cast<uint32_t>(
        std::ranges::count_if(zone_weight_, [](uint64_t weight) { return weight > 0; }));
    if (members_ <= kPairedMax) pairs_.resize(members_ * members_);
  }

  std::vector<uint16_t> run() {
    if (total_weight_ == 0) return std::move(rows_);
    keep_rows();
    for (uint32_t slot = 0; slot < kSlots; slot++) fill(slot);
    for (uint32_t slot = 0; slot < kSlots; slot++) part_zones(slot);
    level();
    for (uint32_t slot = 0; slot < kSlots; slot++) part_zones(slot);
    for (uint32_t slot = 0; slot < kSlots; slot++) count_second(slot, 1);
    for (uint32_t slot = 0; slot < kSlots; slot++) order(slot);
    return std::move(rows_);
  }

 private:
  std::span<uint16_t> row(uint32_t slot) {
    return std::span(rows_).subspan(size_t{slot} * copies_, copies_);
  }
  uint64_t weight(uint16_t member) const { return input_.weight[member]; }
  uint32_t zone(uint16_t member) const { return input_.zone[member]; }
  static bool has(std::span<const uint16_t> row, uint16_t member) {
    return std::ranges::find(row, member) != row.end();
  }
  // Whether a member of `row`, the one at `except` left out, is in the zone.
  bool has_zone(std::span<const uint16_t> row, uint32_t zone_number, uint32_t except) const {
    for (uint32_t place = 0; place < row.size(); place++) {
      if (place != except && row[place] != kNoMember && zone(row[place]) == zone_number)
        return true;
    }
    return false;
  }
  // Rows that the member is in, against kZoneOverload times its share.
  bool has_room(uint16_t member, uint64_t more) const {
    uint64_t held = replicas_[member] + primaries_[member] + more;
    return held * total_weight_ <= kZoneOverload * copies_ * kSlots * weight(member);
  }
  uint16_t pairs(uint16_t first, uint16_t other) const {
    return pairs_.empty() ? uint16_t{0} : pairs_[size_t{first} * members_ + other];
  }
  void count(uint32_t slot, uint16_t member, int sign) {
    replicas_[member] += static_cast<uint64_t>(sign);
    if (pairs_.empty()) return;
    auto& pair = pairs_[size_t{row(slot)[0]} * members_ + member];
    pair = static_cast<uint16_t>(pair + sign);
  }
  void replace(uint32_t slot, uint32_t place, uint16_t member) {
    uint16_t& entry = row(slot)[place];
    if (entry != kNoMember) count(slot, entry, -1);
    entry = member;
    count(slot, member, 1);
  }
  // The new first owner, then the old row without who is first now or must own nothing.
  void keep_rows() {
    for (uint32_t slot = 0; slot < kSlots; slot++) {
      auto to = row(slot);
      to[0] = input_.primary[slot];
      SHOAL_ASSERT(to[0] != kNoMember);
      primaries_[to[0]]++;
      uint32_t place = 1;
      for (uint16_t member : input_.rows.subspan(size_t{slot} * copies_, copies_)) {
        if (place == copies_ || member == kNoMember || member == to[0]) continue;
        if (weight(member) > 0) to[place++] = member;
      }
      for (uint16_t member : to.subspan(1)) {
        if (member != kNoMember) count(slot, member, 1);
      }
    }
  }

  std::pair<uint32_t, int64_t> candidate_score(uint32_t slot, uint16_t member) {
    return {pairs(row(slot)[0], member), cost_.is_quick() ? cost_.with(member, slot) : 0};
  }

  // The best member for an empty place: zone first, then who has least per weight, then who follows
  // this first owner least often, so that a leaver's slots fall to all others.
  std::optional<uint16_t> candidate(uint32_t slot, uint32_t place, bool new_zone_only) {
    std::optional<uint16_t> best;
    std::pair<uint32_t, int64_t> best_score;
    bool best_apart = false;
    auto here = row(slot);
    for (uint16_t member = 0; member < members_; member++) {
      if (weight(member) == 0) continue;
      bool apart = !has_zone(here, zone(member), place) && has_room(member, 1);
      if (new_zone_only && !apart) continue;
      if (best && best_apart && !apart) continue;
      if (has(here, member)) continue;
      std::optional<std::pair<uint32_t, int64_t>> score;
      if (best && best_apart == apart) {
        uint64_t mine = (2 * replicas_[member] + 1) * weight(*best);
        uint64_t theirs = (2 * replicas_[*best] + 1) * weight(member);
        if (mine > theirs) continue;
        score = candidate_score(slot, member);
        if (mine == theirs && *score >= best_score) continue;
      }
      if (!score) score = candidate_score(slot, member);
      best = member;
      best_score = *score;
      best_apart = apart;
    }
    return best;
  }

  void fill(uint32_t slot) {
    for (uint32_t place = 1; place < copies_; place++) {
      if (row(slot)[place] != kNoMember) continue;
      auto member = candidate(slot, place, false);
      if (!member) return;
      replace(slot, place, *member);
    }
  }

  // Puts owners of new zones before those whose zone the row has already, and replaces these where
  // a zone that the row lacks has room.
  void part_zones(uint32_t slot) {
    if (zones_used_ < 2) return;
    auto here = row(slot);
    for (uint32_t place = 1; place < std::min(copies_, zones_used_); place++) {
      auto before = here.first(place);
      if (here[place] == kNoMember) return;
      if (!has_zone(before, zone(here[place]), copies_)) continue;
      uint32_t later = place + 1;
      while (later < copies_ && here[later] != kNoMember &&
             has_zone(before, zone(here[later]), copies_)) {
        later++;
      }
      if (later < copies_ && here[later] != kNoMember) {
        std::swap(here[place], here[later]);
      } else if (auto member = candidate(slot, place, true)) {
        replace(slot, place, *member);
      } else {
        return;
      }
    }
  }

  // Whether the receiver may stand at the place without bringing zones together.
  bool keeps_zones(uint32_t slot, uint32_t place, uint16_t receiver) {
    uint16_t giver = row(slot)[place];
    if (zone(giver) == zone(receiver)) return true;
    if (!has_zone(row(slot), zone(receiver), place)) return true;
    // The zone of the receiver is there already: then the giver's must not be missed.
    return has_zone(row(slot), zone(giver), place) || !has_room(giver, 0);
  }

  // Moves places from who has most per weight to who has least, until none could make it evener.
  void level() {
    for (;;) {
      std::optional<uint16_t> receiver;
      for (uint16_t member = 0; member < members_; member++) {
        if (weight(member) == 0 || exhausted_[member]) continue;
        if (!receiver || (2 * replicas_[member] + 1) * weight(*receiver) <
                             (2 * replicas_[*receiver] + 1) * weight(member))
          receiver = member;
      }
      if (!receiver || !anyone_gives(*receiver)) return;
      if (!receive(*receiver)) exhausted_[*receiver] = true;
    }
  }
  bool anyone_gives(uint16_t receiver) const {
    for (uint16_t member = 0; member < members_; member++) {
      if (should_give(replicas_[member], weight(member), replicas_[receiver], weight(receiver)))
        return true;
    }
    return false;
  }

  // Whoever has most per weight, of one zone or of all.
  std::optional<uint16_t> top(std::optional<uint32_t> of_zone) const {
    std::optional<uint16_t> best;
    for (uint16_t member = 0; member < members_; member++) {
      if (replicas_[member] == 0 || (of_zone && zone(member) != *of_zone)) continue;
      if (!best || above(member, *best)) best = member;
    }
    return best;
  }
  // Whether `a` has more places per weight than `b`.
  bool above(uint16_t a, uint16_t b) const {
    return (2 * replicas_[a] - 1) * weight(b) > (2 * replicas_[b] - 1) * weight(a);
  }
  bool gives(uint16_t giver, uint16_t receiver) const {
    return should_give(replicas_[giver], weight(giver), replicas_[receiver], weight(receiver));
  }

  // The receiver takes one place from who has most; if zones allow none of these, from who has most
  // of its own zone; then from anyone who has enough. False: nobody can give it any.
  bool receive(uint16_t receiver) {
    uint32_t own = zone(receiver);
    if (!zone_stuck_[own]) {
      auto most = top({});
      auto from_most = [this, most](uint16_t giver) { return !above(*most, giver); };
      if (receive_if(receiver, kLooksMax, from_most)) return true;
      zone_stuck_[own] = true;
    }
    auto most = top(own);
    if (most && gives(*most, receiver)) {
      auto from_most = [this, most, own](uint16_t giver) {
        return zone(giver) == own && !above(*most, giver);
      };
      if (receive_if(receiver, kLooksMax, from_most)) return true;
    }
    return receive_if(receiver, kLooksMax,
                      [this, receiver](uint16_t giver) { return gives(giver, receiver); });
  }

  // Among up to `looks` places: first where the receiver follows the first owner least often (so
  // that a leaver's slots fall to all others), then where it may become first owner best.
  template <typename MayGive>
  bool receive_if(uint16_t receiver, uint32_t looks, MayGive may_give) {
    std::optional<std::pair<uint32_t, uint32_t>> best;
    std::pair<uint32_t, int64_t> best_score;
    auto start = static_cast<uint32_t>(replicas_[receiver] * 2'531 + receiver * 1'031u);
    for (uint32_t step = 0; step < kSlots && looks > 0; step++) {
      uint32_t slot = (start + step) % kSlots;
      auto here = row(slot);
      for (uint32_t place = 1; place < copies_; place++) {
        if (here[place] == kNoMember) break;
        if (!may_give(here[place]) || has(here, receiver)) continue;
        if (!keeps_zones(slot, place, receiver)) continue;
        std::pair score(uint32_t{pairs(here[0], receiver)}, cost_.with(receiver, slot));
        looks -= looks > 0 ? 1 : 0;
        if (best && score >= best_score) continue;
        best = std::pair(slot, place);
        best_score = score;
      }
    }
    if (!best) return false;
    replace(best->first, best->second, receiver);
    return true;
  }

  void count_second(uint32_t slot, uint64_t by) {
    if (copies_ > 1 && row(slot)[1] != kNoMember) seconds_[row(slot)[1]] += by;
  }
  // Second places too are in proportion to weights, as far as exchanging the order within rows
  // brings it: that moves nothing.
  void order(uint32_t slot) {
    auto here = row(slot);
    for (uint32_t place = 2; place < copies_; place++) {
      uint16_t second = here[1], other = here[place];
      if (other == kNoMember) return;
      if (!should_give(seconds_[second], weight(second), seconds_[other], weight(other))) continue;
      if (zone(other) != zone(second) && zone(other) == zone(here[0])) continue;
      // Nor may the order bring zones of the first places together.
      if (zone(second) != zone(other) && has_zone(here.first(place), zone(second), 1)) continue;
      seconds_[second]--;
      seconds_[other]++;
      std::swap(here[1], here[place]);
    }
  }

  const ReplicasInput& input_;
  WindowCost cost_;  // of the first owners
  uint32_t copies_;
  size_t members_;
  std::vector<uint16_t> rows_;
  std::vector<uint64_t> replicas_;   // per member: rows that it follows in
  std::vector<uint64_t> primaries_;  // per member: rows that it leads
  std::vector<uint64_t> seconds_;    // per member: rows where it is second
  std::vector<bool> exhausted_;      // nobody can give it more
  std::vector<uint16_t> pairs_;      // [first owner][follower]: rows
  std::vector<bool> zone_stuck_;     // who has most of all gives nothing to this zone
  std::vector<uint64_t> zone_weight_;
  uint64_t total_weight_ = 0;
  uint32_t zones_ = 0;
  uint32_t zones_used_ = 0;
};

}  // namespace

std::vector<uint16_t> next_rows(const ReplicasInput& input) {
  SHOAL_ASSERT(input.primary.size() == kSlots);
  SHOAL_ASSERT(input.rows.size() == size_t{kSlots} * input.copies);
  SHOAL_ASSERT(input.weight.size() == input.zone.size());
  return Rows(input).run();
}

}  // namespace shoal::placement
