// SmallTier: the log. Appending, reclaiming, scanning, recovery.
#include <fmt/format.h>

#include <algorithm>

#include "store/internal/codec.h"
#include "store/internal/file_tier.h"
#include "store/internal/meta_format.h"
#include "store/internal/small_tier.h"

namespace shoal::store_internal {

namespace {
constexpr uint64_t kBatchBytes = kMiB;
constexpr uint64_t kWindowBytes = 2 * kMiB;
static_assert(kWindowBytes > 2 * kRecordBytesMax);

SmallPlace place_of(const RecordHeader& header, uint64_t segment, uint64_t offset) {
  SHOAL_ASSERT(offset % kRecordAlign == 0);
  SmallPlace place;
  place.version = header.version;
  place.segment = static_cast<uint32_t>(segment);
  place.offset = static_cast<uint32_t>(offset / kRecordAlign);
  place.value_length = header.value_length;
  place.info_length = header.info_length & 0x7FFFFFFF;
  return place;
}
}  // namespace

// --- writing ---

Task<Status> SmallTier::append(std::shared_ptr<Append> item) {
  item->header.info_length = static_cast<uint32_t>(item->info.size());
  item->header.value_length = static_cast<uint32_t>(item->value.size());
  queue_.push_back(item);
  if (!writing_) {
    writing_ = true;
    if (!gate_.spawn(write_loop())) {
      writing_ = false;
      queue_.pop_back();
      co_return fail(Code::kCancelled, "the store is closing");
    }
  }
  while (!item->done) (void)co_await written_.wait({});
  co_return item->status;
}

Task<void> SmallTier::write_loop() {
  while (!queue_.empty()) {
    Status status;
    uint64_t room = current_ == 0 ? 0 : segment_bytes_ - segments_.at(current_).end;
    if (queue_.front()->header.total() > room) {
      status = co_await roll();
      room = status ? segment_bytes_ - segments_.at(current_).end : 0;
    }
    uint64_t bytes = 0;
    while (!queue_.empty()) {
      uint64_t total = queue_.front()->header.total();
      if (status && (bytes + total > room || (bytes > 0 && bytes + total > kBatchBytes))) break;
      bytes += total;
      batch_.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    if (batch_.empty()) continue;  // reclaiming filled the new segment; roll again
    if (status) status = co_await write_batch(batch_);
    for (auto& item : batch_) {
      item->status = status;
      item->done = true;
    }
    batch_.clear();
    written_.notify_all();
  }
  writing_ = false;
}

// Writes the batch at the end of the current segment, syncs if any of it asks for that, and then
// enters it in the index.
Task<Status> SmallTier::write_batch(std::vector<std::shared_ptr<Append>>& batch) {
  Segment& segment = segments_.at(current_);
  std::string bytes;
  bool durable = false;
  std::vector<uint64_t> offsets;
  for (auto& item : batch) {
    item->header.sequence = ++sequence_;
    item->header.synced_through = synced_through_;
    offsets.push_back(segment.end + bytes.size());
    bytes += encode_segment_record(item->header, item->info, item->value, segment.nonce);
    durable = durable || item->durable;
  }
  SHOAL_ASSERT(segment.end + bytes.size() <= segment_bytes_);
  uint64_t sequence = sequence_;
  Status status = co_await disk_io::write(disk(), segment.file, segment.end, as_bytes(bytes));
  if (status) {
    segment.unsynced = true;
    if (durable) {
      status = co_await disk_io::sync_data(disk(), segment.file);
      if (status) {
        segment.unsynced = false;
        synced_through_ = sequence;
      }
    }
  }
  if (!status) {
    // What reached the disk is unknown, and after a failed sync a later one proves nothing: this
    // segment gets no more records.
    segment.end = segment_bytes_;
    co_return status;
  }
  segment.end += bytes.size();
  for (size_t i = 0; i < batch.size(); ++i) {
    apply(*batch[i], place_of(batch[i]->header, segment.number, offsets[i]));
  }
  co_return status;
}

void SmallTier::apply(const Append& item, SmallPlace place) {
  switch (item.header.kind) {
    case RecordKind::kClean: {
      if (item.cancelled) return;
      if (!index_.find(item.header.key) && index_.size() >= entries_max_) return;
      forget_clean(item.header.key);
      index_.insert(item.header.key) = place;
      clean_bytes_ += place.total();
      return;
    }
    case RecordKind::kStaged:
      forget_staged(item.header.key);
      staged_[item.header.key] = {item.info, place, item.header.sequence, false};
      staged_bytes_ += place.total();
      staged_values_ += place.value_length;
      return;
    case RecordKind::kDrop:
      forget_staged(item.header.key);
      return;
  }
}

Task<Status> SmallTier::sync_current() {
  if (current_ == 0 || !segments_.at(current_).unsynced) co_return Status();
  uint64_t sequence = sequence_;
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync_data(disk(), segments_.at(current_).file));
  segments_.at(current_).unsynced = false;
  synced_through_ = std::max(synced_through_, sequence);
  co_return Status();
}

Task<Status> SmallTier::open_segment() {
  // synced_through covers all earlier segments, so they must be synced before this one speaks.
  SHOAL_CO_RETURN_IF_ERROR(co_await sync_current());
  Segment segment;
  segment.number = segments_.empty() ? current_ + 1 : segments_.rbegin()->first + 1;
  segment.nonce = world_.random.id128();
  segment.end = kSegmentHeaderBytes;
  std::string path = segment_path(segment.number);
  SHOAL_CO_ASSIGN_OR_RETURN(
      segment.file,
      co_await disk_io::open(disk(), path,
                             DiskOp::kOpenWrite | DiskOp::kOpenCreate | DiskOp::kOpenTruncate));
  std::string header = encode_segment_header({segment.number, segment.nonce});
  Status status = co_await disk_io::write(disk(), segment.file, 0, as_bytes(header));
  if (status) status = co_await disk_io::sync(disk(), segment.file);
  if (status) status = co_await disk_io::sync_directory(disk(), options_.directory);
  if (!status) {
    (void)co_await disk_io::close(disk(), segment.file);
    (void)co_await disk_io::remove(disk(), path);
    co_return status;
  }
  current_ = segment.number;
  segments_.emplace(segment.number, segment);
  co_return Status();
}

// Opens the next segment and makes room for it.
Task<Status> SmallTier::roll() {
  SHOAL_CO_RETURN_IF_ERROR(co_await open_segment());
  uint64_t tries = 0;
  while (segments_.size() > segments_max_) {
    uint64_t oldest = segments_.begin()->first;
    if (oldest == current_ || ++tries > 4 * segments_max_ + 4) {
      co_return fail(Code::kNoSpace, "the small tier is full of un-uploaded data");
    }
    // Pins give way only when there is nothing else.
    SHOAL_CO_RETURN_IF_ERROR(co_await reclaim(oldest, tries <= 2 * segments_max_));
  }
  co_return Status();
}

bool SmallTier::survives(const RecordHeader& header, ConstByteSpan info, SmallPlace place,
                         bool keep_pinned, uint64_t& visited_left) {
  if (header.kind == RecordKind::kStaged) {
    auto found = staged_.find(header.key);
    return found != staged_.end() && found->second.place.segment == place.segment &&
           found->second.place.offset == place.offset;
  }
  if (header.kind != RecordKind::kClean) return false;  // what a drop refers to is older still
  SmallPlace* now = index_.find(header.key);
  if (now == nullptr || now->segment != place.segment || now->offset != place.offset) return false;
  std::string object;
  std::string etag;
  if (parse_names(info, object, etag)) {
    if (keep_pinned && pinned_(object)) return true;
    if (now->visited != 0 && visited_left >= place.total()) {
      visited_left -= place.total();
      return true;
    }
  }
  evicted_bytes_ += now->total();
  forget_clean(header.key);
  values_.erase(header.key);
  return false;
}

Task<Status> SmallTier::reclaim(uint64_t number, bool keep_pinned) {
  Segment& segment = segments_.at(number);
  Hash128 nonce = segment.nonce;
  std::vector<std::shared_ptr<Append>> keep;
  std::deque<Buffer> values;  // what the items borrow
  uint64_t visited_left = segment_bytes_ / 2;
  Visit visit = [&](const RecordHeader& header, ConstByteSpan info, ConstByteSpan value,
                    uint64_t offset) {
    SmallPlace place = place_of(header, number, offset);
    if (!survives(header, info, place, keep_pinned, visited_left)) return;
    if (!info_matches(header, info, nonce) || !value_matches(header, value, nonce)) {
      ++corrupt_;
      metrics_.corrupt_pieces.add();
      if (header.kind == RecordKind::kClean) {
        forget_clean(header.key);
      } else {
        staged_.at(header.key).bad = true;
        log_.error("un-uploaded value {} is damaged in {}", staged_.at(header.key).object(),
                   segment_path(number));
      }
      return;
    }
    auto item = std::make_shared<Append>();
    item->header = header;
    item->info = std::string(as_text(info));
    values.push_back(Buffer::copy_of(value));
    item->value = values.back().span();
    item->durable = header.kind == RecordKind::kStaged;
    keep.push_back(std::move(item));
  };
  SHOAL_CO_RETURN_IF_ERROR(co_await scan(segment, segment.end, visit));
  SHOAL_CO_RETURN_IF_ERROR(co_await reappend(std::move(keep)));
  // What moved must be durable before the old place goes, and the old name must be gone for good
  // before a newer segment goes: a drop in that one must not be outlived by what it drops.
  SHOAL_CO_RETURN_IF_ERROR(co_await sync_current());
  while (segments_.at(number).readers > 0) (void)co_await readers_gone_.wait({});
  // Entries whose record the scan could not read any more.
  std::vector<Hash128> orphans;
  index_.for_each([&](Hash128 key, const SmallPlace& place) {
    if (place.segment == static_cast<uint32_t>(number)) orphans.push_back(key);
  });
  for (Hash128 key : orphans) forget_clean(key);
  FileId file = segments_.at(number).file;
  segments_.erase(number);
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::close(disk(), file));
  SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::remove(disk(), segment_path(number)));
  co_return co_await disk_io::sync_directory(disk(), options_.directory);
}

