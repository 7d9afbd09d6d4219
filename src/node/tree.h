// Tree: the inodes that the kernel (or an open handle, or the write-back) knows, by id and by name.
// It is not a copy of the origin's namespace: an inode that nobody refers to is dropped.
//
// Owned by the file system; shard's thread. No I/O here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "async/sync.h"
#include "node/attributes.h"
#include "node/file_system.h"

namespace shoal {

struct StagedVersion;
struct Inode;
class Fetcher;
struct Listing;

// The bytes of an open or staged file, shared by all handles of its inode.
struct Content {
  FileRef file;                        // files tier, else null
  std::shared_ptr<std::string> small;  // small tier: the whole object, else null
  std::shared_ptr<Fetcher> fetcher;    // clean file: brings missing pieces
  bool loaded() const { return file != nullptr || small != nullptr; }
};

// What only directories have: a million files may be known.
struct DirectoryPart {
  std::unordered_map<std::string_view, Inode*> children;  // keys point into the child's name
  bool written_here = false;         // this node made names in it, and knows what it forgot
  std::shared_ptr<Listing> listing;  // the last full one, or one that is being made
  std::unordered_map<std::string, SteadyTime> absent_until;  // known absent names
  int absent_asked = 0;      // absent names that were asked for since its last listing,
  Duration absent_took{0};   // how long that took,
  Duration listing_took{0};  // and how long the last listing for look-ups
  std::unordered_set<std::string> forgotten;  // written here: names that stood in it
};

struct Inode {
  explicit Inode(Executor& executor) : lock(executor, 1) {}

  InodeId id = InodeId::kNone;
  uint64_t number = 0;                       // st_ino
  Inode* parent = nullptr;                   // null: the root, or detached (unlinked, replaced)
  std::string name;                          // in the parent
  std::unique_ptr<DirectoryPart> directory;  // null: a file, or nothing to tell of

  FileAttributes attributes;
  uint64_t size = 0;
  WallTime accessed{};
  WallTime modified{};
  WallTime changed{};
  std::string etag;       // the origin's version (clean), empty if it has none
  bool marker = false;    // directory: an object with its name exists in the origin
  bool unlinked = false;  // no name any more; its bytes go with the last handle

  SteadyTime fresh_until{};  // the name may be answered without asking the origin

  uint64_t lookups = 0;       // the kernel's references
  uint32_t users = 0;         // handles and flows that hold it
  uint32_t writers = 0;       // handles open for writing
  uint32_t passthroughs = 0;  // handles that the kernel reads by itself
  uint32_t handles = 0;
  bool seal_waits = false;  // a background task tries to seal what a failed close left open
  bool pages_good = false;  // the kernel's cached pages are of this content

  Semaphore lock;  // serialises changes of content and staged
  Content content;
  std::shared_ptr<StagedVersion> staged;  // shared with the write-back; null when clean

  DirectoryPart& names() {
    if (directory == nullptr) directory = std::make_unique<DirectoryPart>();
    return *directory;
  }
  bool has_children() const { return directory != nullptr && !directory->children.empty(); }
  bool is_directory() const { return attributes.kind == FileKind::kDirectory; }
  bool attached() const { return parent != nullptr || id == InodeId::kRoot; }
};

class Tree {
 public:
  explicit Tree(Executor& executor);
  ~Tree();

  Inode& root() { return *root_; }
  // Null if unknown (a stale id from the kernel is not trusted).
  Inode* find(InodeId id);
  Inode* child(Inode& directory, std::string_view name);
  // Makes a child; the name must be free.
  Inode& add(Inode& directory, std::string name, FileAttributes attributes);
  // Takes the inode out of its parent; it lives on while somebody refers to it.
  void detach(Inode& inode);
  // Moves it to another name; the target must be free.
  void move(Inode& inode, Inode& directory, std::string name);
  // Drops the inode if nobody refers to it (and then its parent, and so on).
  void drop_if_unused(Inode& inode);
  // "a/b/c"; "" for the root. Only for attached inodes (with all parents attached).
  std::string path(const Inode& inode) const;
  bool has_path(const Inode& inode) const;
  // The deepest known inode for a path: walks known children only; null when one is unknown.
  Inode* find_path(std::string_view path);
  // What is known of the path: the inode, or the deepest one above it.
  Inode& nearest(std::string_view path);
  size_t size() const { return inodes_.size(); }

 private:
  Executor& executor_;
  std::unordered_map<uint64_t, std::unique_ptr<Inode>> inodes_;
  Inode* root_ = nullptr;
  uint64_t next_id_ = 2;
};

// Keeps an inode alive while a flow uses it.
class InodeUse {
 public:
  InodeUse() = default;
  InodeUse(Tree& tree, Inode& inode) : tree_(&tree), inode_(&inode) { ++inode.users; }
  InodeUse(InodeUse&& other) noexcept
      : tree_(other.tree_), inode_(std::exchange(other.inode_, nullptr)) {}
  InodeUse& operator=(InodeUse&& other) noexcept {
    if (this != &other) {
      release();
      tree_ = other.tree_;
      inode_ = std::exchange(other.inode_, nullptr);
    }
    return *this;
  }
  ~InodeUse() { release(); }
  Inode& operator*() const { return *inode_; }
  Inode* operator->() const { return inode_; }
  explicit operator bool() const { return inode_ != nullptr; }

 private:
  void release() {
    if (inode_ == nullptr) return;
    Inode* inode = std::exchange(inode_, nullptr);
    SHOAL_ASSERT(inode->users > 0);
    --inode->users;
    tree_->drop_if_unused(*inode);
  }
  Tree* tree_ = nullptr;
  Inode* inode_ = nullptr;
};

}  // namespace shoal
