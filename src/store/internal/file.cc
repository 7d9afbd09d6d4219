#include "store/internal/file.h"

#include <fmt/format.h>

#include <algorithm>

#include "store/internal/file_tier.h"

namespace shoal::store_internal {

namespace {

constexpr uint64_t kReadPages = 64;  // table pages per read

std::string file_path(const std::string& directory, Hash128 id, std::string_view suffix) {
  std::string hex = id.to_hex();
  return fmt::format("{}/{}/{}{}", directory, hex.substr(0, 2), hex, suffix);
}

}  // namespace

File::File(FileTier& tier, Hash128 id, uint64_t size)
    : tier_(tier),
      id_(id),
      size_(size),
      changed_(tier.world_.executor),
      lifecycle_(tier.world_.executor, 1),
      lock_(tier.world_.executor, kAlone) {
  SHOAL_ASSERT(size <= kObjectSizeMax);
  chunks_.resize((size + kChunkBytesDefault - 1) / kChunkBytesDefault);
}

File::~File() { SHOAL_ASSERT(in_use_.empty() && writing_.empty() && internal_refs_ == 0); }

File::RangeMark::~RangeMark() {
  auto found = std::ranges::find(list_, range_);
  SHOAL_ASSERT(found != list_.end());
  *found = list_.back();
  list_.pop_back();
  file_.changed_.notify_all();
}

bool File::overlaps(const std::vector<Range>& list, Range range) {
  return std::ranges::any_of(list, [&](const Range& other) {
    return other.offset < range.end() && range.offset < other.end();
  });
}

std::string File::version() const { return record_ ? record_->write_id.to_hex() : etag_; }

const StagedRecord& File::record() const {
  SHOAL_ASSERT(record_ != nullptr, "only staged versions have a record");
  return *record_;
}

std::string File::data_path() const { return file_path(tier_.options_.directory, id_, ".data"); }
std::string File::meta_path() const {
  return file_path(tier_.options_.directory, id_, staged_name_ ? ".staged" : ".meta");
}

Task<Status> File::create() {
  SHOAL_ASSERT(!created_ && !loaded_);
  SHOAL_CO_RETURN_IF_ERROR(co_await tier_.make_directory_of(id_));
  uint32_t flags = DiskOp::kOpenWrite | DiskOp::kOpenCreate | DiskOp::kOpenExclusive;
  SHOAL_CO_ASSIGN_OR_RETURN(data_, co_await disk_io::open(tier_.disk(), data_path(), flags));
  Status status;
  if (size_ > 0) status = co_await disk_io::set_size(tier_.disk(), data_, size_);
  if (status) {
    Result<FileId> meta = co_await disk_io::open(tier_.disk(), meta_path(), flags);
    if (meta) {
      meta_ = *meta;
    } else {
      status = fail(std::move(meta).error());
    }
  }
  if (!status) {
    (void)co_await disk_io::close(tier_.disk(), data_);
    data_ = FileId::kNone;
    (void)co_await disk_io::remove(tier_.disk(), data_path());
    co_return status;
  }
  created_ = true;
  loaded_ = true;
  table_.resize(pieces_of(size_));
  table_.lacking(0).clear();  // new files: nothing old lies in them
  table_.lacking(1).clear();
  co_return Status();
}

Task<Status> File::load() {
  Result<Permit> permit = co_await lifecycle_.acquire(1, {});
  SHOAL_ASSERT(permit.has_value());
  if (loaded_) co_return Status();
  if (removed_) co_return fail(Code::kNotFound, fmt::format("{} was evicted", object_));
  if (!created_) co_return co_await create();
  Status status = co_await load_unlocked();
  if (!status) (void)co_await close_files();
  co_return status;
}

Task<Status> File::load_unlocked() {
  SHOAL_CO_ASSIGN_OR_RETURN(data_,
                            co_await disk_io::open(tier_.disk(), data_path(), DiskOp::kOpenWrite));
  SHOAL_CO_ASSIGN_OR_RETURN(meta_,
                            co_await disk_io::open(tier_.disk(), meta_path(), DiskOp::kOpenWrite));
  SHOAL_CO_ASSIGN_OR_RETURN(FileStat about, co_await disk_io::stat(tier_.disk(), data_));
  if (about.size != size_) {
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::set_size(tier_.disk(), data_, size_));
    data_unsynced_ = true;
  }
  bool matches = true;
  SHOAL_CO_RETURN_IF_ERROR(co_await load_table(matches));
  recount();
  loaded_ = true;
  co_return Status();
}

