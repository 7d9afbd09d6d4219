// The operations of LinuxNetwork on their way through the kernel. Only for linux_network.cc and
// network_steps.cc.
//
// A step belongs to itself: it is made when its NetOp starts, ends the NetOp by finish() and
// deletes itself once the kernel and the helpers have let go of it, which may be later.
#pragma once

#include <liburing.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <vector>

#include "base/assert.h"
#include "world_linux/linux_network.h"
#include "world_linux/ring.h"
#include "world_linux/socket_address.h"

namespace shoal {

class LinuxNetwork::Step : public RingOp {
 public:
  enum class Way { kIn, kOut };
  Step(LinuxNetwork& network, NetOp& op, Socket* socket, Way way);
  virtual ~Step();
  // Starts; may end and delete the step.
  virtual void begin() = 0;
  void cancel();
  void complete(int32_t result) noexcept final;

  Step* following = nullptr;  // in the network's list

 protected:
  // The kernel's answer to what start_on_ring() started.
  virtual void advance(int64_t result) = 0;
  // Cancelled while it was not in the ring.
  virtual void on_cancel() {}

  void start_on_ring() {
    SHOAL_ASSERT(!in_ring_);
    in_ring_ = true;
    network_.ring_.start(*this);
  }
  void take_socket(Socket* socket);
  void drop_socket();
  // Ends the NetOp. The step may be gone after this.
  void finish(int64_t result);
  // Deletes the step if nobody holds it any more.
  void settle();
  int descriptor() const { return socket_->descriptor; }

  LinuxNetwork& network_;
  NetOp* op_;
  Socket* socket_ = nullptr;
  bool cancelled_ = false;
  bool elsewhere_ = false;  // in the run queue or with a helper

 private:
  class Cancellation final : public RingOp {
   public:
    explicit Cancellation(Step& step) : step_(step) {}
    void prepare(io_uring_sqe& entry) noexcept override;
    void complete(int32_t result) noexcept override;
    bool under_way = false;

   private:
    Step& step_;
  };

  const Way way_;
  bool in_ring_ = false;
  Cancellation cancellation_{*this};
  Step* previous_ = nullptr;
};

class LinuxNetwork::AcceptStep final : public Step {
 public:
  AcceptStep(LinuxNetwork& network, NetOp& op, Socket& socket)
      : Step(network, op, &socket, Way::kIn) {}
  void begin() override;
  void prepare(io_uring_sqe& entry) noexcept override;

 private:
  void advance(int64_t result) override;
  SocketAddress peer_;
};

class LinuxNetwork::ReceiveStep final : public Step {
 public:
  // `done` bytes are there already.
  ReceiveStep(LinuxNetwork& network, NetOp& op, Socket& socket, uint64_t done)
      : Step(network, op, &socket, Way::kIn), done_(done) {}
  void begin() override;
  void prepare(io_uring_sqe& entry) noexcept override;

 private:
  void advance(int64_t result) override;
  uint64_t done_;
};

class LinuxNetwork::SendStep final : public Step {
 public:
  SendStep(LinuxNetwork& network, NetOp& op, Socket& socket)
      : Step(network, op, &socket, Way::kOut) {}
  void begin() override;
  void prepare(io_uring_sqe& entry) noexcept override;

 private:
  void advance(int64_t result) override;
  void skip(uint64_t count);
  uint64_t total_ = 0;
  uint64_t done_ = 0;
  msghdr message_{};
  std::array<iovec, NetOp::kPartsMax> parts_;
};

class LinuxNetwork::SendFileStep final : public Step {
 public:
  SendFileStep(LinuxNetwork& network, NetOp& op, Socket& socket)
      : Step(network, op, &socket, Way::kOut), job_(*this) {}
  void begin() override;
  void prepare(io_uring_sqe& entry) noexcept override;

 private:
  // Both the next slice's turn on the shard and a slice on a helper.
  class Job final : public HelperJob {
   public:
    explicit Job(SendFileStep& step) : step_(step) {}
    void work() noexcept override;
    void run() noexcept override { step_.on_turn(); }
    bool with_helper = false;
    // What the helper needs, so that it touches nothing of the shard's.
    int socket = -1;
    int file = -1;
    uint64_t offset = 0;
    uint64_t length = 0;   // of the slice
    uint64_t follows = 0;  // bytes to be sent after the slice
    int64_t result = 0;

   private:
    SendFileStep& step_;
  };
  void advance(int64_t result) override;
  void on_turn();
  void send_slice();
  void take(int64_t result, uint64_t asked);
  uint64_t done_ = 0;
  bool cold_ = false;  // a slice was not in memory; the rest goes by the helpers too
  Job job_;
};

// kListen and kConnect: looks the host up, then listens or tries its addresses in turn.
class LinuxNetwork::OpenStep final : public Step {
 public:
  OpenStep(LinuxNetwork& network, NetOp& op)
      : Step(network, op, nullptr, Way::kOut), job_(*this), timer_(*this) {}
  ~OpenStep() override;
  void begin() override;
  void prepare(io_uring_sqe& entry) noexcept override;

 private:
  class Job final : public HelperJob {
   public:
    explicit Job(OpenStep& step) : step_(step) {}
    void work() noexcept override { result = look_up(what, false, addresses); }
    void run() noexcept override { step_.on_addresses(); }
    HostAndPort what;
    std::vector<SocketAddress> addresses;
    int64_t result = 0;

   private:
    OpenStep& step_;
  };
  class DeadlineTimer final : public Timer {
   public:
    explicit DeadlineTimer(OpenStep& step) : step_(step) {}
    void run() noexcept override;

   private:
    OpenStep& step_;
  };
  void advance(int64_t result) override;
  void on_cancel() override;
  void on_addresses();
  void use_addresses();
  void try_next(int64_t error);
  Job job_;
  DeadlineTimer timer_;
  size_t next_ = 0;  // of the addresses
  bool late_ = false;
};

}  // namespace shoal
