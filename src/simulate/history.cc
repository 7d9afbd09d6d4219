#include "simulate/history.h"

#include <fmt/format.h>

#include "base/assert.h"

namespace shoal::simulate {

bool ObjectVersion::shows(uint64_t offset, uint64_t space, std::string_view got) const {
  std::string_view all = bytes;
  std::string_view here = offset < all.size() ? all.substr(offset, space) : std::string_view();
  return doubt ? here.starts_with(got) : here == got;
}

void History::put(BlobService& service, const std::string& object, std::string bytes,
                  SteadyTime now, WallTime wall) {
  ObjectHistory& history = objects_[object];
  service.add(container_, object, BlobContent::copy_of(bytes), {}, wall);
  if (!history.versions.empty()) history.now().until = now;
  ObjectVersion& version = history.versions.emplace_back();
  version.bytes = std::move(bytes);
  version.from = now;
  version.etag = service.find(container_, object)->etag;
}

void History::remove(BlobService& service, const std::string& object, SteadyTime now) {
  ObjectHistory& history = objects_[object];
  service.remove(container_, object);
  if (!history.versions.empty()) history.now().until = now;
  ObjectVersion& version = history.versions.emplace_back();
  version.exists = false;
  version.from = now;
}

ObjectVersion& History::begin_write(const std::string& object, std::string bytes, SteadyTime now) {
  ObjectVersion& version = objects_[object].versions.emplace_back();
  version.bytes = std::move(bytes);
  version.doubt = true;
  version.from = now;
  return version;
}

void History::poll(const BlobService& service, SteadyTime now,
                   const std::function<void(std::string)>& failed) {
  for (auto& [object, history] : objects_) {
    if (history.writer.empty()) continue;
    auto blob = service.find(container_, object);
    if (!blob) continue;
    ObjectVersion* standing = nullptr;
    for (ObjectVersion& version : history.versions) {
      if (version.etag == blob->etag) standing = &version;
    }
    if (standing == nullptr) {
      std::string bytes = blob->content.to_string();
      for (ObjectVersion& version : history.versions) {
        if (version.exists && version.bytes == bytes) standing = &version;
      }
      for (ObjectVersion& version : history.versions) {
        if (standing != nullptr || !version.doubt || !version.bytes.starts_with(bytes)) continue;
        standing = &version;
        version.bytes = bytes;
      }
      if (standing == nullptr) {
        return failed(
            fmt::format("{}: the origin holds {} bytes that nobody wrote", object, bytes.size()));
      }
      standing->etag = blob->etag;  // also when the same bytes were committed once more
    }
    for (ObjectVersion& version : history.versions) {
      if (&version == standing) break;
      if (version.until == kNever) version.until = now;
    }
  }
}

std::vector<const ObjectVersion*> History::candidates(const std::string& object,
                                                      const std::string& node, SteadyTime begin,
                                                      SteadyTime end, Duration age) const {
  std::vector<const ObjectVersion*> found;
  auto history = objects_.find(object);
  if (history == objects_.end()) return found;
  for (const ObjectVersion& version : history->second.versions) {
    if (version.acknowledged_by == node && version.acknowledged <= begin) found.clear();
    bool in_time = version.from <= end && (version.until == kNever || version.until + age >= begin);
    if (in_time) found.push_back(&version);
  }
  return found;
}

}  // namespace shoal::simulate
