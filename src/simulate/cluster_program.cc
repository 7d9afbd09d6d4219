#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "simulate/cluster_ground.h"

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

// No call takes longer, unless the origin does.
constexpr Duration kCallMax = seconds(20);
constexpr Duration kCallMaxWithoutOrigin = minutes(3);
constexpr Duration kTimeSlot = seconds(2);  // in one, many programs read the same object

}  // namespace

Duration ClusterGround::age_max() const {
  // An answer is as old as the request to the origin that it came from. A slow origin makes it old
  // before it arrives.
  Duration slack = seconds(plan.any_blob_fault() ? 70 : plan.any_peer_fault() ? 5 : 1);
  return std::max(plan.cluster.attr_ttl, plan.cluster.negative_ttl) + slack;
}

bool ClusterGround::may_fail_so(const Error& error, bool changed) const {
  switch (error.code()) {
    case Code::kStale:
      return changed;
    case Code::kUnavailable:
    case Code::kThrottled:
    case Code::kDeadlineExceeded:
    case Code::kBusy:
      return plan.any_blob_fault();
    default:
      return false;
  }
}

struct Program::Opened {
  std::string object;
  OpenFile file;
  std::vector<const ObjectVersion*> versions;  // that it may be
};

Context Program::limit() const {
  return Context::within(daemon_.world().executor,
                         ground_.plan.any_blob_fault() ? kCallMaxWithoutOrigin : kCallMax);
}

bool Program::skips(const std::string& object) const {
  const ObjectHistory& history = ground_.history.objects().at(object);
  // What a half-written file shows on its own node is not our subject.
  return history.changing && history.writer == daemon_.name();
}

std::string Program::some_object() {
  const auto& objects = ground_.common;
  if (random_.chance(0.4)) {
    return objects[static_cast<uint64_t>(ground_.now().time_since_epoch() / kTimeSlot) %
                   objects.size()];
  }
  return objects[random_.below(objects.size())];
}

Task<bool> Program::open(std::string object, Opened* opened) {
  opened->object = object;
  SteadyTime begun = ground_.now();
  Context context = limit();
  CallWatch watch(ground_, daemon_, "opening " + object, context);
  auto file = co_await daemon_.kernel().open(object, O_RDONLY, context);
  opened->versions =
      ground_.history.candidates(object, daemon_.name(), begun, ground_.now(), ground_.age_max());
  if (file) {
    opened->file = std::move(*file);
    std::erase_if(opened->versions, [](const ObjectVersion* version) { return !version->exists; });
    if (opened->versions.empty() && !skips(object)) {
      ground_.failed(
          fmt::format("{}: {} opens {}, which does not exist", object, daemon_.name(), object));
    }
    co_return true;
  }
  bool may_be_absent =
      file.error().code() == Code::kNotFound &&
      (opened->versions.empty() ||
       std::ranges::any_of(opened->versions, [](const auto* version) { return !version->exists; }));
  if (!may_be_absent &&
      !ground_.may_fail_so(file.error(), !ground_.history.at(object).constant()) &&
      !skips(object)) {
    ground_.failed(
        fmt::format("{} on {}: open: {}", object, daemon_.name(), file.error().to_string()));
  }
  co_return false;
}

Task<bool> Program::read_at(Opened* opened, uint64_t offset, uint64_t length) {
  Buffer buffer(length);
  Context context = limit();
  CallWatch watch(ground_, daemon_, fmt::format("reading {} at {}", opened->object, offset),
                  context);
  auto count = co_await daemon_.kernel().read(opened->file.handle, offset, buffer.span(), context);
  ground_.findings.count("reads");
  if (!count) {
    if (!ground_.may_fail_so(count.error(), !ground_.history.at(opened->object).constant()) &&
        !skips(opened->object)) {
      ground_.failed(fmt::format("{} on {}: read at {}: {}", opened->object, daemon_.name(), offset,
                                 count.error().to_string()));
    }
    co_return false;
  }
  ground_.findings.count("bytes_read", *count);
  std::string_view got = as_text(buffer.span().first(*count));
  std::string first_wrong;
  auto differs = [&](const ObjectVersion* version) {
    if (version->shows(offset, length, got)) return false;
    std::string_view bytes = version->bytes;
    bytes = offset < bytes.size() ? bytes.substr(offset, length) : std::string_view();
    first_wrong = first_difference(std::string(bytes), std::string(got));
    return true;
  };
  std::erase_if(opened->versions, differs);
  if (opened->versions.empty() && !skips(opened->object)) {
    ground_.failed(
        fmt::format("{} on {}: {} bytes at {} are of no version that one open file may show: {}",
                    opened->object, daemon_.name(), *count, offset, first_wrong));
    co_return false;
  }
  co_return *count > 0;
}

