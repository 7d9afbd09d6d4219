#include "world_sim/sim_network.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "base/assert.h"
#include "world_sim/internal/sim_stream.h"

namespace shoal {

namespace {

constexpr Duration kFirstSyn = std::chrono::seconds(1);  // then 2, 4, ...
constexpr int kSynMax = 7;
constexpr uint64_t kSendBytesMax = uint64_t{1} << 40;
constexpr std::string_view kLoopback = "127.0.0.1";

// "host:port", "[address]:port", ":port".
bool split(std::string_view address, std::string& host, uint16_t& port) {
  size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return false;
  std::string_view name = address.substr(0, colon);
  std::string_view digits = address.substr(colon + 1);
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size()) return false;
  if (name.starts_with('[')) {
    if (!name.ends_with(']')) return false;
    name = name.substr(1, name.size() - 2);
  } else if (name.find(':') != std::string_view::npos) {
    return false;
  }
  host = name;
  return true;
}

bool is_wildcard(std::string_view host) {
  return host.empty() || host == "0.0.0.0" || host == "::" || host == "*";
}
bool is_loopback(std::string_view host) {
  return host == kLoopback || host == "localhost" || host == "::1";
}

}  // namespace

SimNetwork::SimNetwork(SimFabric& fabric, SimHostId host, SimExecutor& executor, SimDisk& disk)
    : fabric_(fabric), host_(host), executor_(executor), disk_(disk) {}

SimNetwork::~SimNetwork() {
  SHOAL_ASSERT(flights_.empty(), "network operations are still in flight");
  SHOAL_ASSERT(sockets_.empty(), "sockets without their process");
}

SimNetwork::Socket* SimNetwork::find(SocketId socket) {
  auto found = sockets_.find(static_cast<int32_t>(socket));
  return found == sockets_.end() ? nullptr : &found->second;
}

SocketId SimNetwork::add(Socket socket) {
  int32_t id = next_socket_++;
  SHOAL_ASSERT(id > 0);
  sockets_.emplace(id, socket);
  return static_cast<SocketId>(id);
}

void SimNetwork::start(NetOp& op) {
  SHOAL_ASSERT(executor_.alive() && executor_.on_thread());
  SHOAL_ASSERT(op.transport == nullptr, "the operation is in flight already");
  auto owned = std::make_unique<NetFlight>();
  NetFlight& flight = *owned;
  flight.number = ++started_;
  flight.op = &op;
  flight.network = this;
  flight.begun = executor_.now();
  op.transport = &flight;
  flights_.emplace(flight.number, std::move(owned));
  switch (op.kind) {
    case NetOp::Kind::kListen:
      return listen(flight);
    case NetOp::Kind::kAccept:
      return accept(flight);
    case NetOp::Kind::kConnect:
      return connect(flight);
    case NetOp::Kind::kReceive:
    case NetOp::Kind::kSend:
    case NetOp::Kind::kSendFile:
      return transfer(flight);
  }
  SHOAL_ASSERT(false, "an unknown operation");
}

void SimNetwork::finish(NetFlight& flight, int64_t result) {
  NetOp& op = *flight.op;
  SHOAL_ASSERT(op.transport == &flight);
  op.transport = nullptr;
  op.result = result;
  executor_.scheduler().cancel(flight.pending);
  executor_.scheduler().cancel(flight.expiry);
  flights_.erase(flight.number);
  executor_.post(op);
}

void SimNetwork::later(NetFlight& flight, SteadyTime when, void (SimNetwork::*step)(NetFlight&)) {
  flight.pending = executor_.scheduler().at(when, &executor_, [this, number = flight.number, step] {
    auto found = flights_.find(number);
    if (found != flights_.end()) (this->*step)(*found->second);
  });
}

void SimNetwork::listen(NetFlight& flight) {
  NetOp& op = *flight.op;
  std::string ip;
  uint16_t port = 0;
  if (!split(op.address, ip, port)) return finish(flight, -EINVAL);
  SimFabric::Host& host = fabric_.host(host_);
  if (is_wildcard(ip)) {
    ip.clear();
  } else if (is_loopback(ip)) {
    ip = kLoopback;
  } else {
    std::optional<SimHostId> named = fabric_.resolve(ip);
    if (!named) return finish(flight, -ENOENT);
    if (*named != host_) return finish(flight, -EADDRNOTAVAIL);
    ip = host.address;
  }
  if (port == 0) port = fabric_.free_port(host);
  if (port == 0) return finish(flight, -EADDRINUSE);
  for (auto it = host.listeners.lower_bound({port, std::string()});
       it != host.listeners.end() && it->first.first == port; ++it) {
    const std::string& other = it->first.second;
    if (other == ip || other.empty() || ip.empty()) return finish(flight, -EADDRINUSE);
  }
  auto listener = std::make_unique<SimListener>();
  listener->owner = this;
  listener->ip = ip;
  listener->port = port;
  SocketId socket = add({listener.get(), 0, 0});
  listener->socket = static_cast<int32_t>(socket);
  host.listeners.emplace(std::pair(port, ip), std::move(listener));
  op.address = fmt::format("{}:{}", ip.empty() ? "0.0.0.0" : ip, port);
  finish(flight, static_cast<int64_t>(socket));
}