Task<Status> SmallTier::reappend(std::vector<std::shared_ptr<Append>> items) {
  size_t at = 0;
  while (at < items.size()) {
    uint64_t room = segment_bytes_ - segments_.at(current_).end;
    std::vector<std::shared_ptr<Append>> batch;
    uint64_t bytes = 0;
    while (at < items.size() && bytes + items[at]->header.total() <= std::min(room, kBatchBytes)) {
      // Moved or dropped while we were writing?
      const auto& item = items[at++];
      bool live = item->header.kind == RecordKind::kStaged
                      ? staged_.contains(item->header.key)
                      : index_.find(item->header.key) != nullptr;
      if (!live) continue;
      bytes += item->header.total();
      item->durable = false;  // synced once, at the end
      batch.push_back(item);
    }
    if (batch.empty() && at < items.size()) {
      SHOAL_CO_RETURN_IF_ERROR(co_await open_segment());
      continue;
    }
    if (!batch.empty()) SHOAL_CO_RETURN_IF_ERROR(co_await write_batch(batch));
  }
  co_return Status();
}

Task<Status> SmallTier::close() {
  co_await gate_.close();
  Status status = co_await sync_current();
  for (auto& [number, segment] : segments_) {
    Status closed = co_await disk_io::close(disk(), segment.file);
    if (!closed && status) status = std::move(closed);
  }
  segments_.clear();
  co_return status;
}