Task<Status> File::load_table(bool& matches) {
  uint64_t pieces = pieces_of(size_);
  table_ = PieceTable();
  table_.resize(pieces);
  std::vector<uint32_t> crcs(table_.pages(), 0);
  SHOAL_CO_ASSIGN_OR_RETURN(FileStat about, co_await disk_io::stat(tier_.disk(), meta_));
  bool rebuild = record_ && record_->base_etag.empty();
  Buffer buffer(2 * std::min(kReadPages, std::max<uint64_t>(table_.pages(), 1)) * kPageBytes);
  for (uint64_t first = 0; first < table_.pages(); first += kReadPages) {
    uint64_t count = std::min(kReadPages, table_.pages() - first);
    if (page_offset(first, 0) >= about.size) break;
    ByteSpan into = buffer.part(0, 2 * count * kPageBytes);
    std::ranges::fill(into, std::byte{0});
    Result<size_t> got =
        co_await disk_io::read_some(tier_.disk(), meta_, page_offset(first, 0), into);
    SHOAL_CO_RETURN_IF_ERROR(std::move(got));
    for (uint64_t i = 0; i < count; ++i) {
      uint64_t number = first + i;
      TablePage page;
      PageState state = parse_page(into.subspan((2 * i + table_copy_) * kPageBytes, kPageBytes),
                                   id_, number, page, crcs[number]);
      if (state == PageState::kEmpty) continue;
      uint64_t base = number * kPiecesPerPage;
      for (uint64_t j = 0; j < kPiecesPerPage && base + j < pieces; ++j) {
        Piece& piece = page.pieces[j];
        if (state == PageState::kBad) {
          if (!record_) {
            piece = Piece{};
            continue;
          }
          piece = {0, Piece::kPresent | Piece::kBad};  // or rebuilt below
        } else if (piece.present() && piece.length() != piece_length(base + j, size_)) {
          // A size change that did not reach the disk. Clean sizes never change.
          piece.bits |= record_ ? Piece::kStale | Piece::kVouched : 0;
          if (!record_) piece = Piece{};
        }
        if (!piece.present()) continue;
        // Bytes that were not synced may have come into it, into a hole too.
        if (loose_) piece.bits = (piece.bits | Piece::kStale | Piece::kVouched) & ~Piece::kHole;
        if (record_) piece.bits |= Piece::kSynced;
        if (chunks_[(base + j) / kPiecesPerChunk].vouched) piece.bits |= Piece::kVouched;
      }
      table_.set_page(number, page);
      if (state == PageState::kBad) {
        matches = false;
        tier_.log_.warning("cache file {}: table page {} is damaged{}", meta_path(), number,
                           record_ ? (rebuild ? ", rebuilt from the data" : "") : ", dropped");
      }
    }
  }
  table_.loaded_from(table_copy_);
  for (uint64_t number = 0; number < crcs.size(); ++number) {
    table_.set_crc(table_copy_, number, crcs[number]);
  }
  if (record_ && digest_of(crcs) != table_digest_) matches = false;
  if (!matches && rebuild) rebuild_table();
  if (loose_) table_changed_ = data_unsynced_ = true;  // and may be in the page cache only
  co_return Status();
}

// A staged version whose table is not the one that its header names, and that has no base. The data
// was synced before both were written, and nothing of it can be missing: what is there is right,
// and only the checksums must be made again. (Pages that look good may be from an older table.)
void File::rebuild_table() {
  SHOAL_ASSERT(record_ && record_->base_etag.empty());
  for (uint64_t i = 0; i < table_.pieces(); ++i) {
    table_.set(i, {0, static_cast<uint32_t>(piece_length(i, size_)) | Piece::kPresent |
                          Piece::kStale | Piece::kVouched | Piece::kSynced});
  }
  loose_ = true;
}

void File::recount() {
  uint64_t stored_before = stored_;
  present_ = stored_ = 0;
  for (ChunkState& chunk : chunks_) chunk.present = chunk.stored = 0;
  for (uint64_t i = table_.skip_empty(0); i < table_.pieces(); i = table_.skip_empty(i + 1)) {
    Piece piece = table_.get(i);
    if (!piece.present()) continue;
    ChunkState& chunk = chunks_[i / kPiecesPerChunk];
    ++chunk.present;
    ++present_;
    if (!piece.hole()) {
      ++chunk.stored;
      ++stored_;
    }
  }
  tier_.used_ += stored_ * kPieceBytes;
  SHOAL_ASSERT(tier_.used_ >= stored_before * kPieceBytes);
  tier_.used_ -= stored_before * kPieceBytes;
  if (!record_ && in_index_) enter_sieve();
}

