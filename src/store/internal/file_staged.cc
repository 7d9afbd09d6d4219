// File: what only staged versions allow.
#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "store/internal/file.h"
#include "store/internal/file_tier.h"

namespace shoal::store_internal {

namespace {
constexpr uint64_t kWritebacksMax = 4;  // per file at a time
// Accepted before their bytes are in the file, of one file: a few of the kernel's writes.
constexpr uint64_t kAcceptedBytesMax = 8 * kMiB;
// A disk's own cache, too, is emptied while more is written: the flush at close has less to do.
constexpr uint64_t kEarlySyncBytes = 32 * kMiB;
}  // namespace

Status File::check_writable() const {
  SHOAL_ASSERT(loaded_);
  if (!record_) {
    return fail(Code::kInvalidArgument, fmt::format("{}: a clean version cannot change", object_));
  }
  if (dropped_) return fail(Code::kNotFound, fmt::format("{}: the version was dropped", object_));
  if (record_->sealed) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("{}: the version is sealed; clone it, or sync it unsealed first", object_));
  }
  return {};
}

// Whether every piece that the range covers only partly is present (or holds no bytes yet).
bool File::partial_ok(Range range) const {
  if (range.length == 0) return true;
  uint64_t first = range.offset / kPieceBytes;
  uint64_t last = (range.end() - 1) / kPieceBytes;
  for (uint64_t i : {first, last}) {
    uint64_t start = i * kPieceBytes;
    uint64_t old_end = start + piece_length(i, size_);
    bool whole = range.offset <= start && range.end() >= old_end;
    if (old_end > start && !whole && !table_.get(i).present()) return false;
  }
  // Growing past the end: the last piece must be there, it gets zeros.
  if (!record_->partial && range.offset > size_ && size_ % kPieceBytes != 0 &&
      !table_.get(size_ / kPieceBytes).present()) {
    return false;
  }
  return true;
}

bool File::overwrites_synced(Range range) const {
  if (never_synced_ || range.length == 0) return false;
  uint64_t end = std::min(range.end(), synced_size_);
  for (uint64_t i = range.offset / kPieceBytes; i * kPieceBytes < end; ++i) {
    if (i < table_.pieces() && table_.get(i).has(Piece::kSynced)) return true;
  }
  return false;
}

// Whether a piece that stays partly as it is has not been checked since a restart.
bool File::edges_unchecked(Range range) const {
  if (range.length == 0 || table_.pieces() == 0) return false;
  uint64_t tail = size_ == 0 ? 0 : (size_ - 1) / kPieceBytes;
  for (uint64_t i : {range.offset / kPieceBytes, (range.end() - 1) / kPieceBytes, tail}) {
    if (i >= table_.pieces()) continue;
    Piece piece = table_.get(i);
    if (piece.present() && !piece.has(Piece::kVouched)) return true;
  }
  return false;
}

uint64_t File::uncharged(Range range) const {
  uint64_t count = 0;
  for (uint64_t i = range.offset / kPieceBytes; i < pieces_of(range.end()); ++i) {
    if (i >= table_.pieces()) return count + pieces_of(range.end()) - i;
    Piece piece = table_.get(i);
    if (!piece.present() || piece.hole()) ++count;
  }
  return count;
}

