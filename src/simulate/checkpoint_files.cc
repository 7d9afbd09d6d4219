#include "simulate/checkpoint_files.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "simulate/content.h"

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr Duration kCallMax = minutes(3);
constexpr uint32_t kFilesPerMachine = 4;

FileState absent() {
  FileState state;
  state.exists = false;
  return state;
}

FileState holding(std::shared_ptr<const std::string> bytes) {
  FileState state;
  state.bytes = std::move(bytes);
  return state;
}

}  // namespace

// --- what files may hold ---

bool FileState::is(const std::string* got) const {
  if (!exists || got == nullptr) return !exists && got == nullptr;
  if (least == kWhole) return *bytes == *got;
  if (got->size() < least || got->size() > bytes->size()) return false;
  if (others.empty() || bytes->starts_with(*got)) return bytes->starts_with(*got);
  for (size_t i = 0; i < got->size(); ++i) {
    char byte = (*got)[i];
    bool other = (*bytes)[i] != byte;
    if (other && std::ranges::none_of(others, [&](const auto& state) {
          return i < state->size() && (*state)[i] == byte;
        })) {
      return false;
    }
  }
  return true;
}

bool CheckpointFile::may_be(const std::string* got) const {
  if (possible.empty()) return got == nullptr;
  return std::ranges::any_of(possible, [got](const FileState& state) { return state.is(got); });
}

bool CheckpointFile::is_mixture(const std::string& got) const {
  FileState any;
  for (const FileState& state : ever) {
    if (!state.exists) continue;
    if (!any.bytes || any.bytes->size() < state.bytes->size()) any.bytes = state.bytes;
    any.others.push_back(state.bytes);
  }
  any.least = 0;
  return any.bytes && any.is(&got);
}

bool CheckpointFile::ever_was(const std::string* got) const {
  if (got == nullptr && (ever.empty() || ever.front().exists)) return true;
  return std::ranges::any_of(ever, [got](const FileState& state) { return state.is(got); });
}

std::string CheckpointFile::differs(const std::string& got) const {
  std::string text = " that never were";
  for (const FileState& state : possible) {
    if (!state.exists) continue;
    size_t length = std::min(state.bytes->size(), got.size());
    size_t first = 0;
    while (first < length && (*state.bytes)[first] == got[first]) ++first;
    size_t last = length;
    while (last > first && (*state.bytes)[last - 1] == got[last - 1]) --last;
    text += fmt::format(" (wrong from {} to {})", first, last);
  }
  return text;
}

bool CheckpointFile::surely_exists() const {
  return !possible.empty() &&
         std::ranges::all_of(possible, [](const FileState& state) { return state.exists; });
}

void CheckpointFile::begin(const FileState& becomes) {
  SHOAL_ASSERT(busy, "who changes a file has claimed it");
  if (possible.empty()) possible.push_back(absent());
  ++changes;
  possible.push_back(becomes);
  ever.push_back(becomes);
}

void CheckpointFile::end(const FileState& is) {
  possible = {is};
  ever.push_back(is);
}

void CheckpointFile::synced(const FileState& becomes, uint64_t bytes) {
  possible = {becomes};
  possible.front().least = bytes;
}

std::string CheckpointFile::describe() const {
  std::string text;
  for (const FileState& state : possible) {
    if (!text.empty()) text += " or ";
    if (!state.exists) {
      text += "absent";
    } else if (state.least == FileState::kWhole) {
      text += fmt::format("{} bytes", state.bytes->size());
    } else {
      text += fmt::format("{} to {} bytes", state.least, state.bytes->size());
    }
  }
  return text.empty() ? "absent" : text;
}

bool ContestedFile::Version::is(const std::string& got, SteadyTime since) const {
  return acknowledged <= since ? *bytes == got : bytes->starts_with(got);
}

bool ContestedFile::ever_was(const std::string& got, SteadyTime since) const {
  return std::ranges::any_of(versions,
                             [&](const Version& version) { return version.is(got, since); });
}

