// BlobService: a strict subset of Azure Blob Storage as a pure function of requests, in memory.
// What the simulator and the stub server put behind HTTP. No I/O, no clock, no thread, no lock: the
// caller gives the time and serialises.
//
// Stricter than the real service where a sloppy client would otherwise pass: unquoted ETags in
// conditions, a missing x-ms-version and names that are no UTF-8 are refused; a suffix range too.
// Supported: containers (create, head, delete, list); Put Blob, Put Block, Put Block List, Get
// Block List, Get Blob, Get Properties, Delete, Copy (always at once), Set Metadata, Set
// Properties; all four conditions; SharedKey, SAS (fixed tokens), Bearer (fixed tokens), anonymous
// reads. Not: leases, snapshots, versions, tags, batch, append and page blobs, structured bodies.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "world/http.h"
#include "world/time.h"
#include "world_sim/blob_content.h"
#include "world_sim/blob_faults.h"

namespace shoal {

struct BlobRequest {
  std::string method;
  std::string target;   // path and query as sent
  HttpHeaders headers;  // names in lower case
  BlobContent body;
};

struct BlobReply {
  int status = 0;
  HttpHeaders headers;  // names in lower case; content-length included
  BlobContent body;     // empty for HEAD

  const std::string* header(std::string_view name) const;
};

// A token that is accepted as it is; nothing is computed from a key.
struct BlobSas {
  std::string query;  // "sv=2022-11-02&...&sig=..."
  WallTime expires = WallTime::max();
  std::string permissions = "rwdl";  // read, write (and create), delete, list
  std::string container;             // empty: every container
};
struct BlobBearer {
  std::string token;
  WallTime expires = WallTime::max();
};

struct BlobServiceConfig {
  std::string account = "devstoreaccount1";
  // The emulator's well-known key, no secret.
  std::string key_base64 =
      "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
  bool require_auth = true;     // false: every request is allowed, signatures are not looked at
  bool anonymous_read = false;  // GET and HEAD without credentials
  bool check_clock = true;      // x-ms-date must be within 15 minutes
  std::vector<BlobSas> sas;
  std::vector<BlobBearer> bearer;
  // Keeps every read (object, version, range) for checkers; grows without bound, so tests only.
  bool record_reads = false;
  // Written bytes are forgotten and read back as synthetic bytes of seed 0: for upload benchmarks.
  bool discard_writes = false;
  uint64_t discard_from = 0;  // bodies of fewer bytes are kept all the same
};

enum class BlobOperation {
  kCreateContainer,
  kHeadContainer,
  kDeleteContainer,
  kListContainers,
  kList,
  kPutBlob,
  kPutBlock,
  kPutBlockList,
  kGetBlockList,
  kGetBlob,
  kHeadBlob,
  kDeleteBlob,
  kCopyBlob,
  kSetMetadata,
  kSetProperties,
  kUnknown,
};
inline constexpr size_t kBlobOperations = static_cast<size_t>(BlobOperation::kUnknown) + 1;
std::string_view blob_operation_name(BlobOperation operation);

struct BlobServiceStats {
  std::array<uint64_t, kBlobOperations> requests{};  // by BlobOperation
  std::array<uint64_t, kBlobOperations> failures{};  // answers of 400 and above
  uint64_t refused = 0;                              // by refuse(), counted nowhere else
  uint64_t bytes_in = 0;                             // request bodies
  uint64_t blocks_repeated = 0;                      // put though the blob had a block of that id
  uint64_t bytes_out = 0;                            // bodies of Get Blob
  uint64_t of(BlobOperation operation) const { return requests[static_cast<size_t>(operation)]; }
};

struct BlobRead {
  std::string container;
  std::string name;
  std::string etag;
  uint64_t offset = 0;
  uint64_t length = 0;
  WallTime when{};
};

// What a checker may see of a blob.
struct BlobView {
  uint64_t size = 0;
  std::string etag;  // with quotes
  WallTime modified{};
  std::map<std::string, std::string> metadata;
  BlobContent content;
  uint64_t gets = 0;  // Get Blob requests answered with 200 or 206
  uint64_t uncommitted_blocks = 0;
};

struct BlobCall;  // one parsed request, internal/blob_call.h

class BlobService {
 public:
  explicit BlobService(BlobServiceConfig config = {});
  BlobService(const BlobService&) = delete;
  BlobService& operator=(const BlobService&) = delete;

  BlobReply handle(const BlobRequest& request, WallTime now);
  // The answer of a service that refuses for a fault: kBusy, kServerError or kExpiredToken.
  BlobReply refuse(const BlobRequest& request, BlobFault fault, Duration retry_after, WallTime now);
  // touch() of the blob that a request's target names; false if there is none.
  bool touch_target(const BlobRequest& request, WallTime now);

