// A directory as the origin: the embedded default, and shared file systems. Objects are plain files
// that any tool may read, write and replace; versions are told apart by inode, times and size.
//
// Conditional writes: the new file is written and synced beside, then, under a lock file (all nodes
// on this directory) and one turn (this node), the condition is checked and the file renamed over.
// Other tools do not take the lock; a file they change in that instant may be overwritten.
// Acknowledged writes have been synced, the names too.
//
// Directories exist by themselves here: head() of one answers with metadata hdi_isfolder=true, list
// reports them as prefixes, also when empty, and put() of an object with that metadata makes one.
// Links and special files are not served, and links are not followed.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "async/sync.h"
#include "observe/log.h"
#include "origin/directory_layout.h"
#include "origin/directory_uploads.h"
#include "origin/origin.h"
#include "world/world.h"

namespace shoal {

class DirectoryOrigin final : public Origin {
 public:
  // `root` is absolute; whether it exists is for probe() to say.
  DirectoryOrigin(std::string root, World& world, Registry& registry, const Log& log);

  std::string display_name() const override { return layout_.root(); }
  std::string identity() const override { return "file:" + layout_.root(); }
  Task<Status> probe(bool write, Context context) override;
  Task<Result<ObjectInfo>> head(std::string object, Context context) override;
  Task<Status> read(std::string object, std::string etag, uint64_t offset, ByteSpan into,
                    std::function<void(uint64_t)> progress, Context context) override;
  Task<Result<ObjectInfo>> put(std::string object, ConstByteSpan bytes, PutOptions options,
                               Context context) override;
  Task<Status> put_block(std::string object, std::string block_id, uint64_t offset,
                         ConstByteSpan bytes, Context context) override;
  Task<Result<std::vector<BlockInfo>>> staged_blocks(std::string object, Context context) override;
  Task<Result<ObjectInfo>> commit_blocks(std::string object, std::vector<BlockInfo> blocks,
                                         PutOptions options, Context context) override;
  Task<Result<ListPage>> list(ListOptions options, Context context) override;
  Task<Status> remove(std::string object, Condition condition, Context context) override;
  Task<Result<ObjectInfo>> copy(std::string from, std::string source_etag, std::string to,
                                PutOptions options, Context context) override;
  Task<Result<ObjectInfo>> set_metadata(std::string object, Metadata metadata, Condition condition,
                                        Context context) override;
  bool has_rename() const override { return true; }
  Task<Status> rename(std::string from, std::string to, Context context) override;
  uint64_t block_bytes_max() const override { return 4000 * kMiB; }
  uint32_t blocks_max() const override { return 50'000; }

 private:
  // The right to check and publish; given back by end_write().
  struct Turn {
    Permit permit;
    FileId lock = FileId::kNone;
  };
  // What lies at a path, if anything.
  struct Found {
    FileStat stat;
    StoredMetadata stored;
    ObjectInfo info;
  };
  struct NewFile {
    std::string path;  // on the same file system
    FileStat stat;
  };

  Task<Status> make_own_directories();
  Task<Result<Turn>> begin_write(Context context);
  Task<void> end_write(Turn turn);

  Task<Result<FileStat>> stat_of(std::string path);
  Task<Result<StoredMetadata>> load_metadata(FileStat stat);
  Task<Status> store_metadata(FileStat stat, StoredMetadata stored);
  Task<void> forget_metadata(FileStat stat);
  // kNotFound if there is nothing; kNotSupported for links and special files.
  Task<Result<Found>> find(std::string object);
  // The same, but nothing where there is nothing.
  Task<Result<std::optional<Found>>> find_or_nothing(std::string object);
  Status check(const Condition& condition, const std::optional<Found>& found,
               std::string_view object) const;

  std::string temporary_path();
  Task<Result<NewFile>> write_temporary(ConstByteSpan bytes, bool secret);
  Task<Result<NewFile>> copy_temporary(FileId source, uint64_t size);
  Task<void> drop_temporary(std::string path);
  // Puts a synced file in the place of `object`, if the condition holds.
  Task<Result<ObjectInfo>> publish(NewFile file, std::string object, PutOptions options,
                                   Context context);
  Task<Result<ObjectInfo>> publish_in_turn(NewFile file, std::string object, PutOptions options);
  Task<Result<FileStat>> make_newer(NewFile file, uint64_t than_mtime_ns);
  Task<Status> rename_making_parents(std::string from, std::string object);
  Task<Status> make_parents(std::string object);

  Task<Result<ObjectInfo>> put_directory(std::string object, PutOptions options, Context context);
  Task<Result<ObjectInfo>> put_directory_in_turn(std::string object, PutOptions options);
  Task<Status> remove_in_turn(std::string object, Condition condition);
  Task<Result<ObjectInfo>> set_metadata_in_turn(std::string object, Metadata metadata,
                                                Condition condition);
  Task<Status> rename_in_turn(std::string from, std::string to);
  Task<Status> read_open_file(FileId file, std::string object, std::string etag, uint64_t offset,
                              ByteSpan into, std::function<void(uint64_t)> progress);
  Task<Result<NewFile>> copy_source(std::string from, std::string source_etag, PutOptions* options);

  // One level of a tree, sorted by bytes of the full name.
  struct Level {
    std::string directory;  // object name, "" is the root
    struct Entry {
      std::string name;  // full; ends in '/' for a directory
      bool is_directory = false;
    };
    std::vector<Entry> entries;
    size_t next = 0;
  };
  // Nothing if it is not a directory (any more).
  Task<Result<std::optional<Level>>> list_level(std::string directory, std::string prefix);
  Task<Result<ListPage>> collect(ListOptions options, Context context);
  Task<Status> fill_objects(ListPage& page, Context context);
  Task<Status> fill_object(ObjectInfo& info, uint64_t& unserved);
  Task<void> sweep();

  DirectoryLayout layout_;
  World world_;
  const Log& log_;
  OriginMetrics metrics_;
  Semaphore turn_;
  DirectoryUploads uploads_;
  bool own_directories_made_ = false;
  // No file is published with an older time than any this node replaced or removed, so that a
  // recycled inode number cannot make two versions look the same.
  uint64_t newest_gone_mtime_ns_ = 0;
};

}  // namespace shoal