bool ContestedFile::must_be_kept(const Version& version) const {
  return version.acknowledged != kNever &&
         std::ranges::none_of(versions, [&](const Version& other) {
           return &other != &version && other.opened >= version.closing;
         });
}

void CheckpointFiles::crashed(const std::string& machine, bool destroyed) {
  for (auto& [path, file] : contested_) file.writers.erase(machine);
  for (auto& [path, file] : files_) {
    if (!path.starts_with(directory_of(machine))) continue;
    file.busy = false;
    if (destroyed) file.before_loss = file.ever.size();
  }
}

void CheckpointFiles::poll() {
  for (const std::string& name : ground_.account->service.names(kContainer, "ckpt/")) {
    std::string path = name.substr(0, name.find(".conflict-"));
    auto found = files_.find(path);
    if (found == files_.end()) continue;  // what the set-up put there, or contested
    auto blob = ground_.account->service.find(kContainer, name);
    if (path == name && blob->etag == found->second.etag) continue;
    std::string bytes = blob->content.to_string();
    if (!found->second.ever_was(&bytes)) {
      return ground_.failed(fmt::format("{}: the origin holds {} bytes{}", name, bytes.size(),
                                        found->second.differs(bytes)));
    }
    if (path == name) found->second.etag = blob->etag;
  }
}

void CheckpointFiles::check_origin() {
  for (auto& [path, file] : files_) {
    auto blob = ground_.account->service.find(kContainer, path);
    std::string bytes = blob ? blob->content.to_string() : std::string();
    if (file.may_be(blob ? &bytes : nullptr)) continue;
    if (blob && is_kept_aside(path, bytes)) {
      ground_.findings.count("kept_aside");
      file.end(holding(std::make_shared<const std::string>(std::move(bytes))));
      continue;
    }
    ground_.failed(fmt::format("{}: the origin holds {} of {}", path,
                               blob ? fmt::format("{} bytes", bytes.size()) : "nothing",
                               file.describe()));
  }
  for (const std::string& name : ground_.account->service.names(kContainer, "ckpt/")) {
    if (name.find(".conflict-") != std::string::npos) ground_.findings.count("conflicts");
  }
  check_contested();
}

bool CheckpointFiles::is_in_origin(const std::string& path) const {
  auto blob = ground_.account->service.find(kContainer, path);
  std::string bytes = blob ? blob->content.to_string() : std::string();
  return files_.at(path).may_be(blob ? &bytes : nullptr);
}

bool CheckpointFiles::is_kept_aside(const std::string& path, const std::string& got) const {
  if (!ground_.plan.lost_caches || !(ground_.plan.one_way || ground_.plan.partitions)) return false;
  const CheckpointFile& file = files_.at(path);
  if (!file.ever_was(&got)) return false;
  auto before_loss = file.ever.begin() + static_cast<std::ptrdiff_t>(file.before_loss);
  bool left = std::any_of(file.ever.begin(), before_loss,
                          [&](const FileState& state) { return state.is(&got); });
  if (left && file.may_be(nullptr)) return true;
  for (const std::string& name : ground_.account->service.names(kContainer, path + ".conflict-")) {
    std::string bytes = ground_.account->service.find(kContainer, name)->content.to_string();
    if (file.may_be(&bytes)) return true;
  }
  return false;
}

void CheckpointFiles::check_contested() {
  for (auto& [path, file] : contested_) {
    std::vector<std::string> kept;
    for (const std::string& name : ground_.account->service.names(kContainer, path)) {
      if (name != path && !name.starts_with(path + ".conflict-")) continue;
      kept.push_back(ground_.account->service.find(kContainer, name)->content.to_string());
      if (file.ever_was(kept.back(), ground_.now())) continue;
      ground_.failed(fmt::format("{}: {} bytes that nobody wrote", name, kept.back().size()));
    }
    for (const ContestedFile::Version& version : file.versions) {
      if (!file.must_be_kept(version)) continue;
      ground_.findings.count("contested_kept");
      if (std::ranges::find(kept, *version.bytes) != kept.end()) continue;
      ground_.failed(
          fmt::format("{}: a version of {} bytes was acknowledged, and is in none of the "
                      "{} objects that are kept of it",
                      path, version.bytes->size(), kept.size()));
    }
  }
}

