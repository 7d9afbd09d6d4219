// Which published directories stay, and how the others go.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "async/gate.h"
#include "base/object_name.h"
#include "node/publisher.h"

namespace shoal {

namespace {

constexpr size_t kParallel = 16;
constexpr size_t kPointerBytesMax = 4096;

// Instead of the manifest while its directory is being removed: it is published no more, and a
// removal that was cut off goes on at the next publication.
std::string removing_path(const std::string& directory) {
  return directory + "/" + std::string(kManifestLeaf) + ".removing";
}

}  // namespace

Task<Status> Publisher::look_at_sibling(std::string directory, std::vector<Published>& found,
                                        Context context) {
  auto manifest = co_await core_.origin.head(directory + "/" + std::string(kManifestLeaf), context);
  if (manifest) {
    WallTime when = decode_attributes(manifest->metadata).modified.value_or(manifest->modified);
    found.push_back({std::move(directory), when, true, false});
    co_return Status();
  }
  if (manifest.error().code() != Code::kNotFound) co_return fail(std::move(manifest).error());
  auto removing = co_await core_.origin.head(removing_path(directory), context);
  if (removing) found.push_back({std::move(directory), {}, true, true});
  co_return Status();
}

Task<Result<std::vector<Publisher::Published>>> Publisher::find_published(std::string parent,
                                                                          Context context) {
  std::vector<Published> found;
  ListOptions options;
  options.prefix = parent.empty() ? "" : parent + "/";
  std::vector<Task<Status>> tasks;
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.origin.list(options, context));
    for (std::string& prefix : page.prefixes) {
      prefix.pop_back();
      if (prefix != ".shoal") tasks.push_back(look_at_sibling(std::move(prefix), found, context));
    }
    if (page.next_marker.empty()) break;
    options.marker = page.next_marker;
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(core_.executor(), std::move(tasks), kParallel));
  SHOAL_CO_ASSIGN_OR_RETURN(Waiting waits, co_await waiting(parent, Push::kNothing, context));
  for (const auto& [object, item] : waits.items) {
    std::string directory(parent_of(object));
    if (leaf_of(object) != kManifestLeaf || parent_of(directory) != parent) continue;
    std::erase_if(found, [&](const Published& known) { return known.directory == directory; });
    found.push_back({std::move(directory), item.changed, false, false});
  }
  co_return found;
}

// The directory that a pointer names; empty if there is none.
Task<std::string> Publisher::pointed_at(std::string pointer, Context context) {
  auto info = co_await core_.lookups->head(pointer, context);
  if (!info || info->size > kPointerBytesMax) co_return std::string();
  std::string text(info->size, '\0');
  ByteSpan into(reinterpret_cast<std::byte*>(text.data()), text.size());
  Status read = co_await core_.origin.read(pointer, info->etag, 0, into, {}, context);
  if (!read) co_return std::string();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  co_return join_path(std::string(parent_of(pointer)), text);
}

Task<Status> Publisher::retain(const Run& run, Context context) {
  if (run.options.keep_last == 0) co_return Status();
  SHOAL_CO_ASSIGN_OR_RETURN(
      std::vector<Published> found,
      co_await find_published(std::string(parent_of(run.directory)), context));
  std::ranges::sort(found, [](const Published& a, const Published& b) {
    return std::tie(a.when, a.directory) > std::tie(b.when, b.directory);
  });
  std::set<std::string> kept{run.directory};
  for (const char* suffix : {"", ".replicated"}) {
    kept.insert(co_await pointed_at(run.pointer_path() + suffix, context));
  }
  for (bool durable : {true, false}) {
    auto newest = std::ranges::find_if(
        found, [durable](const Published& one) { return one.durable == durable && !one.removing; });
    if (newest != found.end()) kept.insert(newest->directory);
  }
  size_t count = 0;
  for (const Published& one : found) {
    if (!one.removing && count++ < run.options.keep_last) kept.insert(one.directory);
  }
  for (Published& one : found) {
    if (kept.contains(one.directory) && !one.removing) continue;
    if (one.directory == run.directory) continue;
    std::string directory = one.directory;
    Status removed = co_await remove_published(std::move(one), context);
    if (!removed) {
      co_return fail(std::move(removed).error().with_context(
          fmt::format("{} is published, but the older {} could not be removed whole (the next "
                      "publication goes on with it)",
                      run.directory, directory)));
    }
    core_.log.info("{} is removed: {} newer ones are kept", directory, run.options.keep_last);
  }
  co_return Status();
}

Task<Status> Publisher::remove_published(Published published, Context context) {
  std::string manifest = published.directory + "/" + std::string(kManifestLeaf);
  std::string mark = removing_path(published.directory);
  if (!published.removing) {
    SHOAL_CO_RETURN_IF_ERROR(co_await files_.rename_path(manifest, mark, context));
  }
  SHOAL_CO_RETURN_IF_ERROR(co_await files_.remove_below(published.directory, mark, context));
  auto freed = co_await core_.store.evict(published.directory, true);
  if (!freed) co_return fail(std::move(freed).error());
  co_return Status();
}

}  // namespace shoal
