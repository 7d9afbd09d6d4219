#include "cluster/client_read.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "async/gate.h"
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

// Every second window from `first` on.
Task<Status> read_windows(Client& client, const ObjectInfo& info, const ClientRead& wanted,
                          uint64_t first, Buffer& buffer, Context context) {
  for (uint64_t offset = first; offset < wanted.size; offset += 2 * buffer.size()) {
    ByteSpan part = buffer.part(0, std::min<uint64_t>(buffer.size(), wanted.size - offset));
    SHOAL_CO_RETURN_IF_ERROR(co_await client.read(info, offset, part, context));
    SHOAL_CO_RETURN_IF_ERROR(check_samples(wanted.seed, offset, part));
  }
  co_return Status();
}

// Two windows at a time, as loaders do: one is used while the other is filled.
Task<Result<ClientOutcome>> read_object(Client& client, World& world, const ClientRead& wanted,
                                        std::array<Buffer, 2>& buffers) {
  Context context = Context::within(world.executor, kPatience);
  SHOAL_CO_ASSIGN_OR_RETURN(ObjectInfo info, co_await client.head(wanted.object, context));
  if (info.size != wanted.size) co_return fail(Code::kCorrupt, "the object has another size");
  double begun = seconds_now();
  double cpu = cpu_seconds_of_this_process();
  std::vector<Task<Status>> windows;
  for (size_t i = 0; i < buffers.size(); ++i) {
    windows.push_back(
        read_windows(client, info, wanted, i * buffers[i].size(), buffers[i], context));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(world.executor, std::move(windows), buffers.size()));
  co_return ClientOutcome{seconds_now() - begun, cpu_seconds_of_this_process() - cpu, 0};
}

Task<Result<ClientOutcome>> connect_and_read(World& world, const Log& log, Registry& registry,
                                             const ClientRead& wanted,
                                             std::array<Buffer, 2>& buffers) {
  OriginConfig config;
  config.location = wanted.origin;
  SHOAL_CO_ASSIGN_OR_RETURN(auto origin, make_origin(config, world, registry, log));
  auto store = make_origin_map_store(*origin, world, wanted.cluster);
  ClientOptions options;
  options.cluster = wanted.cluster;
  SHOAL_CO_ASSIGN_OR_RETURN(auto client, co_await Client::connect(world, *origin, *store, registry,
                                                                  log, std::move(options)));
  auto outcome = co_await read_object(*client, world, wanted, buffers);
  co_await client->close();
  co_return outcome;
}

}  // namespace

Result<ClientOutcome> read_through_client(const ClientRead& wanted) {
  std::array<Buffer, 2> buffers;
  for (Buffer& buffer : buffers) {
    buffer = Buffer(std::min(wanted.window, wanted.size));
    std::memset(buffer.data(), 1, buffer.size());  // the first touch is slow
  }
  (void)synthetic_span(wanted.seed, 0);  // the pattern is made at its first use
  SHOAL_ASSIGN_OR_RETURN(auto shard, Shard::start({}));
  Log log;
  Registry registry;
  RpcMetrics metrics(registry);
  auto outcome =
      run_blocking(*shard, connect_and_read(shard->world(), log, registry, wanted, buffers));
  shard->stop();
  if (outcome) outcome->received = static_cast<double>(metrics.bytes_received.value());
  return outcome;
}

}  // namespace shoal::bench
