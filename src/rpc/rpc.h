// RPC: requests and answers over streams, in the frames of `wire`. Many requests are in flight per
// connection; an answer is a reply and, if the method has it, payload in checksummed pieces that
// goes straight into the caller's memory.
//
// Shard's thread. Everything is bounded: requests per connection, bytes queued, connections.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "base/hash.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "wire/frame.h"
#include "world/world.h"

namespace shoal {

class TlsContext;  // rpc/tls.h

// Who we are on the wire.
struct RpcIdentity {
  std::string cluster;  // its name
  std::string origin;   // identity of our origin: two clusters of one name must not mix
  Hash128 node;         // zero: a client, no member
  uint64_t incarnation = 0;
  std::string key;  // of the cluster, a secret; empty: no authentication
  // Our addresses (HOST:PORT) beside the one that others dial first: callers spread payload over
  // all.
  std::vector<std::string> further = {};
};

// What rpc tells membership, and asks it: every frame carries the sender's map version.
class MapVersions {
 public:
  virtual ~MapVersions() = default;
  virtual uint64_t current() const = 0;
  // The peer at the other end (zero: a client) knows this version. Called when it differs from
  // ours.
  virtual void seen(const Hash128& peer, uint64_t version) = 0;
};

struct RpcMetrics {
  explicit RpcMetrics(Registry& registry);
  Counter& bytes_sent;      // shoal_peer_bytes_sent_total: payload
  Counter& bytes_received;  // shoal_peer_bytes_received_total: payload
  Counter& requests_sent;
  Counter& requests_served;
  Counter& connects;
  Counter& failures;  // connections that broke or were refused
  Counter& corrupt;   // frames or pieces with a wrong checksum
  Counter& refused;   // handshakes that we refused
  Counter& detours;   // further addresses of peers that could not be used; the main one carries on
};

// What every part of rpc needs; owned by main (or the node), outlives all of it.
struct RpcContext {
  World& world;
  const Log& log;
  RpcMetrics& metrics;
  MapVersions& versions;
  RpcIdentity identity;
  TlsContext* tls = nullptr;  // null: nothing is encrypted, and who encrypts is refused
};

// --- calling ---

// Where an answer's payload goes.
struct RpcSink {
  ByteSpan into = {};                     // payload byte i of the answer goes to into[i]
  std::vector<uint32_t>* crcs = nullptr;  // not null: CRC32C of each 64 KiB piece, all verified
  // Told after each frame how many leading bytes of `into` are there and verified. May be empty.
  std::function<void(uint64_t)> progress = {};
  uint64_t arrived = 0;  // leading bytes, also after a failure
  // After a failure: one of the peer's addresses is to blame, not the peer. Ask it again for the
  // rest: another address will be used. Only where `progress` was told of some bytes; else the pool
  // has asked again.
  bool ask_again = false;
};

struct RpcPoolOptions {
  uint32_t lanes = 2;  // connections for payload per address of a peer; small calls have one more
  uint32_t connections_max = 4096;
  Duration connect_timeout = std::chrono::seconds(2);
  Duration idle_close = std::chrono::seconds(60);
};

// Connections to peers by address, opened when needed, closed when idle.
//
// A peer may tell of further addresses (RpcIdentity::further): the network cards of its machine.
// Calls with payload then go to the address with the fewest of them under way, each address having
// lanes of its own. A further address is used once a connection to it was made beside the calls,
// and set aside for half a minute when it fails or is silent: the main address then carries all.
// Small calls, and whether the peer lives, are matters of the main address only.
class RpcPool {
 public:
  static std::unique_ptr<RpcPool> create(RpcContext& context, RpcPoolOptions options);
  virtual ~RpcPool() = default;

  // `address`: HOST:PORT. `expected`: fail with kConflict if another node answers there (zero:
  // any). The answer's body (protobuf, the method's reply). Payload arrives only if `sink` is
  // given: such calls use the payload lanes, `lane_hint` chooses which. kUnavailable: no connection
  // or it broke (one that was idle and breaks without any answer is replaced once by a fresh one,
  // unless the method changes what the peer keeps); kCorrupt: bad bytes (the connection is given
  // up); kDeadlineExceeded, kCancelled; else what the peer said. When it returns nothing writes to
  // the sink's memory any more.
  virtual Task<Result<std::string>> call(std::string address, Hash128 expected, Method method,
                                         std::string body, RpcSink* sink, uint64_t lane_hint,
                                         Context context) = 0;
  // A frame was received from that address within the last `within`: it lives.
  virtual bool heard_from(const std::string& address, Duration within) const = 0;
  virtual uint64_t connections() const = 0;
  // Fails all calls and closes everything; must be awaited before destruction.
  virtual Task<void> close() = 0;
};

// --- serving ---

// The answer of one request, as a handler gives it. Belongs to the handler while it runs.
class RpcResponder {
 public:
  virtual ~RpcResponder() = default;
  // Sends payload bytes [offset, offset + bytes.size()) of the answer, in frames of at most 1 MiB,
  // with the checksums of their 64 KiB pieces (offset is a multiple of 64 KiB). Returns when the
  // bytes are with the kernel: waiting here is the flow control. kUnavailable: the caller has gone.
  virtual Task<Status> send(uint64_t offset, ConstByteSpan bytes,
                            std::span<const uint32_t> crcs) = 0;
  // The same from a file, by sendfile.
  virtual Task<Status> send_file(uint64_t offset, FileId file, uint64_t file_offset,
                                 uint64_t length, std::span<const uint32_t> crcs) = 0;
};

struct RpcRequest {
  Method method{};
  std::string body;
  Hash128 peer;         // zero: a client
  std::string address;  // of the peer's end of the stream
};

class RpcHandler {
 public:
  virtual ~RpcHandler() = default;
  // The reply's body. The context ends when the caller cancels or the connection breaks. Runs in
  // the server's gate, up to requests_max at a time per connection.
  virtual Task<Result<std::string>> handle(RpcRequest request, RpcResponder& responder,
                                           Context context) = 0;
};

struct RpcServerOptions {
  std::string listen = "0.0.0.0:7070";
  std::vector<std::string> listen_also = {};  // further addresses of this machine
  uint32_t connections_max = 8192;
  uint32_t requests_max = 256;  // in flight per connection
  Duration handshake_timeout = std::chrono::seconds(5);
};

class RpcServer {
 public:
  // kBusy when a port is in use.
  static Task<Result<std::unique_ptr<RpcServer>>> start(RpcContext& context, RpcHandler& handler,
                                                        RpcServerOptions options);
  virtual ~RpcServer() = default;
  virtual const std::string& address() const = 0;  // with the port that was bound
  // All of them, in the order of the options.
  virtual const std::vector<std::string>& addresses() const = 0;
  virtual uint64_t connections() const = 0;
  // No new connections or requests; waits for the handlers. Must be awaited before destruction.
  virtual Task<void> stop() = 0;
};

}  // namespace shoal
