// What lies between simulated machines: addresses, network cards, links with latency and loss,
// partitions, and the streams themselves, which are the kernel's side of TCP.
//
// A stream's bytes move in chunks: through the sender's card, over the link, through the receiver's
// card (cut through: two equal cards cost the time of one), into the receiver's buffer. Cards are
// shared fairly by all streams of their machine. Bytes stay in order; what a fault does to them is
// delay or the end of the stream.
//
// Not here: operations of processes (sim_network.h). Threads: the simulation's.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "world_sim/sim_file.h"
#include "world_sim/sim_nic.h"

namespace shoal {

class SimNetwork;
struct SimChunk;
struct SimConnection;
struct SimListener;
struct SimPipe;
struct NetFlight;

// A machine's number on the network, from 0.
enum class SimHostId : uint32_t {};

// From one machine to another, one way.
struct SimLink {
  Duration latency = std::chrono::microseconds(50);  // to the first byte, one way
  Duration jitter = std::chrono::microseconds(50);   // up to so much more, uniform
  uint64_t stream_bytes_per_second = 0;              // of each stream; 0: as the cards allow
  double loss = 0;     // per chunk: comes 200 ms to 1.6 s late, and so does what follows it
  double corrupt = 0;  // per chunk: one bit changes, and no checksum of TCP notices
  double reset = 0;    // per chunk: the stream is reset at both ends
};

struct SimNetworkOptions {
  SimLink link;          // where set_link() has set no other
  uint64_t nic_out = 0;  // bytes per second of a new machine's card; 0: unlimited
  uint64_t nic_in = 0;
  // What one event moves; larger for forecasts, where 10,000 machines move gigabytes.
  uint64_t chunk_bytes = 64 * kKiB;
  // Bytes that a send may leave behind, and that may be under way or unread. At least two chunks.
  uint64_t send_buffer = 512 * kKiB;
  uint64_t receive_window = kMiB;
  Duration loopback_latency = std::chrono::microseconds(10);
  // Bytes that nobody acknowledges for so long (uniform between the two) end the stream.
  Duration user_timeout_min = std::chrono::seconds(10);
  Duration user_timeout_max = std::chrono::seconds(20);
  uint32_t backlog = 4096;       // streams that wait for kAccept, per listener
  bool http_through_nic = true;  // Blob traffic shares the machine's card
  uint64_t free_bytes = 0;       // fewer bytes pass cards at once: in forecasts, what is not scaled

  // Chunks of so many bytes, and windows to match.
  void set_chunk(uint64_t bytes);
};

enum class SimCut { kBothWays, kOneWay };

struct SimHostTraffic {
  uint64_t bytes_sent = 0;  // of streams between machines, without loopback and Blob
  uint64_t bytes_received = 0;
  uint64_t connects = 0;  // streams that this machine opened
  uint64_t accepts = 0;
};

class SimFabric {
 public:
  SimFabric(SimScheduler& scheduler, uint64_t seed);
  ~SimFabric();
  SimFabric(const SimFabric&) = delete;
  SimFabric& operator=(const SimFabric&) = delete;

  // ---- For scenarios.
  // Applies to what begins later; chunk and windows also to streams that exist.
  void set_options(const SimNetworkOptions& options);
  const SimNetworkOptions& options() const { return options_; }
  // Bytes per second, 0: unlimited.
  void set_nic(SimHostId host, uint64_t out, uint64_t in);
  // One way, from `from` to `to`.
  void set_link(SimHostId from, SimHostId to, const SimLink& link);
  void clear_links() { links_.clear(); }
  // Everything that the machine sends or receives takes so much longer.
  void set_slow(SimHostId host, Duration delay);
  // Nothing passes from `from` to `to` (kOneWay), nor back (kBothWays). Streams stall and go on
  // after heal(), or end by their time-out. The number is for heal().
  uint64_t partition(const std::vector<SimHostId>& from, const std::vector<SimHostId>& to,
                     SimCut cut);
  // The machine on one side, all others on the other.
  uint64_t isolate(SimHostId host);
  void heal(uint64_t partition);
  void heal_all();
  // Resets every stream between the two machines, at both ends.
  void reset_streams(SimHostId a, SimHostId b);

