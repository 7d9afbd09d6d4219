#include "origin/directory_uploads.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "async/disk_io.h"

namespace shoal {

namespace {
constexpr uint32_t kCreate = DiskOp::kOpenWrite | DiskOp::kOpenCreate | DiskOp::kShared;
constexpr int kRestartsMax = 5;
}  // namespace

DirectoryUploads::DirectoryUploads(const DirectoryLayout& layout, World& world)
    : layout_(layout), world_(world), instance_(world.random.id128().to_hex()) {}

DirectoryUploads::UploadPtr DirectoryUploads::upload_of(const std::string& object) {
  UploadPtr& upload = uploads_[object];
  if (!upload) upload = std::make_shared<Upload>();
  return upload;
}

void DirectoryUploads::forget(const std::string& object, const UploadPtr& upload) {
  auto found = uploads_.find(object);
  if (found != uploads_.end() && found->second == upload) uploads_.erase(found);
}

DirectoryUploads::Layer& DirectoryUploads::claim(Upload& upload, uint64_t offset, uint64_t size,
                                                 const std::string& id, bool& known) {
  uint64_t end = offset + size;
  known = false;
  for (auto& layer : upload.layers) {
    auto after = layer->ranges.lower_bound(offset);
    if (after != layer->ranges.end() && after->first == offset && after->second.end == end &&
        after->second.id == id && after->second.done) {
      known = true;
      return *layer;
    }
    bool overlaps = after != layer->ranges.end() && after->first < end;
    if (after != layer->ranges.begin() && std::prev(after)->second.end > offset) overlaps = true;
    if (overlaps) continue;
    layer->ranges[offset] = {end, id, false};
    ++layer->in_flight;
    return *layer;
  }
  auto layer = std::make_unique<Layer>();
  layer->name = fmt::format("{}-{:x}", instance_, layers_made_++);
  layer->ranges[offset] = {end, id, false};
  layer->in_flight = 1;
  upload.layers.push_back(std::move(layer));
  return *upload.layers.back();
}

Task<Status> DirectoryUploads::put_block(std::string object, std::string id, uint64_t offset,
                                         ConstByteSpan bytes, Context context) {
  if (!is_block_id(id) || bytes.empty() || offset > UINT64_MAX / 2) {
    co_return fail(
        Code::kInvalidArgument,
        fmt::format("a block '{}' of {} bytes at {} is not possible", id, bytes.size(), offset));
  }
  std::string directory = layout_.upload_of(object);
  for (int restart = 0;; ++restart) {
    SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
    SHOAL_CO_RETURN_IF_ERROR(co_await disk_io::make_directory(world_.disk, directory));
    UploadPtr upload = upload_of(object);
    bool known = false;
    Layer& layer = claim(*upload, offset, bytes.size(), id, known);
    BlockMarker marker{id, offset, bytes.size(), layer.name};
    Status status;
    if (known) {
      Result<FileStat> there =
          co_await disk_io::stat(world_.disk, directory + "/" + marker.file_name());
      if (there) co_return Status();
      status = fail(std::move(there).error());
    } else {
      status = co_await write_block(directory, marker, bytes);
      SHOAL_ASSERT(layer.in_flight > 0);
      --layer.in_flight;
      if (status) {
        layer.ranges[offset].done = true;
        co_return Status();
      }
      layer.ranges.erase(offset);
    }
    // Another node committed the object and swept the staged blocks away: begin again.
    if (status.error().code() != Code::kNotFound || restart == kRestartsMax) co_return status;
    forget(object, upload);
  }
}

Task<Status> DirectoryUploads::write_block(std::string directory, BlockMarker marker,
                                           ConstByteSpan bytes) {
  Disk& disk = world_.disk;
  SHOAL_CO_ASSIGN_OR_RETURN(FileId data,
                            co_await disk_io::open(disk, directory + "/" + marker.layer, kCreate));
  Status status = co_await disk_io::write(disk, data, marker.offset, bytes);
  if (status) status = co_await disk_io::sync_data(disk, data);
  Status closed = co_await disk_io::close(disk, data);
  SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  SHOAL_CO_RETURN_IF_ERROR(std::move(closed));
  SHOAL_CO_ASSIGN_OR_RETURN(
      FileId mark, co_await disk_io::open(disk, directory + "/" + marker.file_name(), kCreate));
  co_return co_await disk_io::close(disk, mark);
}

Task<Result<std::vector<BlockMarker>>> DirectoryUploads::markers(std::string object) {
  std::string directory = layout_.upload_of(object);
  Result<std::vector<DirectoryEntry>> entries = co_await disk_io::list(world_.disk, directory);
  if (!entries) {
    if (entries.error().code() == Code::kNotFound) co_return std::vector<BlockMarker>();
    co_return fail(std::move(entries).error());
  }
  std::vector<BlockMarker> found;
  std::map<std::string, uint64_t> layer_sizes;
  for (const DirectoryEntry& entry : *entries) {
    if (Result<BlockMarker> marker = parse_marker(entry.name)) {
      found.push_back(std::move(*marker));
    } else if (!entry.is_directory && is_block_id(entry.name)) {
      layer_sizes[entry.name] = 0;
    }
  }
  for (auto& [name, size] : layer_sizes) {
    Result<FileStat> stat = co_await disk_io::stat(world_.disk, directory + "/" + name);
    if (stat) size = stat->size;
  }
  // A marker whose bytes are not there (its layer became an object, or was cut) means nothing.
  std::erase_if(found, [&](const BlockMarker& marker) {
    auto layer = layer_sizes.find(marker.layer);
    return layer == layer_sizes.end() || marker.offset + marker.size > layer->second;
  });
  co_return std::move(found);
}

Task<Result<std::vector<BlockInfo>>> DirectoryUploads::staged(std::string object) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::vector<BlockMarker> found, co_await markers(std::move(object)));
  std::map<std::string, uint64_t> sizes;
  for (const BlockMarker& marker : found) sizes[marker.id] = marker.size;
  std::vector<BlockInfo> blocks;
  for (const auto& [id, size] : sizes) blocks.push_back({id, size});
  co_return std::move(blocks);
}

