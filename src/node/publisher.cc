#include "node/publisher.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/object_name.h"
#include "node/cluster.h"
#include "replication/recorded_crcs.h"

namespace shoal {

namespace {

constexpr Duration kPauseMin = std::chrono::milliseconds(100);
constexpr Duration kPauseMax = std::chrono::seconds(30);  // where a million files wait
// A file that was closed a moment ago may not have been released by the kernel yet.
constexpr Duration kOpenPatience = std::chrono::seconds(2);
constexpr const char* kReplicatedSuffix = ".replicated";

std::string node_name(const NodeCore& core, const NodeId& node) {
  if (core.cluster != nullptr) {
    std::shared_ptr<const SlotMap> map = core.cluster->membership().map();
    if (const Member* member = map->find(node)) return member->name;
  }
  return core.options.name;
}

std::string last_error_of(const Waiting& found) {
  for (const WaitingItem& item : found.behind.named) {
    if (!item.last_error.empty()) return item.object + ": " + item.last_error;
  }
  return found.silent;
}

std::string_view goal_of(AckLevel level) {
  return level == AckLevel::kReplicated ? "on enough nodes" : "in the origin";
}

std::string describe(const NodeCore& core, const Waiting& found, AckLevel level) {
  const Behind& left = found.behind;
  if (left.files == 0) return found.silent;
  std::string text = fmt::format("{} files ({}) are not {} yet:", left.files,
                                 format_size(left.bytes), goal_of(level));
  for (const WaitingItem& item : left.named) {
    text += fmt::format("{} {} ({}{})", &item == &left.named.front() ? "" : ",", item.object,
                        node_name(core, item.writer),
                        item.last_error.empty() ? "" : ": " + item.last_error);
  }
  if (!found.silent.empty()) text += "; " + found.silent;
  return text;
}

}  // namespace

std::string Publisher::Run::manifest_path() const {
  return directory + "/" + std::string(kManifestLeaf);
}

std::string Publisher::Run::pointer_path() const {
  return join_path(std::string(parent_of(directory)), options.pointer);
}

Status Publisher::check(const Run& run) const {
  if (core_.options.read_only) return fail(Code::kReadOnly, "mounted read-only");
  if (run.directory.empty()) {
    return fail(Code::kInvalidArgument,
                "the root cannot be published: the pointer goes beside the directory; name a "
                "directory below it");
  }
  const std::string& pointer = run.options.pointer;
  if (!is_valid_component(pointer) || pointer == leaf_of(run.directory) ||
      pointer.size() + 11 > kNameBytesMax) {
    return fail(Code::kInvalidArgument,
                fmt::format("\"{}\" cannot be the pointer of {}; use a file name like latest",
                            pointer, run.directory));
  }
  if (run.options.level == AckLevel::kReplicated && core_.cluster == nullptr) {
    return fail(Code::kInvalidArgument,
                "a node by itself has nobody to replicate to; use --level "
                "durable, or a cluster");
  }
  return validate_object_name(run.manifest_path());
}

Task<Result<Waiting>> Publisher::waiting(std::string path, Push push, Context context) {
  if (core_.replication != nullptr) {
    co_return co_await waiting_below(*core_.replication, std::move(path), push, context);
  }
  WaitingQuestion question;
  question.path = std::move(path);
  question.push = push;
  co_return co_await waiting_here(std::move(question), context);
}

Task<Result<Waiting>> Publisher::behind(std::string path, AckLevel level, Context context) {
  bool replicated = level == AckLevel::kReplicated;
  Behind::Goal goal = replicated ? Behind::Goal::kReplicated : Behind::Goal::kDurable;
  Push push = replicated ? Push::kReplicate : Push::kUpload;
  if (core_.replication != nullptr) {
    co_return co_await behind_below(*core_.replication, std::move(path), goal, push, context);
  }
  WaitingQuestion question;
  question.path = std::move(path);
  question.push = push;
  question.behind = goal;
  co_return co_await waiting_here(std::move(question), context);
}

// On a node by itself.
Task<Result<Waiting>> Publisher::waiting_here(WaitingQuestion question, Context context) {
  Waiting found;
  while (true) {
    SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
    WaitingPage page = files_.write_back().waiting(question);
    for (WaitingItem& item : page.items) {
      std::string object = item.object;
      found.items.insert_or_assign(std::move(object), std::move(item));
    }
    found.behind.add(std::move(page.behind));
    if (!page.more) co_return found;
    question.after = std::move(page.reached);
    co_await Yield(core_.executor());
  }
}

Task<Status> Publisher::await_level(Run& run, AckLevel level, Context context) {
  SteadyTime open_since = kNever;
  Duration pause = kPauseMin;
  std::string left_text = "nobody was asked yet";
  run.now.stage = level == AckLevel::kReplicated ? "replicating" : "uploading";
  while (true) {
    SteadyTime began = core_.now();
    auto found = co_await behind(run.directory, level, context);
    Status go_on = context.check(core_.executor());
    if (found) {
      const Behind& left = found->behind;
      run.now.bytes_total = std::max(run.now.bytes_total, left.bytes);
      run.now.files_total = std::max(run.now.files_total, left.files);
      run.now.bytes_done = run.now.bytes_total - left.bytes;
      run.now.files_done = run.now.files_total - left.files;
      run.now.last_error = last_error_of(*found);
      if (run.progress) run.progress(run.now);
      if (left.files == 0 && found->silent.empty()) co_return Status();
      left_text = describe(core_, *found, level);
      if (left.open == 0) open_since = kNever;
      if (left.open > 0 && open_since == kNever) open_since = core_.now();
      if (left.open > 0 && core_.now() - open_since >= kOpenPatience) {
        const WaitingItem& open = left.named.front();
        co_return fail(
            Code::kBusy,
            fmt::format("{} is still open for writing on {}{}; close it and publish "
                        "again",
                        open.object, node_name(core_, open.writer),
                        left.open > 1 ? fmt::format(" (and {} others)", left.open - 1) : ""));
      }
    }
    if (go_on) {
      pause = std::clamp(5 * (core_.now() - began), kPauseMin, kPauseMax);
      go_on = co_await sleep_for(core_.executor(), pause, context);
    }
    if (go_on) continue;
    if (go_on.error().code() != Code::kDeadlineExceeded) co_return go_on;
    co_return fail(Code::kDeadlineExceeded, "not within the time limit: " + left_text);
  }
}

// --- the manifest ---

Task<Result<uint32_t>> Publisher::crc_by_reading(ObjectInfo object, Context context) {
  uint32_t crc = 0;
  for (uint64_t at = 0; at < object.size; at += kChunkBytesDefault) {
    uint64_t length = std::min(kChunkBytesDefault, object.size - at);
    SHOAL_CO_ASSIGN_OR_RETURN(Permit memory, co_await core_.fetch_memory.acquire(length, context));
    BufferPool::Lease buffer = core_.buffers.take(length);
    SHOAL_CO_RETURN_IF_ERROR(
        co_await core_.origin.read(object.name, object.etag, at, buffer.span(), {}, context));
    crc = crc32c(buffer.span(), crc);
  }
  co_return crc;
}

// Those that are in `files` already are newer.
Task<Status> Publisher::add_from_origin(std::string directory,
                                        std::map<std::string, ManifestFile>& files,
                                        Context context) {
  ListOptions options;
  options.prefix = directory + "/";
  options.recursive = true;
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.origin.list(options, context));
    for (ObjectInfo& object : page.objects) {
      if (object.name.size() <= options.prefix.size()) continue;
      std::string name = object.name.substr(options.prefix.size());
      FileAttributes attributes = decode_attributes(object.metadata);
      bool of_checkpoint = attributes.kind != FileKind::kDirectory &&
                           !is_of_publication(leaf_of(name)) && is_representable(object.name);
      if (!of_checkpoint || files.contains(name)) continue;
      ManifestFile file{name, object.size, 0,
                        attributes.write_id.empty() ? object.etag : attributes.write_id};
      if (auto crcs = recorded_crcs(object.metadata, object.size)) {
        file.crc = crcs->whole(object.size);
      } else {  // somebody else's
        SHOAL_CO_ASSIGN_OR_RETURN(file.crc, co_await crc_by_reading(object, context));
      }
      files.emplace(std::move(name), std::move(file));
    }
    if (page.next_marker.empty()) co_return Status();
    options.marker = page.next_marker;
  }
}