// --- programs ---

Context CheckpointProgram::limit() const {
  return Context::within(daemon_.world().executor, kCallMax);
}

// Without faults nothing fails but what another node changes while it is read.
void CheckpointProgram::check_error(const Error& error, const std::string& what) {
  ground_.findings.count("errors");
  if (!ground_.plan.calm() || ground_.disturbances.last_end() != SteadyTime{}) return;
  ground_.failed(fmt::format("{} on {}: {}", what, daemon_.name(), error.to_string()));
}

void CheckpointProgram::settle(const std::string& path, const FileState& state,
                               const Status& status, const char* what) {
  CheckpointFile& file = files_.at(path);
  file.busy = false;
  if (status) {
    ground_.findings.count("acknowledged");
    return file.end(state);
  }
  check_error(status.error(), fmt::format("{} {}", what, path));
}

Task<Status> CheckpointProgram::write_bytes(std::string path, uint32_t flags, uint64_t offset,
                                            std::shared_ptr<const std::string> bytes) {
  Context context = limit();
  FileSystem& fs = daemon_.kernel().fs;
  CallWatch watch(ground_, daemon_, "writing " + path, context);
  SHOAL_CO_ASSIGN_OR_RETURN(OpenFile file, co_await daemon_.kernel().open(path, flags, context));
  ConstByteSpan span = as_bytes(*bytes);
  uint64_t step = 16 * kKiB + random_.below(kMiB);
  Status status;
  for (uint64_t at = offset; at < span.size() && status; at += step) {
    uint64_t length = std::min<uint64_t>(step, span.size() - at);
    auto wrote =
        co_await daemon_.kernel().write(file.handle, at, span.subspan(at, length), context);
    if (!wrote) status = fail(std::move(wrote).error());
    if (status && random_.chance(0.1)) {
      status = co_await fs.sync(file.handle, false, context);
      if (status) files_.at(path).synced(holding(bytes), at + length);
    }
    if (status && random_.chance(0.1)) {
      status = co_await sleep_for(daemon_.world().executor, milliseconds(random_.below(500)), {});
    }
  }
  if (status) status = co_await fs.flush(file.handle, context);
  co_await fs.release(file.handle);
  co_return status;
}

uint64_t CheckpointProgram::some_size() {
  uint64_t chunk = ground_.plan.node.replication.chunk_bytes;
  uint64_t dice = random_.below(100);
  if (dice < 8) return 0;
  if (dice < 40) return 1 + random_.below(100 * kKiB);
  if (dice < 55) return chunk < 8 * kMiB || dice < 42 ? chunk * (1 + random_.below(2)) : 5000;
  // Above 8 MiB blocks are sent by all who hold them.
  if (dice < 58) return 8 * kMiB + 1 + random_.below(3 * kMiB);
  return 1 + random_.below(ground_.plan.size_max);
}

Task<bool> CheckpointProgram::rewrite(std::string path) {
  CheckpointFile& file = files_.at(path);
  file.busy = true;
  auto bytes = std::make_shared<const std::string>(make_content(ground_.next_write++, some_size()));
  FileState doubt = holding(bytes);
  doubt.least = 0;
  file.begin(doubt);
  Status status = co_await write_bytes(path, O_WRONLY | O_CREAT | O_TRUNC, 0, bytes);
  ground_.findings.count("rewrites");
  settle(path, holding(bytes), status, "writing");
  co_return status.has_value();
}