// --- reading back ---

// Visits every readable record below `size`; answers the end of the last one.
Task<Result<uint64_t>> SmallTier::scan(Segment& segment, uint64_t size, Visit visit) {
  Buffer window(std::min<uint64_t>(kWindowBytes, std::max<uint64_t>(size, 1)));
  Hash128 nonce = segment.nonce;
  FileId file = segment.file;
  uint64_t start = 0;   // of the window in the file
  uint64_t filled = 0;  // bytes of it
  uint64_t at = kSegmentHeaderBytes;
  uint64_t end = at;
  while (at + kRecordHeaderBytes <= size) {
    uint64_t wanted = std::min(kRecordBytesMax, size - at);
    if (at < start || at + wanted > start + filled) {
      ByteSpan into = window.part(0, std::min<uint64_t>(window.size(), size - at));
      SHOAL_CO_ASSIGN_OR_RETURN(filled, co_await disk_io::read_some(disk(), file, at, into));
      start = at;
      if (filled < kRecordHeaderBytes) break;
    }
    ConstByteSpan rest = window.part(at - start, filled - (at - start));
    if (rest.size() < kRecordHeaderBytes) break;
    Result<RecordHeader> header = parse_record_header(rest, nonce);
    uint64_t body = header ? kRecordHeaderBytes + header->info_length + header->value_length : 0;
    if (!header || body > rest.size()) {
      at += kRecordAlign;
      continue;
    }
    if (at != end) {
      log_.warning("{}: {} bytes at {} are damaged and skipped", segment_path(segment.number),
                   at - end, end);
    }
    visit(*header, rest.subspan(kRecordHeaderBytes, header->info_length),
          rest.subspan(kRecordHeaderBytes + header->info_length, header->value_length), at);
    at += header->total();
    end = at;
  }
  co_return end;
}

