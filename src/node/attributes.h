// File attributes kept in an object's metadata, so that any node (and any tool) can read them.
//
// Keys: shoalmode (octal), shoaluid, shoalgid, shoalmtime (nanoseconds since 1970), shoalwriteid,
// shoalx<hex of name> (base64 of an extended attribute's value); hdi_isfolder=true marks a
// directory and is_symlink=true a link whose target is the content (both as BlobFuse2 and ADLS
// write them). Unknown keys are kept as they are.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "node/file_system.h"
#include "origin/origin.h"

namespace shoal {

enum class FileKind { kFile, kDirectory, kSymlink };

struct FileAttributes {
  FileKind kind = FileKind::kFile;
  std::optional<uint32_t> mode;  // permission bits only; nothing: the mount's default
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::optional<WallTime> modified;
  std::map<std::string, std::string> xattrs;  // "user.name" -> value
  std::string write_id;                       // of the commit that made this version; may be empty
  std::string crcs;                           // of the content (recorded_crcs.h); may be empty
  Metadata other;                             // what we do not know
};

FileAttributes decode_attributes(const Metadata& metadata);
// Fails with kTooLarge above the origin's 8 KiB of metadata.
Result<Metadata> encode_attributes(const FileAttributes& attributes);

// What close and fsync wait for: this node's disk, the disks of `replicas` nodes, the origin.
enum class AckLevel { kLocal, kReplicated, kDurable };

// The extended attribute that says what close() of a file, or of files below a directory, waits
// for.
inline constexpr const char* kAckName = "user.shoal.ack";
// "local", "replicated", "durable".
std::optional<AckLevel> parse_ack(std::string_view text);
std::string_view ack_name(AckLevel level);

inline constexpr size_t kMetadataBytesMax = 8 * kKiB - 256;

}  // namespace shoal