Task<Result<Manifest>> Publisher::collect(const Run& run, AckLevel level, Context context) {
  std::map<std::string, ManifestFile> files;
  std::string prefix = run.directory + "/";
  if (level == AckLevel::kReplicated) {
    SHOAL_CO_ASSIGN_OR_RETURN(Waiting found,
                              co_await waiting(run.directory, Push::kNothing, context));
    for (const auto& [object, item] : found.items) {
      if (!object.starts_with(prefix) || is_of_publication(leaf_of(object))) continue;
      // Closed after the wait had ended: of the next publication.
      if (item.state != WaitingItem::State::kReplicated) continue;
      std::string name = object.substr(prefix.size());
      files.emplace(name, ManifestFile{name, item.size, item.crc, item.write.text()});
    }
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await add_from_origin(run.directory, files, context));
  if (files.empty()) {
    co_return fail(Code::kNotFound,
                   fmt::format("{} holds no files; there is nothing to publish", run.directory));
  }
  Manifest manifest;
  manifest.directory = run.directory;
  manifest.published = core_.world.executor.wall_now();
  for (auto& [name, file] : files) manifest.files.push_back(std::move(file));
  co_return std::move(manifest);
}

Task<Result<WriteBack::Version>> Publisher::put_manifest(const Run& run, AckLevel level,
                                                         std::string gate, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Manifest manifest, co_await collect(run, level, context));
  std::string text = encode_manifest(manifest);
  if (text.size() > kManifestBytesMax) {
    co_return fail(Code::kTooLarge,
                   fmt::format("{} holds too many files for one manifest", run.directory));
  }
  co_return co_await files_.put_file(run.manifest_path(), std::move(text), std::move(gate),
                                     context);
}

