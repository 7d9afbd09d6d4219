// The piece table of one loaded file. Pages exist only where something is present. It knows which
// pages each of the two copies on disk still lacks.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "store/internal/meta_format.h"

namespace shoal::store_internal {

class PieceTable {
 public:
  uint64_t pieces() const { return pieces_; }
  uint64_t pages() const { return pages_.size(); }
  void resize(uint64_t pieces);

  Piece get(uint64_t piece) const {
    SHOAL_ASSERT(piece < pieces_);
    const auto& page = pages_[piece / kPiecesPerPage];
    return page ? page->pieces[piece % kPiecesPerPage] : Piece{};
  }
  // Changes an entry; both copies then lack its page.
  void set(uint64_t piece, Piece value);
  // Changes bits that live only in memory. The piece must be present.
  void set_memory_bits(uint64_t piece, uint32_t set, uint32_t clear);
  // First piece at or after `piece` whose page exists; pieces() if there is none.
  uint64_t skip_empty(uint64_t piece) const;

  // --- persistence ---
  std::set<uint64_t>& lacking(unsigned copy) { return lacking_[copy]; }
  std::string encode(uint64_t page, Hash128 file) const;
  void set_page(uint64_t number, const TablePage& page);
  void set_crc(unsigned copy, uint64_t page, uint32_t crc) { crcs_[copy][page] = crc; }
  // Of a copy that lacks nothing.
  uint32_t digest(unsigned copy) const;
  // Everything in `copy` is on disk as it is here; the other copy lacks all.
  void loaded_from(unsigned copy);

 private:
  uint64_t pieces_ = 0;
  std::vector<std::unique_ptr<TablePage>> pages_;
  std::vector<uint32_t> crcs_[2];
  std::set<uint64_t> lacking_[2];
};

// The digest in a header: CRC32C over the page CRCs, little endian.
uint32_t digest_of(const std::vector<uint32_t>& crcs);

}  // namespace shoal::store_internal