void File::unload() {
  for (uint64_t c = 0; c < chunks_.size(); ++c) {
    bool vouched = true;
    uint64_t end = std::min((c + 1) * kPiecesPerChunk, table_.pieces());
    for (uint64_t i = c * kPiecesPerChunk; i < end; ++i) {
      Piece piece = table_.get(i);
      if (piece.present() && !piece.has(Piece::kVouched)) vouched = false;
    }
    chunks_[c].vouched = vouched;
  }
  table_ = PieceTable();
  view_.reset();
  loaded_ = false;
}

Task<Status> File::close_files() {
  Status status;
  for (FileId* file : {&data_, &direct_, &meta_}) {
    if (*file == FileId::kNone) continue;
    Status closed = co_await disk_io::close(tier_.disk(), std::exchange(*file, FileId::kNone));
    if (!closed && status) status = std::move(closed);
  }
  co_return status;
}

Task<void> File::remove_files() {
  if (removed_) co_return;
  removed_ = true;
  if (loaded_) unload();
  (void)co_await close_files();
  if (!created_) co_return;
  // The meta file first: data without it is garbage that recovery removes.
  Status meta = co_await disk_io::remove(tier_.disk(), meta_path());
  Status data = co_await disk_io::remove(tier_.disk(), data_path());
  for (const Status& status : {meta, data}) {
    if (!status && status.error().code() != Code::kNotFound) {
      tier_.log_.warning("removing a cache file: {}", status.error().to_string());
    }
  }
}

Task<void> File::settle(bool may_idle) {
  Result<Permit> permit = co_await lifecycle_.acquire(1, {});
  SHOAL_ASSERT(permit.has_value());
  while (flushing_) (void)co_await changed_.wait({});
  if (in_use() || removed_) co_return;
  if (!dropped_ && loaded_ && !record_) {
    if (present_ == 0) {
      tier_.unindex(*this);
      dropped_ = true;
    } else {
      Status flushed = co_await flush_clean();
      if (!flushed) {
        tier_.log_.warning("{}: writing its piece table: {}", object_, flushed.error().to_string());
      }
    }
  }
  while (flushing_ || writebacks_ > 0) (void)co_await changed_.wait({});
  if (in_use()) co_return;
  if (dropped_) {
    leave_sieve();
    uint64_t bytes = stored_ * kPieceBytes + reserved_;
    co_await remove_files();
    tier_.refund(bytes);
    stored_ = present_ = reserved_ = 0;
    tier_.leaving_.erase(this);
    co_return;
  }
  // A staged version with unsynced changes has its table in memory only.
  if (!loaded_ || (record_ && (never_synced_ || table_changed_ || data_unsynced_))) co_return;
  if (!table_.lacking(table_copy_).empty()) co_return;
  if (may_idle && !record_) {
    tier_.idle_.add(shared_from_this());
    co_return;
  }
  unload();
  Status closed = co_await close_files();
  if (!closed) tier_.log_.warning("{}: {}", object_, closed.error().to_string());
}

MetaHeader File::header_now() const {
  MetaHeader header;
  header.sequence = sequence_ + 1;
  header.file = id_;
  header.staged = record_ != nullptr;
  header.rewriting = rewriting_;
  header.table_copy = table_copy_;
  header.table_digest = table_digest_;
  header.size = size_;
  header.vouched_at = vouched_at_;
  if (record_) {
    header.record = *record_;
  } else {
    header.object = object_;
    header.etag = etag_;
  }
  return header;
}

Task<Status> File::write_header(MetaHeader header) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::string bytes, encode_header(header));
  if (recovered_ && (header.staged || record_)) {
    // What was recovered may live in the page cache only; the next lines rely on the disk.
    SHOAL_CO_RETURN_IF_ERROR(co_await sync_meta());
  }
  unsigned slot = header_durable_ ? 1 - slot_ : slot_;
  SHOAL_CO_RETURN_IF_ERROR(
      co_await disk_io::write(tier_.disk(), meta_, slot * kSlotBytes, as_bytes(bytes)));
  slot_ = slot;
  sequence_ = header.sequence;
  header_written_ = true;
  header_durable_ = false;
  co_return Status();
}

Task<Status> File::sync_meta() {
  uint64_t sequence = sequence_;
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync(tier_.disk(), meta_));
  if (sequence == sequence_) {
    header_durable_ = header_written_;
    recovered_ = false;
  }
  co_return Status();
}

