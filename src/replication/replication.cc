#include "replication/replication.h"

#include <fmt/format.h>

#include <algorithm>

#include "async/gate.h"
#include "base/object_name.h"
#include "base/piece_crcs.h"
#include "replication/takeover.h"
#include "wire/parse_message.h"

namespace shoal {

namespace {

constexpr uint64_t kServeStep = kMiB;  // of a chunk, between two looks at whether it gets on
constexpr Duration kAskLimit = std::chrono::seconds(5);
constexpr Duration kReadLimit = std::chrono::seconds(10);
constexpr Duration kOriginLimit = std::chrono::seconds(30);
constexpr Duration kPoll = std::chrono::milliseconds(100);

template <typename Message>
Result<std::string> serialized(Result<Message> message) {
  if (!message) return fail(std::move(message).error());
  return message->SerializeAsString();
}

// The write id that a commit left in the object's metadata.
std::optional<WriteName> write_of(const ObjectInfo& info) {
  auto found = info.metadata.find("shoalwriteid");
  if (found == info.metadata.end()) return std::nullopt;
  return WriteName::parse(found->second);
}

}  // namespace

ReplicationMetrics::ReplicationMetrics(Registry& registry)
    : replicated_bytes(registry.counter("shoal_replicated_bytes_total",
                                        "Bytes of other nodes' versions taken in as replicas.")),
      degraded(registry.counter("shoal_ack_degraded_total",
                                "Writes acknowledged with fewer replicas than wanted.")),
      takeovers(registry.counter("shoal_takeovers_total",
                                 "Versions uploaded in place of a writer that was lost.")),
      repaired_bytes(registry.counter("shoal_repaired_bytes_total",
                                      "Bytes copied again because a holder was lost.")),
      blocks(registry.counter("shoal_replica_blocks_total",
                              "Blocks sent to the origin for other nodes.")) {}

Replication::Replication(ReplicationParts parts, ReplicationOptions options)
    : parts_(parts),
      options_(options),
      metrics_(parts.registry),
      buffers_(parts.world.executor),
      memory_(parts.world.executor, std::max(options.memory * 3 / 8, options.chunk_bytes)),
      serve_memory_(parts.world.executor, std::max(options.memory / 8, options.chunk_bytes)),
      upload_memory_(parts.world.executor, std::max(options.memory / 2, options.chunk_bytes)),
      sends_(parts.world.executor, options.sends_max * std::max(options.replicas - 1, 1u)),
      sends_idle_(parts.world.executor),
      ledger_(parts.world, parts.store, parts.log),
      endings_(*this),
      keepers_(*this),
      replicas_(*this),
      ended_(parts.world.executor),
      gate_(parts.world.executor) {}

Replication::~Replication() = default;

Task<Status> Replication::start(WriterSide& writer) {
  writer_ = &writer;
  co_await parts_.store.visit_staged([this](const Store::Staged& staged) {
    ledger_.note_recovered(staged);
    endings_.note_recovered(staged);
    replicas_.note_recovered(staged);
  });
  SHOAL_CO_RETURN_IF_ERROR(co_await ledger_.load());
  SHOAL_CO_RETURN_IF_ERROR(co_await endings_.load());
  SHOAL_CO_RETURN_IF_ERROR(co_await replicas_.load());
  takeover_ = std::make_unique<Takeover>(*this);
  replicas_.start();
  takeover_->start();
  co_return Status();
}

Task<void> Replication::stop() {
  stopping_.request();
  replicas_.cancel_all();
  co_await gate_.close();
}

bool Replication::usable(const NodeId& node) const {
  return node == self() || parts_.view.usable(node);
}

bool Replication::is_lost(const NodeId& node) const {
  std::shared_ptr<const SlotMap> map = parts_.view.map();
  if (map == nullptr || node == self()) return false;
  const Member* member = map->find(node);
  return member == nullptr || member->state == MemberState::kDown;
}

bool Replication::is_member(const NodeId& node) const {
  std::shared_ptr<const SlotMap> map = parts_.view.map();
  return map != nullptr && map->find(node) != nullptr;
}

bool Replication::is_any_lost() const {
  std::shared_ptr<const SlotMap> map = parts_.view.map();
  return map == nullptr || std::ranges::any_of(map->members, [](const Member& member) {
           return member.state == MemberState::kDown;
         });
}

std::optional<NodeId> Replication::first_usable(uint32_t slot) const {
  std::shared_ptr<const SlotMap> map = parts_.view.map();
  if (map == nullptr) return std::nullopt;
  for (uint16_t owner : map->owners_of(slot)) {
    if (owner == kNoMember) break;
    if (usable(map->members[owner].id)) return map->members[owner].id;
  }
  for (const NodeId& node : candidates(slot)) {
    if (usable(node)) return node;
  }
  return std::nullopt;
}

std::vector<NodeId> Replication::candidates(uint32_t slot) const {
  std::vector<NodeId> result;
  std::shared_ptr<const SlotMap> map = parts_.view.map();
  if (map == nullptr) return result;
  for (uint16_t owner : map->owners_of(slot)) {
    if (owner == kNoMember) break;
    result.push_back(map->members[owner].id);
  }
  std::vector<std::pair<uint64_t, NodeId>> rest;
  for (const Member& member : map->members) {
    if (member.state != MemberState::kUp || std::ranges::find(result, member.id) != result.end()) {
      continue;
    }
    rest.emplace_back(hash_string(member.id.to_hex(), slot).low, member.id);
  }
  std::ranges::sort(rest);
  for (const auto& [rank, id] : rest) result.push_back(id);
  return result;
}

void Replication::sends_changed() {
  bool busy = sends_.used() > 0;
  replicas_.share_network(busy);
  if (!busy) sends_idle_.notify_all();
}

int Replication::sending_to(const NodeId& node) const {
  auto found = sending_to_.find(node);
  return found == sending_to_.end() ? 0 : found->second;
}

Task<Result<std::string>> Replication::handle(NodeId from, Method method, std::string body,
                                              Context context) {
  switch (method) {
    case Method::kLedgerPut: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::LedgerPutRequest>(body, "a record"));
      SHOAL_CO_ASSIGN_OR_RETURN(LedgerRecord record, from_wire(request.record()));
      std::shared_ptr<const SlotMap> map = parts_.view.map();
      if (from == record.writer && map != nullptr) record.map_version = map->version;
      std::string object = record.object;
      SHOAL_CO_RETURN_IF_ERROR(co_await ledger_.put(std::move(record)));
      keepers_.keep(object);
      co_return wire::LedgerPutReply().SerializeAsString();
    }
    case Method::kLedgerRemove: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::LedgerRemoveRequest>(body, "an end"));
      co_return co_await endings_.handle(std::move(request));
    }
    case Method::kLedgerGet: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::LedgerGetRequest>(body, "a look-up"));
      wire::LedgerGetReply reply;
      for (const LedgerRecord& record : ledger_.find(request.object())) {
        to_wire(record, *reply.add_records());
      }
      if (request.has_write()) {
        auto known =
            endings_.find(request.object(), from_wire(request.write()), request.sequence());
        reply.set_ended(known.has_value());
        if (known) {
          reply.set_reason(static_cast<uint32_t>(known->reason));
          to_wire(known->commits, *reply.mutable_commits());
        }
      }
      co_return reply.SerializeAsString();
    }
    case Method::kLedgerKeepers: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::LedgerKeepersRequest>(body, "keepers"));
      SHOAL_CO_RETURN_IF_ERROR(keepers_.take(request));
      co_return wire::LedgerKeepersReply().SerializeAsString();
    }
    case Method::kLedgerBelow:
      co_return keepers_.answer_below(body);
    default:
      co_return co_await handle_replica(method, std::move(body), context);
  }
}