void SmallTier::recover_record(const RecordHeader& header, ConstByteSpan info, ConstByteSpan value,
                               const Segment& segment, uint64_t offset, Recovery& recovery) {
  sequence_ = std::max(sequence_, header.sequence);
  recovery.synced_through = std::max(recovery.synced_through, header.synced_through);
  SmallPlace place = place_of(header, segment.number, offset);
  if (header.kind == RecordKind::kDrop) {
    forget_staged(header.key);
    recovery.dropped[header.key] = header.sequence;
    return;
  }
  if (!info_matches(header, info, segment.nonce)) {
    if (header.kind == RecordKind::kStaged) {
      log_.error("{}: the record of un-uploaded value {} at {} is damaged",
                 segment_path(segment.number), header.key.to_hex(), offset);
    }
    return;
  }
  if (header.kind == RecordKind::kClean) {
    if (index_.find(header.key) == nullptr && index_.size() >= entries_max_) return;
    if (header.key.is_zero()) return;
    forget_clean(header.key);
    index_.insert(header.key) = place;  // its value is checked when it is read
    clean_bytes_ += place.total();
    return;
  }
  StagedRecord record;
  Reader in(info);
  if (!parse_record(in, record) || in.left() != 0 || record.write_id != header.key ||
      record.size != header.value_length) {
    log_.error("{}: a staged record at {} cannot be read", segment_path(segment.number), offset);
    return;
  }
  if (!value_matches(header, value, segment.nonce)) {
    recovery.bad.push_back({header.key, std::string(as_text(info)), place, header.sequence});
    return;
  }
  forget_staged(header.key);
  staged_[header.key] = {std::string(as_text(info)), place, header.sequence, false};
  staged_bytes_ += place.total();
  staged_values_ += place.value_length;
}

// Staged values that fail their checksum: torn writes that nobody was promised are forgotten, lost
// ones that somebody was promised are reported and stay listed, so that their upload fails visibly.
void SmallTier::settle_bad(Recovery& recovery) {
  for (Recovery::Bad& bad : recovery.bad) {
    Hash128 id = bad.id;
    auto dropped = recovery.dropped.find(id);
    if (bad.sequence > recovery.synced_through) {
      recovery.torn.push_back(id);
      continue;
    }
    if (dropped != recovery.dropped.end() && dropped->second > bad.sequence) continue;
    auto now = staged_.find(id);
    if (now != staged_.end() && now->second.sequence > bad.sequence) continue;
    ++corrupt_;
    metrics_.corrupt_pieces.add();
    forget_staged(id);
    staged_bytes_ += bad.place.total();
    staged_values_ += bad.place.value_length;
    StagedValue& value = staged_[id] = {std::move(bad.info), bad.place, bad.sequence, true};
    log_.error("{}: its un-uploaded bytes are damaged on the local disk", value.object());
  }
}

