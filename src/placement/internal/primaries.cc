#include "placement/internal/primaries.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "base/assert.h"
#include "placement/internal/window_cost.h"

namespace shoal::placement {
namespace {

constexpr int kPassesMax = 24;
// With many members each has few slots: only so many to both sides are looked at.
constexpr uint32_t kNearby = 32;

// Whether (2a + 1) / weight_a is less than that of b: who is first to take a slot.
bool takes_before(uint64_t count_a, uint64_t weight_a, uint64_t count_b, uint64_t weight_b) {
  return (2 * count_a + 1) * weight_b < (2 * count_b + 1) * weight_a;
}

class Change {
 public:
  explicit Change(const PrimariesInput& input)
      : input_(input),
        cost_(input.owner, input.weight),
        count_(input.weight.size()),
        give_(input.weight.size()),
        take_(input.weight.size()) {
    for (uint32_t slot = 0; slot < kSlots; slot++) {
      uint16_t owner = input.owner[slot];
      if (owner == kNoMember || input.weight[owner] == 0) {
        free_.push_back(slot);
      } else {
        count_[owner]++;
      }
    }
  }

  std::vector<uint16_t> run() {
    if (std::ranges::all_of(input_.weight, [](uint64_t weight) { return weight == 0; })) {
      return std::vector<uint16_t>(kSlots, kNoMember);
    }
    decide_numbers();
    for (uint16_t member = 0; member < take_.size(); member++) take_slots(member);
    hand_out_free();
    std::vector<uint16_t> owners(kSlots);
    for (uint32_t slot = 0; slot < kSlots; slot++) owners[slot] = cost_.owner(slot);
    return owners;
  }

 private:
  uint64_t weight(uint16_t member) const { return input_.weight[member]; }

  // Who, besides `except`, gives next.
  std::optional<uint16_t> giver(uint16_t except) const {
    std::optional<uint16_t> best;
    for (uint16_t each = 0; each < count_.size(); each++) {
      if (each == except || count_[each] == 0) continue;
      if (!best || (2 * count_[each] - 1) * weight(*best) > (2 * count_[*best] - 1) * weight(each))
        best = each;
    }
    return best;
  }
  std::optional<uint16_t> taker(uint16_t except) const {
    std::optional<uint16_t> best;
    for (uint16_t each = 0; each < count_.size(); each++) {
      if (each == except || weight(each) == 0) continue;
      if (!best || takes_before(count_[each], weight(each), count_[*best], weight(*best)))
        best = each;
    }
    return best;
  }

  // Sets give_ and take_: by how many slots each member shrinks and grows.
  void decide_numbers() {
    std::vector<uint64_t> before = count_;
    for (size_t i = 0; i < free_.size(); i++) count_[*taker(kNoMember)]++;
    for (uint16_t member : input_.changed) {
      if (weight(member) == 0) continue;
      uint64_t had = count_[member];
      for (auto from = giver(member);
           from && should_give(count_[*from], weight(*from), count_[member], weight(member));
           from = giver(member)) {
        count_[*from]--;
        count_[member]++;
      }
      if (count_[member] > had) continue;  // others that join take theirs themselves
      for (auto to = taker(member);
           to && count_[member] > 0 &&
           should_give(count_[member], weight(member), count_[*to], weight(*to));
           to = taker(member)) {
        count_[member]--;
        count_[*to]++;
      }
    }
    uint64_t given = 0, taken = 0;
    for (size_t i = 0; i < count_.size(); i++) {
      if (count_[i] < before[i]) give_[i] = before[i] - count_[i];
      if (count_[i] > before[i]) take_[i] = count_[i] - before[i];
      given += give_[i];
      taken += take_[i];
    }
    SHOAL_ASSERT(taken == given + free_.size());
    given_ = given;
  }

  // A member takes its number of slots from those who give, evenly along the table. What nobody
  // gives comes from the free slots later.
  void take_slots(uint16_t taker) {
    uint64_t wanted = std::min(take_[taker], given_);
    if (wanted == 0) return;
    std::vector<uint32_t> taken;
    uint64_t given_first = given_;
    for (uint64_t i = 0; i < wanted; i++) {
      auto middle = static_cast<int64_t>((2 * i + 1) * kSlots / (2 * wanted));
      auto reach = static_cast<int64_t>(kSlots / wanted / 2);
      if (!cost_.is_quick()) reach = std::min<int64_t>(reach, kNearby);
      auto slot = best_slot(taker, middle, reach, wanted - i, given_first);
      if (!slot) slot = best_slot(taker, middle, kSlots / 2, wanted - i, given_first);
      SHOAL_ASSERT(slot.has_value());
      give_[cost_.owner(*slot)]--;
      given_--;
      take_[taker]--;
      cost_.set_owner(*slot, taker);
      taken.push_back(*slot);
    }
    std::vector<std::vector<uint32_t>> kept(count_.size());
    for (uint32_t slot = 0; slot < kSlots; slot++) {
      uint16_t owner = cost_.owner(slot);
      if (owner != kNoMember && input_.owner[slot] == owner) kept[owner].push_back(slot);
    }
    for (int pass = 0; pass < kPassesMax && improve_taken(taker, taken, kept); pass++) {
    }
  }

