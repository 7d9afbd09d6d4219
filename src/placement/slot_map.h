// The slot map: which nodes form the cluster and which of them owns what. The cluster's only shared
// state; changed only when membership changes, by pure functions from one map to the next.
//
// Chunk i of an object lies at slot (hash(object) + i) mod kSlots. Each slot has `copies` ordered
// owners, in distinct zones where there are several, and the owner that it had before the last
// change: a new owner that misses asks there before it asks the origin.
//
// No I/O, no clock, no chance: equal inputs give equal maps. Any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/hash.h"

namespace shoal {

inline constexpr uint32_t kSlots = 4096;
inline constexpr uint16_t kNoMember = 0xFFFF;
inline constexpr uint32_t kMembersMax = 16'384;
inline constexpr uint32_t kCopiesMax = 8;
inline constexpr uint32_t kWeightMax = 1u << 20;

using NodeId = Hash128;

enum class MemberState : uint8_t {
  kUp = 1,
  kDown = 2,      // does not answer; keeps its slots for the grace time
  kDraining = 3,  // leaves: owns nothing any more, but still serves what it holds
};

struct Member {
  NodeId id;
  std::string name;
  std::string address;  // HOST:PORT
  std::string http;     // of the admin server, empty: none
  uint32_t weight = 1;  // capacity in GiB, 1 to kWeightMax; slots are in proportion
  std::string zone;     // fault domain; all with an empty one are in one
  MemberState state = MemberState::kUp;
  uint64_t incarnation = 0;  // raised by the member itself, at each start and to refute

  bool operator==(const Member&) const = default;
};

struct SlotMap {
  uint64_t version = 0;
  std::string cluster;
  Hash128 cluster_id;
  std::string origin;           // identity of the origin that the cluster caches
  uint32_t copies = 3;          // owners per slot
  std::vector<Member> members;  // in order of id; their indices change with who joins and leaves
  // kSlots rows of `copies` indices into `members`, best first; kNoMember, last, when there are too
  // few that own anything.
  std::vector<uint16_t> owners;
  std::vector<uint16_t> previous;  // per slot; kNoMember: none

  std::span<const uint16_t> owners_of(uint32_t slot) const {
    return std::span(owners).subspan(size_t{slot} * copies, copies);
  }
  const Member* find(const NodeId& id) const;
  // Index of the member, or kNoMember.
  uint16_t index_of(const NodeId& id) const;
  bool operator==(const SlotMap&) const = default;
};

// Slots of data. Frozen: nodes of all versions agree.
uint32_t slot_of_chunk(std::string_view object, uint64_t chunk);
uint32_t slot_of_object(std::string_view object);  // attributes; that of chunk 0
uint32_t slot_of_block(std::string_view key);

// kCorrupt with a reason when a map that came from outside breaks a rule: indices, sizes, duplicate
// ids, counts, order.
Status validate(const SlotMap& map);

namespace placement {

// A cluster of one. version is 1. `copies`: 1 to kCopiesMax.
SlotMap first_map(std::string cluster, Hash128 cluster_id, std::string origin, uint32_t copies,
                  Member member);

// Each answers the next map (version + 1). Slots move only where they must: a join moves the
// joiner's slots to it, a leave the leaver's to others (to the slot's second owner, mostly). Who is
// named must be in the map, or not yet for join; that is the caller's to check (find()).
//
// `previous` becomes the first owner before the change for slots that got another one, and keeps
// what it was for others; kNoMember once that member is gone.
SlotMap join(const SlotMap& map, Member member);
// At once: moves less than one after the other.
SlotMap join(const SlotMap& map, std::vector<Member> members);
SlotMap leave(const SlotMap& map, const NodeId& member);  // out of the map
SlotMap drain(const SlotMap& map, const NodeId& member);  // owns nothing, stays a member
// Also gives its share to a member that drained and came back (state kUp by update_member): until
// then such a member owns nothing.
SlotMap set_weight(const SlotMap& map, const NodeId& member, uint32_t weight);
// Address, name, http, state and incarnation: nothing moves, and nobody starts to drain by it.
SlotMap update_member(const SlotMap& map, const Member& member);
// Forgets who owned slots before (the hand-over is done).
SlotMap settle(const SlotMap& map);

}  // namespace placement
}  // namespace shoal
