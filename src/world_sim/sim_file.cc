#include "world_sim/sim_file.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/hash.h"

namespace shoal {

namespace {

const SimPagePtr& zero_page() {
  static const SimPagePtr page = std::make_shared<const SimPage>();  // constant
  return page;
}

// How a power loss treats unsynced things: often all or nothing, else one by one.
double draw_keep_chance(SeededRandom& random) {
  switch (random.below(4)) {
    case 0:
      return 0.0;
    case 1:
      return 1.0;
    case 2:
      return 0.5;
    default:
      return random.unit();
  }
}

}  // namespace

SimPagePtr SimPagePool::share(ConstByteSpan bytes) {
  SHOAL_ASSERT(bytes.size() == kSimPageBytes);
  SimPagePtr& known = pages_[hash_string(as_text(bytes)).low];
  bool equal = known && std::memcmp(known->data(), bytes.data(), bytes.size()) == 0;
  if (!equal) {
    auto fresh = std::make_shared<SimPage>();
    std::memcpy(fresh->data(), bytes.data(), bytes.size());
    known = std::move(fresh);
  }
  SimPagePtr shared = known;
  if (pages_.size() >= sweep_at_) sweep();
  return shared;
}

// Forgets pages that no file has any more. Seldom enough to cost nothing per page.
void SimPagePool::sweep() {
  std::erase_if(pages_, [](const auto& entry) { return entry.second.use_count() == 1; });
  sweep_at_ = std::max<size_t>(4096, pages_.size() * 2);
}

SimFile::~SimFile() {
  SHOAL_ASSERT(space_->pages >= seen_.size());
  space_->pages -= seen_.size();
}

SimPagePtr SimFile::page(uint64_t index) const {
  auto found = seen_.find(index);
  return found == seen_.end() ? nullptr : found->second;
}

void SimFile::put(uint64_t index, SimPagePtr page) {
  auto found = seen_.find(index);
  if (page == nullptr) {
    if (found == seen_.end()) return;
    seen_.erase(found);
    --space_->pages;
  } else if (found == seen_.end()) {
    seen_.emplace(index, std::move(page));
    ++space_->pages;
  } else {
    found->second = std::move(page);
  }
  dirty_[index] = Dirt::kUnsynced;
}

size_t SimFile::read(uint64_t offset, ByteSpan into) const {
  if (offset >= size_) return 0;
  size_t count = std::min<uint64_t>(into.size(), size_ - offset);
  for (size_t done = 0; done < count;) {
    uint64_t at = (offset + done) % kSimPageBytes;
    size_t piece = std::min<uint64_t>(count - done, kSimPageBytes - at);
    SimPagePtr source = page((offset + done) / kSimPageBytes);
    if (source) {
      std::memcpy(into.data() + done, source->data() + at, piece);
    } else {
      std::memset(into.data() + done, 0, piece);
    }
    done += piece;
  }
  return count;
}

uint64_t SimFile::read_pages(uint64_t offset, uint64_t length,
                             std::vector<SimPagePtr>& pages) const {
  if (offset >= size_ || length == 0) return 0;
  uint64_t count = std::min(length, size_ - offset);
  for (uint64_t i = offset / kSimPageBytes; i <= (offset + count - 1) / kSimPageBytes; ++i) {
    const SimPagePtr& source = page(i);
    pages.push_back(source ? source : zero_page());
  }
  return count;
}

void SimFile::change(uint64_t index, uint64_t at, ConstByteSpan bytes) {
  SHOAL_ASSERT(at + bytes.size() <= kSimPageBytes);
  if (bytes.size() == kSimPageBytes && space_->pool) return put(index, space_->pool->share(bytes));
  SimPagePtr old = page(index);
  auto fresh = old ? std::make_shared<SimPage>(*old) : std::make_shared<SimPage>();
  std::memcpy(fresh->data() + at, bytes.data(), bytes.size());
  put(index, std::move(fresh));
}

uint64_t SimFile::pages_missing(const SimPages& pages, uint64_t offset, uint64_t length) {
  if (length == 0) return 0;
  uint64_t first = offset / kSimPageBytes;
  uint64_t last = (offset + length - 1) / kSimPageBytes;
  auto begin = pages.lower_bound(first);
  auto end = pages.upper_bound(last);
  return last - first + 1 - static_cast<uint64_t>(std::distance(begin, end));
}

bool SimFile::write(uint64_t offset, ConstByteSpan bytes) {
  SHOAL_ASSERT(offset <= UINT64_MAX - bytes.size());
  if (space_->pages + pages_missing(seen_, offset, bytes.size()) > space_->pages_max) return false;
  for (size_t done = 0; done < bytes.size();) {
    uint64_t at = (offset + done) % kSimPageBytes;
    size_t piece = std::min<uint64_t>(bytes.size() - done, kSimPageBytes - at);
    change((offset + done) / kSimPageBytes, at, bytes.subspan(done, piece));
    done += piece;
  }
  size_ = std::max(size_, offset + bytes.size());
  return true;
}

// Zeroes [offset, end): whole pages become holes.
void SimFile::zero(uint64_t offset, uint64_t end) {
  if (offset >= end) return;
  static constexpr SimPage kZeros{};
  auto it = seen_.lower_bound(offset / kSimPageBytes);
  while (it != seen_.end() && it->first * kSimPageBytes < end) {
    uint64_t index = it->first;
    uint64_t page_begin = index * kSimPageBytes;
    uint64_t from = std::max(offset, page_begin) - page_begin;
    uint64_t to = std::min(end, page_begin + kSimPageBytes) - page_begin;
    ++it;  // put() and change() below touch only this index
    if (from == 0 && to == kSimPageBytes) {
      put(index, nullptr);
    } else {
      change(index, from, ConstByteSpan(kZeros).first(to - from));
    }
  }
}

void SimFile::set_size(uint64_t size) {
  if (!seen_.empty()) zero(size, (seen_.rbegin()->first + 1) * kSimPageBytes);
  size_ = size;
}

bool SimFile::allocate(uint64_t offset, uint64_t length) {
  if (length == 0) return true;
  if (space_->pages + pages_missing(seen_, offset, length) > space_->pages_max) return false;
  for (uint64_t i = offset / kSimPageBytes; i <= (offset + length - 1) / kSimPageBytes; ++i) {
    if (!seen_.contains(i)) put(i, zero_page());
  }
  size_ = std::max(size_, offset + length);
  return true;
}

void SimFile::punch(uint64_t offset, uint64_t length) { zero(offset, offset + length); }

bool SimFile::flip_bit(uint64_t offset, unsigned bit) {
  uint64_t index = offset / kSimPageBytes;
  SimPagePtr old = page(index);
  if (old == nullptr) return false;
  auto flipped = std::make_shared<SimPage>(*old);
  (*flipped)[offset % kSimPageBytes] ^= static_cast<std::byte>(1u << (bit % 8));
  seen_[index] = flipped;
  if (auto found = durable_.find(index); found != durable_.end() && found->second == old) {
    found->second = flipped;
  }
  return true;
}

SimFileSnapshot SimFile::begin_sync() const {
  SimFileSnapshot snapshot;
  snapshot.size = size_;
  for (const auto& [index, dirt] : dirty_) {
    if (dirt == Dirt::kUnsynced) snapshot.pages.emplace(index, page(index));
  }
  return snapshot;
}

void SimFile::end_sync(const SimFileSnapshot& snapshot) {
  for (const auto& [index, content] : snapshot.pages) {
    if (content) {
      durable_[index] = content;
    } else {
      durable_.erase(index);
    }
    auto dirt = dirty_.find(index);
    if (dirt != dirty_.end() && page(index) == content) dirty_.erase(dirt);
  }
  durable_size_ = snapshot.size;
}

void SimFile::fail_sync(const SimFileSnapshot& snapshot) {
  for (const auto& [index, content] : snapshot.pages) {
    auto dirt = dirty_.find(index);
    if (dirt != dirty_.end() && page(index) == content) dirt->second = Dirt::kLost;
  }
}

void SimFile::power_loss(SeededRandom& random) {
  double keep = draw_keep_chance(random);
  SimPages left = durable_;
  for (const auto& [index, dirt] : dirty_) {
    SimPagePtr fresh = page(index);
    bool torn = dirt == Dirt::kUnsynced && random.below(8) == 0 && keep > 0 && keep < 1;
    if (torn) {
      auto found = left.find(index);
      auto mixed = std::make_shared<SimPage>(found == left.end() ? SimPage{} : *found->second);
      const SimPage& source = fresh ? *fresh : *zero_page();
      for (uint64_t at = 0; at < kSimPageBytes; at += kSimSectorBytes) {
        if (random.below(2) == 0) continue;
        std::memcpy(mixed->data() + at, source.data() + at, kSimSectorBytes);
      }
      left[index] = std::move(mixed);
    } else if (dirt == Dirt::kUnsynced && random.chance(keep)) {
      if (fresh) {
        left[index] = std::move(fresh);
      } else {
        left.erase(index);
      }
    }
  }
  uint64_t size = durable_size_;
  if (size_ != durable_size_) {
    uint64_t low = std::min(size_, durable_size_);
    uint64_t high = std::max(size_, durable_size_);
    if (random.chance(keep)) size = size_;
    if (keep > 0 && random.below(4) == 0) size = low + random.below(high - low + 1);
  }
  SHOAL_ASSERT(space_->pages >= seen_.size());
  space_->pages = space_->pages - seen_.size() + left.size();
  seen_ = std::move(left);
  set_size(size);  // cuts off what lies behind
  durable_ = seen_;
  durable_size_ = size_;
  dirty_.clear();
}

SimTree::SimTree() : root_(std::make_shared<SimNode>()) {}

SimNodePtr SimTree::find(std::string_view path) const {
  SimNodePtr node = root_;
  while (!path.empty() && node) {
    size_t slash = std::min(path.find('/'), path.size());
    std::string_view name = path.substr(0, slash);
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (name.empty() || name == ".") continue;
    if (node->file) return nullptr;
    auto found = node->seen.find(std::string(name));
    node = found == node->seen.end() ? nullptr : found->second;
  }
  return node;
}

SimNodePtr SimTree::parent(std::string_view path, std::string& leaf) const {
  while (!path.empty() && path.back() == '/') path.remove_suffix(1);
  size_t slash = path.rfind('/');
  leaf = slash == std::string_view::npos ? path : path.substr(slash + 1);
  SimNodePtr node = find(slash == std::string_view::npos ? "" : path.substr(0, slash));
  return node && !node->file ? node : nullptr;
}

void SimTree::record(std::vector<Edit> edits) {
  for (const Edit& edit : edits) {
    if (edit.node) {
      edit.directory->seen[edit.name] = edit.node;
    } else {
      edit.directory->seen.erase(edit.name);
    }
  }
  pending_.push_back({++sequence_, std::move(edits)});
  if (pending_.size() < kPendingMax) return;
  std::vector<bool> oldest(pending_.size());
  std::fill_n(oldest.begin(), pending_.size() / 2, true);
  settle(std::move(oldest));
}

void SimTree::link(const SimNodePtr& directory, const std::string& name, const SimNodePtr& node) {
  record({{directory, name, node}});
}

void SimTree::unlink(const SimNodePtr& directory, const std::string& name) {
  record({{directory, name, nullptr}});
}

void SimTree::rename(const SimNodePtr& from, const std::string& from_name, const SimNodePtr& to,
                     const std::string& to_name) {
  SimNodePtr node = from->seen.at(from_name);
  record({{from, from_name, nullptr}, {to, to_name, node}});
}

void SimTree::settle(std::vector<bool> chosen) {
  SHOAL_ASSERT(chosen.size() == pending_.size());
  std::set<std::pair<SimNode*, std::string>> needed;
  for (size_t i = pending_.size(); i-- > 0;) {
    for (const Edit& edit : pending_[i].edits) {
      if (needed.contains({edit.directory.get(), edit.name})) chosen[i] = true;
    }
    if (!chosen[i]) continue;
    for (const Edit& edit : pending_[i].edits) needed.insert({edit.directory.get(), edit.name});
  }
  std::vector<Change> rest;
  for (size_t i = 0; i < pending_.size(); ++i) {
    if (!chosen[i]) {
      rest.push_back(std::move(pending_[i]));
      continue;
    }
    for (const Edit& edit : pending_[i].edits) {
      if (edit.node) {
        edit.directory->durable[edit.name] = edit.node;
      } else {
        edit.directory->durable.erase(edit.name);
      }
    }
  }
  pending_ = std::move(rest);
}

void SimTree::sync_directory(const SimNodePtr& directory, uint64_t up_to) {
  std::vector<bool> chosen;
  for (const Change& change : pending_) {
    bool concerned = std::any_of(change.edits.begin(), change.edits.end(),
                                 [&](const Edit& edit) { return edit.directory == directory; });
    chosen.push_back(concerned && change.sequence <= up_to);
  }
  settle(std::move(chosen));
}

void SimTree::power_loss(SeededRandom& random) {
  std::vector<bool> chosen(pending_.size());
  if (random.below(2) == 0) {
    // A journal: everything up to some point.
    size_t point = random.below(pending_.size() + 1);
    for (size_t i = 0; i < point; ++i) chosen[i] = true;
  } else {
    double keep = draw_keep_chance(random);
    for (size_t i = 0; i < chosen.size(); ++i) chosen[i] = random.chance(keep);
  }
  settle(std::move(chosen));
  pending_.clear();
  std::set<SimNode*> reached;
  std::vector<SimNodePtr> work = {root_};
  while (!work.empty()) {
    SimNodePtr node = std::move(work.back());
    work.pop_back();
    if (!reached.insert(node.get()).second) continue;
    if (node->file) node->file->power_loss(random);
    node->seen = node->durable;
    for (const auto& [name, child] : node->seen) work.push_back(child);
  }
}

}  // namespace shoal
