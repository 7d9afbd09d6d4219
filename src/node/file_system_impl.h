// The node's FileSystem: inodes over cache, write-back and origin. Split over names.cc (look-up,
// directories, unlink), rename.cc, files.cc (open, read, close), writing.cc (change and seal) and
// metadata.cc (attributes, extended attributes).
//
// Owned by Node; shard's thread.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "async/single_flight.h"
#include "node/fetcher.h"
#include "node/file_system.h"
#include "node/listing.h"
#include "node/moves.h"
#include "node/node_core.h"
#include "node/tree.h"
#include "node/write_back.h"

namespace shoal {

class FileSystemImpl final : public FileSystem {
 public:
  explicit FileSystemImpl(NodeCore& core);
  ~FileSystemImpl() override;

  WriteBack& write_back() { return write_back_; }
  // Lets go of everything that handles still hold (their kernel is gone). Seals what was written.
  Task<void> shut_down();

  Task<Result<Entry>> lookup(InodeId parent, std::string name, Context context) override;
  Duration negative_ttl() const override { return core_.options.negative_ttl; }
  void forget(InodeId inode, uint64_t lookups) override;
  Task<Result<Entry>> attributes(InodeId inode, Context context) override;
  Task<Result<Entry>> set_attributes(InodeId inode, SetAttributes change, Caller caller,
                                     Context context) override;
  Task<Result<OpenResult>> open(InodeId inode, uint32_t flags, bool can_passthrough,
                                Context context) override;
  Task<Result<Created>> create(InodeId parent, std::string name, uint32_t mode, uint32_t flags,
                               Caller caller, Context context) override;
  Task<Result<size_t>> read_or_lend(HandleId handle, uint64_t offset, ByteSpan into, Lent& lent,
                                    Context context) override;
  Task<Result<size_t>> read(HandleId handle, uint64_t offset, ByteSpan into,
                            Context context) override;
  Task<Result<size_t>> write(HandleId handle, uint64_t offset, ConstByteSpan bytes,
                             std::function<void()> accepted, Context context) override;
  Task<Status> flush(HandleId handle, Context context) override;
  Task<Status> sync(HandleId handle, bool data_only, Context context) override;
  Task<void> release(HandleId handle) override;
  Task<Status> allocate(HandleId handle, uint32_t mode, Range range, Context context) override;
  Task<Result<uint64_t>> seek(HandleId handle, uint64_t offset, bool data,
                              Context context) override;
  Task<Result<HandleId>> open_directory(InodeId inode, Context context) override;
  Task<Status> read_directory(HandleId handle, uint64_t cookie, bool plus,
                              std::function<bool(const DirectoryItem&)> add,
                              Context context) override;
  Task<void> release_directory(HandleId handle) override;
  Task<Result<Entry>> make_directory(InodeId parent, std::string name, uint32_t mode, Caller caller,
                                     Context context) override;
  Task<Result<Entry>> make_symlink(InodeId parent, std::string name, std::string target,
                                   Caller caller, Context context) override;
  Task<Result<std::string>> read_symlink(InodeId inode, Context context) override;
  Task<Status> unlink(InodeId parent, std::string name, Context context) override;
  Task<Status> remove_directory(InodeId parent, std::string name, Context context) override;
  Task<Status> rename(InodeId from_parent, std::string from, InodeId to_parent, std::string to,
                      uint32_t flags, Context context) override;
  Task<Result<std::string>> get_xattr(InodeId inode, std::string name, Context context) override;
  Task<Status> set_xattr(InodeId inode, std::string name, std::string value, uint32_t flags,
                         Context context) override;
  Task<Result<std::vector<std::string>>> list_xattrs(InodeId inode, Context context) override;
  Task<Status> remove_xattr(InodeId inode, std::string name, Context context) override;
  Task<Result<FileSystemStat>> stat_file_system(Context context) override;

  // --- for Node (warm, sync, evict) ---
  // Seals every open file at or below the path, so that sync can wait for it.
  Task<Status> seal_below(std::string path, Context context);
  // Seals and replicates them; returns when all are on enough nodes.
  Task<Status> replicate_below(std::string path, std::function<void(const SyncProgress&)> progress,
                               Context context);
  // --- for Publisher: files by path (path_deeds.cc) ---
  // What close() waits for, of files in the directory that say nothing themselves.
  Task<Result<AckLevel>> ack_below(std::string path, Context context);
  // kNotFound, or kInvalidArgument if it is a file.
  Task<Status> expect_directory(std::string path, Context context);
  // kNotFound if there is certainly nothing at the path.
  Task<Status> expect_there(std::string path, Context context);
  // A file made beside its name and moved there in one step. Closed and on this node's disk; it is
  // not committed before the origin has what the gate says (manifest.h; empty: nothing).
  Task<Result<WriteBack::Version>> put_file(std::string path, std::string content, std::string gate,
                                            Context context);
  Task<Status> replicate_now(WriteBack::Version version, Context context);
  Task<Status> rename_path(std::string from, std::string to, Context context);  // in one directory
  // Removes the directory and all below it; `last` (a file) after all other files.
  Task<Status> remove_below(std::string directory, std::string last, Context context);

