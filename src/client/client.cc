#include "client/client.h"

#include <algorithm>
#include <cstring>

#include "async/gate.h"
#include "wire/messages.pb.h"

namespace shoal {

namespace {
constexpr auto kOwnerLimit = std::chrono::milliseconds(1500);
}

Client::Client(World& world, Origin& origin, Registry& registry, const Log& log,
               ClientOptions options)
    : world_(world),
      origin_(origin),
      log_(log),
      options_(std::move(options)),
      rpc_metrics_(registry),
      peer_metrics_(registry),
      observer_(world, log) {}

Client::~Client() = default;

Task<Result<std::unique_ptr<Client>>> Client::connect(World& world, Origin& origin, MapStore& store,
                                                      Registry& registry, const Log& log,
                                                      ClientOptions options) {
  std::unique_ptr<Client> self(new Client(world, origin, registry, log, std::move(options)));
  Status begun = co_await self->begin(store);
  if (!begun) {
    co_await self->close();
    co_return fail(std::move(begun).error());
  }
  co_return self;
}

Task<Status> Client::begin(MapStore& store) {
  Context limit = Context::within(world_.executor, std::chrono::seconds(30));
  SHOAL_CO_RETURN_IF_ERROR(co_await observer_.load(store, limit));
  SHOAL_CO_ASSIGN_OR_RETURN(std::string key, co_await store.key(limit));
  if (options_.tls) {
    SHOAL_CO_ASSIGN_OR_RETURN(tls_, TlsContext::make(key));
  }
  rpc_ = std::make_unique<RpcContext>(RpcContext{
      world_, log_, rpc_metrics_, observer_,
      RpcIdentity{options_.cluster, origin_.identity(), {}, 0, std::move(key)}, tls_.get()});
  pool_ = RpcPool::create(*rpc_, options_.pool);
  observer_.follow(*pool_);
  reader_ =
      std::make_unique<PeerReader>(world_, *pool_, observer_, peer_metrics_, log_, options_.reader);
  co_return Status();
}

Task<Result<ObjectInfo>> Client::head(std::string object, Context context) {
  std::shared_ptr<const SlotMap> map = observer_.map();
  wire::HeadRequest request;
  request.set_object(object);
  request.set_age_ms_max(static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(options_.attr_ttl).count()));
  for (uint16_t owner : map->owners_of(slot_of_object(object))) {
    if (owner == kNoMember) break;
    const Member& member = map->members[owner];
    if (!observer_.usable(member.id)) continue;
    auto answer =
        co_await pool_->call(member.address, member.id, Method::kHead, request.SerializeAsString(),
                             nullptr, 0, context.tightened(world_.executor, kOwnerLimit));
    if (!answer) {
      SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
      observer_.report(member.id, answer.error().code() != Code::kUnavailable);
      continue;
    }
    wire::HeadReply reply;
    if (!reply.ParseFromString(*answer)) continue;
    if (!reply.found()) co_return fail(Code::kNotFound, object + " does not exist");
    ObjectInfo info;
    info.name = std::move(object);
    info.size = reply.object().size();
    info.etag = reply.object().etag();
    info.modified = WallTime(Duration(reply.object().modified_ns()));
    for (const auto& entry : reply.object().metadata()) {
      info.metadata.emplace(entry.name(), entry.value());
    }
    info.age = std::chrono::milliseconds(reply.age_ms());
    co_return info;
  }
  co_return co_await origin_.head(std::move(object), context);
}

// Whole pieces of one chunk.
Task<Status> Client::read_pieces(const ObjectInfo& object, uint64_t offset, ByteSpan into,
                                 Context context) {
  ChunkRange range;
  range.object = object.name;
  range.etag = object.etag;
  range.size = object.size;
  range.offset = offset;
  range.into = into;
  range.bulk = into.size() >= kMiB;
  Status status = co_await reader_->read(range, context);
  if (status || status.error().code() != Code::kNotFound) co_return status;
  uint64_t done = range.arrived / kPieceBytes * kPieceBytes;
  co_return co_await origin_.read(object.name, object.etag, offset + done, into.subspan(done), {},
                                  context);
}

// Any part of one chunk: its ends may lie within pieces.
Task<Status> Client::read_part(const ObjectInfo& object, uint64_t offset, ByteSpan into,
                               Context context) {
  uint64_t end = offset + into.size();
  uint64_t whole_begin = (offset + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
  uint64_t whole_end = end == object.size ? end : end / kPieceBytes * kPieceBytes;
  if (whole_begin < whole_end) {
    SHOAL_CO_RETURN_IF_ERROR(co_await read_pieces(
        object, whole_begin, into.subspan(whole_begin - offset, whole_end - whole_begin), context));
  }
  // The pieces at the ends go through a buffer of our own.
  for (uint64_t at = offset; at < end;) {
    if (at == whole_begin && whole_begin < whole_end) at = whole_end;
    if (at >= end) break;
    uint64_t piece = at / kPieceBytes * kPieceBytes;
    Buffer bounce(std::min(kPieceBytes, object.size - piece));
    SHOAL_CO_RETURN_IF_ERROR(co_await read_pieces(object, piece, bounce.span(), context));
    uint64_t length = std::min(end, piece + bounce.size()) - at;
    std::memcpy(into.data() + (at - offset), bounce.data() + (at - piece), length);
    at += length;
  }
  co_return Status();
}

Task<Status> Client::read(const ObjectInfo& object, uint64_t offset, ByteSpan into,
                          Context context) {
  if (offset > object.size || into.size() > object.size - offset) {
    co_return fail(Code::kInvalidArgument, object.name + ": the range is outside the object");
  }
  uint64_t chunk_bytes = reader_->chunk_bytes();
  std::vector<Task<Status>> parts;
  for (uint64_t done = 0; done < into.size();) {
    uint64_t at = offset + done;
    uint64_t length = std::min(into.size() - done, chunk_bytes - at % chunk_bytes);
    parts.push_back(read_part(object, at, into.subspan(done, length), context));
    done += length;
  }
  co_return co_await run_all(world_.executor, std::move(parts), options_.chunks_parallel);
}

Task<void> Client::close() {
  co_await observer_.close();
  if (pool_) co_await pool_->close();
}

}  // namespace shoal