Task<bool> Program::read_whole(std::string object, uint64_t step) {
  Opened opened;
  if (!co_await open(object, &opened)) co_return false;
  uint64_t offset = 0;
  while (!ground_.failing() && co_await read_at(&opened, offset, step)) offset += step;
  co_await daemon_.kernel().fs.release(opened.file.handle);
  bool whole = std::ranges::any_of(opened.versions, [offset](const ObjectVersion* version) {
    return version->doubt || version->bytes.size() <= offset;
  });
  if (whole) ground_.findings.count("whole_reads");
  co_return whole;
}

Task<void> Program::read_ranges(std::string object) {
  Opened opened;
  if (!co_await open(object, &opened)) co_return;
  uint64_t size = opened.versions.empty() ? 1 : opened.versions.back()->bytes.size() + 1;
  uint64_t ranges = 1 + random_.below(6);
  for (uint64_t i = 0; i < ranges && !ground_.failing(); ++i) {
    uint64_t length = 1 + random_.below(random_.chance(0.5) ? 5'000 : 300'000);
    // Past the end there is nothing, which is no reason to stop.
    bool more = co_await read_at(&opened, random_.below(size), length);
    static_cast<void>(more);
  }
  co_await daemon_.kernel().fs.release(opened.file.handle);
}

Task<void> Program::read_all(std::string prefix) {
  for (auto& [object, history] : ground_.history.objects()) {
    if (!object.starts_with(prefix) || ground_.failing()) continue;
    bool whole = co_await read_whole(object, 128 * kKiB + random_.below(kMiB));
    // A write that failed may never have come about.
    bool stands = ground_.account->service.find(kContainer, object).has_value();
    if (!whole && stands && history.now().exists && !ground_.failing()) {
      ground_.failed(
          fmt::format("{} on {}: not readable when all is well", object, daemon_.name()));
    }
  }
}

Task<void> Program::look_up_absent() {
  std::string name = fmt::format("objects/absent{}", random_.below(3));
  Context context = limit();
  CallWatch watch(ground_, daemon_, "looking up " + name, context);
  auto walk = co_await daemon_.kernel().walk(name, context);
  ground_.findings.count("absent_lookups");
  if (walk) co_return ground_.failed(name + " does not exist, but was found");
  if (walk.error().code() != Code::kNotFound && !ground_.may_fail_so(walk.error(), false)) {
    ground_.failed(fmt::format("{} on {}: {}", name, daemon_.name(), walk.error().to_string()));
  }
}

Task<void> Program::list() {
  Context context = limit();
  CallWatch watch(ground_, daemon_, "listing", context);
  SteadyTime begun = ground_.now();
  auto names = co_await daemon_.kernel().list("objects", random_.chance(0.5), context);
  ground_.findings.count("listings");
  if (!names) {
    if (!ground_.may_fail_so(names.error(), true)) {
      ground_.failed(fmt::format("listing on {}: {}", daemon_.name(), names.error().to_string()));
    }
    co_return;
  }
  for (const auto& [object, history] : ground_.history.objects()) {
    if (!object.starts_with("objects/") || skips(object)) continue;
    auto versions =
        ground_.history.candidates(object, daemon_.name(), begun, ground_.now(), ground_.age_max());
    bool listed = std::ranges::find(*names, object.substr(8)) != names->end();
    auto fits = [listed](const ObjectVersion* version) { return version->exists == listed; };
    // What another node staged may not be listed yet.
    if (std::ranges::any_of(versions, fits) || (!listed && !history.writer.empty())) continue;
    ground_.failed(
        fmt::format("{} is {} on {}", object, listed ? "listed" : "not listed", daemon_.name()));
  }
}

