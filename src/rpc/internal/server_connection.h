// The answering end of one connection: shakes hands, runs a handler per request, sends the answers.
// Shard's thread.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "async/gate.h"
#include "rpc/internal/frame_reader.h"
#include "rpc/internal/frame_writer.h"
#include "rpc/internal/map_gossip.h"
#include "rpc/internal/peer_notes.h"
#include "wire/handshake.h"

namespace shoal {

class ServerConnection {
 public:
  ServerConnection(RpcContext& context, PeerNotes& notes, RpcHandler& handler,
                   const RpcServerOptions& options, SocketId socket, std::string address);
  ~ServerConnection();

  // From the handshake to the end of the stream and of all handlers. Call once.
  Task<void> run();
  // Further requests are turned away; those under way are answered, for a while, then run() ends.
  void drain();
  // Cancels the handlers and ends the stream.
  void break_off();

  // Nothing is under way.
  bool idle() const { return requests_.empty(); }
  SteadyTime last_received() const { return reader_.last_received(); }
  void release_idle_memory();

 private:
  struct Request;

  Task<Status> shake();
  Task<void> read();
  Task<void> write();
  Task<Status> handle(FrameReader::Frame frame);
  void begin(const FrameReader::Frame& frame);
  void turn_away(uint64_t request_id);
  Task<void> serve(std::unique_ptr<Request> request);
  Task<void> wait_for_handlers();

  RpcContext& context_;
  PeerNotes& notes_;
  RpcHandler& handler_;
  const RpcServerOptions& options_;
  Stream stream_;
  FrameReader reader_;
  FrameWriter writer_;
  MapGossip gossip_;
  HandshakePeer peer_;
  std::unordered_map<uint64_t, Request*> requests_;  // by id; they belong to serve()
  bool draining_ = false;
  Cancel handshake_cancel_;
  Signal changed_;  // a request ended, the connection drains or is broken
  Gate handlers_;
  Gate writing_;
  Gate reading_;
};

}  // namespace shoal
