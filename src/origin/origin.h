// Origin: the object store behind the cache. All implementations pass one conformance suite
// (conformance_test.cc). Retries, back-off and concurrency limits are inside; an error that comes
// out has been retried as far as the context's deadline allowed.
//
// Shard's thread. Spans are borrowed until the task ends.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "async/context.h"
#include "async/task.h"
#include "base/bytes.h"
#include "observe/metrics.h"
#include "world/time.h"

namespace shoal {

// User metadata of an object. Names are [a-z0-9_], values printable ASCII (others encode first).
using Metadata = std::map<std::string, std::string>;

struct ObjectInfo {
  std::string name;
  uint64_t size = 0;
  std::string etag;  // opaque, compared for equality only; without quotes
  WallTime modified{};
  Metadata metadata;
  Duration age{0};  // since the origin said so; more than nothing only where a cache answered
};

// What must hold for a write or delete to happen; else kConflict (or kAlreadyExists for absent()).
struct Condition {
  enum class Kind { kNone, kAbsent, kMatch };
  Kind kind = Kind::kNone;
  std::string etag;

  static Condition none() { return {}; }
  static Condition absent() { return {Kind::kAbsent, {}}; }
  static Condition match(std::string etag) { return {Kind::kMatch, std::move(etag)}; }
};

struct PutOptions {
  Condition condition;
  Metadata metadata;
  // Of put(): for the owner alone. A directory makes the file with mode 0600; of an object store
  // only the container's own permissions count.
  bool secret = false;
};

// One staged block. Ids of one object have equal length: 8 digits of index, then 32 of hash. The
// id names the content: equal ids mean equal bytes.
struct BlockInfo {
  std::string id;
  uint64_t size = 0;
};

struct ListPage {
  std::vector<ObjectInfo> objects;    // full names, in order of bytes
  std::vector<std::string> prefixes;  // full, each ending in the delimiter '/'
  std::string next_marker;            // empty on the last page
  Duration age{0};                    // as in ObjectInfo
};

struct ListOptions {
  std::string prefix = {};
  bool recursive = false;   // false: names below the next '/' are folded into prefixes
  std::string marker = {};  // from the page before
  uint32_t entries_max = 5000;
  // In a cluster's look-ups: nothing but what the origin does not have yet.
  bool waiting_only = false;
  // In a cluster's look-ups: of that nothing but the names, as objects without ETag.
  bool waiting_names = false;
  // Hears the next marker before the page has been taken apart, if that is possible: time to ask
  // for the next page. May be empty; not every page is announced.
  std::function<void(std::string)> on_next_marker = {};
};

struct OriginMetrics {
  explicit OriginMetrics(Registry& registry);
  Counter& reads;
  Counter& bytes_read;
  Counter& writes;
  Counter& bytes_written;
  Counter& lists;
  Counter& heads;
  Counter& errors;
  Counter& retries;
};

class Origin {
 public:
  virtual ~Origin() = default;

  // What a user calls it, without secrets: "az://account/container/prefix", "/data".
  virtual std::string display_name() const = 0;
  // Identity for the cache's keys: account, container and prefix, however they were written.
  virtual std::string identity() const = 0;

  // Can it be reached, does the container exist, may we read and write? Says what is wrong and what
  // to do about it. `write` also tries to write below .shoal/.
  virtual Task<Status> probe(bool write, Context context) = 0;

  virtual Task<Result<ObjectInfo>> head(std::string object, Context context) = 0;

  // Reads into.size() bytes at `offset` of the version `etag`; kStale if that version is gone.
  // `progress` (may be empty) hears on the shard's thread how many leading bytes have arrived.
  virtual Task<Status> read(std::string object, std::string etag, uint64_t offset, ByteSpan into,
                            std::function<void(uint64_t)> progress, Context context) = 0;

  // Whole objects. The answer carries the new etag.
  virtual Task<Result<ObjectInfo>> put(std::string object, ConstByteSpan bytes, PutOptions options,
                                       Context context) = 0;

  // Staged blocks, invisible until committed. `offset` is the block's place in the object.
  virtual Task<Status> put_block(std::string object, std::string block_id, uint64_t offset,
                                 ConstByteSpan bytes, Context context) = 0;
  virtual Task<Result<std::vector<BlockInfo>>> staged_blocks(std::string object,
                                                             Context context) = 0;
  // Makes the object of these blocks, in order, all or nothing. kNotFound with a message naming
  // "blocks" when staged blocks are missing (somebody else committed): stage again.
  virtual Task<Result<ObjectInfo>> commit_blocks(std::string object, std::vector<BlockInfo> blocks,
                                                 PutOptions options, Context context) = 0;

  virtual Task<Result<ListPage>> list(ListOptions options, Context context) = 0;
  // kNotFound if absent.
  virtual Task<Status> remove(std::string object, Condition condition, Context context) = 0;
  // Server-side copy with metadata; `source_etag` must still hold (else kConflict).
  virtual Task<Result<ObjectInfo>> copy(std::string from, std::string source_etag, std::string to,
                                        PutOptions options, Context context) = 0;
  // Replaces the metadata; content stays, the etag changes.
  virtual Task<Result<ObjectInfo>> set_metadata(std::string object, Metadata metadata,
                                                Condition condition, Context context) = 0;

  // Whether rename() works (a directory, ADLS): atomic, for objects and whole prefixes.
  virtual bool has_rename() const { return false; }
  virtual Task<Status> rename(std::string from, std::string to, Context context);

  // Blocks of at most / objects at most; what the uploader plans with.
  virtual uint64_t block_bytes_max() const = 0;
  virtual uint32_t blocks_max() const = 0;
};

}  // namespace shoal
