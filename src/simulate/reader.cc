// Reader: reads while others write.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "simulate/workload.h"

namespace shoal::simulate {

namespace {
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
}  // namespace

Reader::Reader(Session& session, uint32_t index)
    : session_(session), ground_(session.ground), random_(session.ground.randoms.at(index)) {}

Task<void> Reader::read_client_file() {
  auto& slots = ground_.model.slots();
  if (slots.empty()) co_return;
  auto at = slots.begin();
  std::advance(at, random_.below(slots.size()));
  std::string path = at->first;
  Slot& slot = at->second;
  FilePtr file = slot.now;
  if (!file || !slot.observed || slot.moving || !file->known || file->changing > 0) co_return;
  uint64_t before = file->changes;
  uint64_t named = slot.changes;
  Context context = Context::within(session_.executor, minutes(2));
  auto open = co_await session_.kernel.open(path, O_RDONLY, context);
  auto steady = [&] { return file->changes == before && file->changing == 0 && file->known; };
  if (!open) {
    bool moved = slot.changes != named || !steady();
    if (!moved && !may_fail_so(ground_, open.error())) {
      ground_.findings.failed(
          fmt::format("{}: a reader's open: {}", path, open.error().to_string()));
    }
    co_return;
  }
  bool mine = slot.changes == named;
  for (int i = 0; mine && i < 4 && steady(); ++i) {
    uint64_t offset = i == 0 ? 0 : random_.below(file->live.size() + 1);
    Buffer buffer(1 + random_.below(300 * kKiB));
    auto count = co_await session_.kernel.read(open->handle, offset, buffer.span(), context);
    if (!steady()) break;
    ground_.findings.count("reader_reads");
    if (!count) {
      if (count.error().code() != Code::kStale && !may_fail_so(ground_, count.error())) {
        ground_.findings.failed(
            fmt::format("{}: a reader's read: {}", path, count.error().to_string()));
      }
      break;
    }
    std::string_view want = std::string_view(file->live).substr(offset, buffer.size());
    if (as_text(buffer.span().first(*count)) != want) {
      ground_.findings.failed(fmt::format(
          "{}: a reader at {}: {}", path, offset,
          first_difference(std::string(want), std::string(as_text(buffer.span().first(*count))))));
    }
    Status slept = co_await sleep_for(session_.executor, milliseconds(random_.below(200)), {});
    static_cast<void>(slept);
  }
  co_await session_.kernel.fs.release(open->handle);
}

void Reader::check_foreign(const std::string& object, SteadyTime opened, const std::string& bytes,
                           bool check_age) {
  const auto& versions = ground_.foreign[object];
  // The newest version with these bytes, and when it ceased to be.
  SteadyTime until = SteadyTime::min();
  bool known = false;
  for (size_t i = 0; i < versions.size(); ++i) {
    if (!versions[i].exists || versions[i].bytes != bytes) continue;
    known = true;
    until = i + 1 < versions.size() ? versions[i + 1].from : kNever;
  }
  if (!known) {
    ground_.findings.failed(
        fmt::format("{}: {} bytes that are of no one version of it", object, bytes.size()));
    return;
  }
  constexpr Duration kSlack = seconds(1);  // requests on their way
  if (check_age && until != kNever && until + ground_.plan.node.attr_ttl + kSlack < opened) {
    ground_.findings.failed(fmt::format(
        "{}: opened at {:.3f} s, it shows a version that was replaced at {:.3f} s", object,
        to_seconds(opened.time_since_epoch()), to_seconds(until.time_since_epoch())));
  }
}

Task<void> Reader::read_foreign() {
  if (ground_.foreign.empty()) co_return;
  auto at = ground_.foreign.begin();
  std::advance(at, random_.below(ground_.foreign.size()));
  std::string object = at->first;
  if (random_.chance(0.3)) {
    auto names = co_await session_.kernel.list("shared", random_.chance(0.5),
                                               Context::within(session_.executor, minutes(2)));
    static_cast<void>(names);  // fills the listing, which look-ups then use
  }
  uint64_t stale = session_.stale_served.value();
  SteadyTime began = session_.executor.now();
  Context context = Context::within(session_.executor, minutes(2));
  auto open = co_await session_.kernel.open(object, O_RDONLY, context);
  if (!open) {
    bool may_be_absent = open.error().code() == Code::kNotFound;
    if (!may_be_absent && open.error().code() != Code::kStale &&
        !may_fail_so(ground_, open.error())) {
      ground_.findings.failed(fmt::format("{}: open: {}", object, open.error().to_string()));
    }
    co_return;
  }
  uint64_t step = 1 + random_.below(200 * kKiB);
  auto bytes = co_await session_.kernel.read_all(open->handle, step, context);
  co_await session_.kernel.fs.release(open->handle);
  ground_.findings.count("foreign_reads");
  if (!bytes) {
    if (bytes.error().code() != Code::kStale && !may_fail_so(ground_, bytes.error())) {
      ground_.findings.failed(fmt::format("{}: read: {}", object, bytes.error().to_string()));
    }
    co_return;
  }
  // A slow network makes answers old before they arrive.
  bool check_age = session_.stale_served.value() == stale && !ground_.plan.any_blob_fault &&
                   !ground_.plan.outages;
  check_foreign(object, began, *bytes, check_age);
}

Task<void> Reader::run() {
  ++session_.running;
  for (uint32_t i = 0; i < 2 * ground_.plan.operations; ++i) {
    if (session_.ending || !ground_.findings.failures.empty()) break;
    if (random_.chance(0.5)) {
      co_await read_foreign();
    } else {
      co_await read_client_file();
    }
    Duration pause = milliseconds(random_.below(300));
    Status slept = co_await sleep_for(session_.executor, pause, {});
    static_cast<void>(slept);
  }
  --session_.running;
}

}  // namespace shoal::simulate