Task<Result<Permit>> File::prepare(Range range, uint64_t amount, bool charge) {
  while (true) {
    SHOAL_CO_RETURN_IF_ERROR(check_writable());
    SHOAL_CO_RETURN_IF_ERROR(co_await write_again());
    co_await wait_written(range);
    uint64_t need = charge ? uncharged(range) * kPieceBytes : 0;
    uint64_t own = std::min(need, reserved_);
    reserved_ -= own;
    Status room = co_await tier_.reserve(need - own);
    if (!room) {
      reserved_ += own;
      co_return fail(std::move(room).error());
    }
    Result<Permit> permit = co_await lock_.acquire(amount, {});
    SHOAL_ASSERT(permit.has_value());
    Status ready = check_writable();
    if (ready && (charge || range.offset >= size_) && !partial_ok(range)) {
      ready = fail(Code::kInternal, fmt::format("{}: [{}, {}) covers a missing piece partly",
                                                object_, range.offset, range.end()));
    }
    bool again = !unwritten_.empty() || overlaps(writing_, range);
    if (ready && !again && edges_unchecked(range)) {
      uint64_t tail = size_ == 0 ? 0 : (size_ - 1) / kPieceBytes;
      for (uint64_t i : {range.offset / kPieceBytes, (range.end() - 1) / kPieceBytes, tail}) {
        if (ready && i < table_.pieces()) ready = co_await check(i, i + 1);
      }
      again = true;
    }
    if (ready && !again && overwrites_synced(range) && !rewriting_) {
      permit->release();
      Result<Permit> alone = co_await lock_.acquire(kAlone, {});
      SHOAL_ASSERT(alone.has_value());
      ready = check_writable();
      if (ready && !never_synced_) ready = co_await ensure_rewriting_durable();
      again = true;
    }
    uint64_t needed = charge ? uncharged(range) * kPieceBytes : 0;
    if (ready && !again && needed <= need) {
      tier_.refund(need - needed);
      co_return std::move(*permit);
    }
    tier_.refund(need);
    if (!ready) co_return fail(std::move(ready).error());
  }
}

bool File::is_under_way(Range range) const {
  return overlaps(writing_, range) || std::ranges::any_of(unwritten_, [&](const Unwritten& one) {
           return overlaps({one.range()}, range);
         });
}

Task<void> File::wait_written(Range range) {
  while (overlaps(writing_, range)) (void)co_await changed_.wait({});
}

void File::add_unwritten(uint64_t offset, ByteSpan into) const {
  for (const Unwritten& one : unwritten_) {
    uint64_t from = std::max(offset, one.offset);
    uint64_t to = std::min(offset + into.size(), one.range().end());
    if (from >= to) continue;
    std::ranges::copy(one.bytes.part(from - one.offset, to - from),
                      into.begin() + static_cast<std::ptrdiff_t>(from - offset));
  }
}

Task<Status> File::write_again() {
  while (!unwritten_.empty()) {
    if (writing_again_) {
      (void)co_await changed_.wait({});
      continue;
    }
    writing_again_ = true;
    Unwritten& first = unwritten_.front();
    Range range = first.range();
    Status status = co_await move_in(first.offset, first.bytes.span(), Way::kPageCache);
    writing_again_ = false;
    if (status) {
      unwritten_.pop_front();
      show(range);
    }
    changed_.notify_all();
    SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  }
  co_return Status();
}

// Pieces between the end and `offset` become zeros. The table already reaches that far.
void File::fill_gap(uint64_t offset) {
  uint64_t from = size_;
  if (offset <= from || record_->partial) return;
  if (from % kPieceBytes != 0) {  // the last piece grows by zeros
    uint64_t i = from / kPieceBytes;
    Piece piece = table_.get(i);
    if (piece.present() && piece.hole()) {
      mark_hole(i, piece_length(i, offset));
    } else if (piece.present()) {
      piece.bits |= Piece::kStale | Piece::kVouched;
      put_piece(i, piece);
    }
  }
  for (uint64_t i = pieces_of(from); i < pieces_of(offset); ++i) {
    if (table_.get(i).present()) continue;  // another write is ahead of us
    mark_hole(i, piece_length(i, offset));
    if (view_) view_->set_present(i, true);
  }
}

