// FileTier: finding again what an earlier run left behind.
#include <fmt/format.h>

#include <algorithm>

#include "store/internal/file_tier.h"

namespace shoal::store_internal {

namespace {
constexpr size_t kRecoverParallel = 32;

// "<32 hex>.data", ".meta" or ".staged".
bool split_name(std::string_view name, Hash128& id, std::string_view& suffix) {
  if (name.size() <= 32) return false;
  Result<Hash128> parsed = Hash128::from_hex(name.substr(0, 32));
  if (!parsed) return false;
  id = *parsed;
  suffix = name.substr(32);
  return suffix == ".data" || suffix == ".meta" || suffix == ".staged";
}
}  // namespace

Task<Status> FileTier::recover() {
  SHOAL_CO_ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries,
                            co_await disk_io::list(disk(), options_.directory));
  std::vector<Task<Status>> tasks;
  for (DirectoryEntry& entry : entries) {
    if (!entry.is_directory || entry.name.size() != 2) continue;
    tasks.push_back(recover_directory(std::move(entry.name)));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(world_.executor, std::move(tasks), kRecoverParallel));
  // A smaller budget than last time: the surplus goes now, as far as it may.
  Result<Permit> permit = co_await room_.acquire(1, {});
  SHOAL_ASSERT(permit.has_value());
  Status fits = co_await evict_until(0);
  if (!fits) log_.warning("{}", fits.error().to_string());
  co_return Status();
}

Task<Status> FileTier::recover_directory(std::string name) {
  std::string directory = options_.directory + "/" + name;
  SHOAL_CO_ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries,
                            co_await disk_io::list(disk(), directory));
  std::map<Hash128, Found> found;
  for (const DirectoryEntry& entry : entries) {
    Hash128 id;
    std::string_view suffix;
    if (!split_name(entry.name, id, suffix) || !entry.name.starts_with(name)) {
      log_.warning("{}/{} is not ours; left alone", directory, entry.name);
      continue;
    }
    directories_.insert(static_cast<unsigned>(id.high >> 56));
    Found& one = found[id];
    if (suffix == ".data") one.data = true;
    if (suffix == ".meta") one.meta = true;
    if (suffix == ".staged") one.staged = true;
  }
  for (const auto& [id, one] : found) {
    SHOAL_CO_RETURN_IF_ERROR(co_await recover_file(directory, id, one));
  }
  co_return Status();
}

Task<void> FileTier::quarantine(std::string path, std::string name, std::string why) {
  (void)co_await disk_io::make_directory(disk(), options_.lost);
  Status moved = co_await disk_io::rename(disk(), path, options_.lost + "/" + name);
  if (!moved && moved.error().code() == Code::kNotFound) co_return;
  log_.error("{} held un-uploaded data but {}; {}", path, why,
             moved ? "moved to " + options_.lost : moved.error().to_string());
}

Task<Status> FileTier::recover_file(std::string directory, Hash128 id, Found found) {
  std::string base = directory + "/" + id.to_hex();
  bool named_staged = found.staged;
  if (found.staged && found.meta) {  // a rename that the power loss left half done
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::remove(disk(), base + ".meta"));
  }
  if (found.data && (found.meta || found.staged)) {
    auto file = std::make_shared<File>(*this, id, 0);
    file->staged_name_ = named_staged;
    Status status = co_await recover_meta(file, base, named_staged);
    Status closed = co_await file->close_files();
    SHOAL_CO_RETURN_IF_ERROR(std::move(status));
    co_return closed;
  }
  if (named_staged) {
    co_await quarantine(base + ".staged", id.to_hex() + ".staged", "its data file is gone");
    co_return Status();
  }
  co_return co_await disk_io::remove(disk(), base + (found.data ? ".data" : ".meta"));
}

// Sets what the header says; the table is loaded next.
void FileTier::adopt_header(File& file, const MetaHeader& header, unsigned slot) {
  file.size_ = file.synced_size_ = header.size;
  file.sequence_ = header.sequence;
  file.slot_ = slot;
  file.header_written_ = file.recovered_ = file.created_ = true;
  file.header_durable_ = false;
  file.table_copy_ = header.table_copy;
  file.table_digest_ = header.table_digest;
  file.vouched_at_ = header.vouched_at;
  file.rewriting_ = file.loose_ = header.staged && header.rewriting;
  file.never_synced_ = !header.staged;
  file.object_ = header.object;
  file.etag_ = header.etag;
  file.record_.reset();
  if (header.staged) {
    file.record_ = std::make_unique<StagedRecord>(header.record);
    file.record_->size = header.size;
  }
  bool vouched = !header.staged && header.vouched_at > options_.unclean_through;
  file.chunks_.assign((header.size + kChunkBytesDefault - 1) / kChunkBytesDefault, {});
  for (ChunkState& chunk : file.chunks_) chunk.vouched = vouched;
}

