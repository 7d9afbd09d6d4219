#include "store/internal/piece_table.h"

#include "base/checksum.h"

namespace shoal::store_internal {

void PieceTable::resize(uint64_t pieces) {
  uint64_t before = pages_.size();
  uint64_t pages = pages_of(pieces);
  // The rest of the last page must not come back when the table grows again.
  for (uint64_t i = pieces; i < std::min(pieces_, pages * kPiecesPerPage); ++i) set(i, Piece{});
  pieces_ = pieces;
  pages_.resize(pages);
  for (unsigned copy = 0; copy < 2; ++copy) {
    crcs_[copy].resize(pages, 0);
    lacking_[copy].erase(lacking_[copy].lower_bound(pages), lacking_[copy].end());
    // A page that was cut off earlier may still lie in the file.
    for (uint64_t page = before; page < pages; ++page) lacking_[copy].insert(page);
  }
}

void PieceTable::set(uint64_t piece, Piece value) {
  SHOAL_ASSERT(piece < pieces_);
  uint64_t number = piece / kPiecesPerPage;
  auto& page = pages_[number];
  if (!page) page = std::make_unique<TablePage>();
  page->pieces[piece % kPiecesPerPage] = value;
  lacking_[0].insert(number);
  lacking_[1].insert(number);
}

void PieceTable::set_memory_bits(uint64_t piece, uint32_t set, uint32_t clear) {
  SHOAL_ASSERT(piece < pieces_ && ((set | clear) & Piece::kStored) == 0);
  auto& page = pages_[piece / kPiecesPerPage];
  SHOAL_ASSERT(page != nullptr);
  uint32_t& bits = page->pieces[piece % kPiecesPerPage].bits;
  bits = (bits | set) & ~clear;
}

uint64_t PieceTable::skip_empty(uint64_t piece) const {
  uint64_t page = piece / kPiecesPerPage;
  if (page < pages_.size() && pages_[page]) return piece;
  while (page < pages_.size() && !pages_[page]) ++page;
  return std::min(pieces_, page * kPiecesPerPage);
}

std::string PieceTable::encode(uint64_t page, Hash128 file) const {
  SHOAL_ASSERT(page < pages_.size());
  static const TablePage empty;
  return encode_page(pages_[page] ? *pages_[page] : empty, file, page);
}

void PieceTable::set_page(uint64_t number, const TablePage& page) {
  SHOAL_ASSERT(number < pages_.size());
  pages_[number] = std::make_unique<TablePage>(page);
  uint64_t end = std::min(kPiecesPerPage, pieces_ - number * kPiecesPerPage);
  for (uint64_t i = end; i < kPiecesPerPage; ++i) pages_[number]->pieces[i] = Piece{};
}

uint32_t PieceTable::digest(unsigned copy) const {
  SHOAL_ASSERT(lacking_[copy].empty());
  return digest_of(crcs_[copy]);
}

void PieceTable::loaded_from(unsigned copy) {
  lacking_[copy].clear();
  for (uint64_t page = 0; page < pages_.size(); ++page) lacking_[1 - copy].insert(page);
}

uint32_t digest_of(const std::vector<uint32_t>& crcs) {
  std::string bytes;
  Writer out(bytes);
  for (uint32_t crc : crcs) out.number(crc);
  return crc32c(as_bytes(bytes));
}

}  // namespace shoal::store_internal