Task<Result<DirectoryUploads::Assembled>> DirectoryUploads::assemble(
    std::string object, std::vector<BlockInfo> blocks) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::vector<BlockMarker> found, co_await markers(object));
  std::string own = instance_ + "-";
  std::map<std::pair<std::string, uint64_t>, BlockMarker> by_id;  // and size
  for (BlockMarker& marker : found) {
    BlockMarker& best = by_id[{marker.id, marker.size}];
    if (best.layer.empty() || marker.layer.starts_with(own)) best = std::move(marker);
  }
  std::vector<BlockMarker> parts;
  std::vector<std::string> missing;
  uint64_t size = 0;
  for (const BlockInfo& block : blocks) {
    auto part = by_id.find({block.id, block.size});
    if (part == by_id.end()) {
      missing.push_back(block.id);
      continue;
    }
    parts.push_back(part->second);
    size += block.size;
  }
  if (!missing.empty()) {
    co_return fail(Code::kNotFound,
                   fmt::format("{} of {} blocks are not staged (the first is {}); stage them again",
                               missing.size(), blocks.size(), missing.front()));
  }
  if (can_become_object(object, parts)) {
    co_return co_await take_layer(std::move(object), parts.front().layer, size);
  }
  co_return co_await copy_together(std::move(object), std::move(parts));
}

bool DirectoryUploads::can_become_object(const std::string& object,
                                         const std::vector<BlockMarker>& parts) const {
  if (parts.empty()) return false;
  auto upload = uploads_.find(object);
  if (upload == uploads_.end()) return false;
  const std::string& name = parts.front().layer;
  for (const auto& layer : upload->second->layers) {
    // Somebody may still write to it: such a layer must not become visible.
    if (layer->name == name && layer->in_flight > 0) return false;
  }
  uint64_t offset = 0;
  for (const BlockMarker& part : parts) {
    if (part.layer != name || part.offset != offset) return false;
    offset += part.size;
  }
  return std::any_of(upload->second->layers.begin(), upload->second->layers.end(),
                     [&](const auto& layer) { return layer->name == name; });
}

