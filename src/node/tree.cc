#include "node/tree.h"

#include <vector>

#include "base/hash.h"
#include "base/object_name.h"

namespace shoal {

namespace {

constexpr size_t kForgottenMax = 10'000;  // names of one directory

// So that the name is not taken for absent. With too many of them the directory is like any other.
void remember_forgotten(Inode& directory, const std::string& name) {
  directory.names().forgotten.insert(name);
  if (directory.names().forgotten.size() <= kForgottenMax) return;
  directory.names().forgotten.clear();
  directory.names().written_here = false;
}

}  // namespace

Tree::Tree(Executor& executor) : executor_(executor) {
  auto root = std::make_unique<Inode>(executor);
  root->id = InodeId::kRoot;
  root->number = 1;
  root->attributes.kind = FileKind::kDirectory;
  root->lookups = 1;
  root->marker = true;
  root_ = root.get();
  inodes_.emplace(static_cast<uint64_t>(InodeId::kRoot), std::move(root));
}

Tree::~Tree() = default;

Inode* Tree::find(InodeId id) {
  auto found = inodes_.find(static_cast<uint64_t>(id));
  return found == inodes_.end() ? nullptr : found->second.get();
}

Inode* Tree::child(Inode& directory, std::string_view name) {
  if (!directory.has_children()) return nullptr;
  auto found = directory.names().children.find(name);
  return found == directory.names().children.end() ? nullptr : found->second;
}

Inode& Tree::add(Inode& directory, std::string name, FileAttributes attributes) {
  SHOAL_ASSERT(directory.is_directory());
  SHOAL_ASSERT(child(directory, name) == nullptr, "the name is taken");
  auto inode = std::make_unique<Inode>(executor_);
  Inode& made = *inode;
  made.id = static_cast<InodeId>(next_id_++);
  made.parent = &directory;
  made.name = std::move(name);
  made.attributes = std::move(attributes);
  directory.names().children.emplace(made.name, &made);
  directory.names().forgotten.erase(made.name);
  // Stable while the object keeps its path, so that tools that compare inode numbers are content.
  made.number = hash_string(path(made)).low | 2;
  inodes_.emplace(static_cast<uint64_t>(made.id), std::move(inode));
  return made;
}

void Tree::detach(Inode& inode) {
  if (inode.parent == nullptr) return;
  Inode* parent = inode.parent;
  auto found = parent->names().children.find(inode.name);
  SHOAL_ASSERT(found != parent->names().children.end() && found->second == &inode);
  parent->names().children.erase(found);
  inode.parent = nullptr;
  drop_if_unused(*parent);
}

void Tree::move(Inode& inode, Inode& directory, std::string name) {
  SHOAL_ASSERT(inode.id != InodeId::kRoot && directory.is_directory());
  SHOAL_ASSERT(child(directory, name) == nullptr, "the name is taken");
  InodeUse keep(*this, inode);
  InodeUse keep_directory(*this, directory);
  detach(inode);
  inode.parent = &directory;
  inode.name = std::move(name);
  directory.names().children.emplace(inode.name, &inode);
}

void Tree::drop_if_unused(Inode& inode) {
  Inode* at = &inode;
  while (at != nullptr && at->id != InodeId::kRoot) {
    if (at->lookups > 0 || at->users > 0 || at->handles > 0 || at->staged != nullptr ||
        at->has_children()) {
      return;
    }
    Inode* parent = at->parent;
    if (parent != nullptr) {
      parent->names().children.erase(at->name);
      if (parent->names().written_here) remember_forgotten(*parent, at->name);
    }
    inodes_.erase(static_cast<uint64_t>(at->id));
    at = parent;
  }
}

std::string Tree::path(const Inode& inode) const {
  std::vector<const Inode*> chain;
  for (const Inode* at = &inode; at->id != InodeId::kRoot; at = at->parent) {
    SHOAL_ASSERT(at->parent != nullptr, "a detached inode has no path");
    chain.push_back(at);
  }
  std::string path;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) path = join_path(path, (*it)->name);
  return path;
}

bool Tree::has_path(const Inode& inode) const {
  const Inode* at = &inode;
  while (at->id != InodeId::kRoot && at->parent != nullptr) at = at->parent;
  return at->id == InodeId::kRoot;
}

Inode* Tree::find_path(std::string_view path) {
  Inode* at = root_;
  while (!path.empty() && at != nullptr) {
    size_t slash = path.find('/');
    at = child(*at, path.substr(0, slash));
    if (slash == std::string_view::npos) return at;
    path.remove_prefix(slash + 1);
  }
  return at;
}

Inode& Tree::nearest(std::string_view path) {
  Inode* at = root_;
  while (!path.empty()) {
    size_t slash = path.find('/');
    Inode* next = child(*at, path.substr(0, slash));
    if (next == nullptr) break;
    at = next;
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
  }
  return *at;
}

}  // namespace shoal
