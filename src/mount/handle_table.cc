#include "mount/handle_table.h"

#include "base/assert.h"

namespace shoal::fuse {

uint64_t HandleTable::add(OpenFile file) {
  SHOAL_ASSERT(file.handle != HandleId::kNone);
  // Relaxed: only uniqueness matters.
  uint64_t number = next_.fetch_add(1, std::memory_order_relaxed);
  Stripe& home = stripe(number);
  std::lock_guard lock(home.mutex);
  bool added = home.files.emplace(number, std::move(file)).second;
  SHOAL_ASSERT(added);
  return number;
}

std::optional<OpenFile> HandleTable::find(uint64_t number) const {
  const Stripe& home = stripe(number);
  std::lock_guard lock(home.mutex);
  auto at = home.files.find(number);
  if (at == home.files.end()) return std::nullopt;
  return at->second;
}

std::shared_ptr<ReadView> HandleTable::view(uint64_t number) const {
  const Stripe& home = stripe(number);
  std::lock_guard lock(home.mutex);
  auto at = home.files.find(number);
  if (at == home.files.end()) return nullptr;
  return at->second.view;
}

std::optional<OpenFile> HandleTable::remove(uint64_t number) {
  Stripe& home = stripe(number);
  std::lock_guard lock(home.mutex);
  auto at = home.files.find(number);
  if (at == home.files.end()) return std::nullopt;
  OpenFile file = std::move(at->second);
  home.files.erase(at);
  return file;
}

bool HandleTable::take_privileges(uint64_t number) {
  Stripe& home = stripe(number);
  std::lock_guard lock(home.mutex);
  auto at = home.files.find(number);
  if (at == home.files.end()) return false;
  return std::exchange(at->second.privileges_kept, false);
}

void HandleTable::keep_privileges(InodeId inode) {
  for (Stripe& each : stripes_) {
    std::lock_guard lock(each.mutex);
    for (auto& [number, file] : each.files) {
      if (file.inode == inode) file.privileges_kept = true;
    }
  }
}

std::vector<OpenFile> HandleTable::take_all() {
  std::vector<OpenFile> all;
  for (Stripe& each : stripes_) {
    std::lock_guard lock(each.mutex);
    for (auto& [number, file] : each.files) all.push_back(std::move(file));
    each.files.clear();
  }
  return all;
}

size_t HandleTable::size() const {
  size_t size = 0;
  for (const Stripe& each : stripes_) {
    std::lock_guard lock(each.mutex);
    size += each.files.size();
  }
  return size;
}

}  // namespace shoal::fuse
