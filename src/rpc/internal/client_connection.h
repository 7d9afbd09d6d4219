// The calling end of one connection: a table of calls in flight, a reader that hands answers out, a
// writer. Shard's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/gate.h"
#include "rpc/internal/frame_reader.h"
#include "rpc/internal/frame_writer.h"
#include "rpc/internal/map_gossip.h"
#include "rpc/internal/peer_notes.h"
#include "wire/data_body.h"
#include "wire/handshake.h"

namespace shoal {

class ClientConnection {
 public:
  // Connects and shakes hands. The connection must be closed before it is destroyed.
  static Task<Result<std::unique_ptr<ClientConnection>>> open(RpcContext& context, PeerNotes& notes,
                                                              std::string address, Context limits);
  ~ClientConnection();

  // As RpcPool::call. Waits for a place in the table if the peer's limit is reached.
  Task<Result<std::string>> call(Method method, std::string body, RpcSink* sink, Context context);

  // Worth giving further calls to: open, and not silent for so long that calls timed out.
  bool usable() const { return stream_.is_open() && !doubtful_; }
  bool is_broken() const { return broken_.has_value(); }
  bool idle() const { return live_ == 0 && waiting_ == 0; }
  const HandshakePeer& peer() const { return peer_; }
  SteadyTime last_received() const { return reader_.last_received(); }
  SteadyTime last_used() const { return last_used_; }
  size_t in_flight() const { return live_; }
  void release_idle_memory();

  // Fails all calls with `error` and ends the stream.
  void break_off(Error error);
  // No call may begin any more: waits for those under way, then closes. After break_off(): at once.
  Task<void> close();

 private:
  struct Call {
    explicit Call(Executor& executor) : done(executor) {}
    RpcSink* sink = nullptr;
    std::optional<Result<std::string>> result;
    Signal done;
  };
  // A place in the table. Busy until the peer has ended the answer, even if nobody wants it any
  // more.
  struct Slot {
    Call* call = nullptr;
    uint32_t generation = 0;
    bool busy = false;
  };
  static constexpr unsigned kIndexBits = 20;

  ClientConnection(RpcContext& context, PeerNotes& notes, SocketId socket, std::string address);

  Task<Status> wait_for_place(Context context);
  uint64_t take_slot(Call& call);
  Slot* find(uint64_t request_id);
  void free_slot(Slot& slot);
  void abandon(uint64_t request_id, SteadyTime began, const Error& why);
  Task<void> leave_sink(Call& call);

  Task<void> read();
  Task<void> write();
  Task<Status> handle(FrameReader::Frame frame);
  Status finish(const FrameReader::Frame& frame);
  Task<Status> receive_data(FrameHeader header, DataPart part);
  Status check_place(const RpcSink* sink, uint64_t offset, uint64_t length) const;
  ByteSpan scrap(size_t bytes);
  Status verify(Slot& slot, ByteSpan bytes, std::span<const uint32_t> crcs);

  RpcContext& context_;
  PeerNotes& notes_;
  Stream stream_;
  FrameReader reader_;
  FrameWriter writer_;
  MapGossip gossip_;
  HandshakePeer peer_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  size_t live_ = 0;            // calls that wait for an answer
  size_t waiting_ = 0;         // calls that wait for a place
  Call* receiving_ = nullptr;  // whose sink the reader's receive writes to
  Buffer scrap_;               // for payload that nobody wants
  bool scrapping_ = false;
  std::optional<Error> broken_;
  bool doubtful_ = false;
  SteadyTime last_used_{};
  Signal place_;
  Signal reader_moved_;
  Signal left_;
  Gate gate_;
};

}  // namespace shoal