// Enters the write in the table before its bytes reach the file, which had `size` before.
void File::note_write(Range range, ConstByteSpan bytes, std::span<const uint32_t> crcs,
                      uint64_t size) {
  if (pieces_of(range.end()) > table_.pieces()) {
    table_.resize(pieces_of(range.end()));
    chunks_.resize((range.end() + kChunkBytesDefault - 1) / kChunkBytesDefault);
  }
  fill_gap(range.offset);
  for (uint64_t i = range.offset / kPieceBytes; i < pieces_of(range.end()); ++i) {
    uint64_t start = i * kPieceBytes;
    uint64_t from = std::max(range.offset, start) - start;
    uint64_t to = std::min(range.end(), start + kPieceBytes) - start;
    ConstByteSpan part = bytes.subspan(start + from - range.offset, to - from);
    Piece piece = table_.get(i);
    uint64_t covered =
        std::max<uint64_t>(piece.present() ? piece.length() : 0, piece_length(i, size));
    Piece next{0, static_cast<uint32_t>(std::max(covered, to)) | Piece::kPresent | Piece::kVouched |
                      (piece.bits & Piece::kSynced)};
    if (from == 0 && to >= covered) {
      next.crc = crcs.empty() ? crc32c(part) : crcs[i - range.offset / kPieceBytes];
    } else if (piece.present() && !piece.hole() && !piece.has(Piece::kStale) && from == covered &&
               piece.length() == covered) {
      next.crc = crc32c(part, piece.crc);
    } else {
      next.bits |= Piece::kStale;
    }
    put_piece(i, next);
  }
  table_changed_ = data_unsynced_ = true;
}

// The write grows the file before its bytes are there. Other threads must not take what lies in its
// first piece meanwhile for the bytes.
void File::accept(Range range) {
  size_ = range.end();
  if (!view_) return;
  if (range.offset % kPieceBytes != 0) view_->set_present(range.offset / kPieceBytes, false);
  view_->set_size(size_);
}

// Lets other threads have the pieces of a write that has ended, but for those that another one is
// on its way into.
void File::show(Range range) {
  if (!view_) return;
  for (uint64_t i = range.offset / kPieceBytes; i < pieces_of(range.end()); ++i) {
    if (!is_under_way({i * kPieceBytes, kPieceBytes})) view_->set_present(i, true);
  }
}

// A write has failed that nobody was told of yet. `absent`: pieces of the base that it entered.
void File::undo_write(Range range, const std::vector<uint64_t>& absent) {
  for (uint64_t i = range.offset / kPieceBytes;
       i < std::min(pieces_of(range.end()), table_.pieces()); ++i) {
    if (table_.get(i).present()) table_.set_memory_bits(i, Piece::kStale, 0);
  }
  for (uint64_t i : absent) {
    if (i < table_.pieces() && !overlaps(writing_, {i * kPieceBytes, kPieceBytes})) drop_piece(i);
  }
}

Task<Status> File::write(uint64_t offset, ConstByteSpan bytes, std::span<const uint32_t> crcs,
                         Way way, std::function<void()> accepted) {
  SHOAL_ASSERT(crcs.empty() ||
               (offset % kPieceBytes == 0 && crcs.size() == pieces_of(bytes.size())));
  SHOAL_CO_RETURN_IF_ERROR(check_writable());
  if (bytes.size() > kObjectSizeMax || offset > kObjectSizeMax - bytes.size()) {
    co_return fail(Code::kTooLarge, fmt::format("{}: write beyond the largest size", object_));
  }
  if (bytes.empty()) co_return Status();
  Range range{offset, bytes.size()};
  while (accepted && accepted_bytes_ >= kAcceptedBytesMax) (void)co_await changed_.wait({});
  SHOAL_CO_ASSIGN_OR_RETURN(Permit permit, co_await prepare(range, 1, true));
  std::vector<uint64_t> absent;  // of the base: not ours if the write fails
  for (uint64_t i = offset / kPieceBytes; i < std::min(pieces_of(range.end()), pieces_of(size_));
       ++i) {
    if (!table_.get(i).present()) absent.push_back(i);
  }
  bool early = accepted && offset == size_ && !record_->partial;
  uint64_t size = size_;
  Status status;
  {
    RangeMark mark(*this, writing_, range);
    if (early) {
      accept(range);
      accepted_bytes_ += bytes.size();
      accepted();  // first: its author need not wait for the checksums
    }
    note_write(range, bytes, crcs, size);
    status = co_await move_in(offset, bytes, way);
    if (early) accepted_bytes_ -= bytes.size();
  }
  if (!status && early) {
    unwritten_.push_back({offset, Buffer::copy_of(bytes)});
    co_return status;
  }
  if (!status) {
    undo_write(range, absent);
    if (range.end() > size_ && writing_.empty()) (void)co_await undo_growth();
    co_return status;
  }
  if (range.end() > size_) {
    size_ = range.end();
    if (view_) view_->set_size(size_);
  }
  show(range);
  start_writeback(range, way);
  co_return Status();
}

