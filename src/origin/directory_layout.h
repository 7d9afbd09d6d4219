// Where a directory origin keeps what is not an object, and how it names versions. Pure functions.
//
//   ROOT/a/b                          the object "a/b", a plain file
//   ROOT/.shoal/.directory/lock       held while a write is checked and published
//   ROOT/.shoal/.directory/tmp/       files being written
//   ROOT/.shoal/.directory/meta/xx/H  metadata of the file with identity H (see metadata_key)
//   ROOT/.shoal/.directory/uploads/   staged blocks (directory_uploads.h)
//
// Metadata belongs to a file, not to a name: its key is made of what stays when a file is renamed
// and differs when it is replaced. So renames carry it along, a whole tree at once, and a file that
// another tool wrote never gets a stranger's metadata.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "origin/origin.h"
#include "world/disk.h"

namespace shoal {

class DirectoryLayout {
 public:
  explicit DirectoryLayout(std::string root);

  const std::string& root() const { return root_; }
  std::string path_of(std::string_view object) const;
  std::string state() const { return root_ + "/.shoal"; }
  std::string own() const { return root_ + "/.shoal/.directory"; }
  std::string lock() const { return own() + "/lock"; }
  std::string temporary() const { return own() + "/tmp"; }
  std::string metadata() const { return own() + "/meta"; }
  std::string uploads() const { return own() + "/uploads"; }
  std::string upload_of(std::string_view object) const;
  // Directory and file of the metadata that belongs to the file with this stat.
  std::string metadata_directory(const FileStat& stat) const;
  std::string metadata_path(const FileStat& stat) const;

 private:
  std::string root_;  // absolute, no slash at the end
};

// Fails for names that no path can carry and for the origin's own files.
Status validate_directory_object(std::string_view object);
// Whether `name` in directory `parent` (object names, "" is the root) is shown to a lister who
// asked for `prefix`.
bool is_listed(std::string_view parent, std::string_view name, std::string_view prefix);

// Metadata at rest. `generation` changes with every change of metadata; 0 means none was ever set.
struct StoredMetadata {
  uint64_t generation = 0;
  Metadata metadata;
};
std::string format_metadata(const StoredMetadata& stored);
Result<StoredMetadata> parse_metadata(std::string_view text);
inline constexpr size_t kMetadataFileBytesMax = 64 * kKiB;

std::string directory_etag(const FileStat& stat, uint64_t generation);
// Whether the file was surely not touched between the two.
bool same_identity(const FileStat& a, const FileStat& b);

// A staged block, as the name of its marker file: "b.ID.OFFSET.SIZE.LAYER", numbers hexadecimal.
struct BlockMarker {
  std::string id;
  uint64_t offset = 0;
  uint64_t size = 0;
  std::string layer;

  std::string file_name() const;
};
Result<BlockMarker> parse_marker(std::string_view file_name);
bool is_block_id(std::string_view id);

}  // namespace shoal