Task<bool> CheckpointProgram::write_open(std::string path, uint32_t syncs,
                                         std::function<bool(uint32_t)> may_sync) {
  CheckpointFile& file = files_.at(path);
  file.busy = true;
  uint64_t part = 300 * kKiB + random_.below(2 * kMiB);
  bool over = random_.chance(0.5);
  std::string text = make_content(ground_.next_write++, part * (syncs + 1));
  std::vector<std::shared_ptr<const std::string>> states;  // with each part
  for (uint32_t i = 0; i <= syncs; ++i) {
    std::string begin =
        over && i > 0 ? make_content(ground_.next_write++, 1 + random_.below(part)) : "";
    text.replace(0, begin.size(), begin);
    states.push_back(std::make_shared<const std::string>(text.substr(0, part * (i + 1))));
  }
  FileState doubt{true, states.back(), 0, states};
  file.begin(doubt);
  Context context = limit();
  auto open = co_await daemon_.kernel().open(path, O_WRONLY | O_CREAT | O_TRUNC, context);
  Status status = open ? Status() : fail(open.error());
  for (uint32_t i = 0; i <= syncs && status; ++i) {
    ConstByteSpan bytes = as_bytes(*states[i]);
    std::vector<uint64_t> places{part * i};
    if (over && i > 0) places.push_back(0);
    for (uint64_t at : places) {
      auto wrote =
          co_await daemon_.kernel().write(open->handle, at, bytes.subspan(at, part), context);
      if (!wrote) status = fail(std::move(wrote).error());
    }
    if (!status || i == syncs) break;
    while (!may_sync(i) && status) {
      status = co_await sleep_for(daemon_.world().executor, milliseconds(20), context);
    }
    if (status) status = co_await daemon_.kernel().fs.sync(open->handle, false, context);
    doubt.others.assign(states.begin() + i, states.end());
    if (status) file.synced(doubt, part * (i + 1));
  }
  ground_.findings.count("left_open");
  if (!status) check_error(status.error(), "writing " + path);
  co_return status.has_value();
}

Task<bool> CheckpointProgram::append(std::string path) {
  CheckpointFile& file = files_.at(path);
  file.busy = true;
  std::string whole = *file.possible.front().bytes;
  uint64_t before = whole.size();
  whole += make_content(ground_.next_write++, 1 + random_.below(300 * kKiB));
  auto bytes = std::make_shared<const std::string>(std::move(whole));
  FileState doubt = holding(bytes);
  doubt.least = before;
  file.begin(doubt);
  Status status = co_await write_bytes(path, O_WRONLY | O_APPEND, before, bytes);
  ground_.findings.count("appends");
  settle(path, holding(bytes), status, "appending to");
  co_return status.has_value();
}

Task<void> CheckpointProgram::contend() {
  std::string path = fmt::format("{}x{}", CheckpointFiles::directory_of(CheckpointFiles::kShared),
                                 random_.below(2));
  ContestedFile& file = files_.contested(path);
  if (random_.chance(0.3)) co_return co_await read_contested(path);
  if (!file.writers.insert(daemon_.name()).second) co_return;
  ContestedFile::Version& version = file.versions.emplace_back();
  version.node = daemon_.name();
  version.bytes = std::make_shared<const std::string>(
      make_content(ground_.next_write++, 1 + random_.below(ground_.plan.size_max)));
  Status status = co_await write_contested(path, version);
  file.writers.erase(daemon_.name());
  ground_.findings.count("contested_writes");
  if (status) version.acknowledged = ground_.now();
  bool replaced =
      !status && status.error().code() == Code::kStale;  // by another, while it was open
  if (!status && !replaced) check_error(status.error(), "writing " + path);
}