// After a failed write that would have grown the file and while no other write is under way.
Task<Status> File::undo_growth() {
  uint64_t pieces = pieces_of(size_);
  for (uint64_t i = pieces; i < table_.pieces(); ++i) drop_piece(i);
  table_.resize(pieces);
  chunks_.resize((size_ + kChunkBytesDefault - 1) / kChunkBytesDefault);
  if (size_ % kPieceBytes != 0 && table_.get(pieces - 1).present()) {
    Piece piece = table_.get(pieces - 1);
    piece.bits = (piece.bits & ~Piece::kLengthMask) |
                 static_cast<uint32_t>(piece_length(pieces - 1, size_)) | Piece::kStale;
    put_piece(pieces - 1, piece);
  }
  co_return co_await disk_io::set_size(tier_.disk(), data_, size_);
}

namespace {
Task<void> write_back(Disk& disk, FileId file, Range range, uint64_t& running, Signal& changed) {
  (void)co_await disk_io::start_writeback(disk, file, range.offset, range.length);
  SHOAL_ASSERT(running > 0);
  --running;
  changed.notify_all();
}
Task<void> write_back_file(std::shared_ptr<File> file, Task<void> work) {
  co_await work;
  file.reset();
}
}  // namespace

// The kernel tells of a failed write once only, so sync() must learn of it from here.
Task<void> File::sync_early() {
  if (!co_await disk_io::sync_data(tier_.disk(), data_)) sync_failed_ = true;
  SHOAL_ASSERT(writebacks_ > 0);
  --writebacks_;
  syncing_early_ = false;
  changed_.notify_all();
}

// Lets the kernel begin writing a chunk as soon as it is full, so that sync() finds little left.
void File::start_writeback(Range range, Way way) {
  if (written_.size() < chunks_.size()) written_.resize(chunks_.size(), 0);
  for (uint64_t c = range.offset / kChunkBytesDefault; c * kChunkBytesDefault < range.end(); ++c) {
    uint64_t from = std::max(range.offset, c * kChunkBytesDefault);
    uint64_t to = std::min(range.end(), (c + 1) * kChunkBytesDefault);
    written_[c] += static_cast<uint32_t>(std::min<uint64_t>(to - from, kChunkBytesDefault));
    if (written_[c] < kChunkBytesDefault) continue;
    written_[c] = 0;
    if (way == Way::kDirect) continue;            // nothing of it is left to write
    if (writebacks_ >= kWritebacksMax) continue;  // the disk is behind; sync() does the rest
    ++writebacks_;
    Task<void> work = write_back(tier_.disk(), data_, {c * kChunkBytesDefault, kChunkBytesDefault},
                                 writebacks_, changed_);
    if (!tier_.gate_.spawn(write_back_file(shared_from_this(), std::move(work)))) --writebacks_;
  }
  written_since_sync_ += range.length;
  if (written_since_sync_ < kEarlySyncBytes || syncing_early_) return;
  written_since_sync_ = 0;
  syncing_early_ = true;
  ++writebacks_;
  if (tier_.gate_.spawn(write_back_file(shared_from_this(), sync_early()))) return;
  syncing_early_ = false;
  --writebacks_;
}