Task<Result<std::string>> Replication::handle_replica(Method method, std::string body,
                                                      Context context) {
  switch (method) {
    case Method::kReplicate: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::ReplicateRequest>(body, "a replica"));
      co_return serialized(co_await replicas_.replicate(std::move(request), context));
    }
    case Method::kReplicaState: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::ReplicaStateRequest>(body, "a question"));
      WriteName write = from_wire(request.write());
      bool any = request.as_object().empty();
      bool written = !any && writer_->is_written_as(write, request.as_object());
      if (written || writer_->is_written(write)) {
        wire::ReplicaStateReply reply;
        reply.set_known(true);
        reply.set_written(written || any);
        co_return reply.SerializeAsString();
      }
      co_return serialized(co_await replicas_.state(request.object(), write, request.size()));
    }
    case Method::kReplicaUpload: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::ReplicaUploadRequest>(body, "an upload"));
      co_return serialized(co_await replicas_.upload(std::move(request), context));
    }
    case Method::kReplicaEnd: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::ReplicaEndRequest>(body, "an end"));
      SHOAL_CO_RETURN_IF_ERROR(validate_object_name(request.object()));
      std::string as = request.as_object().empty() ? request.object() : request.as_object();
      SHOAL_CO_RETURN_IF_ERROR(validate_object_name(as));
      SHOAL_CO_RETURN_IF_ERROR(co_await replicas_.end(request.object(), from_wire(request.write()),
                                                      std::move(as), request.etag(), request.size(),
                                                      unpack_crcs(request.crcs())));
      co_return wire::ReplicaEndReply().SerializeAsString();
    }
    case Method::kUploadNow: {
      SHOAL_CO_ASSIGN_OR_RETURN(auto request,
                                parse_message<wire::UploadNowRequest>(body, "a request"));
      wire::UploadNowReply reply;
      reply.set_known(writer_->upload_now(from_wire(request.write())));
      co_return reply.SerializeAsString();
    }
    case Method::kWaiting:
      co_return answer_waiting(*this, body);
    default:
      co_return fail(Code::kNotSupported, "not a method of replication");
  }
}

