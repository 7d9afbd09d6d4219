#include "simulate/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"

namespace shoal::simulate {

namespace {

bool holds(const std::vector<FilePtr>& files, const FilePtr& file) {
  return std::find(files.begin(), files.end(), file) != files.end();
}

// Whether what was found may be this file; why not, otherwise.
std::optional<std::string> mismatch_of_file(const File& file, const std::string& found) {
  std::optional<std::string> first;
  if (!file.lost && !mismatch(file.live, file.doubt, found)) return std::nullopt;
  for (const Candidate& candidate : file.durable) {
    auto wrong = mismatch(candidate.bytes, candidate.patches, found);
    if (!wrong) return std::nullopt;
    if (!first || candidate.current) first = std::move(wrong);
  }
  return first ? first : "nothing of it was ever sealed";
}

void begin_move(Slot& slot) {
  slot.moving = true;
  ++slot.changes;
}

void end_move(Slot& slot) {
  slot.moving = false;
  slot.observed = true;
  ++slot.changes;
}

}  // namespace

void apply_patch(std::string& bytes, const Patch& patch) {
  if (patch.size_after != bytes.size()) bytes.resize(patch.size_after);
  if (patch.length == 0) return;
  SHOAL_ASSERT(patch.offset + patch.length <= bytes.size());
  fill_content(patch.id, patch.offset,
               std::as_writable_bytes(std::span(bytes.data() + patch.offset, patch.length)));
}

std::string first_difference(const std::string& expected, const std::string& found) {
  if (expected.size() != found.size()) {
    return fmt::format("{} bytes long, expected {}", found.size(), expected.size());
  }
  size_t at = 0;
  while (at < found.size() && expected[at] == found[at]) ++at;
  if (at == found.size()) return "equal";
  return fmt::format("byte {} of {}: expected {:#04x}, found {:#04x}", at, found.size(),
                     static_cast<unsigned char>(expected[at]),
                     static_cast<unsigned char>(found[at]));
}

std::optional<std::string> mismatch(const std::string& base, const std::vector<Patch>& patches,
                                    const std::string& found) {
  if (base == found) return std::nullopt;
  if (patches.empty()) return first_difference(base, found);
  uint64_t smallest = base.size();
  uint64_t largest = base.size();
  for (const Patch& patch : patches) {
    smallest = std::min(smallest, patch.size_after);
    largest = std::max(largest, patch.size_after);
  }
  if (found.size() < smallest || found.size() > largest) {
    return fmt::format("{} bytes long, expected {} to {}", found.size(), smallest, largest);
  }
  for (size_t i = 0; i < found.size(); ++i) {
    auto byte = static_cast<std::byte>(found[i]);
    if (i < base.size() && found[i] == base[i]) continue;
    bool allowed = false;
    for (const Patch& patch : patches) {
      if (i >= patch.offset && i < patch.offset + patch.length && byte == byte_of(patch.id, i)) {
        allowed = true;
        break;
      }
      // A size change zeros what it cuts off or adds.
      if (byte == std::byte{0} && (i >= patch.size_after || i >= base.size())) allowed = true;
    }
    if (!allowed) {
      return fmt::format(
          "byte {} of {}: found {:#04x}, which neither the acknowledged version nor "
          "any of {} later changes put there",
          i, found.size(), static_cast<unsigned>(byte), patches.size());
    }
  }
  return std::nullopt;
}

FilePtr Model::new_file() {
  auto file = std::make_shared<File>();
  file->number = ++files_;
  return file;
}

FilePtr Model::preload(const std::string& path, std::string bytes) {
  FilePtr file = new_file();
  allow(bytes);
  file->durable.push_back({bytes, {}, true});
  file->may_vanish = false;
  file->in_files_tier = bytes.size() > kFetchWhole;
  file->live = std::move(bytes);
  Slot& at = slots_[path];
  at.now = file;
  at.possible = {file};
  return file;
}

void Model::add_possible(Slot& slot, const FilePtr& file) {
  if (!holds(slot.possible, file)) slot.possible.push_back(file);
}

// --- names ---

void Model::begin_create(const std::string& path, const FilePtr& file) {
  begin_move(slots_[path]);
  add_possible(slots_[path], file);
}

void Model::created(const std::string& path, const FilePtr& file) {
  Slot& at = slots_[path];
  end_move(at);
  at.now = file;
}

void Model::begin_remove(const std::string& path) {
  begin_move(slots_[path]);
  add_possible(slots_[path], nullptr);
}

void Model::removed(const std::string& path) {
  Slot& at = slots_[path];
  if (at.now) at.now->unlinked = true;
  at.now = nullptr;
  at.possible = {nullptr};
  end_move(at);
}

void Model::begin_rename(const std::string& from, const std::string& to) {
  Slot& source = slots_[from];
  Slot& target = slots_[to];
  SHOAL_ASSERT(source.now != nullptr);
  begin_move(source);
  begin_move(target);
  begin_seal(*source.now);  // what is open may become durable on the way
  if (target.possible.empty()) target.possible.push_back(nullptr);
  if (!source.now->may_vanish) {
    pledges_.push_back({from, to, std::make_shared<File>(*source.now)});
  }
  for (const FilePtr& file : source.possible) add_possible(target, file);
  add_possible(source, nullptr);
}

void Model::renamed(const std::string& from, const std::string& to) {
  Slot& source = slots_[from];
  Slot& target = slots_[to];
  FilePtr file = source.now;
  std::erase_if(pledges_, [&](const Pledge& p) { return p.from == from && p.to == to; });
  source.now = nullptr;
  source.possible = {nullptr};
  if (target.now) target.now->unlinked = true;
  target.now = file;
  target.possible = {file};
  end_move(source);
  end_move(target);
}

// --- bytes ---

void Model::begin_change(File& file, Patch patch) {
  ++file.changing;
  ++file.changes;
  if (std::max<uint64_t>(patch.size_after, file.live.size()) > kSmallMax) file.in_files_tier = true;
  if (!file.in_files_tier) return;  // the small record stays as it is until the next seal
  for (Candidate& candidate : file.durable) {
    if (candidate.current) candidate.patches.push_back(patch);
  }
}

void Model::changed(File& file, const Patch& patch) {
  SHOAL_ASSERT(file.changing > 0);
  --file.changing;
  ++file.changes;
  apply_patch(file.live, patch);
}

void Model::change_failed(File& file, const Patch& patch) {
  SHOAL_ASSERT(file.changing > 0);
  --file.changing;
  ++file.changes;
  file.known = false;
  file.doubt.push_back(patch);
}

void Model::begin_discard(File& file) {
  ++file.changing;
  ++file.changes;
}

void Model::discarded(File& file) {
  SHOAL_ASSERT(file.changing > 0);
  --file.changing;
  ++file.changes;
  for (Candidate& candidate : file.durable) candidate.current = false;
  file.live.clear();
  file.known = true;
  file.doubt.clear();
  file.in_files_tier = false;
}

void Model::discard_failed(File& file) {
  SHOAL_ASSERT(file.changing > 0);
  --file.changing;
  ++file.changes;
  file.known = false;
  Patch patch;
  file.doubt.push_back(patch);  // size 0
  // Whether the old version or the new empty one is open now is not known either.
  begin_seal(file);
}

void Model::begin_seal(File& file) {
  allow(file.live);
  // The same version again: what is there stays, what came since is in `live` too.
  if (file.known) file.durable.push_back({file.live, {}, true});
}

void Model::sealed(const std::string& path, const FilePtr& file) {
  SHOAL_ASSERT(file->known);
  file->durable.clear();
  file->durable.push_back({file->live, {}, true});
  file->may_vanish = false;
  if (path.empty()) return;  // it has no name any more
  Slot& at = slots_[path];
  if (at.now == file) at.possible = {file};
}

std::optional<std::string> Model::settle(File& file, const std::string& found) {
  if (file.known) {
    if (found == file.live) return std::nullopt;
    return first_difference(file.live, found);
  }
  if (auto wrong = mismatch(file.live, file.doubt, found)) return wrong;
  ++file.changes;
  file.live = found;
  file.known = true;
  file.doubt.clear();
  allow(found);
  return std::nullopt;
}

// --- after a crash ---

void Model::crashed() {
  for (auto& [path, slot] : slots_) {
    if (slot.possible.empty()) slot.possible.push_back(slot.now);
    slot.observed = false;
    slot.moving = false;
    for (const FilePtr& file : slot.possible) {
      if (!file) continue;
      file->changing = 0;
      file->known = true;
      file->lost = true;
      file->doubt.clear();
      file->mode.reset();
      for (const Candidate& candidate : file->durable) allow(candidate.bytes);
    }
  }
}

std::optional<std::string> Model::observe(const std::string& path, const std::string* found) {
  Slot& at = slots_[path];
  if (at.possible.empty()) at.possible.push_back(at.now);
  end_move(at);
  if (found == nullptr) {
    for (const FilePtr& file : at.possible) {
      if (file == nullptr || (file->may_vanish && (file->lost || file != at.now))) {
        at.now = nullptr;
        return std::nullopt;
      }
    }
    return "it is gone although it was acknowledged";
  }
  std::optional<std::string> first;
  FilePtr match;
  for (const FilePtr& file : at.possible) {
    if (file == nullptr) continue;
    auto wrong = mismatch_of_file(*file, *found);
    if (!wrong && (match == nullptr || file == at.now)) match = file;
    if (wrong && (!first || file == at.now)) first = std::move(wrong);
  }
  if (match == nullptr) return first ? *first : "it is there although it was removed";
  // The same file at two names after half a rename: two files from now on.
  for (auto& [name, other] : slots_) {
    if (name == path || other.now != match || !other.observed) continue;
    FilePtr copy = std::make_shared<File>(*match);
    copy->number = ++files_;
    std::replace(at.possible.begin(), at.possible.end(), match, copy);
    match = copy;
    break;
  }
  at.now = match;
  bool after_crash = std::exchange(match->lost, false);
  match->live = *found;
  match->known = true;
  match->doubt.clear();
  match->in_files_tier = match->in_files_tier || found->size() > kFetchWhole;
  for (Candidate& candidate : match->durable) {
    if (!after_crash) break;
    candidate.current = !mismatch(candidate.bytes, candidate.patches, *found);
  }
  ++match->changes;
  allow(*found);
  return std::nullopt;
}

std::vector<std::string> Model::check_pledges() {
  std::vector<std::string> failures;
  std::erase_if(pledges_, [&](const Pledge& pledge) {
    const Slot& from = slots_[pledge.from];
    const Slot& to = slots_[pledge.to];
    if (!from.observed || !to.observed) return false;
    for (const Slot* slot : {&from, &to}) {
      if (slot->now && !mismatch_of_file(*pledge.file, slot->now->live)) return true;
    }
    failures.push_back(fmt::format("{}: renamed to {}, and its bytes are at neither name",
                                   pledge.from, pledge.to));
    return true;
  });
  return failures;
}

}  // namespace shoal::simulate
