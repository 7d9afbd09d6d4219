// A FileSystem for tests: names in maps, each file's bytes in a nameless file, so that the fast
// path and passthrough have a real descriptor to read. Knobs are atomics because tests turn them
// from their own thread; everything else belongs to the shard.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <set>

#include "async/sync.h"
#include "node/file_system.h"

namespace shoal {

class MemoryFileSystem final : public FileSystem {
 public:
  std::atomic<bool> offer_passthrough{false};
  std::atomic<bool> offer_cached{false};
  std::atomic<bool> offer_view{false};
  std::atomic<bool> block_reads{false};  // until one comes that finds this false again
  std::atomic<int64_t> ttl_ms{0};

  std::atomic<int> reads{0};
  std::atomic<int> reads_blocked{0};
  std::atomic<bool> accept_writes{false};  // and go on with them when a read finds this false again
  std::atomic<int> writes_ended{0};
  std::atomic<int> opens{0};
  std::atomic<int> stale_answers{0};
  std::atomic<int> cancelled{0};
  std::atomic<int> releases{0};
  std::atomic<int> opened{0};
  std::atomic<int> attribute_calls{0};
  std::atomic<int> passthrough_allowed{0};

  explicit MemoryFileSystem(Executor& executor) : executor_(executor), blocked_(executor) {
    Node& root = make(S_IFDIR | 0755, {::geteuid(), ::getegid(), 0, 0});
    SHOAL_ASSERT(root.id == InodeId::kRoot);
    root.lookups = 1;
  }

  size_t open_handles() const { return handles_.size(); }
  int open_now() const { return opened - releases; }

  Task<Result<Entry>> lookup(InodeId parent, std::string name, Context) override {
    Node* node = child(parent, name);
    if (node == nullptr) co_return fail(Code::kNotFound, "no " + name);
    ++node->lookups;
    co_return entry_of(*node);
  }
  Duration negative_ttl() const override { return std::chrono::milliseconds(ttl_ms.load()); }
  void forget(InodeId inode, uint64_t lookups) override {
    auto at = nodes_.find(inode);
    if (at == nodes_.end() || inode == InodeId::kRoot) return;
    SHOAL_ASSERT(at->second->lookups >= lookups, "more forgotten than looked up");
    at->second->lookups -= lookups;
    drop_if_unused(inode);
  }

  Task<Result<Entry>> attributes(InodeId inode, Context) override {
    ++attribute_calls;
    Node* node = find(inode);
    if (node == nullptr) co_return fail(Code::kStale, "no such inode");
    co_return entry_of(*node);
  }
  Task<Result<Entry>> set_attributes(InodeId inode, SetAttributes change, Caller,
                                     Context) override {
    Node* node = find(inode);
    if (node == nullptr) co_return fail(Code::kStale, "no such inode");
    if (change.mode) node->mode = (node->mode & S_IFMT) | *change.mode;
    if (change.uid) node->uid = *change.uid;
    if (change.gid) node->gid = *change.gid;
    if (change.size) set_size(*node, *change.size);
    if (change.accessed) node->accessed = *change.accessed;
    if (change.modified) node->modified = *change.modified;
    node->changed = executor_.wall_now();
    co_return entry_of(*node);
  }

  Task<Result<OpenResult>> open(InodeId inode, uint32_t flags, bool can_passthrough,
                                Context) override {
    ++opens;
    Node* node = find(inode);
    if (node == nullptr) co_return fail(Code::kStale, "no such inode");
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    if (writes && node->passthrough_opens > 0) {
      replace(*node);
      ++stale_answers;
      co_return fail(Code::kStale, "open for passthrough");
    }
    if (flags & O_TRUNC) set_size(*node, 0);
    co_return open_node(*node, flags, can_passthrough);
  }
  Task<Result<Created>> create(InodeId parent, std::string name, uint32_t mode, uint32_t flags,
                               Caller caller, Context) override {
    if (Node* existing = child(parent, name)) {
      if (flags & O_EXCL) co_return fail(Code::kAlreadyExists, name);
      ++existing->lookups;
      co_return Created{entry_of(*existing), open_node(*existing, flags, false)};
    }
    Node& node = make(S_IFREG | mode, caller);
    link(parent, name, node);
    ++node.lookups;
    co_return Created{entry_of(node), open_node(node, flags, false)};
  }

