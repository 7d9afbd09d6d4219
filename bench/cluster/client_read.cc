#include "cluster/client_read.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "client/client.h"
#include "membership/map_store.h"
#include "one_node/load.h"
#include "origin/make_origin.h"
#include "world_linux/shard.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace {

constexpr Duration kPatience = std::chrono::seconds(120);
constexpr size_t kSampleBytes = 64;

// The first bytes of each piece: a look at all of them would cost what is measured.
Status check_samples(uint64_t seed, uint64_t offset, ConstByteSpan bytes) {
  for (uint64_t at = 0; at < bytes.size(); at += 64 * kKiB) {
    ConstByteSpan sample = bytes.subspan(at, std::min<uint64_t>(kSampleBytes, bytes.size() - at));
    if (!synthetic_equal(seed, offset + at, sample)) {
      return fail(Code::kCorrupt, fmt::format("the client got wrong bytes at {}", offset + at));
    }
  }
  return {};
}

Task<Result<ClientOutcome>> read_object(Client& client, World& world, const ClientRead& wanted,
                                        Buffer& buffer) {
  Context context = Context::within(world.executor, kPatience);
  SHOAL_CO_ASSIGN_OR_RETURN(ObjectInfo info, co_await client.head(wanted.object, context));
  if (info.size != wanted.size) co_return fail(Code::kCorrupt, "the object has another size");
  double begun = seconds_now();
  double cpu = cpu_seconds_of_this_process();
  for (uint64_t offset = 0; offset < wanted.size; offset += buffer.size()) {
    ByteSpan part = buffer.part(0, std::min<uint64_t>(buffer.size(), wanted.size - offset));
    SHOAL_CO_RETURN_IF_ERROR(co_await client.read(info, offset, part, context));
    SHOAL_CO_RETURN_IF_ERROR(check_samples(wanted.seed, offset, part));
  }
  co_return ClientOutcome{seconds_now() - begun, cpu_seconds_of_this_process() - cpu, 0};
}

Task<Result<ClientOutcome>> connect_and_read(World& world, const Log& log, Registry& registry,
                                             const ClientRead& wanted, Buffer& buffer) {
  OriginConfig config;
  config.location = wanted.origin;
  SHOAL_CO_ASSIGN_OR_RETURN(auto origin, make_origin(config, world, registry, log));
  auto store = make_origin_map_store(*origin, world, wanted.cluster);
  ClientOptions options;
  options.cluster = wanted.cluster;
  SHOAL_CO_ASSIGN_OR_RETURN(auto client, co_await Client::connect(world, *origin, *store, registry,
                                                                  log, std::move(options)));
  auto outcome = co_await read_object(*client, world, wanted, buffer);
  co_await client->close();
  co_return outcome;
}

}  // namespace

Result<ClientOutcome> read_through_client(const ClientRead& wanted) {
  Buffer buffer(std::min(wanted.window, wanted.size));
  std::memset(buffer.data(), 1, buffer.size());  // the first touch is slow
  (void)synthetic_span(wanted.seed, 0);          // the pattern is made at its first use
  SHOAL_ASSIGN_OR_RETURN(auto shard, Shard::start({}));
  Log log;
  Registry registry;
  RpcMetrics metrics(registry);
  auto outcome =
      run_blocking(*shard, connect_and_read(shard->world(), log, registry, wanted, buffer));
  shard->stop();
  if (outcome) outcome->received = static_cast<double>(metrics.bytes_received.value());
  return outcome;
}

}  // namespace shoal::bench
