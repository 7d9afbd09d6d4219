// The real Network: TCP through io_uring. Streams and listeners are descriptors of the kernel in a
// table of this class; nothing is allocated for one that is idle but its entry.
//
// - A receive with a large minimum lets the kernel wait for up to 512 KiB (SO_RCVLOWAT), so that a
//   payload costs few wake-ups.
// - kSendFile is sendfile(2) in slices of at most 1 MiB: on the shard while the pages are in
// memory,
//   on a helper thread from the first that are not. The file is one without kOpenDirect. The kernel
//   sends the pages themselves: bytes of the file that change before the peer has them may arrive
//   changed.
// - Host names are looked up on a helper thread, one at a time: a name server that does not answer
//   then holds up one helper, not both. Such a lookup cannot be interrupted: its operation ends on
//   time, but the shard's stop waits for it.
// - A peer that acknowledges nothing, or takes nothing of what was sent, for 10 s breaks its stream
//   (-ETIMEDOUT). Connecting tries a host's addresses in turn, about 7 s each.
// - An operation on a socket that was closed ends with -EBADF.
//
// Belongs to one shard's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "world/network.h"
#include "world_linux/helper_pool.h"

namespace shoal {

class Ring;
struct SocketAddress;

class LinuxNetwork final : public Network {
 public:
  // Streams and listeners at once; above it accept and connect answer -EMFILE. Each may hold two
  // places in the ring, which has 8192.
  static constexpr size_t kSocketsMax = 3584;
  // Slices of cold files on helper threads at once; the rest waits.
  static constexpr size_t kColdSlicesMax = 4;

  // `congestion`: of TCP ("reno"); empty for the system's.
  LinuxNetwork(Executor& executor, Ring& ring, HelperPool& helpers, std::string congestion);
  // Every operation must have ended; sockets still open are closed.
  ~LinuxNetwork() override;

  // Whether the kernel has such a congestion control for us; empty: yes.
  static Status check_congestion(const std::string& congestion);

  void start(NetOp& op) override;
  void cancel(NetOp& op) override;
  void close(SocketId socket) override;
  Result<std::vector<NetworkInterface>> interfaces() override;

  bool is_idle() const { return under_way_ == 0 && steps_ == nullptr; }
  void cancel_all();

 private:
  class Step;
  class AcceptStep;
  class ReceiveStep;
  class SendStep;
  class SendFileStep;
  class OpenStep;

  struct Socket {
    int descriptor = -1;
    SocketId id = SocketId::kNone;
    int low_water = 1;  // what SO_RCVLOWAT is set to
    bool closed = false;
    Step* in = nullptr;   // the receive or accept under way
    Step* out = nullptr;  // the send or connect under way
  };
  struct Entry {
    std::unique_ptr<Socket> socket;
    uint32_t generation = 0;
  };
  // Jobs for the helpers, at most `limit` of them there at once.
  class JobQueue {
   public:
    JobQueue(HelperPool& helpers, size_t limit) : helpers_(helpers), limit_(limit) {}
    void submit(HelperJob& job);
    void job_is_back();

   private:
    HelperPool& helpers_;
    size_t limit_;
    size_t running_ = 0;
    Runnable* first_ = nullptr;
    Runnable* last_ = nullptr;
  };

  void end(NetOp& op, int64_t result);
  // Takes over the descriptor; null (and it is closed) when the table is full.
  Socket* add_socket(int descriptor);
  Socket* find(SocketId id);
  void forget_if_done(Socket& socket);
  int64_t open_listener(NetOp& op, const std::vector<SocketAddress>& addresses);
  void start_on_socket(NetOp& op);

  Executor& executor_;
  Ring& ring_;
  std::string congestion_;
  JobQueue lookups_;
  JobQueue cold_slices_;
  uint64_t under_way_ = 0;  // accepted and not yet posted back
  Step* steps_ = nullptr;   // all that exist, newest first
  std::vector<Entry> table_;
  std::vector<uint32_t> free_;
  size_t sockets_ = 0;
  bool poll_first_ = true;  // until the kernel says that it cannot
};

}  // namespace shoal