Task<Status> CheckpointProgram::write_contested(std::string path, ContestedFile::Version& version) {
  Context context = limit();
  CallWatch watch(ground_, daemon_, "writing " + path, context);
  SHOAL_CO_ASSIGN_OR_RETURN(
      OpenFile file, co_await daemon_.kernel().open(path, O_WRONLY | O_CREAT | O_TRUNC, context));
  version.opened = ground_.now();
  Status status;
  ConstByteSpan bytes = as_bytes(*version.bytes);
  for (uint64_t at = 0; at < bytes.size() && status; at += kMiB) {
    ConstByteSpan part = bytes.subspan(at, std::min<uint64_t>(kMiB, bytes.size() - at));
    auto wrote = co_await daemon_.kernel().write(file.handle, at, part, context);
    if (!wrote) status = fail(std::move(wrote).error());
    if (status && random_.chance(0.3)) {
      status = co_await sleep_for(daemon_.world().executor, milliseconds(random_.below(500)), {});
    }
  }
  version.closing = ground_.now();
  if (status) status = co_await daemon_.kernel().fs.flush(file.handle, context);
  co_await daemon_.kernel().fs.release(file.handle);
  co_return status;
}

Task<void> CheckpointProgram::read_contested(std::string path) {
  Context context = limit();
  CallWatch watch(ground_, daemon_, "reading " + path, context);
  SteadyTime begun = ground_.now();
  auto got = co_await daemon_.kernel().read_path(path, 64 * kKiB + random_.below(kMiB), context);
  ground_.findings.count("reads");
  if (got) {
    const ContestedFile& file = files_.contested(path);
    // On one node a reader sees what a writer beside it does, piece by piece, as on any disk.
    bool written_here = std::ranges::any_of(file.versions, [&](const auto& version) {
      return version.node == daemon_.name() && version.closing >= begun;
    });
    if (written_here || file.ever_was(*got, begun)) co_return;
    co_return ground_.failed(
        fmt::format("{} on {}: {} bytes that nobody wrote", path, daemon_.name(), got->size()));
  }
  Code code = got.error().code();
  if (code != Code::kNotFound && code != Code::kStale) check_error(got.error(), "reading " + path);
}

Task<bool> CheckpointProgram::rename(std::string from, std::string to) {
  CheckpointFile& source = files_.at(from);
  CheckpointFile& target = files_.at(to);
  source.busy = target.busy = true;
  std::vector<FileState> moved = source.possible;
  for (const FileState& state : moved) target.begin(state);
  source.begin(absent());
  Context context = limit();
  Status status;
  {
    CallWatch watch(ground_, daemon_, "renaming " + from, context);
    status = co_await daemon_.kernel().rename(from, to, 0, context);
  }
  ground_.findings.count("renames");
  source.busy = target.busy = false;
  if (status) {
    source.end(absent());
    target.possible = std::move(moved);
    co_return true;
  }
  check_error(status.error(), "renaming " + from);
  co_return false;
}

Task<void> CheckpointProgram::remove(std::string path) {
  CheckpointFile& file = files_.at(path);
  file.busy = true;
  file.begin(absent());
  Context context = limit();
  Status status;
  {
    CallWatch watch(ground_, daemon_, "removing " + path, context);
    status = co_await daemon_.kernel().unlink(path, context);
  }
  ground_.findings.count("removals");
  settle(path, absent(), status, "removing");
}

Task<void> CheckpointProgram::read(std::string path) {
  Context context = limit();
  CallWatch watch(ground_, daemon_, "reading " + path, context);
  CheckpointFile& file = files_.at(path);
  uint64_t changes = file.changes;
  bool written = file.busy;
  auto got = co_await daemon_.kernel().read_path(path, 64 * kKiB + random_.below(kMiB), context);
  ground_.findings.count("reads");
  if (got) {
    ground_.findings.count("bytes_read", got->size());
    // On one node a reader sees what a writer beside it does, piece by piece, as on any disk.
    bool here = path.starts_with(CheckpointFiles::directory_of(daemon_.name()));
    bool beside = here && (written || changes != file.changes);
    if (file.ever_was(&*got) || (beside && file.is_mixture(*got))) co_return;
    co_return ground_.failed(fmt::format("{} on {}: {} bytes that were never this file's", path,
                                         daemon_.name(), got->size()));
  }
  Code code = got.error().code();
  bool excused =
      code == Code::kNotFound || (code == Code::kStale && (changes != file.changes || file.busy));
  if (!excused) check_error(got.error(), "reading " + path);
}