// --- records ---

Task<Status> Replication::put_record(LedgerRecord& record, Context context) {
  std::vector<NodeId> nodes = candidates(slot_of_object(record.object));
  uint32_t stored = 0;
  std::optional<Error> error;
  std::vector<NodeId> keepers;
#ifdef SHOAL_CANARY  // the canary plants its bug here: acknowledged on one node
  if (record.sealed) stored = record.replicas - 1;
#endif
  // One by one if need be: who hears of the record hears of all who may have it.
  while (stored < record.replicas && !nodes.empty()) {
    std::vector<NodeId> next;
    while (!nodes.empty() && stored + next.size() < record.replicas) {
      if (usable(nodes.front())) next.push_back(nodes.front());
      nodes.erase(nodes.begin());
    }
    record.add_placed(next);
    keepers.insert(keepers.end(), next.begin(), next.end());
    wire::LedgerPutRequest request;
    to_wire(record, *request.mutable_record());
    stored += co_await ask_first(std::move(next), record.replicas - stored, Method::kLedgerPut,
                                 request.SerializeAsString(), &error, context);
    SHOAL_CO_RETURN_IF_ERROR(context.check(executor()));
  }
  if (stored < record.replicas && !(options_.ack_degraded && stored > 0)) {
    co_return fail(
        code_of_too_few(error),
        fmt::format("{}: its record is on {} of {} nodes; {}", record.object, stored,
                    record.replicas, error ? error->to_string() : "no other node can be reached"));
  }
  if (record.sealed) {
    std::vector<std::string> directory{std::string(parent_of(record.object))};
    co_await keepers_.tell(std::move(directory), std::move(keepers), context);
  }
  co_return Status();
}