  // The slot near `middle` whose move to `taker` makes windows most even, from a member that has
  // not yet given all that it gives.
  std::optional<uint32_t> best_slot(uint16_t taker, int64_t middle, int64_t reach,
                                    uint64_t still_wanted, uint64_t given_first) const {
    std::optional<uint32_t> best;
    int64_t best_gain = std::numeric_limits<int64_t>::min();
    for (int64_t offset = -reach; offset <= reach; offset++) {
      auto slot = static_cast<uint32_t>((middle + offset + kSlots) % kSlots);
      uint16_t owner = cost_.owner(slot);
      if (owner == kNoMember || owner == taker || give_[owner] == 0) continue;
      if (input_.owner[slot] != owner) continue;  // moved a moment ago
      int64_t gain = cost_.with(owner, slot) - cost_.with(taker, slot);
      // Those who have most left to give come first, so that all give along the whole table.
      auto pace = static_cast<int64_t>(give_[owner] * 64 * still_wanted / (given_first + 1));
      gain += pace * (cost_.pair(taker, slot, slot) / 64);
      if (gain > best_gain) {
        best_gain = gain;
        best = slot;
      }
    }
    return best;
  }

  // Gives a taken slot back for another one of the same giver, where that is better. `kept`: by
  // giver, the slots that it keeps.
  bool improve_taken(uint16_t taker, std::vector<uint32_t>& taken,
                     std::vector<std::vector<uint32_t>>& kept) {
    bool improved = false;
    for (uint32_t& slot : taken) {
      uint16_t giver = input_.owner[slot];
      int64_t back = cost_.with(giver, slot) - cost_.with(taker, slot);
      uint32_t* best = nullptr;
      int64_t best_change = 0;
      for (uint32_t& other : kept[giver]) {
        if (!cost_.is_quick() && (other - slot + kNearby) % kSlots > 2 * kNearby) continue;
        int64_t change = back + cost_.with(taker, other) - cost_.with(giver, other) -
                         cost_.pair(taker, slot, other) - cost_.pair(giver, slot, other);
        if (change < best_change) {
          best_change = change;
          best = &other;
        }
      }
      if (!best) continue;
      cost_.set_owner(slot, giver);
      cost_.set_owner(*best, taker);
      std::swap(slot, *best);
      improved = true;
    }
    return improved;
  }

  // Whoever was next in the slot's row may have a copy already. Worth about as much as makes half
  // of a leaver's slots go there and windows hardly less even (docs/decisions/0009).
  int64_t succession(uint16_t member, uint32_t slot) const {
    for (uint32_t place = 1; place < input_.copies; place++) {
      if (input_.rows[size_t{slot} * input_.copies + place] != member) continue;
      return cost_.pair(member, slot, slot) / (place == 1 ? 2 : 4);
    }
    return 0;
  }

  void hand_out_free() {
    for (uint32_t slot : free_) cost_.set_owner(slot, kNoMember);
    for (size_t i = 0; i < free_.size(); i++) {
      uint32_t slot = free_[i];
      uint16_t best = kNoMember;
      int64_t best_change = 0;
      for (uint16_t member = 0; member < take_.size(); member++) {
        if (take_[member] == 0) continue;
        auto pace = static_cast<int64_t>(take_[member] * 64 / (free_.size() - i));
        int64_t change = cost_.with(member, slot) - succession(member, slot) -
                         pace * (cost_.pair(member, slot, slot) / 64);
        if (best == kNoMember || change < best_change) {
          best = member;
          best_change = change;
        }
      }
      SHOAL_ASSERT(best != kNoMember);
      take_[best]--;
      cost_.set_owner(slot, best);
    }
    for (int pass = 0; pass < kPassesMax && improve_handed_out(); pass++) {
    }
  }

  // Exchanges the new owners of two freed slots, where that is better.
  bool improve_handed_out() {
    bool improved = false;
    for (size_t i = 0; i < free_.size(); i++) {
      uint32_t slot = free_[i];
      uint16_t mine = cost_.owner(slot);
      int64_t loss = cost_.with(mine, slot) - succession(mine, slot);
      std::optional<uint32_t> best;
      int64_t best_change = 0;
      for (uint32_t other : free_) {
        uint16_t theirs = cost_.owner(other);
        if (theirs == mine) continue;
        int64_t change = cost_.with(mine, other) - cost_.pair(mine, slot, other) -
                         succession(mine, other) + cost_.with(theirs, slot) -
                         cost_.pair(theirs, slot, other) - succession(theirs, slot) - loss -
                         cost_.with(theirs, other) + succession(theirs, other);
        if (change < best_change) {
          best_change = change;
          best = other;
        }
      }
      if (!best) continue;
      uint16_t theirs = cost_.owner(*best);
      cost_.set_owner(slot, theirs);
      cost_.set_owner(*best, mine);
      improved = true;
    }
    return improved;
  }

  const PrimariesInput& input_;
  WindowCost cost_;
  std::vector<uint32_t> free_;   // slots whose owner is gone or must own nothing
  std::vector<uint64_t> count_;  // slots per member
  std::vector<uint64_t> give_;
  std::vector<uint64_t> take_;
  uint64_t given_ = 0;  // sum of give_
};

}  // namespace

bool should_give(uint64_t giver_count, uint64_t giver_weight, uint64_t taker_count,
                 uint64_t taker_weight) {
  if (giver_count == 0 || taker_weight == 0) return false;
  return (2 * giver_count - 1) * taker_weight > (2 * taker_count + 1) * giver_weight;
}

std::vector<uint16_t> next_primaries(const PrimariesInput& input) {
  SHOAL_ASSERT(input.owner.size() == kSlots);
  SHOAL_ASSERT(input.rows.size() == size_t{kSlots} * input.copies);
  return Change(input).run();
}

}  // namespace shoal::placement
