#include "node/moves.h"

#include <algorithm>

namespace shoal {

Moves::Change& Moves::Change::operator=(Change&& other) noexcept {
  if (this != &other) {
    end();
    moves_ = std::exchange(other.moves_, nullptr);
    inodes_ = std::move(other.inodes_);
  }
  return *this;
}

void Moves::Change::end() {
  if (moves_ == nullptr) return;
  for (InodeUse& inode : inodes_) {
    if (!inode) continue;
    auto found = moves_->changes_.find(&*inode);
    SHOAL_ASSERT(found != moves_->changes_.end());
    if (--found->second == 0) moves_->changes_.erase(found);
    inode = InodeUse();
  }
  if (!moves_->moving_.empty()) moves_->changed_.notify_all();
  moves_ = nullptr;
}

Moves::Move::~Move() {
  if (moves_ == nullptr) return;
  std::erase(moves_->moving_, &*directory_);
  moves_->changed_.notify_all();
}

bool Moves::is_below(const Inode& inode, const Inode& directory) {
  for (const Inode* at = &inode; at != nullptr; at = at->parent) {
    if (at == &directory) return true;
  }
  return false;
}

bool Moves::is_moving(const Inode& inode) const {
  return std::ranges::any_of(moving_,
                             [&](const Inode* directory) { return is_below(inode, *directory); });
}

bool Moves::any_change_below(const Inode& directory) const {
  return std::ranges::any_of(changes_,
                             [&](const auto& entry) { return is_below(*entry.first, directory); });
}

Task<Result<Moves::Change>> Moves::change(Inode& inode, Context context, Inode* also) {
  Change change;
  change.inodes_[0] = InodeUse(tree_, inode);
  if (also != nullptr && also != &inode) change.inodes_[1] = InodeUse(tree_, *also);
  // Both at once: with one of them it would be waited for.
  while (is_moving(inode) || (also != nullptr && is_moving(*also))) {
    SHOAL_CO_RETURN_IF_ERROR(co_await changed_.wait(context));
  }
  change.moves_ = this;
  for (const InodeUse& use : change.inodes_) {
    if (use) ++changes_[&*use];
  }
  co_return std::move(change);
}

Task<Result<Moves::Move>> Moves::move(Inode& directory, Context context) {
  InodeUse use(tree_, directory);
  while (std::ranges::find(moving_, &directory) != moving_.end()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await changed_.wait(context));
  }
  moving_.push_back(&directory);
  Move move(*this, std::move(use));
  while (any_change_below(directory)) {
    SHOAL_CO_RETURN_IF_ERROR(co_await changed_.wait(context));
  }
  co_return std::move(move);
}

}  // namespace shoal
