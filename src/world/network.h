// Byte streams between machines: TCP in the real world, modelled NICs in simulation. An operation
// is a plain struct that the caller owns; the network sets `result` and posts it to the executor
// exactly once. Rooms use the awaitable forms in async/net_io.h.
//
// A stream carries at most one receive and one send (kSend or kSendFile) at a time, a listener one
// accept; that is the caller's to see to. An operation on a socket that was closed ends with
// -EBADF. Bytes arrive in order or the stream breaks; nothing is promised about when.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "world/disk.h"
#include "world/executor.h"

namespace shoal {

// A connected stream or a listening socket. Belongs to the Network that gave it; ended by close().
enum class SocketId : int32_t { kNone = -1 };

struct NetOp : Runnable {
  enum class Kind {
    kListen,    // address ("10.0.0.5:7070", "[::]:7070", port 0: any free one) -> SocketId;
                // `address` then holds the port that was bound
    kAccept,    // socket (listening) -> SocketId of the stream; `address` is the peer's. -EMFILE
                // when there are too many streams: pause before the next
    kConnect,   // address (host names are looked up) -> SocketId; ends at `deadline`. -EINVAL: not
                // an address, -ENOENT: nobody knows the host
    kReceive,   // socket, data, length, minimum -> bytes received: at least `minimum`, less only
                // when the peer has ended the stream; 0 when nothing came before the end
    kSend,      // socket, parts (at most kPartsMax) -> bytes sent: all of them, or an error
    kSendFile,  // socket, file, offset, length -> bytes sent: all of them, or an error (-ENODATA
                // where the file ends early: the stream is then to be closed). What changes in the
                // file before the peer has it may arrive changed
  };
  static constexpr size_t kPartsMax = 64;

  Kind kind{};
  SocketId socket = SocketId::kNone;
  std::string address;
  std::byte* data = nullptr;
  uint64_t length = 0;
  uint64_t minimum = 1;                  // 1 .. length
  std::span<const ConstByteSpan> parts;  // borrowed, with what they show, until the op is run
  FileId file = FileId::kNone;
  uint64_t offset = 0;
  bool more = false;  // kSend: further bytes follow at once, do not send a short packet (MSG_MORE)
  SteadyTime deadline = kNever;  // kConnect only

  int64_t result = 0;  // >= 0, or -errno; -ECANCELED after cancel() or close()

  void* transport = nullptr;  // belongs to the Network

 protected:
  ~NetOp() = default;
};

// One network interface of this machine that is up.
struct NetworkInterface {
  std::string name;     // "eth0"
  std::string address;  // numeric, without port: "10.0.0.5", "fd00::5"
  bool loopback = false;
};

class Network {
 public:
  virtual ~Network() = default;
  // Starts the operation. It always ends.
  virtual void start(NetOp& op) = 0;
  // The operation ends soon, with -ECANCELED unless it has ended already. A cancelled send has sent
  // some part, and a cancelled receive with a minimum above 1 may have taken some: the stream is
  // then good for nothing but close().
  virtual void cancel(NetOp& op) = 0;
  // Ends the stream or listener; operations under way on it end with -ECANCELED. Never blocks.
  virtual void close(SocketId socket) = 0;
  virtual Result<std::vector<NetworkInterface>> interfaces() = 0;
};

}  // namespace shoal
