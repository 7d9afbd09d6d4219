// How the bytes of simulated streams move; sim_fabric.h says what is modelled.
#include "world_sim/internal/sim_stream.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "world_sim/sim_fabric.h"
#include "world_sim/sim_network.h"

namespace shoal {

namespace {

constexpr uint64_t kSmallChunk = 2 * kKiB;  // small messages of one moment travel together
// Forecasts move zeros by the gigabyte: so many in a row take no memory on their way.
constexpr uint64_t kZerosMin = 16 * kKiB;
constexpr uint64_t kSpareBytesMax = 256 * kMiB;
constexpr Duration kFirstRetransmission = std::chrono::milliseconds(200);

bool is_zeros(ConstByteSpan bytes) {
  return bytes.size() >= kZerosMin && bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace

void SimChunk::take(ByteSpan into) {
  SHOAL_ASSERT(into.size() <= size());
  if (data) std::memcpy(into.data(), data.get() + begin, into.size());
  if (!data && pages.empty()) std::ranges::fill(into, std::byte{0});
  for (size_t done = 0; !pages.empty() && done < into.size();) {
    uint64_t at = (begin + done) % kSimPageBytes;
    size_t piece = std::min<uint64_t>(into.size() - done, kSimPageBytes - at);
    std::memcpy(into.data() + done, pages[(begin + done) / kSimPageBytes]->data() + at, piece);
    done += piece;
  }
  begin += into.size();
}

void SimChunk::flip_bit(uint64_t index, unsigned bit) {
  SHOAL_ASSERT(index < size());
  auto mask = static_cast<std::byte>(1u << bit);
  uint64_t at = begin + index;
  if (!data && pages.empty()) data = std::make_unique<std::byte[]>(capacity);
  if (data) {
    data[at] ^= mask;
    return;
  }
  // The page is the file's too: only what travels changes.
  auto flipped = std::make_shared<SimPage>(*pages[at / kSimPageBytes]);
  (*flipped)[at % kSimPageBytes] ^= mask;
  pages[at / kSimPageBytes] = std::move(flipped);
}

SimConnection* SimFabric::find(uint64_t number) {
  auto found = connections_.find(number);
  return found == connections_.end() ? nullptr : found->second.get();
}

SimConnection& SimFabric::connect(SimHostId from, SimHostId to, const std::string& ip,
                                  uint16_t port) {
  auto owned = std::make_unique<SimConnection>();
  SimConnection& connection = *owned;
  connection.number = next_connection_++;
  connection.loopback = from == to;
  connection.listen_ip = ip;
  connection.listen_port = port;
  connection.ends[0].host = from;
  connection.ends[0].held = true;
  connection.ends[1].host = to;
  connections_.emplace(connection.number, std::move(owned));
  ++host(from).traffic.connects;
  scheduler_.note(connection.number * 16 + 7);
  // The last word of the handshake goes ahead of all bytes.
  connection.pipes[0].queued.emplace_back().kind = SimChunk::Kind::kOpen;
  pump(connection, 0);
  return connection;
}

// The handshake is over at the accepting end.
void SimFabric::opened(SimConnection& connection) {
  SimEnd& end = connection.ends[1];
  SimListener* listener = find_listener(end.host, connection.listen_ip, connection.listen_port);
  if (listener == nullptr) return close_end(connection, 1, true);
  ++host(end.host).traffic.accepts;
  end.held = true;
  listener->waiting.push_back(connection.number);
  listener->owner->feed_accept(*listener);
}

void SimFabric::erase_if_done(SimConnection& connection) {
  for (const SimEnd& end : connection.ends) {
    if (end.held || !end.gone) return;
  }
  for (SimPipe& pipe : connection.pipes) {
    SHOAL_ASSERT(pipe.send == nullptr && pipe.receive == nullptr);
    stop_user_timer(pipe);
    for (auto* list : {&pipe.queued, &pipe.transit, &pipe.arrived}) release(*list);
  }
  connections_.erase(connection.number);
}

// The process has let go of its end. Like Linux: unread bytes turn an orderly end into a reset.
void SimFabric::close_end(SimConnection& connection, int e, bool reset) {
  SimEnd& end = connection.ends[e];
  SimPipe& in = connection.pipes[1 - e];
  reset = reset || in.arrived_bytes > 0;
  end.owner = nullptr;
  end.held = false;
  release(in.arrived);
  in.arrived_bytes = 0;
  if (!end.gone) {
    if (reset) {
      lose_end(connection, e);
      send_reset(connection, e);
    } else {
      connection.pipes[e].queued.emplace_back().kind = SimChunk::Kind::kEnd;
      connection.pipes[e].dead = true;
      pump(connection, e);
    }
  }
  erase_if_done(connection);
}

// The kernel of this end forgets it; what is under way goes on.
void SimFabric::lose_end(SimConnection& connection, int e) {
  connection.ends[e].gone = true;
  SimPipe& out = connection.pipes[e];
  out.dead = true;
  release(out.queued);
  out.queued_bytes = 0;
  stop_user_timer(out);
}

void SimFabric::break_end(SimConnection& connection, int e, int error) {
  SimEnd& end = connection.ends[e];
  if (end.gone) return;
  scheduler_.note(connection.number * 16 + 8 + static_cast<uint64_t>(e));
  lose_end(connection, e);
  end.error = error;
  feed_send(connection, e);
  feed_receive(connection, e);
}

void SimFabric::reset_both(uint64_t number) {
  SimConnection* connection = find(number);
  if (connection == nullptr) return;
  break_end(*connection, 0, ECONNRESET);
  break_end(*connection, 1, ECONNRESET);
  erase_if_done(*connection);
}

// The machine has lost its power: its kernel forgets everything, and nobody is told.
void SimFabric::lose_host(SimHostId id) {
  host(id).listeners.clear();
  for (uint64_t number : numbers()) {
    SimConnection& connection = *find(number);
    for (int e : {0, 1}) {
      if (connection.ends[e].host != id) continue;
      connection.ends[e].owner = nullptr;
      connection.ends[e].held = false;
      lose_end(connection, e);
    }
    erase_if_done(connection);
  }
  set_up(id, false);
}

// From this end to the other, which hears of it if the network lets it.
void SimFabric::send_reset(SimConnection& connection, int e) {
  SimHostId from = connection.ends[e].host;
  SimHostId to = connection.ends[1 - e].host;
  if (connection.ends[1 - e].gone || !reachable(from, to)) return;
  PipeId peer = connection.number * 2 + static_cast<uint64_t>(1 - e);
  SteadyTime when = scheduler_.now() + delay(from, to);
  when = std::max(when, connection.pipes[e].last_arrival);
  scheduler_.at(when, nullptr, [this, peer] {
    SimConnection* known = find(peer / 2);
    if (known == nullptr) return;
    int other = static_cast<int>(peer % 2);
    if (!can_arrive(known->ends[1 - other].host, known->ends[other].host)) return;
    break_end(*known, other, ECONNRESET);
    erase_if_done(*known);
  });
}

void SimFabric::append(SimPipe& pipe, ConstByteSpan bytes, uint64_t following) {
  if (is_zeros(bytes)) return append_zeros(pipe, bytes.size());
  while (!bytes.empty()) {
    bool fits = !pipe.queued.empty() && pipe.queued.back().data != nullptr &&
                pipe.queued.back().end < pipe.queued.back().capacity &&
                !(pipe.at_out && pipe.queued.size() == 1);
    if (!fits) {
      SimChunk& fresh = pipe.queued.emplace_back();
      fresh.capacity =
          std::min(options_.chunk_bytes, std::max(bytes.size() + following, kSmallChunk));
      if (fresh.capacity == options_.chunk_bytes && !spare_.empty()) {
        fresh.data = std::move(spare_.back());
        spare_.pop_back();
      } else {
        fresh.data = std::make_unique_for_overwrite<std::byte[]>(fresh.capacity);
      }
      buffered_ += fresh.capacity;
    }
    SimChunk& chunk = pipe.queued.back();
    size_t count = std::min<uint64_t>(bytes.size(), chunk.capacity - chunk.end);
    std::memcpy(chunk.data.get() + chunk.end, bytes.data(), count);
    chunk.end += count;
    pipe.queued_bytes += count;
    bytes = bytes.subspan(count);
  }
}

void SimFabric::append_zeros(SimPipe& pipe, uint64_t size) {
  while (size > 0) {
    SimChunk& chunk = pipe.queued.emplace_back();
    chunk.end = chunk.capacity = std::min(size, options_.chunk_bytes);
    buffered_ += chunk.end;
    pipe.queued_bytes += chunk.end;
    size -= chunk.end;
  }
}

void SimFabric::append_pages(SimPipe& pipe, std::vector<SimPagePtr> pages, uint64_t begin,
                             uint64_t size) {
  SHOAL_ASSERT(begin + size <= pages.size() * kSimPageBytes);
  SimChunk& chunk = pipe.queued.emplace_back();
  chunk.pages = std::move(pages);
  chunk.begin = begin;
  chunk.end = begin + size;
  chunk.capacity = size;
  buffered_ += size;
  pipe.queued_bytes += size;
}

void SimFabric::release(SimChunk& chunk) {
  buffered_ -= chunk.capacity;
  bool fits = chunk.data && chunk.capacity == options_.chunk_bytes;
  if (fits && (spare_.size() + 1) * chunk.capacity <= kSpareBytesMax) {
    spare_.push_back(std::move(chunk.data));
  }
}

void SimFabric::release(std::list<SimChunk>& chunks) {
  for (SimChunk& chunk : chunks) release(chunk);
  chunks.clear();
}

// Moves bytes of the send under way into the buffer, as far as there is room.
void SimFabric::feed_send(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[e];
  NetFlight* flight = pipe.send;
  if (flight == nullptr) return;
  if (connection.ends[e].gone) {
    pipe.send = nullptr;
    return flight->network->finish(*flight, -connection.ends[e].error);
  }
  if (flight->op->kind == NetOp::Kind::kSendFile) return feed_file(connection, e);
  std::span<const ConstByteSpan> parts = flight->op->parts;
  uint64_t total = 0;
  for (ConstByteSpan part : parts) total += part.size();
  while (flight->progress < total && pipe.queued_bytes < options_.send_buffer) {
    ConstByteSpan rest = parts[flight->part].subspan(flight->part_offset);
    size_t count = std::min<uint64_t>(rest.size(), options_.send_buffer - pipe.queued_bytes);
    // What follows shares the chunk, unless it takes no memory.
    bool alone = flight->part + 1 < parts.size() && is_zeros(parts[flight->part + 1]);
    append(pipe, rest.first(count), alone ? 0 : total - flight->progress - count);
    flight->progress += count;
    flight->part_offset += count;
    if (flight->part_offset == parts[flight->part].size()) {
      ++flight->part;
      flight->part_offset = 0;
    }
  }
  if (flight->progress == total) {
    pipe.send = nullptr;
    flight->network->finish(*flight, static_cast<int64_t>(total));
  }
  pump(connection, e);
}

// The same from a file: the disk is asked for what fits, then it is in the buffer.
void SimFabric::feed_file(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[e];
  NetFlight& flight = *pipe.send;
  uint64_t left = flight.op->length - flight.progress;
  if (left == 0) {
    pipe.send = nullptr;
    flight.network->finish(flight, static_cast<int64_t>(flight.progress));
    return;
  }
  uint64_t room = options_.send_buffer - std::min(options_.send_buffer, pipe.queued_bytes);
  uint64_t piece = std::min(left, options_.chunk_bytes);
  // Whole chunks only, so that a full buffer does not cut the file into crumbs.
  if (flight.reading || room < piece) return;
  flight.network->read_for_send(flight, piece);
}

void SimFabric::pump(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[e];
  PipeId id = connection.number * 2 + static_cast<uint64_t>(e);
  while (!pipe.at_out && !pipe.stalled && !pipe.queued.empty()) {
    uint64_t size = pipe.queued.front().size();
    uint64_t open = pipe.sent - pipe.credit;
    if (open > 0 && open + size > options_.receive_window) {
      if (!path_works(connection, e)) stall(connection, e);  // nobody answers the probes
      return;
    }
    if (scheduler_.now() < pipe.next_departure) {
      if (pipe.pausing) return;
      pipe.pausing = true;
      scheduler_.at(pipe.next_departure, nullptr, [this, id] {
        SimConnection* known = find(id / 2);
        if (known == nullptr) return;
        known->pipes[id % 2].pausing = false;
        pump(*known, static_cast<int>(id % 2));
      });
      return;
    }
    SimNicPort& port = host(connection.ends[e].host).out;
    if (connection.loopback || !port.limited() || size < options_.free_bytes) {
      depart(id);
      continue;
    }
    pipe.at_out = true;
    port.submit({.left = size,
                 .begun = [this, id] { depart(id); },
                 .passed =
                     [this, id] {
                       SimConnection* known = find(id / 2);
                       if (known == nullptr) return;
                       known->pipes[id % 2].at_out = false;
                       pump(*known, static_cast<int>(id % 2));
                     }});
    return;
  }
}

// The first byte of the front chunk is on its way.
void SimFabric::depart(PipeId id) {
  SimConnection* connection = find(id / 2);
  if (connection == nullptr) return;
  int e = static_cast<int>(id % 2);
  SimPipe& pipe = connection->pipes[e];
  if (pipe.queued.empty()) return;  // the end was lost meanwhile
  SimHostId from = connection->ends[e].host;
  SimHostId to = connection->ends[1 - e].host;
  SimChunk& chunk = pipe.queued.front();
  uint64_t size = chunk.size();
  SteadyTime now = scheduler_.now();
  SteadyTime when = now + delay(from, to);
  if (!connection->loopback) {
    const SimLink& between = link(from, to);
    host(from).traffic.bytes_sent += size;
    Duration spread = host(from).out.time_of(size);
    if (between.stream_bytes_per_second > 0) {
      Duration own(static_cast<int64_t>(
          static_cast<double>(size) / static_cast<double>(between.stream_bytes_per_second) * 1e9));
      spread = std::max(spread, own);
      pipe.next_departure = now + own;
    }
    // A faster card on the other side does not wait for a slower sender: it starts so late that
    // its last byte comes with the sender's.
    when += std::max(Duration(0), spread - host(to).in.time_of(size));
    if (random_.chance(between.loss)) when += kFirstRetransmission * (1u << random_.below(4));
    if (size > 0 && random_.chance(between.corrupt)) {
      chunk.flip_bit(random_.below(size), static_cast<unsigned>(random_.below(8)));
    }
    if (random_.chance(between.reset)) {
      scheduler_.at(now, nullptr, [this, number = connection->number] { reset_both(number); });
    }
  }
  pipe.last_arrival = std::max(pipe.last_arrival, when);
  pipe.sent += size;
  pipe.queued_bytes -= size;
  pipe.transit.splice(pipe.transit.end(), pipe.queued, pipe.queued.begin());
  scheduler_.at(pipe.last_arrival, nullptr, [this, id] { arrive(id); });
  if (pipe.send != nullptr) feed_send(*connection, e);
}

// The next chunk has come to the receiver's card.
void SimFabric::arrive(PipeId id) {
  SimConnection* connection = find(id / 2);
  if (connection == nullptr) return;
  int e = static_cast<int>(id % 2);
  SimPipe& pipe = connection->pipes[e];
  SHOAL_ASSERT(pipe.reached + pipe.lost < pipe.transit.size());
  if (pipe.stalled || !can_arrive(connection->ends[e].host, connection->ends[1 - e].host)) {
    ++pipe.lost;
    return stall(*connection, e);
  }
  ++pipe.reached;
  feed_card(*connection, e);
}

void SimFabric::feed_card(SimConnection& connection, int e) {
  PipeId id = connection.number * 2 + static_cast<uint64_t>(e);
  SimNicPort& port = host(connection.ends[1 - e].host).in;
  SimConnection* known = &connection;
  while (known != nullptr && !known->pipes[e].at_in && known->pipes[e].reached > 0) {
    uint64_t size = known->pipes[e].transit.front().size();
    if (known->loopback || !port.limited() || size < options_.free_bytes) {
      deliver(*known, e);
      known = find(id / 2);
      continue;
    }
    known->pipes[e].at_in = true;
    port.submit({.left = size, .begun = nullptr, .passed = [this, id] {
                   SimConnection* still = find(id / 2);
                   if (still == nullptr) return;
                   int end = static_cast<int>(id % 2);
                   still->pipes[end].at_in = false;
                   deliver(*still, end);
                   still = find(id / 2);
                   if (still != nullptr) feed_card(*still, end);
                 }});
  }
}

// The front of what is under way has come whole. May end the connection.
void SimFabric::deliver(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[e];
  SimEnd& from = connection.ends[e];
  SimEnd& to = connection.ends[1 - e];
  SHOAL_ASSERT(pipe.reached > 0 && !pipe.transit.empty());
  --pipe.reached;
  if (!host(to.host).up) {  // died while its card took the bytes
    ++pipe.lost;
    return stall(connection, e);
  }
  SimChunk::Kind kind = pipe.transit.front().kind;
  scheduler_.note(connection.number * 16 + static_cast<uint64_t>(e) * 4 +
                  static_cast<uint64_t>(kind));
  if (kind == SimChunk::Kind::kBytes) return deliver_bytes(connection, e);
  pipe.transit.pop_front();
  acknowledge(connection, e);
  if (kind == SimChunk::Kind::kOpen) {
    if (to.gone) {
      send_reset(connection, 1 - e);
    } else {
      opened(connection);
    }
    return;
  }
  if (!from.held) lose_end(connection, e);
  to.ended = true;
  feed_receive(connection, 1 - e);
  erase_if_done(connection);
}

void SimFabric::deliver_bytes(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[e];
  SimEnd& to = connection.ends[1 - e];
  SimChunk& chunk = pipe.transit.front();
  uint64_t size = chunk.size();
  if (to.gone || !to.held) {
    release(chunk);
    pipe.transit.pop_front();
    if (!to.gone) lose_end(connection, 1 - e);
    send_reset(connection, 1 - e);
    return erase_if_done(connection);
  }
  if (!connection.loopback) host(to.host).traffic.bytes_received += size;
  pipe.arrived.splice(pipe.arrived.end(), pipe.transit, pipe.transit.begin());
  pipe.arrived_bytes += size;
  acknowledge(connection, e);
  feed_receive(connection, 1 - e);
}

// Moves what has arrived into the receive under way at this end.
void SimFabric::feed_receive(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[1 - e];
  SimEnd& end = connection.ends[e];
  NetFlight* flight = pipe.receive;
  if (flight == nullptr) return;
  NetOp& op = *flight->op;
  uint64_t before = flight->progress;
  while (flight->progress < op.length && !pipe.arrived.empty()) {
    SimChunk& chunk = pipe.arrived.front();
    uint64_t count = std::min(chunk.size(), op.length - flight->progress);
    chunk.take({op.data + flight->progress, count});
    flight->progress += count;
    if (chunk.size() > 0) continue;
    release(chunk);
    pipe.arrived.pop_front();
  }
  uint64_t count = flight->progress - before;
  pipe.arrived_bytes -= count;
  pipe.consumed += count;
  bool enough = flight->progress >= op.minimum;
  if (enough || end.ended || end.gone) {
    pipe.receive = nullptr;
    bool good = enough || end.ended;
    flight->network->finish(*flight, good ? static_cast<int64_t>(flight->progress) : -end.error);
  }
  if (count > 0) acknowledge(connection, 1 - e);
}

// The receiver of this pipe tells its sender what has come and what it has read.
void SimFabric::acknowledge(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[e];
  if (connection.ends[e].gone) return;
  if (!can_arrive(connection.ends[1 - e].host, connection.ends[e].host)) {
    return stall(connection, e);
  }
  pipe.credit = pipe.consumed;
  if (pipe.stalled) return;
  if (pipe.lost == 0) stop_user_timer(pipe);
  if (pipe.send != nullptr) return feed_send(connection, e);
  pump(connection, e);
}

// Nothing more leaves until the path works both ways.
void SimFabric::stall(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[e];
  PipeId id = connection.number * 2 + static_cast<uint64_t>(e);
  if (!pipe.stalled) {
    pipe.stalled = true;
    pipe.stalled_at = scheduler_.now();
    stalled_.insert(id);
  }
  start_user_timer(connection, e);
}

void SimFabric::start_user_timer(SimConnection& connection, int e) {
  SimPipe& pipe = connection.pipes[e];
  if (pipe.timing || connection.ends[e].gone) return;
  PipeId id = connection.number * 2 + static_cast<uint64_t>(e);
  Duration spread = options_.user_timeout_max - options_.user_timeout_min;
  Duration limit =
      options_.user_timeout_min +
      Duration(static_cast<int64_t>(random_.below(static_cast<uint64_t>(spread.count()) + 1)));
  pipe.timing = true;
  pipe.user_timer = scheduler_.at(scheduler_.now() + limit, nullptr, [this, id] {
    SimConnection* known = find(id / 2);
    if (known == nullptr) return;
    int end = static_cast<int>(id % 2);
    known->pipes[end].timing = false;
    break_end(*known, end, ETIMEDOUT);  // the other end is not told: nothing gets there
    erase_if_done(*known);
  });
}

void SimFabric::stop_user_timer(SimPipe& pipe) {
  if (!pipe.timing) return;
  pipe.timing = false;
  scheduler_.cancel(pipe.user_timer);
}

// A retransmission after the path came back.
void SimFabric::resume(PipeId id) {
  SimConnection* connection = find(id / 2);
  if (connection == nullptr) return;
  int e = static_cast<int>(id % 2);
  SimPipe& pipe = connection->pipes[e];
  if (!path_works(*connection, e)) {
    stalled_.insert(id);
    return;
  }
  scheduler_.note(connection->number * 16 + 12 + static_cast<uint64_t>(e));
  pipe.stalled = false;
  pipe.credit = pipe.consumed;
  SimHostId from = connection->ends[e].host;
  SimHostId to = connection->ends[1 - e].host;
  bool unsent = !pipe.queued.empty() || pipe.lost > 0;
  if (connection->ends[1 - e].gone && unsent) send_reset(*connection, 1 - e);
  pipe.last_arrival = std::max(pipe.last_arrival, scheduler_.now() + delay(from, to));
  for (; pipe.lost > 0; --pipe.lost) {
    scheduler_.at(pipe.last_arrival, nullptr, [this, id] { arrive(id); });
  }
  stop_user_timer(pipe);
  if (pipe.send != nullptr) return feed_send(*connection, e);
  pump(*connection, e);
}

}  // namespace shoal