Task<Status> FileTier::recover_meta(std::shared_ptr<File> file, std::string base,
                                    bool named_staged) {
  SHOAL_CO_ASSIGN_OR_RETURN(file->meta_,
                            co_await disk_io::open(disk(), file->meta_path(), DiskOp::kOpenWrite));
  Buffer slots(2 * kSlotBytes);
  SHOAL_CO_ASSIGN_OR_RETURN(size_t got,
                            co_await disk_io::read_some(disk(), file->meta_, 0, slots.span()));
  std::vector<std::pair<MetaHeader, unsigned>> headers;
  for (unsigned slot = 0; slot < 2; ++slot) {
    if (slot * kSlotBytes >= got) break;
    Result<MetaHeader> header =
        parse_header(slots.part(slot * kSlotBytes, std::min(kSlotBytes, got - slot * kSlotBytes)));
    if (!header && header.error().code() == Code::kNotSupported) {
      co_return fail(Code::kNotSupported,
                     fmt::format("{}: {}; this cache was written by a newer shoal, use that one or "
                                 "another --cache-dir",
                                 file->meta_path(), header.error().message()));
    }
    if (header && header->file == file->id_) headers.emplace_back(std::move(*header), slot);
  }
  std::ranges::sort(
      headers, [](const auto& a, const auto& b) { return a.first.sequence > b.first.sequence; });
  bool adopted = false;
  for (size_t i = 0; i < headers.size() && !adopted; ++i) {
    adopt_header(*file, headers[i].first, headers[i].second);
    bool matches = true;
    SHOAL_CO_RETURN_IF_ERROR(co_await file->load_table(matches));
    bool more = i + 1 < headers.size();
    // A table that is not the header's: the sync was under way when the power went. What the older
    // header names is whole; without one, the first sync had not returned. Without a base the data
    // itself, which was synced first, is all there is to know.
    adopted =
        !file->record_ || matches || file->record_->base_etag.empty() || (!more && named_staged);
  }
  if (!adopted) {
    if (named_staged) {
      co_await quarantine(base + ".staged", file->id_.to_hex() + ".staged",
                          "its header is damaged");
      co_await quarantine(base + ".data", file->id_.to_hex() + ".data", "its header is damaged");
      co_return Status();
    }
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::remove(disk(), base + ".meta"));
    co_return co_await disk_io::remove(disk(), base + ".data");
  }
  if (file->record_) SHOAL_CO_RETURN_IF_ERROR(co_await check_staged_data(*file));
  // The header that made it clean may not be on the disk yet while a staged one is.
  file->commit_unsynced_ = !file->record_ && std::ranges::any_of(headers, [](const auto& header) {
    return header.first.staged;
  });
  co_return co_await enter_recovered(file);
}

Task<Status> FileTier::enter_recovered(std::shared_ptr<File> file) {
  if (file->record_) {
    file->recount();
    file->unload();
    if (!staged_.emplace(file->record_->write_id, file).second) {
      refund(file->stored_ * kPieceBytes);
      log_.error("{} and another file have the same write id; ignored", file->meta_path());
    }
    co_return Status();
  }
  auto other = clean_.find(ByName::Key(file->object_, file->etag_));
  file->recount();
  file->unload();
  if (other == clean_.end() && file->present_ > 0) {
    index(file);
    co_return Status();
  }
  refund(file->stored_ * kPieceBytes);
  file->stored_ = file->present_ = 0;
  co_await file->remove_files();
  co_return Status();
}

// The data file's size against the record's.
Task<Status> FileTier::check_staged_data(File& file) {
  SHOAL_CO_ASSIGN_OR_RETURN(FileStat about, co_await disk_io::stat(disk(), file.data_path()));
  if (about.size >= file.size_) co_return Status();  // more: unsynced appends, cut off by load()
  if (file.rewriting_) {
    // It was being truncated. Either size is right; the bytes behind the end are gone.
    file.size_ = file.record_->size = about.size;
    file.table_.resize(pieces_of(about.size));
    file.chunks_.resize((about.size + kChunkBytesDefault - 1) / kChunkBytesDefault);
    co_return Status();
  }
  log_.error("{}: un-uploaded data is damaged: {} has {} of {} bytes", file.object_,
             file.data_path(), about.size, file.size_);
  co_return Status();
}

}  // namespace shoal::store_internal