  // Brings one object of the origin into the cache.
  Task<Status> warm_object(const ObjectInfo& info, std::function<void(uint64_t)> progress,
                           Context context);

 private:
  struct Handle {
    Inode* inode = nullptr;
    bool writer = false;
    bool append = false;
    bool passthrough = false;
    ReadPattern pattern;
    FileRef held;  // passthrough: not evicted while open
  };
  struct DirectoryHandle {
    Inode* inode = nullptr;
    std::vector<std::pair<std::string, WriteBack::Version>> overlay;
    std::unordered_map<std::string, bool> overlay_names;
    std::shared_ptr<Listing> listing;
  };

  // names.cc
  Result<Inode*> inode_of(InodeId id);
  Result<Inode*> directory_of(InodeId id);
  Result<Inode*> answer_old(Inode* child, const std::string& path);
  Task<Result<Inode*>> resolve(Inode& directory, std::string name, Context context);
  // `outdated`: this node changed the name after the question was asked.
  Task<Result<ObjectInfo>> ask_origin(std::string path, Context context, bool* outdated);
  Task<Result<ObjectInfo>> revalidate(Inode& directory, std::string name, std::string path,
                                      Context context, bool* outdated);
  Task<Result<ObjectInfo>> head_or_prefix(std::string path);
  Inode& adopt(Inode& directory, const std::string& name, const ObjectInfo& info);
  Inode& adopt_staged(Inode& directory, const std::string& name, const WriteBack::Version& version);
  Entry entry_of(Inode& inode) const;
  Attributes attributes_of(const Inode& inode) const;
  void replace_inode(Inode& inode);
  // What the directory's listing says of the name does not hold any more.
  void outdate_listed(Inode& directory, const std::string& name);
  void list_for_lookups(Inode& directory, Duration took);
  void retire_listing(DirectoryPart& names) const;
  std::optional<Result<Inode*>> find_listed(Inode& directory, const std::string& name,
                                            const std::string& path);
  void changed_names(Inode& directory, const std::string& name);
  void invalidate_listing(std::string_view directory);
  void forget_listings(Inode& directory);  // of it and of all below it
  Task<Status> check_name(Inode& directory, const std::string& name);
  Task<Status> keep_directory(Inode& directory, Context context);
  Task<Result<Inode*>> put_special(Inode& directory, std::string name, FileAttributes attributes,
                                   std::string content, Context context);
  Task<Status> remove_file(Inode& directory, Inode& inode, bool remove_object, Context context);
  Task<Status> make_orphan(WriteBack::Version version);
  Task<Status> remove_file_locked(Inode& directory, Inode& inode, bool remove_object,
                                  Context context);
  Task<Result<bool>> directory_is_empty(std::string path, Context context);
  Task<Status> rename_file(Inode& source, Inode& to_directory, std::string to, Inode* target,
                           Context context);
  Task<Status> rename_file_locked(Inode& source, Inode& to_directory, std::string to, Inode* target,
                                  Context context);
  Task<Status> rename_staged(Inode& source, std::string from, std::string to, Inode* target,
                             Context context);
  Task<Status> save_record(WriteBack::Version version, StagedRecord record);
  Task<Status> expect_copy(Inode& source, Inode* target, Context context);
  Task<Status> rename_clean(Inode& source, std::string from, std::string to, Context context);
  Task<Status> remove_empty(Inode& directory, std::string name, Context context);
  Task<Status> rename_directory(Inode& source, Inode& to_directory, std::string to,
                                Context context);
  Task<Status> rename_directory_of(Inode& source, Inode& to_directory, std::string to,
                                   std::vector<WriteBack::Version> staged, Context context);
  Task<void> rekey(std::string from, std::string etag, std::string to, std::string new_etag);
  Task<Status> rename_waiting(WriteBack::Version version, std::string to, Status* told,
                              Context context);
  Task<Status> rename_all_waiting(std::vector<WriteBack::Version> staged, std::string from,
                                  std::string to, Status* told, Context context);
  Task<Status> rename_one_object(ObjectInfo info, std::string to, Context context);
  void rename_in_tree(Inode& inode, Inode& directory, const std::string& name);

  // path_deeds.cc
  Task<Result<InodeUse>> walk(std::string path, Context context);
  Task<Status> write_new(HandleId handle, const std::string& content, Context context);
  Task<Status> unlink_path(std::string path, Context context);

