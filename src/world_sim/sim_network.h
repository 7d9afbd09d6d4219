// One simulated process's network, behind world/network.h: its sockets and operations. What lies
// between machines is sim_fabric.h.
//
// As strict as the contract allows: a cancelled receive loses the bytes that it had taken, and a
// cancelled send or receive leaves the stream good for nothing but close().
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "world/network.h"
#include "world_sim/sim_disk.h"
#include "world_sim/sim_fabric.h"

namespace shoal {

struct NetFlight;
struct SimListener;

class SimNetwork final : public Network {
 public:
  SimNetwork(SimFabric& fabric, SimHostId host, SimExecutor& executor, SimDisk& disk);
  ~SimNetwork() override;

  void start(NetOp& op) override;
  void cancel(NetOp& op) override;
  void close(SocketId socket) override;
  Result<std::vector<NetworkInterface>> interfaces() override;

  uint64_t in_flight() const { return flights_.size(); }
  size_t open_sockets() const { return sockets_.size(); }

  // The process or the machine died. Of a process's death the peers hear soon: an orderly end after
  // what it has sent, or a reset; of a power loss they hear nothing. Returns the operations under
  // way, to be kept reachable.
  std::vector<NetOp*> crash(CrashKind kind);
  // The process has ended in good order: the kernel closes what it left open.
  void close_all();

 private:
  friend class SimFabric;
  struct Socket {
    SimListener* listener = nullptr;  // either this
    uint64_t connection = 0;          // or an end of that
    int end = 0;
  };

  void listen(NetFlight& flight);
  void accept(NetFlight& flight);
  void transfer(NetFlight& flight);
  void connect(NetFlight& flight);
  void send_syn(NetFlight& flight);
  void retry_syn(NetFlight& flight);
  void syn_arrives(NetFlight& flight);
  void refused(NetFlight& flight);
  void connected(NetFlight& flight);
  // Calls `step` of the flight at `when`, if the flight and the process are still there.
  void later(NetFlight& flight, SteadyTime when, void (SimNetwork::*step)(NetFlight&));

  // For SimFabric.
  void feed_accept(SimListener& listener);
  void read_for_send(NetFlight& flight, uint64_t count);
  void finish(NetFlight& flight, int64_t result);

  void read_is_done(NetFlight& flight);
  void detach(NetFlight& flight);
  Socket* find(SocketId socket);
  SocketId add(Socket socket);

  SimFabric& fabric_;
  SimHostId host_;
  SimExecutor& executor_;
  SimDisk& disk_;
  std::map<int32_t, Socket> sockets_;
  int32_t next_socket_ = 3;
  std::map<uint64_t, std::unique_ptr<NetFlight>> flights_;  // by number: in order of starting
  uint64_t started_ = 0;
};

}  // namespace shoal
