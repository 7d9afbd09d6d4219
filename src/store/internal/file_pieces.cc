// File: pieces, reading, filling, checking and eviction.
#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "store/internal/file.h"
#include "store/internal/file_tier.h"

namespace shoal::store_internal {

namespace {
constexpr uint64_t kCheckPieces = 16;  // read at once when checking
constexpr uint64_t kFlushPieces = 64;  // filled pieces between two writes of a clean table
}  // namespace

std::vector<Range> File::missing(Range range) const {
  SHOAL_ASSERT(loaded_, "the version was released");
  std::vector<Range> result;
  uint64_t end = std::min(range.end(), size_);
  if (range.offset >= end) return result;
  for (uint64_t i = range.offset / kPieceBytes; i < pieces_of(end); ++i) {
    if (i < table_.pieces() && table_.get(i).present()) continue;
    uint64_t start = i * kPieceBytes;
    uint64_t length = piece_length(i, size_);
    if (!result.empty() && result.back().end() == start) {
      result.back().length += length;
    } else {
      result.push_back({start, length});
    }
  }
  return result;
}

bool File::vouched() const {
  SHOAL_ASSERT(loaded_);
  for (uint64_t i = 0; i < pieces_of(size_); ++i) {
    Piece piece = table_.get(i);
    if (!piece.present() || !piece.has(Piece::kVouched) || piece.has(Piece::kBad)) return false;
  }
  return true;
}

void File::put_piece(uint64_t piece, Piece value) {
  SHOAL_ASSERT(value.present() && piece < table_.pieces());
  Piece before = table_.get(piece);
  ChunkState& chunk = chunks_[piece / kPiecesPerChunk];
  if (!before.present()) {
    ++chunk.present;
    ++present_;
  }
  bool stored_before = before.present() && !before.hole();
  if (stored_before != !value.hole()) {
    if (value.hole()) {
      SHOAL_ASSERT(chunk.stored > 0 && stored_ > 0);
      --chunk.stored;
      --stored_;
      tier_.refund(kPieceBytes);
    } else {  // the caller has reserved the bytes
      ++chunk.stored;
      ++stored_;
    }
  }
  table_.set(piece, value);
  SHOAL_ASSERT_SLOW(chunk.present <= kPiecesPerChunk && chunk.stored <= chunk.present);
}

void File::drop_piece(uint64_t piece) {
  Piece before = table_.get(piece);
  if (!before.present()) return;
  ChunkState& chunk = chunks_[piece / kPiecesPerChunk];
  SHOAL_ASSERT(chunk.present > 0 && present_ > 0);
  --chunk.present;
  --present_;
  if (!before.hole()) {
    --chunk.stored;
    --stored_;
    tier_.refund(kPieceBytes);
  }
  if (view_) view_->set_present(piece, false);
  table_.set(piece, Piece{});
}

void File::mark_hole(uint64_t piece, uint64_t length) {
  static const std::vector<std::byte> zeros(kPieceBytes);
  static const uint32_t whole = crc32c(zeros);
  uint32_t crc = length == kPieceBytes ? whole : crc32c(std::span(zeros).first(length));
  put_piece(piece, {crc, static_cast<uint32_t>(length) | Piece::kPresent | Piece::kHole |
                             Piece::kVouched});
}

void File::enter_sieve() {
  for (uint64_t c = 0; c < chunks_.size(); ++c) {
    ChunkState& chunk = chunks_[c];
    bool inside = chunk.node != Sieve<ChunkRef>::kNone;
    if (chunk.present > 0 && !inside) chunk.node = tier_.sieve_of(chunk.copy).insert({this, c});
    if (chunk.present == 0 && inside) {
      tier_.sieve_of(chunk.copy).remove(std::exchange(chunk.node, Sieve<ChunkRef>::kNone));
    }
  }
}

void File::leave_sieve() {
  for (ChunkState& chunk : chunks_) {
    if (chunk.node == Sieve<ChunkRef>::kNone) continue;
    tier_.sieve_of(chunk.copy).remove(std::exchange(chunk.node, Sieve<ChunkRef>::kNone));
  }
}

void File::set_copy(uint64_t chunk_number, bool copy) {
  ChunkState& chunk = chunks_[chunk_number];
  if (chunk.copy == copy) return;
  if (chunk.node != Sieve<ChunkRef>::kNone) {
    tier_.sieve_of(chunk.copy).remove(chunk.node);
    chunk.node = tier_.sieve_of(copy).insert({this, chunk_number});
  }
  chunk.copy = copy;
}

void File::touch(Range range) {
  if (record_ || range.length == 0) return;
  uint64_t last = std::min<uint64_t>((range.end() - 1) / kChunkBytesDefault, chunks_.size() - 1);
  for (uint64_t c = range.offset / kChunkBytesDefault; c <= last; ++c) {
    if (chunks_[c].node == Sieve<ChunkRef>::kNone) continue;
    tier_.sieve_of(chunks_[c].copy).touch(chunks_[c].node);
  }
}

// Pieces in `range` have been entered.
void File::note_filled(Range range, Keep keep) {
  data_unsynced_ = true;
  if (record_) {
    table_changed_ = true;
    return;
  }
  if (!in_index_) return;
  enter_sieve();
  for (uint64_t c = range.offset / kChunkBytesDefault; c * kChunkBytesDefault < range.end(); ++c) {
    set_copy(c, keep != Keep::kOwned);
  }
}

Task<Status> File::fill(uint64_t offset, ConstByteSpan bytes, std::span<const uint32_t> crcs,
                        Keep keep) {
  SHOAL_ASSERT(loaded_);
  SHOAL_ASSERT(crcs.empty() || crcs.size() == pieces_of(bytes.size()));
  if (offset % kPieceBytes != 0 || offset > size_ || bytes.size() > size_ - offset ||
      (bytes.size() % kPieceBytes != 0 && offset + bytes.size() != size_)) {
    co_return fail(Code::kInvalidArgument, "fill: the range is not made of whole pieces");
  }
  if (bytes.empty() || dropped_) co_return Status();
  Range range{offset, bytes.size()};
  RangeMark mark(*this, in_use_, range);
  while (overlaps(punching_, range)) (void)co_await changed_.wait({});
  Permit permit;
  uint64_t reserved = uncharged(range) * kPieceBytes;
  Status room = co_await tier_.reserve(reserved);
  if (!room) {
    tier_.metrics_.fills_refused.add();
    co_return room;
  }
  if (record_) {  // a write must not be overtaken by older bytes
    Result<Permit> alone = co_await lock_.acquire(kAlone, {});
    SHOAL_ASSERT(alone.has_value());
    permit = std::move(*alone);
  }
  if (range.end() > size_) {  // truncated while we waited
    tier_.refund(reserved);
    co_return Status();
  }
  // Runs of absent pieces are written; present ones stay as they are.
  uint64_t end = pieces_of(range.end());
  uint64_t added = 0;
  Status status;
  uint32_t flags = keep == Keep::kSpareCopy ? DiskOp::kBackground : 0;
  for (uint64_t i = offset / kPieceBytes; i < end && status;) {
    if (table_.get(i).present()) {
      ++i;
      continue;
    }
    uint64_t stop = i + 1;
    while (stop < end && !table_.get(stop).present()) ++stop;
    // Pieces that failed a check since we reserved are not paid for; the caller asks again.
    stop = std::min(stop, i + reserved / kPieceBytes - added);
    if (stop == i) break;
    uint64_t start = i * kPieceBytes;
    ConstByteSpan run =
        bytes.subspan(start - offset, std::min(stop * kPieceBytes, range.end()) - start);
    status = co_await disk_io::write(tier_.disk(), data_, start, run, flags);
    for (; i < stop && status; ++i) {
      if (i >= table_.pieces() || table_.get(i).present())
        continue;  // another fill of the same bytes was faster
      uint64_t length = piece_length(i, size_);
      ConstByteSpan piece = run.subspan(i * kPieceBytes - start, length);
      uint32_t crc = crcs.empty() ? crc32c(piece) : crcs[i - offset / kPieceBytes];
      SHOAL_ASSERT_SLOW(crc == crc32c(piece));
      put_piece(i, {crc, static_cast<uint32_t>(length) | Piece::kPresent | Piece::kVouched});
      if (view_) view_->set_present(i, true);
      ++added;
    }
  }
  SHOAL_ASSERT(added * kPieceBytes <= reserved);
  tier_.refund(reserved - added * kPieceBytes);
  if (added > 0) note_filled(range, keep);
  SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  permit.release();
  if (!record_ && in_index_ &&
      (present_ == pieces_of(size_) || added >= kFlushPieces || present_ % kFlushPieces < added)) {
    co_return co_await flush_clean();
  }
  co_return Status();
}

Task<Status> File::ensure_checked(uint64_t first, uint64_t end) {
  while (true) {
    bool checked = true;
    for (uint64_t i = first; i < end; ++i) {
      if (i >= table_.pieces()) continue;  // truncated meanwhile: zeros
      Piece piece = table_.get(i);
      if (!piece.present()) {
        if (record_) {
          co_return fail(Code::kInternal, fmt::format("{}: piece {} is missing", object_, i));
        }
        co_return fail(Code::kCorrupt, fmt::format("{}: piece {} is not cached", object_, i));
      }
      if (piece.has(Piece::kBad)) {
        co_return fail(Code::kCorrupt,
                       fmt::format("{}: piece {} failed its checksum; the un-uploaded bytes in {} "
                                   "were damaged on the local disk",
                                   object_, i, data_path()));
      }
      if (!piece.has(Piece::kVouched)) checked = false;
    }
    if (checked) co_return Status();
    SHOAL_CO_RETURN_IF_ERROR(co_await check(first, std::min(end, table_.pieces())));
  }
}

Task<Status> File::read(uint64_t offset, ByteSpan into, Way way) {
  SHOAL_ASSERT(loaded_);
  if (offset > size_ || into.size() > size_ - offset) {
    co_return fail(Code::kInvalidArgument, fmt::format("{}: read past the end", object_));
  }
  if (into.empty()) co_return Status();
  Range range{offset, into.size()};
  RangeMark mark(*this, in_use_, range);
  touch(range);
  while (true) {
    // What is on its way counts as present.
    co_await wait_written(range);
    size_t unwritten = unwritten_.size();
    SHOAL_CO_RETURN_IF_ERROR(co_await ensure_checked(offset / kPieceBytes, pieces_of(range.end())));
    SHOAL_CO_ASSIGN_OR_RETURN(size_t got, co_await move_out(offset, into, way));
    // The file is shorter only while a truncation or a growing write is under way: zeros.
    if (got < into.size()) std::ranges::fill(into.subspan(got), std::byte{0});
    if (unwritten != unwritten_.size()) continue;  // some have come into the file meanwhile
    add_unwritten(offset, into);
    co_return Status();
  }
}

// Of a part that is one whole piece, as it entered.
std::optional<uint32_t> File::known_crc(Range part) const {
  if (part.offset % kPieceBytes != 0 || overlaps(writing_, part)) return std::nullopt;
  uint64_t i = part.offset / kPieceBytes;
  if (i >= table_.pieces()) return std::nullopt;
  Piece piece = table_.get(i);
  bool known = piece.present() && !piece.hole() && !piece.has(Piece::kStale);
  return known && piece.length() == part.length ? std::optional(piece.crc) : std::nullopt;
}

Task<Result<std::vector<uint32_t>>> File::read_with_crcs(uint64_t offset, ByteSpan into) {
  co_await wait_written({offset, into.size()});
  std::vector<std::optional<uint32_t>> before;
  auto part_at = [&](uint64_t at) { return Range{at, std::min(kPieceBytes, into.size() - at)}; };
  for (uint64_t at = 0; at < into.size(); at += kPieceBytes) {
    before.push_back(known_crc({offset + at, part_at(at).length}));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await read(offset, into, Way::kPageCache));
  std::vector<uint32_t> crcs;
  for (uint64_t at = 0; at < into.size(); at += kPieceBytes) {
    Range part = part_at(at);
    std::optional<uint32_t> known = before[crcs.size()];
    bool same = known && known_crc({offset + at, part.length}) == known;
    crcs.push_back(same ? *known : crc32c(into.subspan(at, part.length)));
  }
  co_return crcs;
}

class File::FileLoan final : public CachedFile::Loan {
 public:
  FileLoan(File& file, Range range)
      : keep_(file.shared_from_this()), mark_(file, file.in_use_, range) {}