  // files.cc
  Result<std::shared_ptr<Handle>> handle_of(HandleId id);
  HandleId add_handle(Inode& inode, uint32_t flags);
  Task<Status> load(Inode& inode, Context context);
  void drop_content(Inode& inode);
  void set_file(Inode& inode, FileRef file, bool may_miss, const std::string& object,
                const std::string& etag);
  OpenResult::Mode choose_mode(Inode& inode, Handle& handle, bool can_passthrough,
                               OpenResult& result);
  Task<Status> begin_write(Inode& inode, bool discard, Context context);
  Task<Status> reopen_sealed(Inode& inode, bool discard);
  Task<Status> stage_clean(Inode& inode, bool discard, Context context);
  StagedRecord new_record(const Inode& inode);
  void attach_staged(Inode& inode, WriteBack::Version version);
  Task<Status> spill(Inode& inode);
  // The inode is not touched any more when it has been accepted.
  Task<Status> write_locked(Inode& inode, uint64_t offset, ConstByteSpan bytes,
                            std::function<void()> accepted, Context context);
  Task<Status> resize_locked(Inode& inode, uint64_t size, Context context);
  Task<Status> zero_locked(Inode& inode, Range range, Context context);
  Task<Status> bring_edges(Inode& inode, Range range, uint64_t new_size, Context context);
  Task<Result<size_t>> read_content(HandleId id, uint64_t offset, ByteSpan into, Lent* lent,
                                    Context context);
  Task<Status> seal(Inode& inode, bool close, Context context);
  // After a failure: sees to it that what is staged here and not open for writing goes on towards
  // the origin.
  void resume(Inode& inode);
  static Task<void> seal_later(FileSystemImpl* self, InodeUse inode);
  Task<Status> save_record(Inode& inode);
  Task<Status> find_place(Context context);
  Task<Status> seal_and_ack(Inode& inode, bool close, Context context);
  void touch(Inode& inode);

  // replicate.cc
  AckLevel ack_of(const Inode& inode) const;
  bool replicates(const Inode& inode) const;
  // Tells the copies on other nodes of a change of [range.offset, range.end()), now `size` long.
  void note_change(Inode& inode, Range range, uint64_t size);
  void note_resize(Inode& inode, uint64_t size);
  Task<void> announce(WriteBack::Version version);
  LedgerRecord record_of(const StagedVersion& version) const;
  Task<Status> replicate(WriteBack::Version version, Context context);
  Task<Status> replicate_one(WriteBack::Version version, Context context);
  void replicate_in_background(const WriteBack::Version& version);
  static Task<void> replicate_queued(FileSystemImpl* self);
  Task<Status> replicate_counted(WriteBack::Version version, SyncProgress* left, Context context);
  Task<Status> replicate_renamed(WriteBack::Version version, Context context);
  // What was read from other nodes has reached the origin: it keeps its cache.
  void follow_commit(Inode& inode, const std::string& etag);
  Task<Status> bring_small(StagedVersion& version);
  Task<Result<bool>> any_waiting_below(ListOptions below, Context context);
  Task<Status> await_origin(Inode& inode, Context context);
  Task<Status> await_origin_below(std::string directory, Context context);
  Task<Status> await_ends(std::string path, Context context);
  // What another node had written under the name, if anything; to be ended once the name is taken
  // away in the origin.
  std::optional<WriteBack::LeftBehind> left_behind(const Inode& inode) const;
  Task<Status> end_left_behind(std::optional<WriteBack::LeftBehind> left, Context context);

  void on_committed(const WriteBack::Version& version, const ObjectInfo& info);
  void on_conflicted(const WriteBack::Version& version, const std::string& object);
  static Task<void> verify_in_background(FileSystemImpl* self, FileRef file);

  // metadata.cc
  Task<Status> store_attributes(Inode& inode, FileAttributes attributes, Context context);
  Task<Status> set_size(Inode& inode, uint64_t size, Context context);

  NodeCore& core_;
  Tree tree_;
  Moves moves_;
  WriteBack write_back_;
  Gate flights_gate_;
  SingleFlight<std::string, ObjectInfo> heads_;
  std::unordered_map<uint64_t, std::shared_ptr<Handle>> handles_;
  std::unordered_map<uint64_t, std::shared_ptr<DirectoryHandle>> directories_;
  std::unordered_map<const CachedFile*, uint32_t> file_users_;  // inodes that show the file
  uint64_t next_handle_ = 1;
  std::deque<WriteBack::Version> to_replicate_;  // because somebody waits for it
  size_t replicators_ = 0;                       // flows that take from it
  SteadyTime origin_away_until_{};
};

}  // namespace shoal
