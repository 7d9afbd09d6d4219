// The parts of a simulated stream. Only for sim_fabric, sim_stream and sim_network.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "world/network.h"
#include "world_sim/sim_executor.h"
#include "world_sim/sim_fabric.h"
#include "world_sim/sim_file.h"

namespace shoal {

// One operation under way; belongs to its SimNetwork.
struct NetFlight {
  uint64_t number = 0;
  NetOp* op = nullptr;
  SimNetwork* network = nullptr;
  uint64_t connection = 0;  // of sends and receives
  uint64_t progress = 0;    // bytes so far
  size_t part = 0;          // of a send: where the next byte is
  size_t part_offset = 0;
  bool reading = false;  // of kSendFile: a piece is being read
  // Of a connect.
  SimHostId target{};
  std::string ip;
  uint16_t port = 0;
  int attempt = 0;
  SteadyTime begun{};
  SimScheduler::EventId pending{};
  SimScheduler::EventId expiry{};
};

struct SimChunk {
  enum class Kind { kBytes, kOpen, kEnd };
  Kind kind = Kind::kBytes;
  std::unique_ptr<std::byte[]> data;  // either this
  std::vector<SimPagePtr> pages;      // or pages of a file, which nobody copies on the way; none of
                                      // both: zeros
  uint64_t begin = 0;                 // bytes before it have been read or are none of ours
  uint64_t end = 0;
  uint64_t capacity = 0;
  uint64_t size() const { return end - begin; }
  // Takes the first bytes out.
  void take(ByteSpan into);
  void flip_bit(uint64_t index, unsigned bit);
};

// What flows from one end to the other. Lists, because empty ones take no memory and chunks move
// from one to the next without being copied.
struct SimPipe {
  std::list<SimChunk> queued;   // in the sender's buffer
  std::list<SimChunk> transit;  // under way
  std::list<SimChunk> arrived;  // in the receiver's buffer
  uint64_t queued_bytes = 0;
  uint64_t arrived_bytes = 0;
  uint64_t sent = 0;      // bytes put on the way
  uint64_t consumed = 0;  // bytes that the receiver has read
  uint64_t credit = 0;    // `consumed` as far as the sender knows
  uint32_t reached = 0;   // chunks of `transit` that wait at the receiver's card
  uint32_t lost = 0;      // chunks of `transit` that met a cut link or a dead machine
  bool at_out = false;    // the front of `queued` waits for or passes the sender's card
  bool at_in = false;     // the front of `transit` passes the receiver's card
  bool pausing = false;   // an event for `next_departure` is set
  bool dead = false;      // nothing more is accepted
  bool stalled = false;
  bool timing = false;  // `user_timer` is set
  SteadyTime stalled_at{};
  SteadyTime last_arrival{};
  SteadyTime next_departure{};
  SimScheduler::EventId user_timer{};
  NetFlight* send = nullptr;
  NetFlight* receive = nullptr;
};

struct SimEnd {
  SimHostId host{};
  SimNetwork* owner = nullptr;  // null: not accepted yet, or closed
  int32_t socket = -1;
  bool held = false;    // a process or a listener's queue holds it
  bool gone = false;    // the kernel knows it no longer: bytes for it are answered by a reset
  bool ended = false;   // the peer's end has arrived
  int error = 0;        // of a broken end
  std::string address;  // "10.0.0.1:7070"
};

struct SimConnection {
  uint64_t number = 0;
  bool loopback = false;
  std::string listen_ip;
  uint16_t listen_port = 0;
  SimEnd ends[2];    // 0 connected, 1 accepted
  SimPipe pipes[2];  // pipes[i] flows from ends[i] to the other
};

struct SimListener {
  SimNetwork* owner = nullptr;
  int32_t socket = -1;
  std::string ip;  // empty: any
  uint16_t port = 0;
  std::deque<NetFlight*> accepts;
  std::deque<uint64_t> waiting;  // numbers of connections
};

}  // namespace shoal
