#include <fmt/format.h>

#include <map>
#include <vector>

#include "async/gate.h"
#include "async/net_io.h"
#include "async/sync.h"
#include "rpc/internal/handshake_io.h"
#include "rpc/internal/server_connection.h"
#include "rpc/rpc.h"

namespace shoal {

namespace {

constexpr Duration kSweepPeriod = std::chrono::seconds(5);
// Callers close after a minute (RpcPoolOptions::idle_close). Who is silent for longer has gone
// without saying so.
constexpr Duration kIdleClose = std::chrono::minutes(5);
// After a failed accept (no descriptors, say).
constexpr Duration kAcceptPause = std::chrono::milliseconds(100);
// Callers that are told at once that all places are taken; more are closed without a word.
constexpr uint64_t kTurnedAwayMax = 64;

class Server final : public RpcServer {
 public:
  Server(RpcContext& context, RpcHandler& handler, RpcServerOptions options)
      : context_(context),
        handler_(handler),
        options_(std::move(options)),
        executor_(context.world.executor),
        notes_(context.log),
        gate_(executor_) {
    SHOAL_ASSERT(options_.requests_max >= 1 && options_.connections_max >= 1);
  }
  ~Server() override { SHOAL_ASSERT(stopping_.requested(), "stop() was not awaited"); }

  Task<Status> listen();
  const std::string& address() const override { return addresses_.front(); }
  const std::vector<std::string>& addresses() const override { return addresses_; }
  uint64_t connections() const override { return connections_.size(); }
  Task<void> stop() override;

 private:
  Task<void> accept(SocketId listener, std::string address);
  void close_listeners();
  void admit(net_io::Accepted accepted);
  Task<void> serve(SocketId socket, std::string peer);
  Task<void> turn_away(SocketId socket, std::string peer);
  Task<void> sweep();

  RpcContext& context_;
  RpcHandler& handler_;
  const RpcServerOptions options_;
  Executor& executor_;
  PeerNotes notes_;
  std::vector<SocketId> listeners_;
  std::vector<std::string> addresses_;  // of each
  // They belong to serve(). By number: in the same order in each run of a simulation.
  std::map<uint64_t, ServerConnection*> connections_;
  uint64_t next_connection_ = 1;
  uint64_t turned_away_ = 0;  // now being told
  Cancel stopping_;
  Gate gate_;
};

Task<Status> Server::listen() {
  std::vector<std::string> wanted = {options_.listen};
  wanted.insert(wanted.end(), options_.listen_also.begin(), options_.listen_also.end());
  for (std::string& address : wanted) {
    auto listener = co_await net_io::listen(context_.world.network, executor_, std::move(address));
    if (!listener) {
      close_listeners();
      stopping_.request();
      co_return fail(std::move(listener).error());
    }
    listeners_.push_back(listener->socket);
    addresses_.push_back(std::move(listener->address));
  }
  for (size_t i = 0; i < listeners_.size(); ++i) gate_.spawn(accept(listeners_[i], addresses_[i]));
  gate_.spawn(sweep());
  co_return Status();
}

void Server::close_listeners() {
  for (SocketId listener : listeners_) context_.world.network.close(listener);
  listeners_.clear();
}

Task<void> Server::accept(SocketId listener, std::string address) {
  while (!stopping_.requested()) {
    auto accepted =
        co_await net_io::accept(context_.world.network, executor_, listener, {kNever, &stopping_});
    if (accepted) {
      admit(std::move(*accepted));
      continue;
    }
    if (stopping_.requested()) break;
    context_.log.warning("accepting connections on {}: {}", address, accepted.error().to_string());
    (void)co_await sleep_for(executor_, kAcceptPause, {kNever, &stopping_});
  }
}

void Server::admit(net_io::Accepted accepted) {
  bool room = connections_.size() < options_.connections_max;
  if (!stopping_.requested() && room) {
    gate_.spawn(serve(accepted.socket, std::move(accepted.peer)));
  } else if (!stopping_.requested() && turned_away_ < kTurnedAwayMax) {
    ++turned_away_;
    gate_.spawn(turn_away(accepted.socket, std::move(accepted.peer)));
  } else {
    context_.world.network.close(accepted.socket);
  }
}

Task<void> Server::serve(SocketId socket, std::string peer) {
  ServerConnection connection(context_, notes_, handler_, options_, socket, std::move(peer));
  uint64_t number = next_connection_++;
  connections_.emplace(number, &connection);
  if (stopping_.requested()) connection.break_off();
  co_await connection.run();
  connections_.erase(number);
}

Task<void> Server::turn_away(SocketId socket, std::string peer) {
  Stream stream(context_.world, socket, std::move(peer));
  std::string refusal =
      encode_refusal(Error(Code::kBusy, fmt::format("all {} connections of {} are in use",
                                                    options_.connections_max, address())));
  Context limits = Context::within(executor_, std::chrono::seconds(1));
  limits.cancel = &stopping_;
  (void)co_await send_bytes(stream, refusal, limits);
  stream.close();
  --turned_away_;
}

Task<void> Server::sweep() {
  while (co_await sleep_for(executor_, kSweepPeriod, {kNever, &stopping_})) {
    for (auto& [number, connection] : connections_) {
      if (!connection->idle()) continue;
      if (executor_.now() - connection->last_received() >= kIdleClose) {
        connection->break_off();
      } else {
        connection->release_idle_memory();
      }
    }
  }
}

Task<void> Server::stop() {
  if (!stopping_.requested()) {
    stopping_.request();
    close_listeners();
    for (auto& [number, connection] : connections_) connection->drain();
  }
  co_await gate_.close();
}

}  // namespace

Task<Result<std::unique_ptr<RpcServer>>> RpcServer::start(RpcContext& context, RpcHandler& handler,
                                                          RpcServerOptions options) {
  auto server = std::make_unique<Server>(context, handler, std::move(options));
  SHOAL_CO_RETURN_IF_ERROR(co_await server->listen());
  co_return std::unique_ptr<RpcServer>(std::move(server));
}

}  // namespace shoal