Task<void> Program::write() {
  std::vector<std::string> mine;
  for (const auto& [object, history] : ground_.history.objects()) {
    if (history.writer == daemon_.name() && !history.changing) mine.push_back(object);
  }
  if (mine.empty()) co_return;
  std::string object = mine[random_.below(mine.size())];
  ObjectHistory& history = ground_.history.at(object);
  history.changing = true;
  WriteId id = ground_.next_write++;
  ObjectVersion& version = ground_.history.begin_write(
      object, make_content(id, 1 + random_.below(ground_.plan.size_max)), ground_.now());
  Context context = limit();
  Status status;
  {
    CallWatch watch(ground_, daemon_, "writing " + object, context);
    auto file = co_await daemon_.kernel().open(object, O_WRONLY | O_CREAT | O_TRUNC, context);
    if (file) {
      uint64_t step = 64 * kKiB + random_.below(kMiB);
      ConstByteSpan bytes = as_bytes(version.bytes);
      for (uint64_t at = 0; at < bytes.size() && status; at += step) {
        auto wrote = co_await daemon_.kernel().write(
            file->handle, at, bytes.subspan(at, std::min(step, bytes.size() - at)), context);
        if (!wrote) status = fail(std::move(wrote).error());
      }
      if (status) status = co_await daemon_.kernel().fs.flush(file->handle, context);
      co_await daemon_.kernel().fs.release(file->handle);
    } else {
      status = fail(std::move(file).error());
    }
  }
  history.changing = false;
  ground_.findings.count("writes");
  if (status) {
    version.doubt = false;
    version.acknowledged_by = daemon_.name();
    version.acknowledged = ground_.now();
    co_return;
  }
  bool excused = ground_.may_fail_so(status.error(), true) ||
                 (status.error().code() == Code::kNoSpace &&
                  (ground_.plan.full_disks || ground_.plan.small_cache));
  if (!excused) {
    ground_.failed(
        fmt::format("{} on {}: write: {}", object, daemon_.name(), status.error().to_string()));
  }
}

Task<void> Program::warm() {
  std::string object = some_object();
  Context context = limit();
  CallWatch watch(ground_, daemon_, "warming " + object, context);
  Status status = co_await daemon_.node().warm(
      object, random_.chance(0.3), [](const WarmProgress&) {}, context);
  ground_.findings.count("warms");
  if (status || status.error().code() == Code::kNotFound) co_return;
  bool excused = ground_.may_fail_so(status.error(), true) || ground_.plan.any_peer_fault() ||
                 ground_.plan.full_disks || ground_.plan.small_cache;
  if (!excused) {
    ground_.failed(
        fmt::format("warming {} on {}: {}", object, daemon_.name(), status.error().to_string()));
  }
}

Task<void> Program::operation() {
  uint64_t dice = random_.below(100);
  if (dice < 35) {
    std::string object = some_object();
    if (skips(object)) co_return;
    bool whole = co_await read_whole(object, 16 * kKiB + random_.below(600 * kKiB));
    static_cast<void>(whole);
  } else if (dice < 65) {
    std::string object = some_object();
    if (!skips(object)) co_await read_ranges(object);
  } else if (dice < 74) {
    co_await look_up_absent();
  } else if (dice < 83) {
    co_await list();
  } else if (dice < 95) {
    if (ground_.plan.writes) co_await write();
  } else {
    co_await warm();
  }
}

Task<void> Program::run() {
  Executor& executor = daemon_.world().executor;
  for (uint32_t i = 0; i < ground_.plan.operations; ++i) {
    if (ground_.ending || ground_.failing()) co_return;
    co_await operation();
    Status slept = co_await sleep_for(executor, milliseconds(random_.below(1500)), {});
    static_cast<void>(slept);
  }
}

}  // namespace shoal::simulate
