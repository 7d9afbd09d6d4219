#include "node/peer_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/object_name.h"
#include "base/piece_crcs.h"
#include "client/peer_reader.h"
#include "membership/membership.h"
#include "node/chunk_filler.h"
#include "node/cluster_jobs.h"
#include "node/messages.h"

namespace shoal {

namespace {

constexpr uint64_t kObjectBytesMax = uint64_t{1} << 47;
constexpr size_t kEtagBytesMax = 256;
constexpr int kWarmChunksMax = 1024;
constexpr int kForgetMax = 1000;
constexpr Duration kMapPatience = std::chrono::milliseconds(300);
constexpr uint32_t kListEntriesMax = 5000;
// A page must fit into one body.
constexpr uint64_t kListBytesMax = kBodyBytesMax - 64 * kKiB;

Status check_version(const std::string& object, const std::string& etag, uint64_t size) {
  SHOAL_RETURN_IF_ERROR(validate_object_name(object));
  if (size > kObjectBytesMax || etag.empty() || etag.size() > kEtagBytesMax) {
    return fail(Code::kInvalidArgument, "a request for a version that cannot be");
  }
  return {};
}

Status check_read(const wire::ReadRequest& request, uint64_t chunk_bytes) {
  SHOAL_RETURN_IF_ERROR(check_version(request.object(), request.etag(), request.size()));
  uint64_t offset = request.offset();
  uint64_t length = request.length();
  bool inside = length > 0 && offset <= request.size() && length <= request.size() - offset;
  if (!inside || offset % kPieceBytes != 0 ||
      (length % kPieceBytes != 0 && offset + length != request.size()) ||
      offset / chunk_bytes != (offset + length - 1) / chunk_bytes) {
    return fail(Code::kInvalidArgument, "a request for a range that is not part of one chunk");
  }
  return {};
}

Task<Status> send_small(Buffer& bytes, Range range, RpcResponder& responder) {
  ConstByteSpan part = bytes.part(range.offset, range.length);
  std::vector<uint32_t> crcs = piece_crcs(part);
  co_return co_await responder.send(0, part, crcs);
}

}  // namespace

PeerService::PeerService(World& world, Membership& membership, AttributeCache& attributes)
    : world_(world),
      membership_(membership),
      attributes_(attributes),
      map_changed_(world.executor) {
  // Membership and this service end together.
  membership_.on_change([this](const SlotMap&) { map_changed_.notify_all(); });
}
PeerService::~PeerService() = default;

void PeerService::attach(NodeCore& core, ClusterJobs& jobs) {
  core_ = &core;
  jobs_ = &jobs;
}
void PeerService::detach() {
  core_ = nullptr;
  jobs_ = nullptr;
}

Task<Result<std::string>> PeerService::handle(RpcRequest request, RpcResponder& responder,
                                              Context context) {
  switch (request.method) {
    case Method::kPing:
    case Method::kProbe:
    case Method::kGetMap:
    case Method::kPushMap:
    case Method::kJoin:
      co_return co_await membership_.handle(request, context);
    case Method::kStatus: {
      wire::StatusReply reply;
      if (status_) reply.set_json(status_());
      co_return reply.SerializeAsString();
    }
    default:
      break;
  }
  SHOAL_CO_RETURN_IF_ERROR(check_attached());
  switch (request.method) {
    case Method::kLedgerPut:
    case Method::kLedgerRemove:
    case Method::kLedgerGet:
    case Method::kReplicate:
    case Method::kReplicaState:
    case Method::kReplicaUpload:
    case Method::kReplicaEnd:
    case Method::kUploadNow:
    case Method::kWaiting:
    case Method::kLedgerKeepers:
    case Method::kLedgerBelow:
      if (request.peer.is_zero()) {
        co_return fail(Code::kPermissionDenied, "only members keep what others write");
      }
      co_return co_await core_->replication->handle(request.peer, request.method,
                                                    std::move(request.body), context);
    case Method::kRead:
      co_return co_await read(*core_, std::move(request), responder, context);
    case Method::kHead:
      co_return co_await head(std::move(request), context);
    case Method::kList:
      co_return co_await list(std::move(request), context);
    case Method::kForget:
      co_return co_await forget(std::move(request), context);
    case Method::kWarm:
      co_return co_await warm(*core_, std::move(request), context);
    case Method::kDrain:
      co_return drain();
    default:
      co_return fail(Code::kNotSupported,
                     fmt::format("method {} is not known here; upgrade this node",
                                 static_cast<int>(request.method)));
  }
}

Status PeerService::check_attached() const {
  if (core_ == nullptr) return fail(Code::kBusy, "the node is starting or stopping");
  return {};
}

Task<void> PeerService::await_map(uint64_t version, Context context) {
  Context limit = context.tightened(world_.executor, kMapPatience);
  while (membership_.current() < version) {
    if (!co_await map_changed_.wait(limit)) co_return;  // the old map serves, if less well
  }
}

Task<Result<std::string>> PeerService::read(NodeCore& core, RpcRequest request,
                                            RpcResponder& responder, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(auto body, parse_message<wire::ReadRequest>(request.body, "a read"));
  uint64_t chunk_bytes = core.peers->chunk_bytes();
  SHOAL_CO_RETURN_IF_ERROR(check_read(body, chunk_bytes));
  co_await await_map(body.map_version(), context);
  SHOAL_CO_RETURN_IF_ERROR(check_attached());
  wire::ReadReply reply;
  if (auto write = is_unuploaded(body.etag()) ? WriteName::parse(body.etag()) : std::nullopt) {
    Status served = co_await core.replication->serve(body, *write, responder, context);
    if (served) {
      core.metrics.served_bytes.add(body.length());
      reply.set_bytes(body.length());
      co_return reply.SerializeAsString();
    }
    if (served.error().code() != Code::kNotFound) co_return fail(std::move(served).error());
  }
  bool may_redirect = !body.no_redirect() && !body.only_cached() && !request.peer.is_zero();
  if (may_redirect && body.bulk() && body.size() > kFetchWholeMax) {
    HotChunks::Question question{hash_string(body.object() + '\n' + body.etag()),
                                 body.offset() / chunk_bytes, request.peer, world_.executor.now()};
    auto alive = [this](const NodeId& id) { return membership_.usable(id); };
    if (auto parent = hot_chunks_.parent_of(question, alive)) {
      reply.set_redirect_high(parent->high);
      reply.set_redirect_low(parent->low);
      co_return reply.SerializeAsString();
    }
  }
  ServeRequest serve;
  serve.range = {body.offset(), body.length()};
  serve.role = body.relay() ? FetchRole::kRelay : FetchRole::kOwner;
  serve.bulk = body.bulk();
  serve.only_cached = body.only_cached();
  serve.map_version = body.map_version();
  reply.set_bytes(body.length());
  if (body.size() <= kFetchWholeMax) {
    VersionName version{body.object(), body.etag(), body.size()};
    if (serve.only_cached && core.store.cached_bytes(version.object, version.etag) < version.size) {
      co_return fail(Code::kNotFound, version.object + " is not cached here");
    }
    auto bytes = co_await core.filler->small(version, FetchRole::kOwner, context);
    if (!bytes) co_return fail(std::move(bytes).error());
    SHOAL_CO_RETURN_IF_ERROR(co_await send_small(**bytes, serve.range, responder));
    core.metrics.served_bytes.add(body.length());
    co_return reply.SerializeAsString();
  }
  if (serve.only_cached) {
    SHOAL_CO_ASSIGN_OR_RETURN(FileRef there,
                              co_await core.store.find_file(body.object(), body.etag()));
    if (there == nullptr) co_return fail(Code::kNotFound, body.object() + " is not cached here");
  }
  SHOAL_CO_ASSIGN_OR_RETURN(FileRef file,
                            co_await core.store.open_file(body.object(), body.etag(), body.size()));
  if (file->size() != body.size()) {
    co_return fail(Code::kInvalidArgument, "a request for a version of another size");
  }
  auto fetcher = Fetcher::of(core, std::move(file), body.object(), body.etag());
  SHOAL_CO_RETURN_IF_ERROR(co_await fetcher->serve(serve, responder, context));
  co_return reply.SerializeAsString();
}

Task<Result<std::string>> PeerService::head(RpcRequest request, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(auto body, parse_message<wire::HeadRequest>(request.body, "a look-up"));
  SHOAL_CO_RETURN_IF_ERROR(validate_object_name(body.object()));
  SHOAL_CO_ASSIGN_OR_RETURN(
      AttributeCache::Head head,
      co_await attributes_.head(body.object(), std::chrono::milliseconds(body.age_ms_max()),
                                std::chrono::milliseconds(body.negative_age_ms_max()), context));
  wire::HeadReply reply;
  reply.set_found(head.object.has_value());
  if (head.object) to_wire(*head.object, *reply.mutable_object());
  reply.set_age_ms(to_milliseconds(world_.executor.now() - head.asked));
  co_return reply.SerializeAsString();
}

Task<Result<std::string>> PeerService::list(RpcRequest request, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(auto body, parse_message<wire::ListRequest>(request.body, "a listing"));
  if (body.prefix().size() > kObjectNameBytesMax || body.marker().size() > 8 * kKiB) {
    co_return fail(Code::kInvalidArgument, "a listing of a prefix that cannot be");
  }
  ListOptions options;
  options.prefix = body.prefix();
  options.recursive = body.recursive();
  options.marker = body.marker();
  options.waiting_only = body.waiting_only();
  options.waiting_names = body.waiting_names();
  options.entries_max = std::clamp(body.entries_max(), 1u, kListEntriesMax);
  SHOAL_CO_ASSIGN_OR_RETURN(
      ListPage page,
      co_await attributes_.list(std::move(options), std::chrono::milliseconds(body.age_ms_max()),
                                context));
  wire::ListReply reply;
  for (const ObjectInfo& object : page.objects) to_wire(object, *reply.add_objects());
  for (std::string& prefix : page.prefixes) reply.add_prefixes(std::move(prefix));
  reply.set_next_marker(page.next_marker);
  reply.set_age_ms(to_milliseconds(page.age));
  if (reply.ByteSizeLong() > kListBytesMax) {
    co_return fail(Code::kTooLarge, "the page does not fit into one answer");
  }
  co_return reply.SerializeAsString();
}

Task<Result<std::string>> PeerService::forget(RpcRequest request, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  SHOAL_CO_ASSIGN_OR_RETURN(auto body,
                            parse_message<wire::ForgetRequest>(request.body, "a change"));
  if (body.objects_size() > kForgetMax) co_return fail(Code::kInvalidArgument, "too many names");
  for (const std::string& object : body.objects()) attributes_.forget(object);
  co_return wire::ForgetReply().SerializeAsString();
}

Task<Result<std::string>> PeerService::warm(NodeCore& core, RpcRequest request, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(auto body, parse_message<wire::WarmRequest>(request.body, "a warm"));
  SHOAL_CO_RETURN_IF_ERROR(check_version(body.object(), body.etag(), body.size()));
  if (body.chunks_size() > kWarmChunksMax) {
    co_return fail(Code::kInvalidArgument, "too many chunks at once");
  }
  co_await await_map(body.map_version(), context);
  SHOAL_CO_RETURN_IF_ERROR(check_attached());
  uint64_t chunk_bytes = core.filler->chunk_bytes();
  std::vector<uint64_t> chunks;
  for (uint64_t chunk : body.chunks()) {
    if (chunk > kObjectBytesMax / chunk_bytes || chunk * chunk_bytes >= body.size()) {
      co_return fail(Code::kInvalidArgument, "a chunk past the end of its object");
    }
    chunks.push_back(chunk);
  }
  FetchRole role = body.copies() ? FetchRole::kReader : FetchRole::kOwner;
  VersionName version{body.object(), body.etag(), body.size()};
  SHOAL_CO_ASSIGN_OR_RETURN(FillResult result,
                            co_await core.filler->fill(std::move(version), std::move(chunks), role,
                                                       body.hand_over(), context));
  wire::WarmReply reply;
  reply.set_bytes(result.bytes);
  for (uint64_t chunk : result.failed) reply.add_failed(chunk);
  reply.set_error(result.error);
  co_return reply.SerializeAsString();
}

std::string PeerService::drain() {
  DrainProgress progress = jobs_->drain();
  wire::DrainReply reply;
  reply.set_done(progress.done);
  reply.set_bytes_done(progress.bytes_done);
  reply.set_bytes_total(progress.bytes_total);
  reply.set_dirty_bytes(progress.dirty_bytes);
  reply.set_error(progress.error);
  return reply.SerializeAsString();
}

}  // namespace shoal
