// Moves: the rename of a directory, which goes object by object, against changes below it. Neither
// begins while the other runs. Who holds a change must not ask for another one: it could be waited
// for by the move that it would wait for. Moves from one directory to another come one at a time:
// the kernel sees to that, as they might else wait for each other.
//
// Owned by FileSystemImpl; shard's thread.
#pragma once

#include <array>
#include <unordered_map>
#include <vector>

#include "async/sync.h"
#include "async/task.h"
#include "node/tree.h"

namespace shoal {

class Moves {
 public:
  // Of a file, or of the names in a directory; keeps its inodes alive.
  class [[nodiscard]] Change {
   public:
    Change() = default;
    Change(Change&& other) noexcept
        : moves_(std::exchange(other.moves_, nullptr)), inodes_(std::move(other.inodes_)) {}
    Change& operator=(Change&& other) noexcept;
    ~Change() { end(); }

   private:
    friend class Moves;
    void end();
    Moves* moves_ = nullptr;
    std::array<InodeUse, 2> inodes_;
  };

  // The rename of one directory.
  class [[nodiscard]] Move {
   public:
    Move(Move&& other) noexcept
        : moves_(std::exchange(other.moves_, nullptr)), directory_(std::move(other.directory_)) {}
    Move& operator=(Move&&) = delete;
    ~Move();

   private:
    friend class Moves;
    Move(Moves& moves, InodeUse directory) : moves_(&moves), directory_(std::move(directory)) {}
    Moves* moves_;
    InodeUse directory_;
  };

  Moves(Executor& executor, Tree& tree) : tree_(tree), changed_(executor) {}

  // Waits for the moves of what is above the inode, and of what is above `also` if not null.
  Task<Result<Change>> change(Inode& inode, Context context, Inode* also = nullptr);
  // Waits for the changes below the directory.
  Task<Result<Move>> move(Inode& directory, Context context);

  // The inode or what is above it is being moved. For what changes without a wait.
  bool is_moving(const Inode& inode) const;
  // Until a move or a change has ended.
  Waiter wait(Context context) { return changed_.wait(context); }

 private:
  static bool is_below(const Inode& inode, const Inode& directory);
  bool any_change_below(const Inode& directory) const;

  Tree& tree_;
  std::unordered_map<const Inode*, uint32_t> changes_;  // running ones
  std::vector<const Inode*> moving_;
  Signal changed_;
};

}  // namespace shoal