Task<Result<DirectoryUploads::Assembled>> DirectoryUploads::take_layer(std::string object,
                                                                       std::string layer,
                                                                       uint64_t size) {
  uploads_.erase(object);  // later blocks go to new layers
  Assembled out{layout_.upload_of(object) + "/" + layer, true};
  SHOAL_CO_ASSIGN_OR_RETURN(FileId file,
                            co_await disk_io::open(world_.disk, out.path, DiskOp::kOpenWrite));
  Status status = co_await disk_io::set_size(world_.disk, file, size);
  if (status) status = co_await disk_io::sync(world_.disk, file);
  Status closed = co_await disk_io::close(world_.disk, file);
  SHOAL_CO_RETURN_IF_ERROR(std::move(status));
  SHOAL_CO_RETURN_IF_ERROR(std::move(closed));
  co_return std::move(out);
}

Task<Result<DirectoryUploads::Assembled>> DirectoryUploads::copy_together(
    std::string object, std::vector<BlockMarker> parts) {
  Assembled out{layout_.temporary() + "/" + world_.random.id128().to_hex(), false};
  SHOAL_CO_ASSIGN_OR_RETURN(
      FileId target,
      co_await disk_io::open(world_.disk, out.path, kCreate | DiskOp::kOpenExclusive));
  Status status = co_await copy_parts(layout_.upload_of(object), std::move(parts), target);
  if (status) status = co_await disk_io::sync(world_.disk, target);
  Status closed = co_await disk_io::close(world_.disk, target);
  if (status) status = std::move(closed);
  if (!status) {
    Status removed = co_await disk_io::remove(world_.disk, out.path);
    (void)removed;  // sweep() takes what stays
    co_return fail(std::move(status).error());
  }
  co_return std::move(out);
}

Task<Status> DirectoryUploads::copy_parts(std::string directory, std::vector<BlockMarker> parts,
                                          FileId target) {
  uint64_t offset = 0;
  size_t next = 0;
  while (next < parts.size()) {
    const BlockMarker& first = parts[next];
    uint64_t length = first.size;
    size_t end = next + 1;
    while (end < parts.size() && parts[end].layer == first.layer &&
           parts[end].offset == first.offset + length) {
      length += parts[end++].size;
    }
    SHOAL_CO_ASSIGN_OR_RETURN(
        FileId source, co_await disk_io::open(world_.disk, directory + "/" + first.layer, 0));
    Status status =
        co_await disk_io::copy_range(world_.disk, source, first.offset, target, offset, length);
    Status closed = co_await disk_io::close(world_.disk, source);
    SHOAL_CO_RETURN_IF_ERROR(std::move(status));
    SHOAL_CO_RETURN_IF_ERROR(std::move(closed));
    offset += length;
    next = end;
  }
  co_return Status();
}

Task<void> DirectoryUploads::discard(std::string object) {
  uploads_.erase(object);
  co_await remove_tree(layout_.upload_of(object));
}

Task<void> DirectoryUploads::discard_older_than(WallTime time) {
  auto limit = static_cast<uint64_t>(time.time_since_epoch().count());
  Result<std::vector<DirectoryEntry>> entries =
      co_await disk_io::list(world_.disk, layout_.uploads());
  if (!entries) co_return;
  for (const DirectoryEntry& entry : *entries) {
    std::string path = layout_.uploads() + "/" + entry.name;
    Result<FileStat> stat = co_await disk_io::stat(world_.disk, path);
    if (stat && stat->is_directory && stat->mtime_ns < limit) co_await remove_tree(path);
  }
}

// Best effort: what stays is seen as blocks nobody lists, and swept later.
Task<void> DirectoryUploads::remove_tree(std::string directory) {
  Result<std::vector<DirectoryEntry>> entries = co_await disk_io::list(world_.disk, directory);
  if (!entries) co_return;
  for (const DirectoryEntry& entry : *entries) {
    Status removed = co_await disk_io::remove(world_.disk, directory + "/" + entry.name);
    (void)removed;
  }
  Status removed = co_await disk_io::remove(world_.disk, directory);
  (void)removed;
}

}  // namespace shoal
