// One range on its way into the cache. Shared by the Fetcher, the task that fetches it and
// everybody who reads or sends from its buffer.
#pragma once

#include "base/checksum.h"
#include "node/fetcher.h"

namespace shoal {

struct Fetcher::Fetch {
  Fetch(NodeCore& core, Range wanted, FetchRole for_whom, bool more, Permit permit)
      : range(wanted),
        role(for_whom),
        bulk(more),
        buffer(core.buffers.take(wanted.length)),
        memory(std::move(permit)),
        copy(core.executor()),
        via_peers(core.peers != nullptr),
        changed(core.executor()) {}

  // Leading bytes have come from the origin: their pieces get their checksums here, once.
  void arrive(uint64_t bytes) {
    if (bytes <= arrived || bytes > range.length) return;
    arrived = bytes;
    while (crcs.size() * kPieceBytes < arrived) {
      uint64_t begin = crcs.size() * kPieceBytes;
      uint64_t length = std::min(kPieceBytes, range.length - begin);
      if (begin + length > arrived) break;
      crcs.push_back(crc32c(buffer.span().subspan(begin, length)));
    }
    changed.notify_all();
  }
  // The same from a peer, whose checksums have been verified.
  void arrive_checked(uint64_t bytes, const std::vector<uint32_t>& verified) {
    if (bytes <= arrived || bytes > range.length) return;
    arrived = bytes;
    crcs.assign(verified.begin(), verified.end());
    changed.notify_all();
  }
  // Leading bytes whose pieces are whole and have checksums.
  uint64_t checked() const { return std::min(range.length, crcs.size() * kPieceBytes); }

  Range range;
  FetchRole role;
  bool bulk;
  BufferPool::Lease buffer;
  Permit memory;
  Copies::Copy copy;           // its way into the cache, when other nodes have the bytes too
  uint64_t arrived = 0;        // leading bytes of the buffer that are there
  std::vector<uint32_t> crcs;  // of its leading pieces
  bool via_peers = false;      // now waits for another node
  bool done = false;           // arrived == range.length, or status tells why not
  bool filled = false;         // left the list of fetches
  Status status;
  Signal changed;
};

}  // namespace shoal
