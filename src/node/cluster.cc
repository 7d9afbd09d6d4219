#include "node/cluster.h"

#include <fmt/format.h>

#include <algorithm>

#include "async/gate.h"
#include "node/messages.h"
#include "wire/peer_address.h"

namespace shoal {

namespace {

constexpr size_t kStatusParallel = 32;

// "10.0.0.5:7070" -> {"10.0.0.5", "7070"}; "[::1]:7070" -> {"[::1]", "7070"}; the port may be
// absent.
std::pair<std::string, std::string> split_address(const std::string& address) {
  size_t colon = address.rfind(':');
  bool bracket = address.starts_with('[');
  if (colon == std::string::npos || (bracket && colon < address.find(']')) ||
      (!bracket && address.find(':') != colon)) {
    return {address, ""};
  }
  return {address.substr(0, colon), address.substr(colon + 1)};
}

std::string with_brackets(const std::string& host) {
  bool plain_v6 = host.find(':') != std::string::npos && !host.starts_with('[');
  return plain_v6 ? "[" + host + "]" : host;
}

bool is_any(const std::string& host) {
  return host.empty() || host == "0.0.0.0" || host == "[::]" || host == "::" || host == "*";
}

// Where others find the web page of a node that listens at `http` and that they reach at `address`.
// Empty: only its own machine can.
std::string reachable_http(const std::string& http, const std::string& address) {
  auto [host, port] = split_address(http);
  if (is_any(host)) host = port.empty() ? "" : split_address(address).first;
  bool local = host == "localhost" || host == "[::1]" || host.starts_with("127.");
  return host.empty() || local ? "" : host + ":" + port;
}

}  // namespace

Cluster::Cluster(World& world, Origin& origin, Registry& registry, const Log& log,
                 ClusterOptions options)
    : world_(world),
      origin_(origin),
      log_(log),
      options_(std::move(options)),
      rpc_metrics_(registry),
      peer_metrics_(registry) {}

Cluster::~Cluster() = default;

Result<std::vector<std::string>> Cluster::hosts_of_interfaces() {
  SHOAL_ASSIGN_OR_RETURN(auto interfaces, world_.network.interfaces());
  // IPv4 first: where both work, both are reached; link-local addresses are of no use to others.
  auto rank = [](const NetworkInterface& i) {
    if (i.address.starts_with("fe80") || i.address.starts_with("169.254.")) return 4;
    return (i.loopback ? 2 : 0) + (i.address.find(':') != std::string::npos ? 1 : 0);
  };
  std::string known;
  for (const NetworkInterface& i : interfaces) known += (known.empty() ? "" : ", ") + i.name;
  std::vector<std::string> wanted = options_.interfaces;
  if (wanted.empty()) wanted.emplace_back();
  std::vector<std::string> hosts;
  for (const std::string& name : wanted) {
    const NetworkInterface* best = nullptr;
    for (const NetworkInterface& i : interfaces) {
      if (!name.empty() && i.name != name) continue;
      if (best == nullptr || rank(i) < rank(*best)) best = &i;
    }
    if (best == nullptr) {
      return fail(Code::kNotFound,
                  fmt::format("no address to advertise{}; this machine has {}; give --advertise",
                              name.empty() ? "" : " on " + name,
                              known.empty() ? "no interface that is up" : known));
    }
    hosts.push_back(best->address);
  }
  return hosts;
}

Status Cluster::choose_addresses(const std::vector<std::string>& bound) {
  SHOAL_ASSERT(!bound.empty());
  std::vector<std::string> named = options_.advertise;
  std::string port_for_all;
  if (named.empty() || (named.size() == 1 && split_address(named.front()).first.empty())) {
    if (!named.empty()) port_for_all = split_address(named.front()).second;
    named.clear();
    for (const std::string& one : bound) named.push_back(split_address(one).first);
    if (!options_.interfaces.empty() || std::ranges::any_of(named, is_any)) {
      SHOAL_ASSIGN_OR_RETURN(named, hosts_of_interfaces());
    }
  }
  std::vector<std::string> addresses;
  for (const std::string& one : named) {
    auto [host, port] = split_address(one);
    host = with_brackets(host);
    if (port.empty()) port = port_for_all;
    for (const std::string& listener : bound) {
      if (port.empty() && split_address(listener).first == host) {
        port = split_address(listener).second;
      }
    }
    if (port.empty()) port = split_address(bound.front()).second;
    addresses.push_back(host + ":" + port);
    if (!is_peer_address(addresses.back())) {
      return fail(Code::kInvalidArgument,
                  fmt::format("\"{}\" cannot be advertised; --advertise takes HOST or HOST:PORT, "
                              "and several with commas between",
                              one));
    }
  }
  options_.self.address = addresses.front();
  addresses.erase(addresses.begin());
  bool twice = std::ranges::find(addresses, options_.self.address) != addresses.end();
  Status status = check_further_addresses(addresses);
  if (twice || !status) {
    return fail(Code::kInvalidArgument,
                twice ? fmt::format("{} is advertised twice", options_.self.address)
                      : "--advertise or --interface: " + status.error().message());
  }
  rpc_->identity.further = std::move(addresses);
  return {};
}

Task<Status> Cluster::begin(MapStore& store, Registry& registry) {
  Context limit = Context::within(world_.executor, options_.join_timeout);
  SHOAL_CO_ASSIGN_OR_RETURN(std::string key, co_await store.key(limit));
  if (options_.tls) {
    SHOAL_CO_ASSIGN_OR_RETURN(tls_, TlsContext::make(key));
  }
  MembershipOptions membership;
  membership.cluster = options_.name;
  membership.origin = origin_.identity();
  membership.copies = options_.copies;
  membership.grace = options_.grace;
  membership.self = options_.self;
  membership.moved_bytes = [this] {
    return rpc_metrics_.bytes_sent.value() + rpc_metrics_.bytes_received.value();
  };
  // Until the server listens nobody knows the address; the identity needs the id only.
  RpcIdentity identity{options_.name, origin_.identity(), options_.self.id,
                       options_.self.incarnation, std::move(key)};
  attributes_ =
      std::make_unique<AttributeCache>(world_, origin_, registry, options_.attribute_bytes);
  // A listener first, so that the address is known when the membership is made.
  membership_ = Membership::create(world_, store, registry, log_, membership);
  rpc_ = std::make_unique<RpcContext>(
      RpcContext{world_, log_, rpc_metrics_, *membership_, std::move(identity), tls_.get()});
  service_ = std::make_unique<PeerService>(world_, *membership_, *attributes_);
  RpcServerOptions server;
  SHOAL_ASSERT(!options_.listen.empty());
  server.listen = options_.listen.front();
  server.listen_also.assign(options_.listen.begin() + 1, options_.listen.end());
  SHOAL_CO_ASSIGN_OR_RETURN(server_, co_await RpcServer::start(*rpc_, *service_, server));
  SHOAL_CO_RETURN_IF_ERROR(choose_addresses(server_->addresses()));
  options_.self.http = reachable_http(options_.self.http, options_.self.address);
  membership_->set_address(options_.self.address, further_addresses(), options_.self.http);
  pool_ = RpcPool::create(*rpc_, options_.pool);
  reader_ = std::make_unique<PeerReader>(world_, *pool_, *membership_, peer_metrics_, log_,
                                         options_.reader);
  SHOAL_CO_RETURN_IF_ERROR(co_await membership_->join(*pool_, limit));
  std::string addresses = options_.self.address;
  for (const std::string& further : further_addresses()) addresses += ", " + further;
  log_.info("node {} ({}) is in cluster {} as {}, map version {}", options_.self.name,
            options_.self.id.to_hex(), options_.name, addresses, membership_->map()->version);
  co_return Status();
}

Task<Result<std::unique_ptr<Cluster>>> Cluster::start(World& world, Origin& origin, MapStore& store,
                                                      Registry& registry, const Log& log,
                                                      ClusterOptions options) {
  std::unique_ptr<Cluster> self(new Cluster(world, origin, registry, log, std::move(options)));
  Status begun = co_await self->begin(store, registry);
  if (!begun) {
    co_await self->stop_serving();
    co_await self->stop();
    co_return fail(std::move(begun).error());
  }
  co_return self;
}

void Cluster::attach(NodeCore& core, ClusterJobs& jobs) { service_->attach(core, jobs); }
void Cluster::set_status_source(std::function<std::string()> source) {
  service_->set_status_source(std::move(source));
}

Task<void> Cluster::ask_status(Member member, Duration limit, std::vector<std::string>* into) {
  auto answer = co_await pool_->call(member.address, member.id, Method::kStatus, "", nullptr, 0,
                                     Context::within(world_.executor, limit));
  if (!answer) co_return;
  auto reply = parse_message<wire::StatusReply>(*answer, "a status");
  if (reply && !reply->json().empty()) into->push_back(std::move(*reply->mutable_json()));
}

Task<std::vector<std::string>> Cluster::ask_statuses(Duration limit) {
  std::vector<std::string> statuses;
  std::vector<Task<Status>> tasks;
  std::shared_ptr<const SlotMap> map = membership_->map();
  for (const Member& member : map->members) {
    if (member.id == options_.self.id || member.state == MemberState::kDown) continue;
    tasks.push_back(as_status(ask_status(member, limit, &statuses)));
  }
  Status done = co_await run_all(world_.executor, std::move(tasks), kStatusParallel);
  SHOAL_ASSERT(done.has_value());
  co_return statuses;
}

Task<void> Cluster::stop_serving() {
  if (service_) service_->detach();
  if (server_) co_await server_->stop();
}

Task<void> Cluster::stop() {
  if (membership_) co_await membership_->stop();
  if (attributes_) co_await attributes_->close();
  if (pool_) co_await pool_->close();
}

}  // namespace shoal