  // Behind HTTP's back, for set-up and checks. Containers are made when absent.
  void add_container(std::string_view container);
  void add(std::string_view container, std::string_view name, BlobContent content,
           std::map<std::string, std::string> metadata = {}, WallTime when = {});
  void add_synthetic(std::string_view container, std::string_view name, uint64_t size,
                     uint64_t seed) {
    add(container, name, BlobContent::synthetic(seed, size));
  }
  // prefix + 8 digits, count of them; blob i is synthetic with seed + i.
  void add_many(std::string_view container, std::string_view prefix, uint64_t count, uint64_t size,
                uint64_t seed);
  bool remove(std::string_view container, std::string_view name);
  // Gives the blob a new ETag and modification time (as if rewritten with the same bytes).
  bool touch(std::string_view container, std::string_view name, WallTime now);
  // Nothing if there is no committed blob (`uncommitted` counts as absent).
  std::optional<BlobView> find(std::string_view container, std::string_view name) const;
  // The blocks that a committed blob was made of, in order; decoded ids.
  std::vector<std::string> block_ids(std::string_view container, std::string_view name) const;
  // Names of committed blobs below the prefix, in byte order.
  std::vector<std::string> names(std::string_view container, std::string_view prefix = "") const;
  uint64_t gets(std::string_view container, std::string_view name) const;
  // The blobs that were read, the most read first, at most `count_max`.
  std::vector<std::pair<std::string, uint64_t>> most_read(size_t count_max) const;
  uint64_t uncommitted_blocks() const;

  const BlobServiceStats& stats() const { return stats_; }
  void reset_stats();
  const std::vector<BlobRead>& reads() const { return reads_; }
  void clear_reads() { reads_.clear(); }
  BlobServiceConfig& config() { return config_; }
  const BlobServiceConfig& config() const { return config_; }

  struct Block {
    std::string id;
    BlobContent content;
  };
  struct Blob {
    bool committed = false;
    uint64_t version = 0;  // of the service's counter; names the ETag
    WallTime created{};
    WallTime modified{};
    BlobContent content;
    std::map<std::string, std::string> metadata;
    std::map<std::string, std::string> properties;   // content-type, content-md5 and so on
    std::vector<Block> blocks;                       // committed ones, in order
    std::map<std::string, BlobContent> uncommitted;  // by id, in base64 as sent
    uint64_t gets = 0;
  };
  struct Container {
    uint64_t version = 0;
    WallTime modified{};
    std::map<std::string, Blob, std::less<>> blobs;  // byte order
  };

 private:
  BlobOperation classify(const BlobCall& call) const;
  BlobReply dispatch(BlobCall& call, BlobOperation operation);
  BlobReply on_container(BlobCall& call, BlobOperation operation);
  BlobReply list_containers(const BlobCall& call) const;
  BlobReply list(const BlobCall& call, const Container& container) const;
  BlobReply put_blob(BlobCall& call, Container& container);
  BlobReply put_block(BlobCall& call, Container& container);
  BlobReply put_block_list(BlobCall& call, Container& container);
  BlobReply get_block_list(const BlobCall& call, const Container& container) const;
  BlobReply get_blob(BlobCall& call, Container& container);
  BlobReply head_blob(const BlobCall& call, const Container& container) const;
  BlobReply delete_blob(const BlobCall& call, Container& container);
  BlobReply copy_blob(BlobCall& call, Container& container);
  BlobReply set_metadata(BlobCall& call, Container& container);
  BlobReply set_properties(BlobCall& call, Container& container);
  BlobReply written(BlobCall& call, Blob& blob, int status);
  BlobContent kept(const BlobContent& body) const;
  uint64_t next_version() { return ++version_; }

  BlobServiceConfig config_;
  std::map<std::string, Container, std::less<>> containers_;
  uint64_t version_ = 0;
  uint64_t request_number_ = 0;
  BlobServiceStats stats_;
  std::vector<BlobRead> reads_;
};

// "0x8DC..." in quotes, from the counter that names versions.
std::string blob_etag(uint64_t version);
// RFC 1123, GMT, and back (nothing if malformed).
std::string blob_date(WallTime when);
std::optional<WallTime> parse_blob_date(std::string_view text);
// CRC-64/NVME as Azure's x-ms-content-crc64 uses it; pass the value so far to continue.
uint64_t blob_crc64(ConstByteSpan bytes, uint64_t before = 0);

}  // namespace shoal