  const SimHostTraffic& traffic(SimHostId host) const;
  const std::string& address(SimHostId host) const;  // "10.0.0.1"
  size_t hosts() const { return hosts_.size(); }
  // Streams that at least one end still knows.
  size_t streams() const { return connections_.size(); }
  // Bytes in buffers and under way, of all streams.
  uint64_t buffered_bytes() const { return buffered_; }
  bool reachable(SimHostId from, SimHostId to) const;

  // ---- For SimMachine.
  SimHostId add_host(const std::string& name);
  // A machine that is down says nothing, not even that nobody listens.
  void set_up(SimHostId host, bool up);

  // ---- For SimHttp. Null: not limited.
  SimNicPort* http_out(SimHostId host);
  SimNicPort* http_in(SimHostId host);

 private:
  friend class SimNetwork;
  struct Host {
    Host(SimScheduler& scheduler, uint64_t quantum);
    ~Host();
    std::string address;
    bool up = false;
    Duration slow{0};
    SimNicPort out;
    SimNicPort in;
    SimHostTraffic traffic;
    uint16_t next_port = 32768;
    std::map<std::pair<uint16_t, std::string>, std::unique_ptr<SimListener>> listeners;
  };
  struct Cut {
    std::vector<bool> from;
    std::vector<bool> to;
    bool both = false;
  };
  // Which end of a connection, or the pipe that leaves it: connection * 2 + end.
  using PipeId = uint64_t;

  Host& host(SimHostId id);
  const Host& host(SimHostId id) const;
  std::optional<SimHostId> resolve(const std::string& name) const;
  const SimLink& link(SimHostId from, SimHostId to) const;
  Duration delay(SimHostId from, SimHostId to);
  bool can_arrive(SimHostId from, SimHostId to) const;

  // Listeners and connections.
  SimListener* find_listener(SimHostId host, const std::string& ip, uint16_t port);
  uint16_t free_port(Host& host);
  void remove_listener(SimHostId host, SimListener& listener);
  SimConnection& connect(SimHostId from, SimHostId to, const std::string& ip, uint16_t port);
  void opened(SimConnection& connection);
  SimConnection* find(uint64_t number);
  void erase_if_done(SimConnection& connection);
  void close_end(SimConnection& connection, int end, bool reset);
  void lose_end(SimConnection& connection, int end);
  void break_end(SimConnection& connection, int end, int error);
  void send_reset(SimConnection& connection, int end);
  void reset_both(uint64_t number);
  void lose_host(SimHostId id);

  // Pipes, in the order in which bytes pass.
  void feed_send(SimConnection& connection, int end);
  void feed_file(SimConnection& connection, int end);
  void append(SimPipe& pipe, ConstByteSpan bytes, uint64_t following);
  void append_zeros(SimPipe& pipe, uint64_t size);
  void append_pages(SimPipe& pipe, std::vector<SimPagePtr> pages, uint64_t begin, uint64_t size);
  void release(SimChunk& chunk);
  void release(std::list<SimChunk>& chunks);
  void pump(SimConnection& connection, int end);
  void depart(PipeId id);
  void arrive(PipeId id);
  void feed_card(SimConnection& connection, int end);
  void deliver(SimConnection& connection, int end);
  void deliver_bytes(SimConnection& connection, int end);
  void feed_receive(SimConnection& connection, int end);
  void acknowledge(SimConnection& connection, int end);

  // Stalls.
  void stall(SimConnection& connection, int end);
  void start_user_timer(SimConnection& connection, int end);
  void stop_user_timer(SimPipe& pipe);
  bool path_works(const SimConnection& connection, int end) const;
  void topology_changed();
  void resume(PipeId id);
  std::vector<uint64_t> numbers() const;

  SimScheduler& scheduler_;
  SeededRandom random_;
  SimNetworkOptions options_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::map<std::string, SimHostId, std::less<>> names_;  // names and addresses
  std::map<std::pair<SimHostId, SimHostId>, SimLink> links_;
  std::map<uint64_t, Cut> cuts_;
  uint64_t next_cut_ = 1;
  // Found by number only, never walked: its order depends on the library.
  std::unordered_map<uint64_t, std::unique_ptr<SimConnection>> connections_;
  uint64_t next_connection_ = 1;
  std::set<PipeId> stalled_;
  uint64_t buffered_ = 0;
  // Buffers of chunk_bytes to use again: fresh memory costs more than the copying.
  std::vector<std::unique_ptr<std::byte[]>> spare_;
};

}  // namespace shoal
