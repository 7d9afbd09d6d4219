// Listing: the names directly in one directory of the origin, page by page. One background task
// fetches pages a little ahead of the reader; a complete listing answers look-ups until it expires.
//
// Shared by directory handles, the directory's inode and the paging task; shard's thread.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "node/attributes.h"
#include "node/node_core.h"

namespace shoal {

struct ListedEntry {
  std::string name;  // leaf
  bool is_prefix = false;
  uint64_t size = 0;
  std::string etag;
  WallTime modified{};
  Metadata metadata;
};

struct Listing {
  explicit Listing(Executor& executor) : changed(executor) {}

  std::deque<ListedEntry> entries;  // addresses stay
  std::vector<uint32_t> objects;    // indices of the entries that are objects, in order of names
  mutable std::unordered_map<std::string_view, const ListedEntry*> by_name;  // made by find()
  // Hashes of the names that only other nodes have. For look-ups nothing else is known of them: a
  // million may wait, and be listed again and again.
  std::vector<uint64_t> waiting;
  bool complete = false;
  Status status;       // why it ended early
  Duration age{0};     // of the oldest page, when it came
  bool usable = true;  // false once a local change made it wrong
  // Names that were changed here since: what it says of all others holds.
  std::unordered_set<std::string> outdated;
  SteadyTime fresh_until{};  // for look-ups, when complete
  size_t consumed = 0;       // how far the furthest reader is
  bool for_lookups = false;  // without a reader
  SteadyTime began{};
  Duration took{0};  // when complete
  Signal changed;

  // Any entry; when complete.
  const ListedEntry* find(std::string_view name) const;
  // Whether another node may have it, of whose attributes nothing was asked; when complete.
  bool may_wait(std::string_view name) const;
  // An object, among the pages so far.
  const ListedEntry* find_object(std::string_view name) const;

  // Starts the paging task in the core's gate. `directory` is the path, "" for the root. Nobody
  // reads along when it is for look-ups: then it goes up to kForLookupsMax entries.
  enum class For { kReader, kLookups };
  static constexpr size_t kForLookupsMax = 100'000;
  static constexpr size_t kWaitingMax = 4'000'000;  // 8 bytes each
  static std::shared_ptr<Listing> start(NodeCore& core, std::string directory, Context context,
                                        For purpose = For::kReader);
};

}  // namespace shoal