Task<Result<std::vector<LedgerRecord>>> Replication::get_records(std::string object,
                                                                 Context context) {
  wire::LedgerGetRequest request;
  request.set_object(object);
  std::vector<LedgerRecord> records;
  bool answered = false;
  size_t asked = 0;
  for (const NodeId& node : candidates(slot_of_object(object))) {
    if (asked > options_.replicas) break;
    if (!usable(node)) continue;
    ++asked;
    auto answer = co_await ask(node, Method::kLedgerGet, request.SerializeAsString(),
                               context.tightened(executor(), kAskLimit));
    if (!answer) continue;
    auto reply = parse_message<wire::LedgerGetReply>(*answer, "records");
    if (!reply) continue;
    answered = true;
    for (const wire::LedgerBody& body : reply->records()) {
      auto record = from_wire(body);
      if (!record || record->object != object) continue;
      auto same = std::ranges::find_if(
          records, [&](const LedgerRecord& r) { return r.write.id == record->write.id; });
      if (same == records.end()) {
        records.push_back(std::move(*record));
      } else if (record->is_later_than(*same)) {
        *same = std::move(*record);
      }
    }
    if (!records.empty()) break;
  }
  if (!answered) co_return fail(Code::kUnavailable, object + ": no owner of its record answers");
  co_return records;
}

// --- bytes ---

Task<Status> Replication::serve(const wire::ReadRequest& request, WriteName write,
                                RpcResponder& responder, Context context) {
  const std::string& object = request.object();
  Range range{request.offset(), request.length()};
  auto chunk_crc =
      request.has_chunk_crc() ? std::optional<uint32_t>(request.chunk_crc()) : std::nullopt;
  if (!chunk_crc && !request.as_held()) {  // a replica may be of an earlier state
    SHOAL_CO_ASSIGN_OR_RETURN(chunk_crc,
                              co_await replicas_.sealed_crc(object, write, range.offset, context));
  }
  uint64_t step = std::min(kServeStep, range.length);
  auto memory = co_await serve_memory_.acquire(step, context);
  if (!memory) co_return fail(std::move(memory).error());
  BufferPool::Lease buffer = buffers_.take(step);
  for (uint64_t sent = 0; sent < range.length; sent += step) {
    ByteSpan bytes = buffer.span().first(std::min(step, range.length - sent));
    auto held = co_await read_held(object, write, range.offset + sent, bytes, chunk_crc);
    if (!held && sent > 0 && held.error().code() == Code::kNotFound) {
      co_return fail(Code::kUnavailable, held.error().message());  // no other source may go on here
    }
    if (!held) co_return fail(std::move(held).error());
    SHOAL_CO_RETURN_IF_ERROR(co_await responder.send(sent, bytes, held->crcs));
    if (held->by == HeldBy::kWriter) served_at_ = executor().now();
  }
  co_return Status();
}

// What this node has as the writer, as a holder, or within a record.
Task<Result<Replication::Held>> Replication::read_held(std::string object, WriteName write,
                                                       uint64_t offset, ByteSpan into,
                                                       std::optional<uint32_t> chunk_crc) {
  uint64_t end = offset + into.size();
  auto local = co_await writer_->find_written(write);
  if (local && local->small) {
    if (end > local->small->size()) co_return fail(Code::kNotFound, object + " is shorter");
    std::memcpy(into.data(), local->small->data() + offset, into.size());
    co_return Held{HeldBy::kWriter, piece_crcs(into)};
  }
  if (local) {
    if (end > local->file->size() || !local->file->missing({offset, into.size()}).empty()) {
      co_return fail(Code::kNotFound, object + ": this part is not here");
    }
    SHOAL_CO_ASSIGN_OR_RETURN(auto crcs, co_await local->file->read_with_crcs(offset, into));
    co_return Held{HeldBy::kWriter, std::move(crcs)};
  }
  auto replica = co_await replicas_.read(object, write, offset, into, chunk_crc);
  if (replica) co_return Held{HeldBy::kReplica, std::move(*replica)};
  if (replica.error().code() != Code::kNotFound) co_return fail(std::move(replica).error());
  for (const LedgerRecord& record : ledger_.find(object)) {
    if (record.write != write || !record.has_content || end > record.size) continue;
    auto whole = co_await ledger_.with_content(record);
    if (!whole) continue;
    std::memcpy(into.data(), whole->content->data() + offset, into.size());
    co_return Held{HeldBy::kRecord, piece_crcs(into)};
  }
  co_return fail(std::move(replica).error());
}

