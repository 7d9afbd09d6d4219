// Staged blocks of a directory origin.
//
// An upload is a directory with data files ("layers") and, for each staged block, an empty marker
// file whose name says what lies where. A block's bytes are synced before its marker appears, so a
// marker can be trusted after a crash. Each origin instance writes only layers of its own; two
// blocks that claim the same place go to different layers. So uploads of several nodes, or of two
// versions at once, never mix, and in the usual case - one node, one version - the one layer simply
// becomes the object. Otherwise the blocks are copied together.
//
// Shard's thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "origin/directory_layout.h"
#include "origin/origin.h"
#include "world/world.h"

namespace shoal {

class DirectoryUploads {
 public:
  DirectoryUploads(const DirectoryLayout& layout, World& world);

  Task<Status> put_block(std::string object, std::string id, uint64_t offset, ConstByteSpan bytes,
                         Context context);
  Task<Result<std::vector<BlockInfo>>> staged(std::string object);

  // A synced file made of the blocks, to be published and then forgotten with discard(); or to be
  // left or dropped as `is_layer` says when publishing failed.
  struct Assembled {
    std::string path;
    bool is_layer = false;  // a layer of the upload: stays when publishing failed
  };
  Task<Result<Assembled>> assemble(std::string object, std::vector<BlockInfo> blocks);
  // Drops all staged blocks of the object, of every node.
  Task<void> discard(std::string object);
  // Drops uploads that nobody touched since.
  Task<void> discard_older_than(WallTime time);

 private:
  struct Range {
    uint64_t end = 0;
    std::string id;
    bool done = false;
  };
  struct Layer {
    std::string name;
    std::map<uint64_t, Range> ranges;  // by begin; disjoint
    uint64_t in_flight = 0;
  };
  struct Upload {
    std::vector<std::unique_ptr<Layer>> layers;
  };
  // Shared by the map and the blocks in flight, which may outlive a commit.
  using UploadPtr = std::shared_ptr<Upload>;

  UploadPtr upload_of(const std::string& object);
  void forget(const std::string& object, const UploadPtr& upload);
  Layer& claim(Upload& upload, uint64_t offset, uint64_t size, const std::string& id, bool& known);
  Task<Status> write_block(std::string directory, BlockMarker marker, ConstByteSpan bytes);
  Task<Result<std::vector<BlockMarker>>> markers(std::string object);
  bool can_become_object(const std::string& object, const std::vector<BlockMarker>& parts) const;
  Task<Result<Assembled>> take_layer(std::string object, std::string layer, uint64_t size);
  Task<Result<Assembled>> copy_together(std::string object, std::vector<BlockMarker> parts);
  Task<Status> copy_parts(std::string directory, std::vector<BlockMarker> parts, FileId target);
  Task<void> remove_tree(std::string directory);

  const DirectoryLayout& layout_;
  World world_;
  std::string instance_;
  uint64_t layers_made_ = 0;
  std::map<std::string, UploadPtr> uploads_;
};

}  // namespace shoal