Task<Status> File::set_size(uint64_t size) {
  if (size > kObjectSizeMax) co_return fail(Code::kTooLarge, "larger than the largest size");
  SHOAL_CO_RETURN_IF_ERROR(check_writable());
  bool grow = size > size_;
  Range range = grow ? Range{size_, size - size_} : Range{size, size_ - size};
  SHOAL_CO_ASSIGN_OR_RETURN(Permit permit, co_await prepare(range, kAlone, false));
  if (size == size_) co_return Status();
  if ((size > size_) != grow) {
    co_return fail(Code::kBusy, fmt::format("{}: its size changes at the same time", object_));
  }
  if (grow && !record_->partial && size_ % kPieceBytes != 0 &&
      !table_.get(size_ / kPieceBytes).present()) {
    co_return fail(Code::kInternal,
                   fmt::format("{}: the last piece must be present to grow", object_));
  }
  // Unfinished write-back of a range that goes away would be harmless; the table must match.
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::set_size(tier_.disk(), data_, size));
  uint64_t pieces = pieces_of(size);
  if (grow) {
    table_.resize(pieces);
    chunks_.resize((size + kChunkBytesDefault - 1) / kChunkBytesDefault);
    fill_gap(size);
  } else {
    for (uint64_t i = pieces; i < table_.pieces(); ++i) drop_piece(i);
    table_.resize(pieces);
    chunks_.resize((size + kChunkBytesDefault - 1) / kChunkBytesDefault);
    written_.resize(std::min(written_.size(), chunks_.size()));
    if (size % kPieceBytes != 0 && table_.get(pieces - 1).present()) {
      Piece piece = table_.get(pieces - 1);
      piece.bits = (piece.bits & ~Piece::kLengthMask) |
                   static_cast<uint32_t>(piece_length(pieces - 1, size)) | Piece::kStale |
                   Piece::kVouched;
      put_piece(pieces - 1, piece);
    }
  }
  size_ = size;
  table_changed_ = data_unsynced_ = true;
  if (view_) view_->set_size(size);
  co_return Status();
}

Task<Status> File::zero(Range range) {
  SHOAL_CO_RETURN_IF_ERROR(check_writable());
  if (range.offset >= size_ || range.length == 0) co_return Status();
  range.length = std::min(range.length, size_ - range.offset);
  // Whole pieces become holes; the edges are written.
  uint64_t first = (range.offset + kPieceBytes - 1) / kPieceBytes;
  uint64_t last = range.end() == size_ ? pieces_of(size_) : range.end() / kPieceBytes;
  static const std::vector<std::byte> zeros(kPieceBytes);
  if (first * kPieceBytes > range.offset || first >= last) {
    uint64_t end = first >= last ? range.end() : first * kPieceBytes;
    for (uint64_t at = range.offset; at < end;) {
      uint64_t length = std::min(end - at, kPieceBytes);
      SHOAL_CO_RETURN_IF_ERROR(co_await write(at, std::span(zeros).first(length)));
      at += length;
    }
  }
  if (first >= last) co_return Status();
  uint64_t tail = last * kPieceBytes;
  if (tail < range.end()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await write(tail, std::span(zeros).first(range.end() - tail)));
  }
  Range whole{first * kPieceBytes, std::min(tail, range.end()) - first * kPieceBytes};
  SHOAL_CO_ASSIGN_OR_RETURN(Permit permit, co_await prepare(whole, kAlone, false));
  if (whole.offset >= size_) co_return Status();
  SHOAL_CO_RETURN_IF_ERROR(
      co_await disk_io::punch(tier_.disk(), data_, whole.offset, whole.length));
  for (uint64_t i = first; i < std::min(last, pieces_of(size_)); ++i) {
    bool synced = table_.get(i).has(Piece::kSynced);
    mark_hole(i, piece_length(i, size_));
    if (synced) table_.set_memory_bits(i, Piece::kSynced, 0);
    if (view_) view_->set_present(i, true);
  }
  table_changed_ = data_unsynced_ = true;
  co_return Status();
}

