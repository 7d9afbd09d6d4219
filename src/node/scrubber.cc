#include "node/scrubber.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "async/gate.h"
#include "base/checksum.h"
#include "base/object_name.h"
#include "replication/recorded_crcs.h"

namespace shoal {

namespace {

constexpr size_t kBatch = 1000;
constexpr size_t kObjectsParallel = 8;
constexpr size_t kBlocksParallel = 8;
constexpr uint64_t kReadBytes = kChunkBytesDefault;

}  // namespace

struct Scrubber::Run {
  Run(Executor& executor, const ScrubOptions& wanted)
      : options(wanted), rate(executor, wanted.bytes_per_second) {}

  ScrubOptions options;
  std::function<void(const ScrubProgress&)> progress;
  Context context;
  RateLimit rate;
  ScrubProgress now;
  std::set<std::string> by_manifest;  // compared with the checksum that a manifest has
  bool any = false;

  void tell() const {
    if (progress) progress(now);
  }
  void find(std::string line) {
    if (now.findings.size() < kFindingsMax) now.findings.push_back(std::move(line));
  }
};

Task<Result<uint32_t>> Scrubber::crc_of(Run& run, const ObjectInfo& object, uint64_t begin,
                                        uint64_t length) {
  uint32_t crc = 0;
  for (uint64_t at = begin; at < begin + length; at += kReadBytes) {
    uint64_t part = std::min(kReadBytes, begin + length - at);
    SHOAL_CO_RETURN_IF_ERROR(co_await run.rate.take(part, run.context));
    SHOAL_CO_ASSIGN_OR_RETURN(Permit memory,
                              co_await core_.fetch_memory.acquire(part, run.context));
    BufferPool::Lease buffer = core_.buffers.take(part);
    SHOAL_CO_RETURN_IF_ERROR(
        co_await core_.origin.read(object.name, object.etag, at, buffer.span(), {}, run.context));
    crc = crc32c(buffer.span(), crc);
    run.now.bytes_done += part;
    run.tell();
  }
  co_return crc;
}

Task<Status> Scrubber::check_block(Run& run, const ObjectInfo& object, uint64_t begin,
                                   uint64_t length, uint32_t expected, uint64_t* first_bad) {
  SHOAL_CO_ASSIGN_OR_RETURN(uint32_t crc, co_await crc_of(run, object, begin, length));
  if (crc != expected) *first_bad = std::min(*first_bad, begin);
  co_return Status();
}

Task<Status> Scrubber::check_object(Run& run, ObjectInfo object) {
  auto recorded = recorded_crcs(object.metadata, object.size);
  if (!recorded) {
    bool known = run.by_manifest.contains(object.name);
    if (!known) ++run.now.unrecorded;
    if (!known && run.options.all) run.find(object.name + ": no checksum was recorded");
    ++run.now.files_done;
    run.now.bytes_done += known ? 0 : object.size;
    run.tell();
    co_return Status();
  }
  uint64_t first_bad = UINT64_MAX;
  std::vector<Task<Status>> tasks;
  for (size_t i = 0; i < recorded->crcs.size(); ++i) {
    uint64_t begin = i * recorded->block_bytes;
    tasks.push_back(check_block(run, object, begin,
                                std::min(recorded->block_bytes, object.size - begin),
                                recorded->crcs[i], &first_bad));
  }
  Status read = co_await run_all(core_.executor(), std::move(tasks), kBlocksParallel);
  if (!read && (read.error().code() == Code::kStale || read.error().code() == Code::kNotFound)) {
    run.find(object.name + ": it was changed or removed meanwhile; look at it again");
    read = Status();
  } else if (read && first_bad != UINT64_MAX) {
    ++run.now.mismatched;
    run.find(fmt::format("{}: mismatch at byte {} (in the {} from there)", object.name, first_bad,
                         format_size(std::min(recorded->block_bytes, object.size - first_bad))));
  } else if (read && run.options.all) {
    run.find(object.name + ": ok");
  }
  ++run.now.files_done;
  run.tell();
  co_return read;
}

// Files that the manifest names and the origin lacks, and those that only it has checksums of.
Task<Status> Scrubber::check_manifest(Run& run, std::string directory, ObjectInfo info) {
  if (info.size > kManifestBytesMax) co_return fail(Code::kTooLarge, info.name);
  std::string text(info.size, '\0');
  ByteSpan into(reinterpret_cast<std::byte*>(text.data()), text.size());
  SHOAL_CO_RETURN_IF_ERROR(
      co_await core_.origin.read(info.name, info.etag, 0, into, {}, run.context));
  auto manifest = parse_manifest(text);
  if (!manifest) {
    ++run.now.mismatched;
    run.find(info.name + ": " + manifest.error().message());
    co_return Status();
  }
  std::map<std::string, uint32_t> expected;
  for (const ManifestFile& file : manifest->files) expected[file.name] = file.crc;
  SHOAL_CO_ASSIGN_OR_RETURN(
      ManifestDifference difference,
      co_await compare(core_.origin, directory, std::move(*manifest), run.context));
  for (const ManifestFile& file : difference.missing) {
    ++run.now.missing;
    run.find(fmt::format("{}/{}: missing", directory, file.name));
  }
  std::set<std::string> changed;
  for (const ManifestFile& file : difference.changed) changed.insert(file.name);
  for (const ObjectInfo& object : difference.unrecorded) {
    std::string name = object.name.substr(directory.size() + 1);
    if (changed.contains(name)) continue;
    SHOAL_CO_ASSIGN_OR_RETURN(uint32_t crc, co_await crc_of(run, object, 0, object.size));
    if (crc != expected[name]) changed.insert(name);
    run.by_manifest.insert(object.name);
  }
  for (const std::string& name : changed) {
    ++run.now.mismatched;
    run.find(
        fmt::format("{}/{}: mismatch at byte 0 (it is not what was published)", directory, name));
  }
  co_return Status();
}

Task<Status> Scrubber::take(Run& run, std::vector<ObjectInfo> batch, bool look_only) {
  std::vector<Task<Status>> tasks;
  for (ObjectInfo& object : batch) {
    if (decode_attributes(object.metadata).kind == FileKind::kDirectory) continue;
    if (object.name == ".shoal" || object.name.starts_with(".shoal/")) continue;
    run.any = true;
    if (!look_only) {
      tasks.push_back(check_object(run, std::move(object)));
      continue;
    }
    ++run.now.files_total;
    run.now.bytes_total += object.size;
    if (leaf_of(object.name) != kManifestLeaf) continue;
    std::string directory(parent_of(object.name));
    tasks.push_back(check_manifest(run, std::move(directory), std::move(object)));
  }
  run.tell();
  co_return co_await run_all(core_.executor(), std::move(tasks), kObjectsParallel);
}

Task<Status> Scrubber::each_object(Run& run, std::string path, bool look_only) {
  if (!path.empty()) {
    auto info = co_await core_.origin.head(path, run.context);
    if (!info && info.error().code() != Code::kNotFound) co_return fail(std::move(info).error());
    if (info) {
      std::vector<ObjectInfo> one;
      one.push_back(std::move(*info));
      SHOAL_CO_RETURN_IF_ERROR(co_await take(run, std::move(one), look_only));
    }
  }
  ListOptions options;
  options.prefix = path.empty() ? "" : path + "/";
  options.recursive = true;
  options.entries_max = kBatch;
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.origin.list(options, run.context));
    SHOAL_CO_RETURN_IF_ERROR(co_await take(run, std::move(page.objects), look_only));
    if (page.next_marker.empty()) co_return Status();
    options.marker = page.next_marker;
  }
}

Task<Status> Scrubber::scrub(std::string path, ScrubOptions options,
                             std::function<void(const ScrubProgress&)> progress, Context context) {
  Run run(core_.executor(), options);
  run.progress = std::move(progress);
  run.context = context;
  SHOAL_CO_RETURN_IF_ERROR(co_await each_object(run, path, true));
  if (!run.any) {
    co_return fail(Code::kNotFound,
                   fmt::format("the origin has nothing at or below \"{}\"; what waits for its "
                               "upload cannot be compared yet (see shoal sync)",
                               path));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await each_object(run, path, false));
  run.tell();
  if (run.now.mismatched == 0 && run.now.missing == 0) co_return Status();
  co_return fail(Code::kCorrupt,
                 fmt::format("of {} files {} do not match and {} are missing; restore them from "
                             "another copy",
                             run.now.files_total, run.now.mismatched, run.now.missing));
}

}  // namespace shoal