Task<Result<WriteBack::Version>> Publisher::put_pointer(const Run& run, std::string path,
                                                        Context context) {
  co_return co_await files_.put_file(std::move(path), std::string(leaf_of(run.directory)) + "\n",
                                     percent_encode(run.manifest_path(), true), context);
}

// Waits until the origin has it.
Task<Status> Publisher::commit(WriteBack::Version version, std::string path, Context context) {
  if (!version->committed && !version->dropped) files_.write_back().enqueue(version, true);
  SHOAL_CO_RETURN_IF_ERROR(co_await files_.write_back().wait_committed(version, context));
  if (version->record.object != path) {
    co_return fail(Code::kConflict, fmt::format("somebody else wrote {} at the same time; this one "
                                                "is kept as {}",
                                                path, version->record.object));
  }
  co_return Status();
}

// --- the whole ---

// Nodes see it; the origin gets to see it when it has everything.
Task<Status> Publisher::publish_early(Run& run, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await await_level(run, AckLevel::kReplicated, context));
  SHOAL_CO_ASSIGN_OR_RETURN(
      WriteBack::Version manifest,
      co_await put_manifest(run, AckLevel::kReplicated, std::string(kGateSelf), context));
  SHOAL_CO_RETURN_IF_ERROR(co_await files_.replicate_now(manifest, context));
  SHOAL_CO_ASSIGN_OR_RETURN(
      WriteBack::Version pointer,
      co_await put_pointer(run, run.pointer_path() + kReplicatedSuffix, context));
  co_return co_await files_.replicate_now(pointer, context);
}

Task<Status> Publisher::publish_durable(Run& run, bool has_manifest, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await await_level(run, AckLevel::kDurable, context));
  WriteBack::Version manifest = files_.write_back().find(run.manifest_path());
  if (!has_manifest) {
    SHOAL_CO_ASSIGN_OR_RETURN(manifest,
                              co_await put_manifest(run, AckLevel::kDurable, "", context));
  }
  if (manifest != nullptr) {
    SHOAL_CO_RETURN_IF_ERROR(co_await commit(manifest, run.manifest_path(), context));
  }
  std::string early_path = run.pointer_path() + kReplicatedSuffix;
  if (auto early = files_.write_back().find(early_path); has_manifest && early != nullptr) {
    SHOAL_CO_RETURN_IF_ERROR(co_await commit(early, early_path, context));
  }
  std::string path = run.pointer_path();
  if (moved_[path] < run.turn) {  // else a later publication was faster
    SHOAL_CO_ASSIGN_OR_RETURN(WriteBack::Version pointer, co_await put_pointer(run, path, context));
    moved_[path] = run.turn;
    SHOAL_CO_RETURN_IF_ERROR(co_await commit(pointer, path, context));
  }
  co_return co_await retain(run, context);
}

Task<void> Publisher::finish_later(Publisher* self, Run run) {
  Context context{kNever, &self->core_.stopping};
  Status status = co_await self->publish_durable(run, true, context);
  if (status) {
    self->core_.log.info("{} is durable, and {} names it", run.directory, run.pointer_path());
  } else if (status.error().code() != Code::kCancelled) {
    self->core_.log.error(
        "{} is published on the nodes, but {} does not name it yet: {}; publish "
        "it again",
        run.directory, run.pointer_path(), status.error().to_string());
  }
}

Task<Status> Publisher::publish(std::string directory, PublishOptions options,
                                std::function<void(const PublishProgress&)> progress,
                                Context context) {
  Run run{std::move(directory), std::move(options), std::move(progress), ++next_turn_, {}};
  SHOAL_CO_RETURN_IF_ERROR(check(run));
  SHOAL_CO_RETURN_IF_ERROR(co_await files_.expect_directory(run.directory, context));
  SHOAL_CO_ASSIGN_OR_RETURN(AckLevel ack, co_await files_.ack_below(run.directory, context));
  bool early = run.options.level == AckLevel::kReplicated ||
               (core_.cluster != nullptr && ack == AckLevel::kReplicated);
  if (early) SHOAL_CO_RETURN_IF_ERROR(co_await publish_early(run, context));
  if (run.options.level == AckLevel::kReplicated) {
    run.progress = {};
    SHOAL_CO_RETURN_IF_ERROR(context.check(core_.executor()));
    core_.gate.spawn(finish_later(this, std::move(run)));
    co_return Status();
  }
  co_return co_await publish_durable(run, early, context);
}

}  // namespace shoal