  Task<Result<size_t>> read(HandleId handle, uint64_t offset, ByteSpan into,
                            Context context) override {
    ++reads;
    Node& node = node_of(handle);
    if (block_reads) {
      ++reads_blocked;
      Status status;
      while (status && block_reads) status = co_await blocked_.wait(context);
      if (!status) {
        ++cancelled;
        co_return fail(std::move(status).error());
      }
    }
    blocked_.notify_all();
    size_t done = 0;
    while (done < into.size()) {
      ssize_t got = ::pread(node.descriptor, into.data() + done, into.size() - done,
                            static_cast<off_t>(offset + done));
      SHOAL_ASSERT(got >= 0);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    co_return done;
  }
  Task<Result<size_t>> write(HandleId handle, uint64_t offset, ConstByteSpan bytes,
                             std::function<void()> accepted, Context) override {
    Node& node = node_of(handle);
    if (accept_writes) {
      accepted();
      while (accept_writes) (void)co_await blocked_.wait({});
    }
    if (handles_.at(handle).flags & O_APPEND) offset = node.size;
    ssize_t wrote =
        ::pwrite(node.descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    SHOAL_ASSERT(wrote == static_cast<ssize_t>(bytes.size()));
    node.size = std::max(node.size, offset + bytes.size());
    note_size(node);
    node.modified = executor_.wall_now();
    ++writes_ended;
    co_return bytes.size();
  }
  Task<Status> flush(HandleId handle, Context) override {
    node_of(handle);
    co_return Status();
  }
  Task<Status> sync(HandleId handle, bool, Context) override {
    node_of(handle);
    co_return Status();
  }
  Task<void> release(HandleId handle) override {
    ++releases;
    auto at = handles_.find(handle);
    SHOAL_ASSERT(at != handles_.end());
    Node& node = *nodes_.at(at->second.inode);
    --node.opens;
    if (at->second.passthrough) --node.passthrough_opens;
    InodeId inode = node.id;
    handles_.erase(at);
    drop_if_unused(inode);
    co_return;
  }
  Task<Status> allocate(HandleId handle, uint32_t mode, Range range, Context) override {
    Node& node = node_of(handle);
    if (mode != 0) co_return fail(Code::kNotSupported, "only plain fallocate");
    if (range.end() > node.size) set_size(node, range.end());
    co_return Status();
  }
  Task<Result<uint64_t>> seek(HandleId handle, uint64_t offset, bool data, Context) override {
    Node& node = node_of(handle);
    off_t found =
        ::lseek(node.descriptor, static_cast<off_t>(offset), data ? SEEK_DATA : SEEK_HOLE);
    if (found < 0) co_return node.size;
    co_return static_cast<uint64_t>(found);
  }

  Task<Result<HandleId>> open_directory(InodeId inode, Context) override {
    HandleId handle{++next_handle_};
    ++nodes_.at(inode)->opens;
    ++opened;
    handles_[handle] = {inode, 0, false};
    co_return handle;
  }
  Task<Status> read_directory(HandleId handle, uint64_t cookie, bool plus,
                              std::function<bool(const DirectoryItem&)> add, Context) override {
    Node& node = node_of(handle);
    // Cookies: 1 and 2 are "." and "..", a child's is its inode plus 2.
    for (uint64_t dot = cookie; dot < 2; ++dot) {
      DirectoryItem item;
      item.name = dot == 0 ? "." : "..";
      item.cookie = dot + 1;
      item.entry.attributes.number = 1;
      item.entry.attributes.mode = S_IFDIR;
      if (!add(item)) co_return Status();
    }
    std::map<InodeId, std::string> ordered;
    for (auto& [name, inode] : node.children) ordered[inode] = name;
    for (auto& [inode, name] : ordered) {
      uint64_t next = static_cast<uint64_t>(inode) + 2;
      if (next <= cookie) continue;
      Node& found = *nodes_.at(inode);
      DirectoryItem item{name, next, entry_of(found)};
      if (!plus) item.entry.attributes.inode = InodeId::kNone;
      if (!add(item)) co_return Status();
      if (plus) ++found.lookups;
    }
    co_return Status();
  }
  Task<void> release_directory(HandleId handle) override { return release(handle); }

  Task<Result<Entry>> make_directory(InodeId parent, std::string name, uint32_t mode, Caller caller,
                                     Context) override {
    if (child(parent, name) != nullptr) co_return fail(Code::kAlreadyExists, name);
    Node& node = make(S_IFDIR | mode, caller);
    link(parent, name, node);
    ++node.lookups;
    co_return entry_of(node);
  }
  Task<Result<Entry>> make_symlink(InodeId parent, std::string name, std::string target,
                                   Caller caller, Context) override {
    if (child(parent, name) != nullptr) co_return fail(Code::kAlreadyExists, name);
    Node& node = make(S_IFLNK | 0777, caller);
    node.target = std::move(target);
    link(parent, name, node);
    ++node.lookups;
    co_return entry_of(node);
  }
  Task<Result<std::string>> read_symlink(InodeId inode, Context) override {
    co_return nodes_.at(inode)->target;
  }
  Task<Status> unlink(InodeId parent, std::string name, Context) override {
    Node* node = child(parent, name);
    if (node == nullptr) co_return fail(Code::kNotFound, name);
    unlink_child(parent, name);
    co_return Status();
  }
  Task<Status> remove_directory(InodeId parent, std::string name, Context) override {
    Node* node = child(parent, name);
    if (node == nullptr) co_return fail(Code::kNotFound, name);
    if (!node->children.empty()) co_return fail(Code::kNotEmpty, name);
    unlink_child(parent, name);
    co_return Status();
  }
  Task<Status> rename(InodeId from_parent, std::string from, InodeId to_parent, std::string to,
                      uint32_t flags, Context) override {
    Node* node = child(from_parent, from);
    if (node == nullptr) co_return fail(Code::kNotFound, from);
    if (flags & ~1u) co_return fail(Code::kNotSupported, "flags");
    if (child(to_parent, to) != nullptr) {
      if (flags & 1u) co_return fail(Code::kAlreadyExists, to);
      unlink_child(to_parent, to);
    }
    nodes_.at(from_parent)->children.erase(from);
    nodes_.at(to_parent)->children[to] = node->id;
    co_return Status();
  }

  Task<Result<std::string>> get_xattr(InodeId inode, std::string name, Context) override {
    auto& xattrs = nodes_.at(inode)->xattrs;
    auto at = xattrs.find(name);
    if (at == xattrs.end()) co_return fail(Code::kNoData, name);
    co_return at->second;
  }
  Task<Status> set_xattr(InodeId inode, std::string name, std::string value, uint32_t flags,
                         Context) override {
    auto& xattrs = nodes_.at(inode)->xattrs;
    bool exists = xattrs.contains(name);
    if (exists && (flags & XATTR_CREATE)) co_return fail(Code::kAlreadyExists, name);
    if (!exists && (flags & XATTR_REPLACE)) co_return fail(Code::kNoData, name);
    xattrs[name] = std::move(value);
    co_return Status();
  }
  Task<Result<std::vector<std::string>>> list_xattrs(InodeId inode, Context) override {
    std::vector<std::string> names;
    for (auto& [name, value] : nodes_.at(inode)->xattrs) names.push_back(name);
    co_return names;
  }
  Task<Status> remove_xattr(InodeId inode, std::string name, Context) override {
    if (nodes_.at(inode)->xattrs.erase(name) == 0) co_return fail(Code::kNoData, name);
    co_return Status();
  }
  Task<Result<FileSystemStat>> stat_file_system(Context) override {
    co_return FileSystemStat{100 * kGiB, 40 * kGiB};
  }

 private:
  struct Node {
    InodeId id{};
    uint64_t number = 0;
    uint32_t mode = 0;
    uint32_t uid = 0;
    uint32_t gid = 0;
    WallTime accessed{};
    WallTime modified{};
    WallTime changed{};
    uint64_t size = 0;
    int descriptor = -1;
    std::shared_ptr<ReadView> view;
    std::string target;
    std::map<std::string, std::string> xattrs;
    std::map<std::string, InodeId> children;
    uint64_t lookups = 0;
    uint64_t opens = 0;
    uint64_t passthrough_opens = 0;
    bool linked = false;
    ~Node() {
      if (descriptor >= 0) ::close(descriptor);
    }
  };
  struct Handle {
    InodeId inode{};
    uint32_t flags = 0;
    bool passthrough = false;
  };

  Node& make(uint32_t mode, Caller caller) {
    auto node = std::make_unique<Node>();
    node->id = InodeId{++next_inode_};
    node->number = next_inode_;
    node->mode = mode;
    node->uid = caller.uid;
    node->gid = caller.gid;
    node->accessed = node->modified = node->changed = executor_.wall_now();
    if (S_ISREG(mode)) {
      node->descriptor = ::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
      SHOAL_ASSERT(node->descriptor >= 0);
      node->view = std::make_shared<ReadView>(node->descriptor, 0);
    }
    Node& made = *node;
    nodes_[node->id] = std::move(node);
    return made;
  }
  // The name gets a new inode with the same bytes; the old one lives on for whoever has it open.
  void replace(Node& old) {
    for (auto& [id, parent] : nodes_) {
      for (auto& [name, inode] : parent->children) {
        if (inode != old.id) continue;
        Node& fresh = make(old.mode, {old.uid, old.gid, 0, 0});
        fresh.number = old.number;
        std::string bytes(old.size, '\0');
        SHOAL_ASSERT(::pread(old.descriptor, bytes.data(), old.size, 0) ==
                     static_cast<ssize_t>(old.size));
        SHOAL_ASSERT(::pwrite(fresh.descriptor, bytes.data(), old.size, 0) ==
                     static_cast<ssize_t>(old.size));
        fresh.size = old.size;
        note_size(fresh);
        fresh.linked = true;
        old.linked = false;
        inode = fresh.id;
        return;
      }
    }
  }
  Node* find(InodeId inode) {
    auto at = nodes_.find(inode);
    return at == nodes_.end() ? nullptr : at->second.get();
  }
  Node* child(InodeId parent, const std::string& name) {
    Node* directory = find(parent);
    if (directory == nullptr) return nullptr;
    auto at = directory->children.find(name);
    return at == directory->children.end() ? nullptr : nodes_.at(at->second).get();
  }
  Node& node_of(HandleId handle) {
    auto at = handles_.find(handle);
    SHOAL_ASSERT(at != handles_.end(), "used after release");
    return *nodes_.at(at->second.inode);
  }
  void link(InodeId parent, const std::string& name, Node& node) {
    nodes_.at(parent)->children[name] = node.id;
    node.linked = true;
  }
  void unlink_child(InodeId parent, const std::string& name) {
    Node& directory = *nodes_.at(parent);
    InodeId inode = directory.children.at(name);
    directory.children.erase(name);
    nodes_.at(inode)->linked = false;
    drop_if_unused(inode);
  }
  void drop_if_unused(InodeId inode) {
    Node& node = *nodes_.at(inode);
    if (inode == InodeId::kRoot || node.linked || node.lookups > 0 || node.opens > 0) return;
    nodes_.erase(inode);
  }
  void set_size(Node& node, uint64_t size) {
    SHOAL_ASSERT(::ftruncate(node.descriptor, static_cast<off_t>(size)) == 0);
    node.size = size;
    note_size(node);
  }
  void note_size(Node& node) {
    node.view->set_size(node.size);
    for (uint64_t piece = 0; piece * kPieceBytes < node.size; ++piece) {
      node.view->set_present(piece, true);
    }
  }
  OpenResult open_node(Node& node, uint32_t flags, bool can_passthrough) {
    if (can_passthrough) ++passthrough_allowed;
    OpenResult result;
    result.handle = HandleId{++next_handle_};
    bool passthrough = can_passthrough && offer_passthrough && (flags & O_ACCMODE) == O_RDONLY;
    if (passthrough) {
      result.mode = OpenResult::Mode::kPassthrough;
      result.backing_descriptor = node.descriptor;
      ++node.passthrough_opens;
    } else if (offer_cached) {
      result.mode = OpenResult::Mode::kCached;
    }
    if (offer_view) result.view = node.view;
    ++node.opens;
    ++opened;
    handles_[result.handle] = {node.id, flags, passthrough};
    return result;
  }
  Entry entry_of(const Node& node) {
    Entry entry;
    entry.attributes.inode = node.id;
    entry.attributes.number = node.number;
    entry.attributes.size = S_ISLNK(node.mode) ? node.target.size() : node.size;
    entry.attributes.allocated = entry.attributes.size;
    entry.attributes.mode = node.mode;
    entry.attributes.links = S_ISDIR(node.mode) ? 2 : 1;
    entry.attributes.uid = node.uid;
    entry.attributes.gid = node.gid;
    entry.attributes.accessed = node.accessed;
    entry.attributes.modified = node.modified;
    entry.attributes.changed = node.changed;
    entry.entry_ttl = entry.attribute_ttl = std::chrono::milliseconds(ttl_ms.load());
    return entry;
  }

  Executor& executor_;
  Signal blocked_;
  std::map<InodeId, std::unique_ptr<Node>> nodes_;
  std::map<HandleId, Handle> handles_;
  uint64_t next_inode_ = 0;
  uint64_t next_handle_ = 0;
};

}  // namespace shoal