// From the replica that this node has.
Task<Status> Replication::read_here(const std::string& home, WriteName write, uint64_t offset,
                                    ByteSpan into, std::optional<uint32_t> chunk_crc) {
  SHOAL_CO_ASSIGN_OR_RETURN(auto crcs,
                            co_await replicas_.read(home, write, offset, into, chunk_crc));
  if (crcs != piece_crcs(into)) co_return fail(Code::kCorrupt, home + ": a replica is damaged");
  co_return Status();
}

Task<Status> Replication::read_from_node(NodeId node, std::string home, WriteName write,
                                         Range range, uint64_t size, ByteSpan into,
                                         std::optional<uint32_t> chunk_crc, bool as_held,
                                         Context context) {
  std::shared_ptr<const SlotMap> map = parts_.view.map();
  const Member* member = map == nullptr ? nullptr : map->find(node);
  if (member == nullptr || !usable(node)) {
    co_return fail(Code::kUnavailable, home + ": a node that may hold this part is down");
  }
  std::string address = member->address;
  wire::ReadRequest request;
  request.set_object(home);
  request.set_etag(write.etag());
  request.set_size(size);
  request.set_offset(range.offset);
  request.set_length(static_cast<uint32_t>(range.length));
  request.set_only_cached(true);
  request.set_no_redirect(true);
  if (chunk_crc) request.set_chunk_crc(*chunk_crc);
  request.set_as_held(as_held);
  RpcSink sink{into};
  auto answer =
      co_await parts_.pool.call(address, node, Method::kRead, request.SerializeAsString(), &sink,
                                slot_of_chunk(home, range.offset / options_.chunk_bytes),
                                context.tightened(executor(), kReadLimit));
  if (!answer) co_return fail(std::move(answer).error());
  bool whole = sink.arrived == into.size();
  co_return whole ? Status() : fail(Code::kUnavailable, home + ": the answer ended early");
}

Task<Status> Replication::read_from_nodes(const std::string& object, WriteName write,
                                          uint64_t offset, ByteSpan into,
                                          const std::function<void(uint64_t)>& progress,
                                          const std::vector<LedgerRecord>& records,
                                          Context context) {
  std::string home = object;
  std::vector<NodeId> nodes;
  uint64_t chunk = offset / options_.chunk_bytes;
  std::vector<uint32_t> crcs;
  bool sealed = true;
  NodeId writer;
  for (const LedgerRecord& record : records) {
    if (record.write != write) continue;
    sealed = record.sealed;
    crcs = record.chunk_crcs;
    home = record.home;
    writer = record.writer;
    nodes.push_back(record.writer);
    // Who owns the chunk first: most likely it holds it.
    for (const NodeId& owner : candidates(slot_of_chunk(home, chunk))) {
      if (std::ranges::find(record.holders, owner) != record.holders.end()) nodes.push_back(owner);
    }
    for (const NodeId& owner : candidates(slot_of_object(object))) {
      if (record.has_content && nodes.size() <= record.replicas + 1) nodes.push_back(owner);
    }
    for (const NodeId& holder : record.holders) {  // those that are down too: they may have more
      if (std::ranges::find(nodes, holder) == nodes.end()) nodes.push_back(holder);
    }
  }
  Status status = fail(Code::kNotFound, object + ": nobody holds this part");
  // Ranges of one request lie in one chunk.
  for (uint64_t at = 0; at < into.size();) {
    chunk = (offset + at) / options_.chunk_bytes;
    uint64_t chunk_end = (chunk + 1) * options_.chunk_bytes;
    std::optional<uint32_t> chunk_crc;
    if (chunk < crcs.size()) chunk_crc = crcs[chunk];
    ByteSpan part = into.subspan(at, std::min<uint64_t>(into.size() - at, chunk_end - offset - at));
    // What was written on after its record is as good, unless somebody does not answer who may have
    // what was acknowledged: then it may be what was there before.
    bool all_answer = true;
    bool holds = std::ranges::find(nodes, self()) != nodes.end();
    for (bool exact : {true, false}) {
      if (!exact && (sealed || !chunk_crc || status || !all_answer)) break;
      auto wanted = exact ? chunk_crc : std::nullopt;
      if (exact || holds) status = co_await read_here(home, write, offset + at, part, wanted);
      for (const NodeId& node : nodes) {
        if (status) break;
        if (node == self()) continue;
        status = co_await read_from_node(node, home, write, {offset + at, part.size()},
                                         offset + into.size(), part, wanted, !sealed, context);
        bool told = status || status.error().code() == Code::kNotFound;
        if (!told && node != writer && is_member(node)) all_answer = false;
      }
    }
    if (!status) co_return status;
    at += part.size();
    if (progress) progress(at);
  }
  co_return Status();
}

