// LedgerRecord: what the cluster knows of a version that the origin does not have yet. And the name
// under which such a version is known: "~" and its write id in place of an ETag.
//
// What comes from the wire or the disk is checked here. No I/O; any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "placement/slot_map.h"
#include "wire/messages.pb.h"
#include "world/time.h"

namespace shoal {

// Names one state of one written version: a file that is opened again before its upload keeps its
// write id and gets the next generation.
struct WriteName {
  Hash128 id;
  uint32_t generation = 0;

  std::string text() const;  // "<32 hex digits>.<generation>", as in the object's metadata
  std::string etag() const { return "~" + text(); }
  // The reverse of text() or etag(); nothing if it is neither.
  static std::optional<WriteName> parse(std::string_view text);
  auto operator<=>(const WriteName&) const = default;
};

// In the metadata of objects that a member of a cluster put where they are: its id, in hex. What
// the node itself put there before is no conflict.
inline constexpr const char* kWriterName = "shoalwriter";

// Whether an ETag names a version that the origin does not have yet. No origin's ETag looks so.
inline bool is_unuploaded(std::string_view etag) { return etag.starts_with('~'); }

struct LedgerRecord {
  std::string object;
  WriteName write;
  uint64_t sequence = 0;  // of the writer's records of one generation; the highest counts
  uint32_t repairs = 0;   // by others since; they never outdo the writer
  uint64_t size = 0;
  std::string base_etag;  // what the commit replaces; may name another un-uploaded version
  bool must_be_absent = false;
  bool sealed = false;  // closed by its writer: others see it, it goes to the origin
  WallTime changed{};
  std::map<std::string, std::string> metadata;
  NodeId writer;
  std::vector<NodeId> holders;         // of chunks, besides the writer; in order of id
  uint32_t replicas = 1;               // nodes that each byte must be on, the writer's copy counted
  uint32_t crc = 0;                    // CRC32C of the whole object; sealed ones only
  bool has_content = false;            // a small object: its bytes are in the record
  std::optional<std::string> content;  // those bytes, unless this copy goes without
  std::string ancestors;               // write ids (hex, spaces between) that this one follows
  std::string home;                    // the name that its replicas are under
  std::vector<uint32_t> chunk_crcs;    // CRC32C of each chunk
  std::vector<NodeId> placed;          // nodes that may have records of this write
  // Of the slot map under which its writer gave it to this node; 0: not known. In memory only.
  uint64_t map_version = 0;

  bool operator==(const LedgerRecord&) const = default;
  bool is_later_than(const LedgerRecord& other) const;
  void add_placed(const std::vector<NodeId>& nodes);
};

// Small objects travel inside their record up to this size; with it a record fits the small tier.
inline constexpr uint64_t kLedgerContentMax = 192 * 1024;
inline constexpr size_t kLedgerHoldersMax = 4096;

// All records of a generation.
inline constexpr uint64_t kAllSequences = UINT64_MAX;

// Why a version has ended under its name; the strongest one counts. Gone: removed, or renamed; what
// an upload in its writer's place has put into the origin meanwhile is to be taken away again.
enum class EndReason : uint32_t { kReplaced = 0, kCommitted = 1, kGone = 2 };
inline constexpr uint32_t kEndReasonMax = 2;

// What the origin called a version each time that it was put there under one name.
struct Commits {
  struct Commit {
    std::string etag;  // empty: not known
    uint32_t generation = 0;
    uint64_t sequence = 0;  // of the record that was put there

    bool covers(const Commit& other) const {
      return std::pair(generation, sequence) >= std::pair(other.generation, other.sequence);
    }
  };
  Commit by_writer;
  Commit in_place;  // by another node, in the writer's place

  // Later records count; of one record the first commit that was heard of.
  void add(const Commits& other);
  // The ETag of an object that was put there in the writer's place after the writer had put it
  // there itself: by then it had left the name again, else the condition of the commit had failed.
  // Or empty.
  std::string stray() const;
};

// How a version ends under its name.
struct End {
  EndReason reason = EndReason::kReplaced;
  std::string etag;  // under which the origin has it; or empty
  Commits commits;
};

// What a commit leaves in the object's metadata as its write id: the write's name. Of a version
// that was only synced when it was uploaded in its writer's place it says which record of it that
// was as well, "<write>.synced-<sequence>": it is never to be taken for what its writer made of it
// later. No I/O; any thread.
struct CommitName {
  WriteName write;
  std::optional<uint64_t> synced;  // sequence of the record; none: the version was sealed

  static CommitName of(const LedgerRecord& record);
  static std::optional<CommitName> parse(std::string_view text);
  std::string text() const;
  // Whether an object of this name has all that the record says: it is of the same write, and of
  // this record or a later one.
  bool covers(const LedgerRecord& record) const;
  bool operator==(const CommitName&) const = default;
};

void to_wire(const Commits& commits, wire::CommitsBody& body);
// What cannot be an ETag is left out.
Commits from_wire(const wire::CommitsBody& body);
void to_wire(const NodeId& node, wire::NodeBody& body);
std::vector<NodeId> from_wire(const google::protobuf::RepeatedPtrField<wire::NodeBody>& bodies);
// Little-endian, four bytes each; a tail that is no whole one is ignored.
std::string pack_crcs(const std::vector<uint32_t>& crcs);
std::vector<uint32_t> unpack_crcs(const std::string& packed);
void to_wire(const WriteName& write, wire::WriteBody& body);
WriteName from_wire(const wire::WriteBody& body);
void to_wire(const LedgerRecord& record, wire::LedgerBody& body);
// Of what to_wire() made here.
LedgerRecord decode(const wire::LedgerBody& body);
// kCorrupt when it describes what cannot be.
Result<LedgerRecord> from_wire(const wire::LedgerBody& body);

}  // namespace shoal