Task<Status> SmallTier::recover_segment(uint64_t number, Recovery& recovery, bool last) {
  std::string path = segment_path(number);
  Segment segment;
  segment.number = number;
  SHOAL_CO_ASSIGN_OR_RETURN(segment.file, co_await disk_io::open(disk(), path, DiskOp::kOpenWrite));
  SHOAL_CO_ASSIGN_OR_RETURN(FileStat about, co_await disk_io::stat(disk(), segment.file));
  Buffer head(kSegmentHeaderBytes);
  SHOAL_CO_ASSIGN_OR_RETURN(size_t got,
                            co_await disk_io::read_some(disk(), segment.file, 0, head.span()));
  Result<SegmentHeader> header = parse_segment_header(head.part(0, got));
  if (!header && header.error().code() == Code::kNotSupported) {
    (void)co_await disk_io::close(disk(), segment.file);
    co_return fail(Code::kNotSupported,
                   fmt::format("{}: {}; this cache was written by a newer shoal, use that one or "
                               "another --cache-dir",
                               path, header.error().message()));
  }
  if (!header || header->number != number) {
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::close(disk(), segment.file));
    if (about.size <= kSegmentHeaderBytes) co_return co_await disk_io::remove(disk(), path);
    // Its header was durable before anything else was written, so this is damage.
    (void)co_await disk_io::make_directory(disk(), options_.lost);
    std::string name = fmt::format("seg-{:010}.log", number);
    Status moved = co_await disk_io::rename(disk(), path, options_.lost + "/" + name);
    log_.error("{}: its header is damaged, staged values in it are lost; moved to {}", path,
               options_.lost);
    co_return moved;
  }
  segment.nonce = header->nonce;
  auto at = segments_.emplace(number, segment).first;
  current_ = number;
  Visit visit = [&](const RecordHeader& record, ConstByteSpan info, ConstByteSpan value,
                    uint64_t offset) {
    recover_record(record, info, value, at->second, offset, recovery);
  };
  SHOAL_CO_ASSIGN_OR_RETURN(uint64_t end, co_await scan(at->second, about.size, visit));
  at->second.end = end;
  if (last && end < about.size) {
    // A torn tail. Durably gone, so that no part of it comes back behind later records.
    log_.info("{}: cutting {} torn bytes", path, about.size - end);
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::set_size(disk(), at->second.file, end));
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::sync(disk(), at->second.file));
  }
  // After a crash of the process alone the tail may live in the page cache only.
  at->second.unsynced = last;
  co_return Status();
}

Task<Status> SmallTier::recover() {
  SHOAL_CO_ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries,
                            co_await disk_io::list(disk(), options_.directory));
  std::set<uint64_t> numbers;
  for (const DirectoryEntry& entry : entries) {
    uint64_t number = 0;
    bool ours = entry.name.starts_with("seg-") && entry.name.ends_with(".log") &&
                entry.name.size() >= 18 && entry.name.size() <= 28;
    for (size_t i = 4; ours && i + 4 < entry.name.size(); ++i) {
      ours = entry.name[i] >= '0' && entry.name[i] <= '9';
      number = number * 10 + static_cast<uint64_t>(entry.name[i] - '0');
    }
    if (ours && number > 0 && segment_path(number).ends_with("/" + entry.name)) {
      numbers.insert(number);
    } else {
      log_.warning("{}/{} is not ours; left alone", options_.directory, entry.name);
    }
  }
  Recovery recovery;
  for (uint64_t number : numbers) {
    SHOAL_CO_RETURN_IF_ERROR(
        co_await recover_segment(number, recovery, number == *numbers.rbegin()));
  }
  settle_bad(recovery);
  synced_through_ = recovery.synced_through;
  if (current_ != 0) {
    SHOAL_CO_RETURN_IF_ERROR(co_await sync_current());
    // Segments may be larger than today's: then this one is full.
    segments_.at(current_).end = std::max(segments_.at(current_).end, kSegmentHeaderBytes);
    if (segments_.at(current_).end > segment_bytes_) segments_.at(current_).end = segment_bytes_;
  }
  co_return co_await outdate_torn(std::move(recovery.torn));
}

// Torn records that nobody was promised stay in the log, where the next recovery would take them
// for promised ones: everything behind them will have been synced by then. Later records of the
// same ids say that they do not count.
Task<Status> SmallTier::outdate_torn(std::vector<Hash128> ids) {
  for (Hash128 id : ids) {
    auto found = staged_.find(id);
    if (found != staged_.end()) {  // an earlier state of it is whole
      if (found->second.bad) continue;
      StagedRecord record = found->second.record();
      SHOAL_CO_ASSIGN_OR_RETURN(Buffer value, co_await read_staged(id));
      SHOAL_CO_RETURN_IF_ERROR(co_await stage(std::move(record), value.span()));
      continue;
    }
    auto item = std::make_shared<Append>();
    item->header.kind = RecordKind::kDrop;
    item->header.key = id;
    item->durable = true;
    SHOAL_CO_RETURN_IF_ERROR(co_await append(item));
  }
  co_return Status();
}

}  // namespace shoal::store_internal
