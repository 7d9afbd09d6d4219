// FileTier: what it tells about its versions.
#include <algorithm>

#include "store/internal/file_tier.h"

namespace shoal::store_internal {

std::vector<Store::CachedChunks> FileTier::cached_after(const std::string& object,
                                                        const std::string& etag,
                                                        size_t count_max) const {
  std::vector<Store::CachedChunks> result;
  for (auto at = clean_.upper_bound(ByName::Key(object, etag));
       at != clean_.end() && result.size() < count_max; ++at) {
    const File& file = **at;
    Store::CachedChunks one{file.object_, file.etag_, file.size_, {}};
    for (uint64_t c = 0; c < file.chunks_.size(); ++c) {
      uint64_t pieces = pieces_of(file.chunk_range(c).length);
      if (file.chunks_[c].present == pieces) one.chunks.push_back(c);
    }
    result.push_back(std::move(one));
  }
  return result;
}

void FileTier::classify(const std::function<bool(const std::string&, uint64_t)>& is_copy) {
  for (const std::shared_ptr<File>& file : clean_) {
    for (uint64_t c = 0; c < file->chunks_.size(); ++c) {
      if (file->chunks_[c].present > 0) file->set_copy(c, is_copy(file->object_, c));
    }
  }
}

void FileTier::list_staged(std::vector<Store::Staged>& into) const {
  for (const auto& [id, file] : staged_) {
    into.push_back({*file->record_, false});
    into.back().record.size = file->size_;
  }
}

void FileTier::add_stats(StoreStats& stats) const {
  stats.files_bytes = used_;
  stats.files_capacity = options_.capacity;
  stats.files_count = clean_.size() + staged_.size();
  stats.evicted_bytes += evicted_bytes_;
  stats.corrupt_pieces += corrupt_pieces_;
  for (const auto& [id, file] : staged_) {
    ++stats.staged_objects;
    stats.staged_bytes += file->size_;
  }
}

}  // namespace shoal::store_internal