void SimNetwork::accept(NetFlight& flight) {
  Socket* socket = find(flight.op->socket);
  if (socket == nullptr) return finish(flight, -EBADF);
  if (socket->listener == nullptr) return finish(flight, -EINVAL);
  socket->listener->accepts.push_back(&flight);
  feed_accept(*socket->listener);
}

void SimNetwork::feed_accept(SimListener& listener) {
  while (!listener.accepts.empty() && !listener.waiting.empty()) {
    NetFlight& flight = *listener.accepts.front();
    SimConnection* connection = fabric_.find(listener.waiting.front());
    listener.accepts.pop_front();
    listener.waiting.pop_front();
    SHOAL_ASSERT(connection != nullptr && connection->ends[1].held);
    SocketId socket = add({nullptr, connection->number, 1});
    connection->ends[1].owner = this;
    flight.op->address = connection->ends[0].address;
    finish(flight, static_cast<int64_t>(socket));
  }
}

void SimNetwork::transfer(NetFlight& flight) {
  NetOp& op = *flight.op;
  Socket* socket = find(op.socket);
  if (socket == nullptr) return finish(flight, -EBADF);
  if (socket->listener != nullptr) return finish(flight, -ENOTCONN);
  SimConnection* connection = fabric_.find(socket->connection);
  SHOAL_ASSERT(connection != nullptr, "a socket without its stream");
  int end = socket->end;
  flight.connection = connection->number;
  if (op.kind == NetOp::Kind::kReceive) {
    SHOAL_ASSERT(op.minimum >= 1 && op.minimum <= op.length);
    NetFlight*& place = connection->pipes[1 - end].receive;
    SHOAL_ASSERT(place == nullptr, "two receives on one stream");
    place = &flight;
    return fabric_.feed_receive(*connection, end);
  }
  SHOAL_ASSERT(op.parts.size() <= NetOp::kPartsMax && op.length <= kSendBytesMax);
  NetFlight*& place = connection->pipes[end].send;
  SHOAL_ASSERT(place == nullptr, "two sends on one stream");
  place = &flight;
  fabric_.feed_send(*connection, end);
}

void SimNetwork::read_for_send(NetFlight& flight, uint64_t count) {
  SHOAL_ASSERT(!flight.reading);
  flight.reading = true;
  later(flight, disk_.begin_read_for_send(count), &SimNetwork::read_is_done);
}

void SimNetwork::read_is_done(NetFlight& flight) {
  flight.reading = false;
  NetOp& op = *flight.op;
  SimConnection* connection = fabric_.find(flight.connection);
  SHOAL_ASSERT(connection != nullptr);
  int end = connection->pipes[0].send == &flight ? 0 : 1;
  SimPipe& pipe = connection->pipes[end];
  SHOAL_ASSERT(pipe.send == &flight);
  uint64_t count = std::min(op.length - flight.progress, fabric_.options_.chunk_bytes);
  uint64_t offset = op.offset + flight.progress;
  std::vector<SimPagePtr> pages;
  int64_t got = disk_.read_for_send(op.file, offset, count, pages);
  uint64_t good = got < 0 ? 0 : static_cast<uint64_t>(got);
  flight.progress += good;
  if (good > 0) fabric_.append_pages(pipe, std::move(pages), offset % kSimPageBytes, good);
  if (good < count) {
    pipe.send = nullptr;
    finish(flight, got < 0 ? got : -ENODATA);
    return fabric_.pump(*connection, end);
  }
  uint64_t number = flight.connection;
  fabric_.pump(*connection, end);
  if (SimConnection* still = fabric_.find(number)) fabric_.feed_send(*still, end);
}

void SimNetwork::connect(NetFlight& flight) {
  NetOp& op = *flight.op;
  std::string name;
  if (!split(op.address, name, flight.port) || flight.port == 0) return finish(flight, -EINVAL);
  if (is_wildcard(name) || is_loopback(name)) {
    flight.target = host_;
    flight.ip = kLoopback;
  } else {
    std::optional<SimHostId> named = fabric_.resolve(name);
    if (!named) return finish(flight, -ENOENT);
    flight.target = *named;
    flight.ip = fabric_.address(*named);
  }
  if (op.deadline <= executor_.now()) return finish(flight, -ETIMEDOUT);
  if (op.deadline != kNever) {
    flight.expiry =
        executor_.scheduler().at(op.deadline, &executor_, [this, number = flight.number] {
          auto found = flights_.find(number);
          if (found != flights_.end()) finish(*found->second, -ETIMEDOUT);
        });
  }
  send_syn(flight);
}

void SimNetwork::send_syn(NetFlight& flight) {
  if (++flight.attempt > kSynMax) return finish(flight, -ETIMEDOUT);
  later(flight, executor_.now() + fabric_.delay(host_, flight.target), &SimNetwork::syn_arrives);
}

