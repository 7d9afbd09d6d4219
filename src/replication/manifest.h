// Manifest: the list of files of a published checkpoint, an object in its directory. It and the
// pointers that name the directory ("latest") are gated: they are not committed in the origin
// before the origin has every file that the manifest lists, whoever uploads them.
//
// The format (JSON, version 1; readers ignore members that they do not know):
//
//   {"format": "shoal-manifest 1", "directory": "run/step-100", "published":
//   "2026-01-31T12:00:00Z",
//    "count": 1, "bytes": 3, "files": [
//   {"name": "a/b", "size": 3, "crc32c": "364b3fb7", "version": "<write id>.<generation>"}]}
//
// Names are relative to the directory, sorted by bytes; one that is no UTF-8 stands under
// "name_percent", percent-encoded. `crc32c` is that of the whole content, in hex. `version` is the
// write id in the object's metadata, or the ETag of an object that Shoal did not write.
//
// Shard's thread; the codec on any.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "origin/origin.h"

namespace shoal {

inline constexpr std::string_view kManifestLeaf = ".shoal-manifest.json";
inline constexpr uint64_t kManifestBytesMax = uint64_t{1} << 30;

// Whether a file of this name (without directories) is no part of a checkpoint: its manifest, or
// one that is being made.
bool is_of_publication(std::string_view leaf);

struct ManifestFile {
  std::string name;
  uint64_t size = 0;
  uint32_t crc = 0;
  std::string version;
};

struct Manifest {
  std::string directory;  // as it was called when it was published
  WallTime published{};
  std::vector<ManifestFile> files;

  uint64_t bytes() const;
};

std::string encode_manifest(const Manifest& manifest);
// kCorrupt says what is wrong.
Result<Manifest> parse_manifest(std::string_view text);

// In the metadata of a gated version that waits: the percent-encoded name of the manifest that the
// origin must have first; kGateSelf in a manifest itself. Never sent to the origin.
inline constexpr const char* kGateName = "shoalafter";
inline constexpr std::string_view kGateSelf = ".";

// What of the manifest the origin does not have as it says.
struct ManifestDifference {
  std::vector<ManifestFile> missing;
  std::vector<ManifestFile> changed;   // of another size, version and checksum
  std::vector<ObjectInfo> unrecorded;  // without a checksum of their own; those the manifest knows
};
Task<Result<ManifestDifference>> compare(Origin& origin, std::string directory, Manifest manifest,
                                         Context context);
// Whether the origin has every file of the manifest, of that version or content. kBusy: not yet
// (names how many are missing and one of them).
Task<Status> check_files(Origin& origin, std::string directory, Manifest manifest, Context context);
// Whether the object that carries `gate` may be committed; kBusy: not yet. `content`: the
// manifest's, of a gate that is kGateSelf.
Task<Status> check_gate(Origin& origin, std::string object, std::string gate, std::string content,
                        Context context);

}  // namespace shoal