Task<Status> File::allocate(Range range) {
  SHOAL_CO_RETURN_IF_ERROR(check_writable());
  if (range.offset > kObjectSizeMax || range.length > kObjectSizeMax - range.offset) {
    co_return fail(Code::kTooLarge, "larger than the largest size");
  }
  if (range.length == 0) co_return Status();
  uint64_t need = uncharged(range) * kPieceBytes;
  if (need <= reserved_) co_return Status();
  uint64_t more = need - reserved_;
  SHOAL_CO_RETURN_IF_ERROR(co_await tier_.reserve(more));
  // Blocks of the disk are taken where the file already reaches; beyond its end the budget and
  // the reserve of free disk space stand for them.
  uint64_t end = std::min(range.end(), size_);
  Status status;
  if (range.offset < end) {
    status = co_await disk_io::allocate(tier_.disk(), data_, range.offset, end - range.offset);
  }
  if (!status) {
    tier_.refund(more);
    co_return status;
  }
  reserved_ += more;
  co_return Status();
}

// Computes the CRCs that in-place writes left open. The caller has the file alone.
Task<Status> File::recompute() {
  Buffer buffer;
  for (uint64_t i = table_.skip_empty(0); i < table_.pieces(); i = table_.skip_empty(i + 1)) {
    Piece piece = table_.get(i);
    if (!piece.present()) continue;
    uint64_t length = piece_length(i, size_);
    // A piece that others grew past has the right CRC of too few bytes.
    if (piece.has(Piece::kBad)) continue;
    if (!piece.has(Piece::kStale) && piece.length() == length) continue;
    if (buffer.empty()) buffer = Buffer(kPieceBytes);
    ByteSpan bytes = buffer.part(0, length);
    SHOAL_CO_RETURN_IF_ERROR(
        co_await disk_io::read_exactly(tier_.disk(), data_, i * kPieceBytes, bytes));
    uint32_t bits = (piece.bits & ~(Piece::kStale | Piece::kLengthMask)) |
                    static_cast<uint32_t>(length) | Piece::kVouched;
    put_piece(i, {crc32c(bytes), bits});
  }
  co_return Status();
}

Task<Status> File::sync(StagedRecord record) {
  SHOAL_ASSERT(loaded_);
  if (!record_) co_return fail(Code::kInvalidArgument, "a clean version cannot be synced");
  SHOAL_CO_RETURN_IF_ERROR(check_record(record));
  Result<Permit> alone = co_await lock_.acquire(kAlone, {});
  SHOAL_ASSERT(alone.has_value());
  if (!record_ || dropped_) {
    co_return fail(Code::kNotFound, fmt::format("{}: no longer staged", object_));
  }
  if (record.write_id != record_->write_id) {
    co_return fail(Code::kInvalidArgument, "sync() cannot change the write id");
  }
  if (record.base_etag.empty() && present_ != pieces_of(size_)) {
    co_return fail(Code::kInternal,
                   fmt::format("{}: pieces are missing and no base is set", object_));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await write_again());
  SHOAL_CO_RETURN_IF_ERROR(co_await recompute());
  while (syncing_early_) (void)co_await changed_.wait({});
#ifndef SHOAL_CANARY  // the canary plants its bug here: a durable record of bytes that are not
  if (sync_failed_) {
    co_return fail(Code::kDiskError,
                   fmt::format("{}: an earlier sync of {} failed, so its bytes may be lost; write "
                               "the file again",
                               object_, data_path()));
  }
  if (data_unsynced_) {
    // After a failed fsync the kernel may call lost pages clean: a later success proves nothing.
    Status synced = co_await disk_io::sync_data(tier_.disk(), data_);
    if (!synced) {
      sync_failed_ = true;
      co_return synced;
    }
  }
#endif
  data_unsynced_ = false;
  MetaHeader header = header_now();
  header.record = std::move(record);
  co_return co_await publish_staged(std::move(header));
}

}  // namespace shoal::store_internal
