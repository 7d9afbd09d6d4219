#include "replication/takeover.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "async/gate.h"
#include "base/checksum.h"
#include "base/object_name.h"
#include "replication/commit_order.h"
#include "replication/manifest.h"
#include "replication/recorded_crcs.h"
#include "replication/spread_upload.h"

namespace shoal {

namespace {

constexpr Duration kAskLimit = std::chrono::seconds(5);
constexpr Duration kAgain = std::chrono::seconds(1);
constexpr Duration kCopyLimit = std::chrono::seconds(20);
constexpr Duration kOriginLimit = std::chrono::minutes(10);
constexpr Duration kCheckPeriod = std::chrono::seconds(20);
// A writer's first record comes soon after its first chunk.
constexpr Duration kReplicaYoung = std::chrono::seconds(60);
constexpr size_t kParallel = 16;
constexpr size_t kRecordsAtOnce = 1000;
constexpr size_t kAdoptionsMax = 64;
constexpr uint64_t kWholePutMax = 8 * kMiB;

Condition condition_of(const LedgerRecord& record) {
  if (!record.base_etag.empty()) return Condition::match(record.base_etag);
  if (record.must_be_absent) return Condition::absent();
  return Condition::none();
}

Hash128 key_of(const LedgerRecord& record) {
  return hash_string(record.object + '\n' + record.write.text(), 0x7a4e);
}

std::string replica_key(const std::string& object, const WriteName& write) {
  return object + '\n' + write.text();
}

}  // namespace

Takeover::Takeover(Replication& replication)
    : replication_(replication), adopted_(replication.executor()) {}

void Takeover::start() {
  replication_.gate().spawn(run());
  replication_.gate().spawn(run_records(this));
}

bool Takeover::is_mine(const LedgerRecord& record) const {
  return replication_.first_usable(slot_of_object(record.object)) == replication_.self();
}

Task<void> Takeover::run() {
  Context context{kNever, &replication_.stopping()};
  while (true) {
    Status slept =
        co_await sleep_for(replication_.executor(), replication_.options().check_period, context);
    if (!slept) co_return;
    co_await replication_.writer().keep_replicated();
    co_await replication_.endings().tell_untold();
    std::set<std::string> known;
    std::vector<Task<Status>> tasks;
    for (auto& [object, write] : replication_.replicas().list()) {
      known.insert(replica_key(object, write));
      tasks.push_back(as_status(look_at_replica(object, write)));
    }
    Status looked = co_await run_all(replication_.executor(), std::move(tasks), kParallel);
    static_cast<void>(looked);
    std::erase_if(seen_replicas_, [&](const auto& entry) { return !known.contains(entry.first); });
  }
}

Task<void> Takeover::run_records(Takeover* self) {
  Replication& replication = self->replication_;
  Duration period = replication.options().check_period;
  while (true) {
    Context context = Context::within(replication.executor(), period);
    context.cancel = &replication.stopping();
    // While others wait for their turn to be adopted, the next look comes with room for some.
    bool soon = false;
    while (!soon && self->crowded_ && co_await self->adopted_.wait(context)) {
      soon = self->adopting_.size() <= kAdoptionsMax / 2;
    }
    if (!soon) {
      context.deadline = kNever;
      Duration left = self->looked_ + period - replication.executor().now();
      if (!co_await sleep_for(replication.executor(), std::max(left, Duration(0)), context)) {
        co_return;
      }
    }
    self->looked_ = replication.executor().now();
    self->crowded_ = false;
    co_await self->look_at_records();
    co_await replication.keepers().tell_kept(replication.limited(kAskLimit));
    if (replication.stopping().requested()) co_return;
  }
}

Task<void> Takeover::look_at_records() {
  std::shared_ptr<const SlotMap> map = replication_.parts().view.map();
  uint64_t version = map == nullptr ? 0 : map->version;
  bool all = version != looked_version_;
  if (all) next_.clear();
  bool end = false;
  do {
    std::vector<LedgerRecord> records = replication_.ledger().all_after(next_, kRecordsAtOnce);
    end = records.size() < kRecordsAtOnce;
    next_ = end ? "" : records.back().object;
    std::vector<Task<Status>> tasks;
    for (LedgerRecord& record : records) {
      if (all) replication_.keepers().keep(record.object);
      tasks.push_back(as_status(look_at_record(std::move(record))));
    }
    Status looked = co_await run_all(replication_.executor(), std::move(tasks), kParallel);
    static_cast<void>(looked);
    if (replication_.stopping().requested()) co_return;
  } while (all && !end);
  if (all) looked_version_ = version;
  if (!end) co_return;
  std::erase_if(seen_, [&](const auto& entry) { return entry.second.round < round_; });
  ++round_;
}

// Others of the first owners get the record too. Who is none of them any more keeps it until the
// version ends, and tells then who else has it.
Task<void> Takeover::follow_slot(LedgerRecord& record, Seen& seen) {
  std::shared_ptr<const SlotMap> map = replication_.parts().view.map();
  SteadyTime now = replication_.executor().now();
  if (map == nullptr) co_return;
  std::vector<NodeId> nodes;
  for (const NodeId& node : replication_.candidates(slot_of_object(record.object))) {
    if (nodes.size() < record.replicas && replication_.usable(node)) nodes.push_back(node);
  }
  // Who only keeps it, and has not heard of an end, offers it again.
  bool keeps = std::ranges::find(nodes, replication_.self()) == nodes.end();
  // Its writer sees to it that they get it.
  bool given =
      record.map_version == map->version && std::ranges::all_of(nodes, [&](const NodeId& node) {
        return std::ranges::find(record.placed, node) != record.placed.end();
      });
  if (given && !keeps && nodes.size() >= record.replicas) seen.map_version = map->version;
  if (seen.map_version == map->version && !(keeps && now - seen.offered > kCheckPeriod)) co_return;
  bool all = true;
  Status noted = co_await replication_.ledger().add_placed(record.object, record.write, nodes);
  if (!noted) co_return;  // it has ended meanwhile, or the disk is full
  record.add_placed(nodes);
  auto whole = co_await replication_.ledger().with_content(record);
  if (!whole) co_return;
  record = std::move(*whole);
  wire::LedgerPutRequest request;
  to_wire(record, *request.mutable_record());
  for (const NodeId& node : nodes) {
    if (node == replication_.self()) continue;
    auto answer = co_await replication_.ask(node, Method::kLedgerPut, request.SerializeAsString(),
                                            replication_.limited(kAskLimit));
    if (!answer && answer.error().code() == Code::kNotFound) {
      if (replication_.is_ending(record.object, record.write.id)) co_return;
      auto standing = co_await replication_.ask_standing(
          record.object, record.write, record.sequence, replication_.limited(kAskLimit));
      if (standing && standing->ended) {
        replication_.remove_record(record, {*standing->ended, "", std::move(standing->commits)});
      }
      co_return;
    }
    all = all && answer.has_value();
  }
  if (!all || nodes.size() < record.replicas) co_return;  // again at the next look
  seen.map_version = map->version;
  seen.offered = now;
}

// A living writer that does not know the version any more has ended it, and could not tell us.
Task<void> Takeover::check_writer(const LedgerRecord& record, Seen& seen) {
  SteadyTime now = replication_.executor().now();
  if (now - seen.checked < kCheckPeriod) co_return;
  if (replication_.is_ending(record.object, record.write.id)) co_return;
  seen.checked = now;
  auto state =
      co_await replication_.ask_state(record.writer, {record.home, record.write, 0, record.object},
                                      replication_.limited(kAskLimit));
  if (!state || state->written()) co_return;
  // Asked again after the answer: the record may have been replaced meanwhile.
  for (const LedgerRecord& now_known : replication_.ledger().find(record.object)) {
    if (now_known.write != record.write || now_known.is_later_than(record)) continue;
    auto etag =
        co_await replication_.resolve(record.object, record.write, replication_.limited(kAskLimit));
    if (!etag && etag.error().code() != Code::kNotFound && etag.error().code() != Code::kConflict) {
      co_return;  // the origin must be asked first
    }
    EndReason reason = etag ? EndReason::kCommitted : EndReason::kReplaced;
    replication_.remove_record(now_known, {reason, etag ? *etag : "", {}});
    co_return;
  }
}

Task<void> Takeover::look_at_record(LedgerRecord record) {
  Hash128 key = key_of(record);
  Seen& seen = seen_[key];
  seen.round = round_;
  co_await follow_slot(record, seen);
  if (!is_mine(record) || adopting_.contains(key)) co_return;
  bool here = replication_.writer().is_written(record.write);
  if (here && !replication_.writer().is_written_as(record.write, record.object)) {
    if (!replication_.is_ending(record.object, record.write.id)) {
      replication_.remove_record(record, {EndReason::kGone, "", {}});  // renamed
    }
    co_return;
  }
  if (here) co_return;
  if (!replication_.is_lost(record.writer)) {
    co_await check_writer(record, seen);
    co_return;
  }
  if (replication_.executor().now() < seen.not_before) co_return;
  if (adopting_.size() >= kAdoptionsMax) {
    crowded_ = true;
    co_return;
  }
  adopting_.insert(key);
  if (!replication_.gate().spawn(adopt(this, std::move(record)))) adopting_.erase(key);
}

Task<void> Takeover::look_at_replica(std::string object, WriteName write) {
  SteadyTime now = replication_.executor().now();
  Seen& seen = seen_replicas_[replica_key(object, write)];
  if (seen.since == SteadyTime{}) seen.since = seen.checked = now;
  if (now - seen.since < kReplicaYoung || now - seen.checked < kCheckPeriod) co_return;
  seen.checked = now;
  // A renamed version has its record elsewhere; its holders are asked by name of the write.
  std::string at = replication_.replicas().as_object(object, write);
  auto standing =
      co_await replication_.ask_standing(at, write, kAllSequences, replication_.limited(kAskLimit));
  if (!standing || standing->earlier) co_return;
  // A member that is down may have a record of it.
  if (!standing->ended && replication_.is_any_lost()) co_return;
  auto etag = co_await replication_.resolve(at, write, replication_.limited(kAskLimit));
  if (!etag && etag.error().code() != Code::kNotFound && etag.error().code() != Code::kConflict) {
    co_return;
  }
  Status ended = co_await replication_.replicas().end(object, write, at, etag ? *etag : "", 0, {});
  if (!ended) {
    replication_.parts().log.warning("dropping a replica of {}: {}", object,
                                     ended.error().to_string());
  }
}

// --- in place of the writer ---

Task<void> Takeover::adopt(Takeover* self, LedgerRecord record) {
  Replication& replication = self->replication_;
  Hash128 key = key_of(record);
  if (!co_await self->still_wanted(record)) {
    self->adopting_.erase(key);
    self->adopted_.notify_all();
    co_return;
  }
  replication.parts().log.info("{}: its writer is gone, uploading it from its replicas ({})",
                               record.object, format_size(record.size));
  SteadyTime began = replication.executor().now();
  Status status = co_await self->upload(record);
  if (!status && status.error().code() == Code::kBusy) {
    SteadyTime now = replication.executor().now();
    auto seen = self->seen_.find(key);
    if (seen != self->seen_.end()) seen->second.not_before = now + pause_after_look(now - began);
    replication.parts().log.debug("{}: {}", record.object, status.error().to_string());
  } else if (!status && status.error().code() != Code::kCancelled) {
    replication.note_error(record.object + ": " + status.error().to_string());
    replication.parts().log.warning("uploading {} for its lost writer: {}; trying again",
                                    record.object, status.error().to_string());
  }
  self->adopting_.erase(key);
  self->adopted_.notify_all();
}

Task<Result<Takeover::Holders>> Takeover::find_holders(LedgerRecord& record) {
  uint64_t chunk_bytes = replication_.options().chunk_bytes;
  Holders holders((record.size + chunk_bytes - 1) / chunk_bytes);
  Holders others(holders.size());
  bool all_answer = true;
  for (const NodeId& node : record.holders) {
    auto state = co_await replication_.ask_state(node, {record.home, record.write, record.size, {}},
                                                 replication_.limited(kCopyLimit));
    if (!state) {
      all_answer = all_answer && !replication_.is_member(node);
      continue;
    }
    for (uint64_t c : good_chunks(*state, record, chunk_bytes, true)) holders[c].push_back(node);
    if (record.sealed) continue;
    for (uint64_t c : good_chunks(*state, record, chunk_bytes, false)) others[c].push_back(node);
  }
  // An unsealed version may have been written on after its last record: what is there then is as
  // good as what was acknowledged, as on any disk. But as long as somebody does not answer who may
  // have what was acknowledged, it may as well be what was there before that.
  for (uint64_t c = 0; c < holders.size() && all_answer; ++c) {
    if (holders[c].empty()) holders[c] = std::move(others[c]);
  }
  for (uint64_t c = 0; c < holders.size(); ++c) {
    if (holders[c].empty()) {
      co_return fail(Code::kUnavailable,
                     fmt::format("no node that can be reached holds chunk {}", c));
    }
  }
  co_return holders;
}

Task<bool> Takeover::may_hold(const LedgerRecord& record, NodeId node) {
  if (record.sealed || std::ranges::find(record.holders, node) != record.holders.end()) {
    co_return true;
  }
  auto state = co_await replication_.ask_state(node, {record.home, record.write, record.size, {}},
                                               replication_.limited(kAskLimit));
  uint64_t chunk_bytes = replication_.options().chunk_bytes;
  co_return state&& good_chunks(*state, record, chunk_bytes, true) ==
      good_chunks(*state, record, chunk_bytes, false);
}

// Copies chunks that are on too few nodes to others, so that the next loss costs nothing either.
Task<Status> Takeover::repair(LedgerRecord& record, Holders& holders) {
  std::set<NodeId> changed;
  std::map<NodeId, bool> may;  // those that were asked
  for (uint64_t c = 0; c < holders.size(); ++c) {
    if (holders[c].size() >= record.replicas) continue;
    for (const NodeId& node : replication_.candidates(slot_of_chunk(record.home, c))) {
      if (holders[c].size() >= record.replicas) break;
      if (!replication_.usable(node) || std::ranges::find(holders[c], node) != holders[c].end()) {
        continue;
      }
      if (!may.contains(node)) may[node] = co_await may_hold(record, node);
      if (!may[node]) continue;
      wire::ReplicateRequest request;
      request.set_object(record.home);
      to_wire(record.write, *request.mutable_write());
      request.mutable_source()->set_high(holders[c][0].high);
      request.mutable_source()->set_low(holders[c][0].low);
      request.set_size(record.size);
      request.add_chunks(c);
      request.set_sync(true);
      request.set_as_object(record.object);
      // What others have of a version that went on may be newer, and a later record's.
      request.set_absent_only(!record.sealed);
      auto answer = co_await replication_.ask(node, Method::kReplicate, request.SerializeAsString(),
                                              replication_.limited(kCopyLimit));
      if (!answer) continue;
      replication_.metrics().repaired_bytes.add(replication_.options().chunk_bytes);
      holders[c].push_back(node);
      changed.insert(node);
    }
  }
  if (changed.empty()) co_return Status();
  changed.insert(record.holders.begin(), record.holders.end());
  record.holders.assign(changed.begin(), changed.end());
  ++record.repairs;
  co_return co_await replication_.put_record(record, replication_.limited(kAskLimit));
}

Task<Result<ObjectInfo>> Takeover::commit(const LedgerRecord& record, const Holders& holders,
                                          const std::string& as_object) {
  Origin& origin = replication_.parts().origin;
  PutOptions options{condition_of(record), record.metadata};
  if (as_object != record.object) options.condition = Condition::absent();
  options.metadata["shoalwriteid"] = CommitName::of(record).text();
  options.metadata.erase("shoalancestors");
  options.metadata[kWriterName] = record.writer.to_hex();
  // What was written on after its record has other bytes.
  if (!record.sealed) options.metadata.erase(kCrcsName);
  std::string gate;
  if (auto found = options.metadata.extract(kGateName)) gate = std::move(found.mapped());
  Context context = replication_.limited(kOriginLimit);
  if (gate.empty() && is_marker(leaf_of(record.object))) {
    SHOAL_CO_RETURN_IF_ERROR(co_await check_earlier(replication_, record.object, record.changed,
                                                    record.writer, context));
  }
  if (record.has_content || record.size <= kWholePutMax) {
    Buffer bytes(std::max<uint64_t>(record.size, 1));
    ByteSpan content = bytes.part(0, record.size);
    if (record.has_content) {
      SHOAL_CO_ASSIGN_OR_RETURN(LedgerRecord whole,
                                co_await replication_.ledger().with_content(record));
      if (record.size > 0) std::memcpy(content.data(), whole.content->data(), record.size);
    } else if (record.size > 0) {
      // What cannot be read now is looked at anew: its record may have been replaced meanwhile.
      SHOAL_CO_RETURN_IF_ERROR(co_await replication_.read(record.object, record.write, 0, content,
                                                          {}, replication_.limited(kCopyLimit)));
    }
    if (record.sealed && crc32c(content) != record.crc) {
      co_return fail(Code::kCorrupt, "its replicas do not match its checksum");
    }
    if (!gate.empty()) {
      SHOAL_CO_RETURN_IF_ERROR(co_await pass_gate(replication_, record.object, gate,
                                                  std::string(as_text(content)), context));
    }
    co_return co_await origin.put(as_object, content, std::move(options), context);
  }
  if (!gate.empty()) {
    std::string content(gate == kGateSelf ? record.size : 0, '\0');
    ByteSpan into(reinterpret_cast<std::byte*>(content.data()), content.size());
    SHOAL_CO_RETURN_IF_ERROR(co_await replication_.read(record.object, record.write, 0, into, {},
                                                        replication_.limited(kCopyLimit)));
    SHOAL_CO_RETURN_IF_ERROR(
        co_await pass_gate(replication_, record.object, gate, std::move(content), context));
  }
  SpreadUpload upload;
  upload.object = as_object;
  upload.home = record.home;
  upload.write = record.write;
  upload.size = record.size;
  upload.block_bytes = block_bytes_of(origin, record.size, replication_.options().chunk_bytes);
  uint64_t chunks = upload.block_bytes / replication_.options().chunk_bytes;
  for (uint64_t c = 0; c < holders.size(); c += chunks) upload.holders.push_back(holders[c]);
  auto commit_blocks = [&](std::vector<BlockInfo> blocks) {
    return origin.commit_blocks(as_object, std::move(blocks), options, context);
  };
  co_return co_await spread_upload(replication_, std::move(upload), commit_blocks, context);
}

Task<Result<Takeover::Outcome>> Takeover::settle_conflict(LedgerRecord& record, std::string* etag) {
  auto there =
      co_await replication_.parts().origin.head(record.object, replication_.limited(kAskLimit));
  if (!there) {
    if (there.error().code() != Code::kNotFound) co_return fail(std::move(there).error());
    record.base_etag.clear();
    record.must_be_absent = true;
    co_return Outcome::kRetry;
  }
  auto id = there->metadata.find("shoalwriteid");
  auto theirs = id == there->metadata.end() ? std::nullopt : CommitName::parse(id->second);
  if (theirs && theirs->covers(record)) {
    *etag = theirs->write == record.write && !theirs->synced ? there->etag : "";
    co_return Outcome::kDone;
  }
  bool before = theirs && (theirs->write.id == record.write.id ||
                           record.ancestors.find(theirs->write.id.to_hex()) != std::string::npos);
  // What this one was made on top of may have been un-uploaded itself at the time.
  before = before || (theirs && theirs->write.etag() == record.base_etag);
  if (before) {
    record.base_etag = there->etag;
    record.must_be_absent = false;
    co_return Outcome::kRetry;
  }
  co_return Outcome::kAside;
}

// Before anything is uploaded in its place. The map may be wrong about the writer: one that answers
// is not lost. And the version may have been renamed, removed or replaced while this node could not
// be told.
Task<bool> Takeover::still_wanted(LedgerRecord& record) {
  auto alive = co_await replication_.ask_state(record.writer, {record.home, record.write, 0, {}},
                                               replication_.limited(kAskLimit));
  if (alive) co_return false;
  auto standing = co_await replication_.ask_standing(record.object, record.write, record.sequence,
                                                     replication_.limited(kAskLimit));
  if (!standing) {
    replication_.parts().log.debug("{}", standing.error().to_string());
    co_return false;  // asked again at the next look
  }
  record.add_placed(standing->placed);
  if (!standing->ended) co_return true;
  Status ended = co_await end_as_told(record, std::move(*standing), {});
  static_cast<void>(ended);  // the record is there still: again at the next look
  co_return false;
}

// `mine`: the ETag of what this node itself has put into the origin; or empty.
Task<Status> Takeover::end_as_told(LedgerRecord record, Replication::Standing standing,
                                   std::string mine) {
  EndReason reason = *standing.ended;
  // Somebody may have uploaded it meanwhile.
  if (reason == EndReason::kGone) {
    SHOAL_CO_RETURN_IF_ERROR(co_await replication_.take_back(record.object, record.write,
                                                             replication_.limited(kAskLimit)));
  }
  Commits::Commit ours{mine, record.write.generation, record.sequence};
  bool late = false;
  for (const Commits::Commit& first : {standing.commits.by_writer, standing.commits.in_place}) {
    late = late || (!first.etag.empty() && first.covers(ours) && first.etag != mine);
  }
  if (late && !mine.empty()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await replication_.take_back_stray(
        record.object, std::move(mine), replication_.limited(kAskLimit)));
  } else if (!mine.empty()) {
    standing.commits.add({{}, std::move(ours)});
  }
  co_return co_await replication_.end_record(std::move(record),
                                             {reason, "", std::move(standing.commits)},
                                             replication_.limited(kAskLimit));
}