// Nothing has come back.
void SimNetwork::retry_syn(NetFlight& flight) {
  Duration since = kFirstSyn * ((1 << flight.attempt) - 1);
  later(flight, flight.begun + since, &SimNetwork::send_syn);
}

void SimNetwork::syn_arrives(NetFlight& flight) {
  if (!fabric_.can_arrive(host_, flight.target)) return retry_syn(flight);
  SimListener* listener = fabric_.find_listener(flight.target, flight.ip, flight.port);
  if (listener != nullptr && listener->waiting.size() >= fabric_.options_.backlog) {
    return retry_syn(flight);
  }
  SteadyTime when = executor_.now() + fabric_.delay(flight.target, host_);
  if (listener == nullptr) {
    later(flight, when, &SimNetwork::refused);
  } else {
    later(flight, when, &SimNetwork::connected);
  }
}

void SimNetwork::refused(NetFlight& flight) {
  if (!fabric_.can_arrive(flight.target, host_)) return retry_syn(flight);
  finish(flight, -ECONNREFUSED);
}

void SimNetwork::connected(NetFlight& flight) {
  if (!fabric_.can_arrive(flight.target, host_)) return retry_syn(flight);
  SimConnection& connection = fabric_.connect(host_, flight.target, flight.ip, flight.port);
  SocketId socket = add({nullptr, connection.number, 0});
  connection.ends[0].owner = this;
  const std::string& own = flight.ip == kLoopback ? std::string(kLoopback) : fabric_.address(host_);
  connection.ends[0].address = fmt::format("{}:{}", own, fabric_.free_port(fabric_.host(host_)));
  finish(flight, static_cast<int64_t>(socket));
}

// Takes the flight out of whatever holds it, so that it can end.
void SimNetwork::detach(NetFlight& flight) {
  switch (flight.op->kind) {
    case NetOp::Kind::kAccept:
      if (Socket* socket = find(flight.op->socket)) std::erase(socket->listener->accepts, &flight);
      return;
    case NetOp::Kind::kReceive:
    case NetOp::Kind::kSend:
    case NetOp::Kind::kSendFile:
      if (SimConnection* connection = fabric_.find(flight.connection)) {
        for (SimPipe& pipe : connection->pipes) {
          if (pipe.send == &flight) pipe.send = nullptr;
          if (pipe.receive == &flight) pipe.receive = nullptr;
        }
      }
      return;
    default:
      return;
  }
}

void SimNetwork::cancel(NetOp& op) {
  auto* flight = static_cast<NetFlight*>(op.transport);
  if (flight == nullptr) return;
  auto found = flights_.find(flight->number);
  SHOAL_ASSERT(found != flights_.end() && found->second.get() == flight);
  detach(*flight);
  finish(*flight, -ECANCELED);
}

void SimNetwork::close(SocketId id) {
  auto found = sockets_.find(static_cast<int32_t>(id));
  SHOAL_ASSERT(found != sockets_.end(), "close() of a socket that is not open");
  Socket socket = found->second;
  if (socket.listener != nullptr) {
    while (!socket.listener->accepts.empty()) cancel(*socket.listener->accepts.front()->op);
    sockets_.erase(found);
    fabric_.remove_listener(host_, *socket.listener);
    return;
  }
  SimConnection* connection = fabric_.find(socket.connection);
  SHOAL_ASSERT(connection != nullptr, "a socket without its stream");
  for (NetFlight* flight :
       {connection->pipes[socket.end].send, connection->pipes[1 - socket.end].receive}) {
    if (flight != nullptr) cancel(*flight->op);
  }
  sockets_.erase(found);
  fabric_.close_end(*connection, socket.end, false);
}

Result<std::vector<NetworkInterface>> SimNetwork::interfaces() {
  return std::vector<NetworkInterface>{{"lo", std::string(kLoopback), true},
                                       {"eth0", fabric_.address(host_), false}};
}

void SimNetwork::close_all() {
  while (!sockets_.empty()) close(static_cast<SocketId>(sockets_.begin()->first));
}

std::vector<NetOp*> SimNetwork::crash(CrashKind kind) {
  SHOAL_ASSERT(!executor_.alive(), "kill the executor first");
  std::vector<NetOp*> operations;
  for (auto& [number, flight] : flights_) {
    operations.push_back(flight->op);
    detach(*flight);
  }
  flights_.clear();
  auto sockets = std::move(sockets_);
  sockets_.clear();
  if (kind == CrashKind::kPowerLoss) {
    fabric_.lose_host(host_);
    return operations;
  }
  for (auto& [id, socket] : sockets) {
    if (socket.listener != nullptr) {
      fabric_.remove_listener(host_, *socket.listener);
    } else if (SimConnection* connection = fabric_.find(socket.connection)) {
      bool reset = fabric_.random_.below(2) == 0;
      fabric_.close_end(*connection, socket.end, reset);
    }
  }
  return operations;
}

}  // namespace shoal