Task<void> CheckpointProgram::verify(std::string path, Duration limit_in) {
  SteadyTime begun = ground_.now();
  uint64_t changes = files_.at(path).changes;
  std::string last = "nothing yet";
  while (!ground_.failing()) {
    Context context = limit();
    auto got = co_await daemon_.kernel().read_path(path, 64 * kKiB + random_.below(kMiB), context);
    CheckpointFile& file = files_.at(path);
    if (file.changes != changes) co_return;
    bool is_absent = !got && got.error().code() == Code::kNotFound;
    ground_.findings.count("verifications");
    bool as_it_may_be = (got || is_absent) && file.may_be(got ? &*got : nullptr);
    if (as_it_may_be || (got && files_.is_kept_aside(path, *got))) {
      ground_.findings.count("verified");
      co_return;
    }
    last = got ? fmt::format("{} bytes{}", got->size(),
                             file.ever_was(&*got) ? " of another version" : file.differs(*got))
               : got.error().to_string();
    if (got && !file.ever_was(&*got)) break;
    if (ground_.now() > std::max(begun, ground_.disturbances.last_end()) + limit_in) break;
    Status slept = co_await sleep_for(daemon_.world().executor, seconds(1), {});
    static_cast<void>(slept);
  }
  if (ground_.failing()) co_return;
  ground_.failed(fmt::format("{} on {}: reads {}, not {}", path, daemon_.name(), last,
                             files_.at(path).describe()));
}

// One of this machine's files that nobody is at; empty if there is none.
std::string CheckpointProgram::mine(bool temporary) {
  std::vector<std::string> free;
  for (uint32_t i = 0; i < kFilesPerMachine; ++i) {
    std::string path = fmt::format("{}f{}{}", CheckpointFiles::directory_of(daemon_.name()), i,
                                   temporary ? ".tmp" : "");
    if (!files_.at(path).busy) free.push_back(std::move(path));
  }
  return free.empty() ? std::string() : free[random_.below(free.size())];
}

Task<void> CheckpointProgram::operation() {
  if (ground_.plan.contested && random_.chance(0.25)) co_return co_await contend();
  uint64_t dice = random_.below(100);
  if (dice < 20) {
    auto file = files_.all().begin();
    if (files_.all().empty()) co_return;
    std::advance(file, static_cast<std::ptrdiff_t>(random_.below(files_.all().size())));
    co_return co_await read(file->first);
  }
  std::string path = mine(false);
  if (path.empty()) co_return;
  CheckpointFile& file = files_.at(path);
  bool known = file.possible.size() == 1 && file.surely_exists();
  if (dice < 40 && known && file.possible.front().least == FileState::kWhole) {
    if (dice < 28) co_return co_await remove(path);
    bool done = co_await append(path);
    static_cast<void>(done);
  } else if (dice < 60) {
    std::string temporary = mine(true);
    if (temporary.empty()) co_return;
    file.busy = true;
    bool wrote = co_await rewrite(temporary);
    if (wrote) wrote = co_await rename(temporary, path);
    file.busy = false;
  } else {
    bool done = co_await rewrite(path);
    static_cast<void>(done);
  }
}

Task<void> CheckpointProgram::run() {
  for (uint32_t i = 0; i < ground_.plan.operations; ++i) {
    if (ground_.ending || ground_.failing()) co_return;
    co_await operation();
    Status slept =
        co_await sleep_for(daemon_.world().executor, milliseconds(random_.below(1500)), {});
    static_cast<void>(slept);
  }
}

}  // namespace shoal::simulate