// Its writer may live, and have ended it while it was on its way. `mine`: whether the object of the
// ETag was put there by this node, when there was none of this version.
Task<void> Takeover::end_uploaded(LedgerRecord record, EndReason reason, std::string etag,
                                  bool mine) {
  Context context{kNever, &replication_.stopping()};
  while (true) {
    auto standing = co_await replication_.ask_standing(record.object, record.write, record.sequence,
                                                       replication_.limited(kAskLimit));
    if (standing && !standing->ended) break;
    if (standing && co_await end_as_told(record, std::move(*standing), mine ? etag : "")) co_return;
    Status slept = co_await sleep_for(replication_.executor(), kAgain, context);
    if (!slept) co_return;  // the record is on its owners' disks still
  }
  End end{reason, etag, {}};
  Commits::Commit& commit = mine ? end.commits.in_place : end.commits.by_writer;
  commit = {std::move(etag), record.write.generation, record.sequence};
  // Its writer may have made later records of the same bytes: their replicas end now.
  if (record.sealed) record.sequence = kAllSequences;
  replication_.remove_record(std::move(record), std::move(end));
}

Task<Status> Takeover::upload(LedgerRecord& record) {
  if (!record.sealed && record.sequence == 0) {  // nothing of it was ever acknowledged
    replication_.remove_record(record, {});
    co_return Status();
  }
  Holders holders;
  if (!record.has_content) {
    SHOAL_CO_ASSIGN_OR_RETURN(holders, co_await find_holders(record));
    SHOAL_CO_RETURN_IF_ERROR(co_await repair(record, holders));
  }
  if (is_unuploaded(record.base_etag)) {
    auto base = WriteName::parse(record.base_etag);
    if (base) {
      SHOAL_CO_ASSIGN_OR_RETURN(
          Replication::Standing standing,
          co_await replication_.ask_standing(record.object, *base, kAllSequences,
                                             replication_.limited(kAskLimit)));
      if (standing.recorded) {
        co_return fail(Code::kBusy, "the version that it replaces is not in the origin yet");
      }
    }
    auto etag =
        base ? co_await replication_.resolve(record.object, *base, replication_.limited(kAskLimit))
             : Result<std::string>(fail(Code::kConflict, "a base that cannot be"));
    // Without it the conflict is settled below.
    if (etag) record.base_etag = std::move(*etag);
  }
  std::string as_object = record.object;
  std::string etag;
  bool mine = false;
  for (int round = 0; round < 4; ++round) {
    auto info = co_await commit(record, holders, as_object);
    if (info) {
      etag = info->etag;
      mine = !record.base_etag.empty() || record.must_be_absent;
      break;
    }
    bool conflict =
        info.error().code() == Code::kConflict || info.error().code() == Code::kAlreadyExists;
    if (!conflict || as_object != record.object || round == 3) {
      co_return fail(std::move(info).error());
    }
    SHOAL_CO_ASSIGN_OR_RETURN(Outcome outcome, co_await settle_conflict(record, &etag));
    if (outcome == Outcome::kDone) break;
    if (outcome == Outcome::kAside) {
      auto now = std::chrono::floor<std::chrono::seconds>(replication_.executor().wall_now());
      as_object = fmt::format("{}.conflict-{:%Y%m%dT%H%M%S}-{}", record.object, now,
                              record.write.id.to_hex().substr(0, 6));
      replication_.parts().log.error(
          "{} was changed in the origin by somebody else; what its lost writer wrote is kept as {}",
          record.object, as_object);
    }
  }
  replication_.metrics().takeovers.add();
  replication_.parts().log.info("{} is in the origin", as_object);
  EndReason reason = EndReason::kCommitted;
  if (as_object != record.object) {
    reason = EndReason::kReplaced;
    etag.clear();  // the chunks are not that object's
    mine = false;
  }
  co_await end_uploaded(record, reason, std::move(etag), mine);
  co_return Status();
}

}  // namespace shoal