 private:
  std::shared_ptr<File> keep_;
  RangeMark mark_;
};

Task<Result<std::unique_ptr<CachedFile::Loan>>> File::lend(Range range) {
  SHOAL_ASSERT(loaded_ && range.offset % kPieceBytes == 0);
  if (record_ || range.length == 0 || range.offset > size_ || range.length > size_ - range.offset) {
    co_return fail(Code::kInvalidArgument, fmt::format("{}: no such range to lend", object_));
  }
  auto loan = std::make_unique<FileLoan>(*this, range);
  touch(range);
  uint64_t first = range.offset / kPieceBytes;
  uint64_t end = pieces_of(range.end());
  SHOAL_CO_RETURN_IF_ERROR(co_await ensure_checked(first, end));
  loan->file = data_;
  for (uint64_t i = first; i < end; ++i) loan->crcs.push_back(table_.get(i).crc);
  co_return std::unique_ptr<Loan>(std::move(loan));
}

Task<Status> File::verify() {
  SHOAL_ASSERT(loaded_);
  RangeMark mark(*this, in_use_, {0, size_});
  co_return co_await check(0, table_.pieces());
}

// Checks the pieces [first, end) that are present and not yet vouched for.
Task<Status> File::check(uint64_t first, uint64_t end) {
  Status result;
  Buffer buffer;
  uint64_t failed = 0;
  uint64_t i = first;
  while (i < std::min(end, table_.pieces())) {
    Piece piece = table_.get(i);
    if (!piece.present() || piece.has(Piece::kVouched)) {
      i = piece.present() ? i + 1 : std::max(i + 1, table_.skip_empty(i));
      continue;
    }
    if (piece.has(Piece::kBad)) {
      result = fail(Code::kCorrupt, fmt::format("{}: piece {} is damaged", object_, i));
      ++i;
      continue;
    }
    if (buffer.empty()) buffer = Buffer(kCheckPieces * kPieceBytes);
    uint64_t stop = std::min({i + kCheckPieces, end, table_.pieces()});
    std::vector<Piece> before;
    for (uint64_t j = i; j < stop; ++j) before.push_back(table_.get(j));
    ByteSpan bytes = buffer.part(0, (stop - i) * kPieceBytes);
    SHOAL_CO_ASSIGN_OR_RETURN(
        size_t got, co_await disk_io::read_some(tier_.disk(), data_, i * kPieceBytes, bytes));
    std::ranges::fill(bytes.subspan(got), std::byte{0});
    for (uint64_t j = i; j < stop; ++j) {
      Status one = check_one(j, before[j - i], bytes.subspan((j - i) * kPieceBytes, kPieceBytes));
      if (one) continue;
      ++failed;
      if (result) result = std::move(one);
    }
    i = stop;
  }
  if (failed > 0 && !record_) {
    tier_.log_.warning("{}: {} cached pieces failed their checksum and are dropped", object_,
                       failed);
  }
  co_return result;
}

// `before` is the entry from before the bytes were read: if it has changed, they prove nothing.
Status File::check_one(uint64_t piece, Piece before, ConstByteSpan bytes) {
  if (piece >= table_.pieces()) return {};
  Piece now = table_.get(piece);
  if (now.crc != before.crc || now.bits != before.bits || !now.present() ||
      now.has(Piece::kVouched | Piece::kBad)) {
    return {};
  }
  if (crc32c(bytes.first(now.length())) == now.crc && now.length() == piece_length(piece, size_)) {
    table_.set_memory_bits(piece, Piece::kVouched, 0);
    if (view_) view_->set_present(piece, true);
    return {};
  }
  ++tier_.corrupt_pieces_;
  tier_.metrics_.corrupt_pieces.add();
  if (record_) {
    table_.set_memory_bits(piece, Piece::kBad, 0);
    tier_.log_.error("{}: un-uploaded piece {} in {} failed its checksum", object_, piece,
                     data_path());
  } else {
    drop_piece(piece);
    enter_sieve();
  }
  return fail(Code::kCorrupt, fmt::format("{}: piece {} failed its checksum", object_, piece));
}

Range File::chunk_range(uint64_t chunk) const {
  uint64_t start = chunk * kChunkBytesDefault;
  SHOAL_ASSERT(start < size_);
  return {start, std::min(kChunkBytesDefault, size_ - start)};
}

bool File::chunk_evictable(uint64_t chunk) const {
  return !record_ && !pinned_ && holds_ == 0 && in_index_ && !dropped_ &&
         !overlaps(in_use_, chunk_range(chunk)) && !overlaps(punching_, chunk_range(chunk));
}

// True when the chunk's bytes have been given back.
Task<bool> File::evict_chunk(uint64_t chunk) {
  if (!chunk_evictable(chunk)) co_return false;
  std::shared_ptr<File> self = shared_from_this();
  ++internal_refs_;
  Status loaded = co_await load();
  if (loaded) loaded = co_await ensure_commit_durable();
  bool evicted = false;
  if (!loaded) {
    tier_.log_.warning("{}: cannot evict: {}", object_, loaded.error().to_string());
  } else if (chunk_evictable(chunk) && chunks_[chunk].present > 0) {
    Range range = chunk_range(chunk);
    uint64_t end = pieces_of(range.end());
    uint64_t stored = chunks_[chunk].stored;
    tier_.used_ += stored * kPieceBytes;  // the bytes are free only once the hole is there
    for (uint64_t i = range.offset / kPieceBytes; i < end; ++i) drop_piece(i);
    SHOAL_ASSERT(chunks_[chunk].present == 0);
    enter_sieve();
    RangeMark mark(*this, punching_, range);
    Status punched = co_await disk_io::punch(tier_.disk(), data_, range.offset, range.length);
    tier_.refund(stored * kPieceBytes);
    tier_.evicted_bytes_ += stored * kPieceBytes;
    tier_.metrics_.evicted_bytes.add(stored * kPieceBytes);
    if (!punched) tier_.log_.warning("{}: evicting: {}", object_, punched.error().to_string());
    evicted = punched.has_value();
  }
  SHOAL_ASSERT(internal_refs_ > 0);
  --internal_refs_;
  changed_.notify_all();
  if (!in_use()) co_await settle();
  co_return evicted;
}

uint32_t File::crc(Range range) const {
  SHOAL_ASSERT(loaded_ && range.offset % kPieceBytes == 0 && range.end() <= size_);
  uint32_t result = 0;
  for (uint64_t i = range.offset / kPieceBytes; i < pieces_of(range.end()); ++i) {
    Piece piece = table_.get(i);
    SHOAL_ASSERT(piece.present() && !piece.has(Piece::kStale), "sync() before crc()");
    SHOAL_ASSERT(piece.length() == piece_length(i, size_));
    result = i * kPieceBytes == range.offset ? piece.crc
                                             : crc32c_combine(result, piece.crc, piece.length());
  }
  return result;
}

uint64_t File::allocated() const { return stored_ * kPieceBytes + reserved_; }

Task<Result<uint64_t>> File::seek(uint64_t offset, bool data) {
  SHOAL_ASSERT(loaded_);
  if (offset >= size_) co_return size_;
  for (uint64_t i = offset / kPieceBytes; i < pieces_of(size_); ++i) {
    // What is missing here is data of the base.
    bool hole = i < table_.pieces() && table_.get(i).present() && table_.get(i).hole();
    if (hole != data) co_return std::max(offset, i * kPieceBytes);
  }
  co_return size_;
}

std::shared_ptr<ReadView> File::view() {
  SHOAL_ASSERT(loaded_);
  int native = descriptor();
  if (native < 0) return nullptr;
  if (!view_) {
    view_ = std::make_shared<ReadView>(native, size_);
    for (uint64_t i = table_.skip_empty(0); i < table_.pieces(); i = table_.skip_empty(i + 1)) {
      Piece piece = table_.get(i);
      bool good = piece.present() && piece.has(Piece::kVouched) && !piece.has(Piece::kBad);
      if (good && !is_under_way({i * kPieceBytes, kPieceBytes})) view_->set_present(i, true);
    }
  }
  return view_;
}

int File::descriptor() {
  SHOAL_ASSERT(loaded_);
  return tier_.disk().native_descriptor(data_);
}

}  // namespace shoal::store_internal