Task<Status> File::write_table(unsigned copy) {
  // Pages may change while they are written; they are then lacking again.
  while (!table_.lacking(copy).empty()) {
    uint64_t number = *table_.lacking(copy).begin();
    table_.lacking(copy).erase(table_.lacking(copy).begin());
    std::string bytes = table_.encode(number, id_);
    Status status =
        co_await disk_io::write(tier_.disk(), meta_, page_offset(number, copy), as_bytes(bytes));
    if (number >= table_.pages()) continue;  // cut off meanwhile
    if (!status) {
      table_.lacking(copy).insert(number);
      co_return status;
    }
    table_.set_crc(copy, number, page_crc(bytes));
  }
  co_return Status();
}

Task<Status> File::flush_clean() {
  SHOAL_ASSERT(!record_);
  if (flushing_ || !loaded_) co_return Status();
  if (header_written_ && table_.lacking(table_copy_).empty()) co_return Status();
  flushing_ = true;
  Status status = co_await ensure_commit_durable();
  if (status && !header_written_) status = co_await write_header(header_now());
  if (status) status = co_await write_table(table_copy_);
  flushing_ = false;
  changed_.notify_all();
  co_return status;
}

Task<Status> File::vouch_on_disk(uint64_t generation) {
  SHOAL_ASSERT(loaded_ && !record_ && !flushing_);
  SHOAL_CO_RETURN_IF_ERROR(co_await flush_clean());
  bool all = true;
  for (uint64_t i = table_.skip_empty(0); i < table_.pieces(); i = table_.skip_empty(i + 1)) {
    Piece piece = table_.get(i);
    if (piece.present() && !piece.has(Piece::kVouched)) all = false;
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync_data(tier_.disk(), data_));
  data_unsynced_ = false;
  vouched_at_ = all ? generation : 0;
  SHOAL_CO_RETURN_IF_ERROR(co_await write_header(header_now()));
  co_return co_await sync_meta();
}

Task<Status> File::ensure_commit_durable() {
  if (!commit_unsynced_) co_return Status();
  SHOAL_CO_RETURN_IF_ERROR(co_await sync_meta());
  commit_unsynced_ = false;
  co_return Status();
}

Task<Status> File::ensure_rewriting_durable() {
  SHOAL_ASSERT(record_ && !never_synced_);
  if (rewriting_) co_return Status();
  MetaHeader header = header_now();
  header.rewriting = true;
  header.size = synced_size_;
  header.record.size = synced_size_;
  SHOAL_CO_RETURN_IF_ERROR(co_await write_header(std::move(header)));
  SHOAL_CO_RETURN_IF_ERROR(co_await sync_meta());
  rewriting_ = true;
  co_return Status();
}

Task<Status> File::publish_staged(MetaHeader header) {
  // The copy that the durable header names stays as it is until the new header is durable.
  unsigned copy = header_written_ ? 1u - table_copy_ : 0u;
  SHOAL_CO_RETURN_IF_ERROR(co_await write_table(copy));
  header.staged = true;
  header.rewriting = false;
  header.table_copy = static_cast<uint8_t>(copy);
  header.table_digest = table_.digest(copy);
  header.size = header.record.size = size_;
  header.vouched_at = 0;
  StagedRecord record = header.record;
  uint32_t digest = header.table_digest;
  SHOAL_CO_RETURN_IF_ERROR(co_await write_header(std::move(header)));
  SHOAL_CO_RETURN_IF_ERROR(co_await sync_meta());
  if (!staged_name_) {
    name_synced_ = false;
    std::string before = meta_path();
    staged_name_ = true;
    std::string after = meta_path();
    Status renamed = co_await disk_io::rename(tier_.disk(), before, after);
    if (!renamed) staged_name_ = false;
    SHOAL_CO_RETURN_IF_ERROR(std::move(renamed));
  }
  if (!name_synced_) {
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync_directory(
        tier_.disk(), fmt::format("{}/{}", tier_.options_.directory, id_.to_hex().substr(0, 2))));
    name_synced_ = true;
  }
  table_copy_ = static_cast<uint8_t>(copy);
  table_digest_ = digest;
  vouched_at_ = 0;
  rewriting_ = loose_ = never_synced_ = false;
  synced_size_ = size_;
  record_ = std::make_unique<StagedRecord>(std::move(record));
  object_ = record_->object;
  table_changed_ = false;
  for (uint64_t i = table_.skip_empty(0); i < table_.pieces(); i = table_.skip_empty(i + 1)) {
    if (table_.get(i).present()) table_.set_memory_bits(i, Piece::kSynced, 0);
  }
  co_return Status();
}

}  // namespace shoal::store_internal