Task<Status> Replication::read(std::string object, WriteName write, uint64_t offset, ByteSpan into,
                               std::function<void(uint64_t)> progress, Context context) {
  Status status;
  bool looked = false;
  while (true) {
    auto records = co_await get_records(object, context);
    bool listed = records && std::ranges::any_of(*records, [&](const LedgerRecord& record) {
                    return record.write == write;
                  });
    if (listed) {
      status = co_await read_from_nodes(object, write, offset, into, progress, *records, context);
      if (status || status.error().code() == Code::kCancelled) co_return status;
    }
    // It may be in the origin by now.
    auto etag = co_await resolve(object, write, context);
    if (etag) {
      co_return co_await parts_.origin.read(object, *etag, offset, into, std::move(progress),
                                            context);
    }
    if (records && !listed && looked &&
        (etag.error().code() == Code::kNotFound || etag.error().code() == Code::kConflict)) {
      co_return fail(Code::kStale, object + ": this version is gone");
    }
    looked = records.has_value() && !listed;  // a commit may have been between the two questions
    Status slept = co_await sleep_for(executor(), kPoll, context);
    if (!slept) co_return status ? slept : status;
  }
}

Task<Result<std::string>> Replication::resolve(std::string object, WriteName write,
                                               Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(
      ObjectInfo info,
      co_await parts_.origin.head(object, context.tightened(executor(), kOriginLimit)));
  auto there = write_of(info);
  if (there && *there == write) co_return info.etag;
  co_return fail(Code::kConflict, object + ": the origin has another version");
}

Task<Status> Replication::wait_uploaded(std::string object, Context context) {
  std::string why;
  while (true) {
    auto records = co_await get_records(object, context);
    if (!records) co_return fail(std::move(records).error());
    bool waiting = false;
    for (const LedgerRecord& record : *records) {
      if (!record.sealed) continue;
      waiting = true;
      wire::UploadNowRequest request;
      request.set_object(object);
      to_wire(record.write, *request.mutable_write());
      auto asked = co_await ask(record.writer, Method::kUploadNow, request.SerializeAsString(),
                                context.tightened(executor(), kAskLimit));
      if (!asked) why = asked.error().to_string();
    }
    if (!waiting) co_return Status();
    Status slept = co_await sleep_for(executor(), kPoll, context);
    if (!slept) {
      co_return fail(Code::kUnavailable,
                     object + ": another node's version of it is not in the origin yet; " + why);
    }
  }
}

Replication::Stats Replication::stats() const {
  return {ledger_.size(), replicas_.size(), replicas_.bytes(), metrics_.degraded.value() > 0,
          last_error_};
}

}  // namespace shoal
